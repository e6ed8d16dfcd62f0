"""Which rows share a line of a batch."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.executors.asker import Attempt
from pipeline.executors.loading import Line, Loading
from pipeline.executors.packed import WRAPPING, Packing
from pipeline.flow import FailureKind, Row, Usage
from pipeline.models import Price
from pipeline.packing import Budget
from pipeline.tokens import CostEstimate, Costing, TokenEstimate

ROWS = 8
PROMPT_TOKENS = 400
PRICE = Price(0.125, 0.75, 0.0125)

# prompts by a small number, how often each was asked in vain, and how often it was missing in a pack
PROMPTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2), st.integers(0, 3)), max_size=60)


def costed(cap: int | None, answers: int, rows: int = 1) -> float:
    """Return what a line for one prompt, or for a pack, is thought to cost in output tokens."""
    packing = Packing(Budget(rows, 4_000, 20_000), "id", cap, 60_000) if rows > 1 else None
    costing = Costing(TokenEstimate("Label this."), CostEstimate(None), lambda _: 0.0)
    for _ in range(answers):
        costing.cost.learn(Usage(prompt=10, output=20), 1)
    loading = Loading(packing, costing, PRICE)
    lines: list[Line] = []
    for n in range(rows):
        attempt = Attempt(Row(n, bytes(16), bytes(16), {}), 0, "prompt", "prompt", cap)
        lines += loading.add(attempt, bytes([n]), n, 0)
    (line,) = lines
    return (line.cost_usd * 1e6 - line.tokens * PRICE.input) / PRICE.output


def test_a_line_costs_its_cap_until_answers_teach_better() -> None:
    """Nobody knows how long answers are before some have come; a line cannot cost more than its cap."""
    assert costed(800, 0) == pytest.approx(800)
    assert costed(800, 2) == pytest.approx(800)
    assert costed(800, 3) == pytest.approx(30)
    assert costed(25, 3) == pytest.approx(25)
    assert costed(None, 0) == pytest.approx(240)
    assert costed(30, 0, rows=8) == pytest.approx(8 * (30 + 12))


def loaded(prompts: list[tuple[int, int, int]], *, packs: bool) -> list[Line]:
    """Put prompts into lines; equal numbers have equal texts and ids."""
    packing = Packing(Budget(ROWS, PROMPT_TOKENS, 2_000), "id", 100, 60_000) if packs else None
    costing = Costing(TokenEstimate("Label this."), CostEstimate(None), lambda _: 0.0)
    loading = Loading(packing, costing, PRICE)
    lines: list[Line] = []
    for number, (text, vain, missing) in enumerate(prompts):
        prompt = f"prompt {text} " * (text + 1)
        row = Row(number, number.to_bytes(16, "big"), bytes(16), {})
        attempt = Attempt(row, 0, prompt, prompt, None, seen=Counter({FailureKind.MISSING: missing}))
        lines += loading.add(attempt, text.to_bytes(16, "big"), number, vain)
    return [*lines, *loading.rest()]


@given(PROMPTS, st.booleans())
def test_every_row_waits_for_one_line(prompts: list[tuple[int, int, int]], packs: bool) -> None:
    """No row is left out, none stands in two lines, and what a line asks is in it once."""
    lines = loaded(prompts, packs=packs)
    assert sorted(row for line in lines for row in line.rows) == list(range(len(prompts)))
    for line in lines:
        ids = [member.id for member in line.members]
        assert len(set(ids)) == len(ids) <= ROWS
        asked = {prompts[row][0].to_bytes(16, "big") for row in line.rows}
        assert asked == set(ids)


@given(PROMPTS)
def test_what_the_budgets_leave_over_is_filled_up(prompts: list[tuple[int, int, int]]) -> None:
    """A line is only as short as the next prompt makes it; more than a budget is only what stands alone."""
    added = Costing(TokenEstimate("Label this."), CostEstimate(None), lambda _: 0.0).tokens.added
    texts = list(dict.fromkeys(text for text, _, _ in prompts))
    lines = loaded([(text, 0, 0) for text in texts], packs=True)
    assert [int.from_bytes(member.id) for line in lines for member in line.members] == texts
    sizes = [[added(f"prompt {texts[n]} " * (texts[n] + 1)) + WRAPPING for n in line.rows] for line in lines]
    assert all(len(line) == 1 or sum(line) <= PROMPT_TOKENS for line in sizes)
    for line, following in pairwise(sizes):
        assert len(line) == ROWS or sum(line) + following[0] > PROMPT_TOKENS


@given(PROMPTS)
def test_equal_prompts_that_come_together_are_asked_once(prompts: list[tuple[int, int, int]]) -> None:
    """As long as a prompt is held, its twins join it; a pack knows its rows by their tags."""
    for line in loaded(prompts, packs=True):
        tags = [member.tag for member in line.members]
        assert line.packed is (len(tags) > 1)
        assert len(set(tags)) == len(tags)
        assert all(tags) is line.packed
        assert line.tokens > 0
        assert line.cost_usd > 0


@given(PROMPTS)
def test_rows_that_were_asked_in_vain_stand_with_fewer(prompts: list[tuple[int, int, int]]) -> None:
    """Each time a quarter, in the end alone, so that one bad row is found."""
    for line in loaded(prompts, packs=True):
        firsts = [
            prompts[min(row for row in line.rows if prompts[row][0] == text)]
            for text in {prompts[row][0] for row in line.rows}
        ]
        most = min(max(1, ROWS // 4 ** (vain + missing)) for _, vain, missing in firsts)
        assert len(line.members) <= most
