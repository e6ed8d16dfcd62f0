"""Answers to one sample in several ways, compared, and the size that follows."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.calibration import (
    CHEAPEST,
    Calibration,
    Field,
    Trial,
    calibrated,
    fields,
)
from pipeline.intervals import Paired, Share, loss, rows_needed
from pipeline.shape import Choice, Group, Kind, Many, Single

LABEL = Field("label", Choice(Kind.TEXT, ("good", "bad", "other")))
SCORE = Field("score", Single(Kind.NUMBER))
WORDS = Field("words", Single(Kind.INTEGER))
NOTE = Field("note", Single(Kind.TEXT))
ROWS = 200
ALONE = ["good", "bad"] * (ROWS // 2)


def trial(
    size: int, order: int, usd: float = 1.0, ok: Sequence[bool] = (), **answers: Sequence[object]
) -> Trial:
    """Return a trial with these answers, each row of it at so many USD."""
    rows = len(next(iter(answers.values())))
    return Trial(size, order, ok or [True] * rows, answers, rows / size, rows * 9, rows * 3, rows * usd)


def wrong(rows: int) -> list[object]:
    """Return labels of which so many differ from those that are given alone."""
    return ["other" if row < rows else label for row, label in enumerate(ALONE)]


def labels(
    packs: dict[int, list[object]], usd: dict[int, float] | None = None, gold: object = None
) -> Calibration:
    """Calibrate one field whose answers are stable alone, and these in packs."""
    costs = usd or {}
    every = {1: list(ALONE)} | packs
    trials = [
        trial(n, order, costs.get(n, 1 / n), label=said) for n, said in every.items() for order in (0, 1)
    ]
    known = {"label": gold} if isinstance(gold, list) else {}
    return calibrated(trials, [LABEL], gold=known, chosen=(), tolerance=0.05)


def test_packs_that_cost_more_are_called_so() -> None:
    """It is no matter of a few percent then; what is unsafe beyond is told, too."""
    found = labels({5: list(ALONE), 10: list(ALONE)}, {1: 1.0, 5: 1.2, 10: 1.1})
    assert (found.rows, found.reason) == (1, "a row costs more in each safe pack than alone")
    found = labels({5: list(ALONE), 10: list(ALONE)}, {1: 1.0, 5: 1.2, 10: 0.97})
    assert (found.rows, found.reason) == (1, CHEAPEST)
    found = labels({5: list(ALONE), 10: wrong(60)}, {1: 1.0, 5: 1.2, 10: 0.5})
    assert found.reason.startswith(
        "a row costs more in each safe pack than alone; at 10 a field may have lost"
    )


def test_wilson_as_published() -> None:
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20."""
    for hits, rows, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]:
        found = Share(hits, rows).interval
        assert found == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 500), st.integers(1, 500))
def test_an_interval_holds_its_share(hits: int, rows: int) -> None:
    """It lies within 0 and 1 and becomes narrower with more rows."""
    share = Share(min(hits, rows), rows)
    low, high = share.interval
    assert 0 <= low <= share.value + 1e-12
    assert share.value - 1e-12 <= high <= 1
    low10, high10 = Share(share.hits * 10, rows * 10).interval
    assert high10 - low10 < high - low


@given(*[st.integers(0, 200)] * 4)
def test_a_loss_lies_around_what_was_seen(both: int, before: int, after: int, neither: int) -> None:
    """The difference itself lies between the ends."""
    pairs = Paired(both, before, after, neither)
    if pairs.rows:
        lost = loss(pairs)
        assert lost.least - 1e-12 <= (before - after) / pairs.rows <= lost.most + 1e-12


def test_pairs_bound_a_loss_more_closely() -> None:
    """Where the same rows are wrong before and after, little can have been lost, though many are wrong."""
    same, other = Paired(150, 0, 0, 50), Paired(110, 40, 40, 10)
    assert loss(same).most < 0.03
    assert loss(other).most > 0.08


def test_equal_answers_are_safe_and_the_cheapest_size_is_taken() -> None:
    """Among safe sizes the price decides, and a twentieth more for fewer rows is worth it."""
    found = labels({5: wrong(0), 20: wrong(0), 50: wrong(0)}, {1: 1.0, 5: 0.5, 20: 0.31, 50: 0.30})
    assert found.rows == 20
    assert all(size.safe for size in found.sizes)
    assert "31%" in found.reason


def test_a_size_that_changes_answers_ends_the_search() -> None:
    """A larger one is not taken either, although its answers agree by chance."""
    found = labels({5: wrong(0), 10: wrong(30), 20: wrong(0)})
    assert [size.safe for size in found.sizes] == [True, True, False, True]
    assert found.rows == 5
    assert "at 10 a field may have lost" in found.reason


def test_nothing_is_recommended_that_few_rows_cannot_show() -> None:
    """Five rows that agree say next to nothing."""
    few = [trial(n, order, 1 / n, label=["a"] * 5) for n in (1, 5) for order in (0, 1)]
    found = calibrated(few, [LABEL], gold={}, chosen=(), tolerance=0.05)
    assert found.rows == 1
    assert str(rows_needed(0.05)) in found.reason


@given(st.integers(1, 400))
def test_as_many_rows_as_are_needed_are_enough(rows: int) -> None:
    """With perfect agreement exactly so many rows make a size safe."""
    trials = [trial(n, order, 1 / n, label=["a"] * rows) for n in (1, 5) for order in (0, 1)]
    found = calibrated(trials, [LABEL], gold={}, chosen=(), tolerance=0.05)
    assert found.sizes[1].safe == (rows >= rows_needed(0.05))


def test_what_gold_calls_worse_is_not_safe() -> None:
    """Packs whose answers differ no more than one-row answers do, but always for the worse."""
    twice = [trial(1, 0, label=ALONE), trial(1, 1, label=wrong(24))]
    packs = [trial(5, order, 0.2, label=wrong(24)) for order in (0, 1)]
    blind = calibrated([*twice, *packs], [LABEL], gold={}, chosen=(), tolerance=0.05)
    seeing = calibrated(
        [trial(1, 0, label=ALONE), trial(1, 1, label=[*ALONE[:176], *["other"] * 24]), *packs],
        [LABEL],
        gold={"label": ALONE[:100] + [None] * 100},
        chosen=(),
        tolerance=0.05,
    )
    assert blind.rows == 5
    assert seeing.rows == 1
    assert seeing.findings[0].gold[5].value == pytest.approx(0.76)


def moody(kept: int) -> Calibration:
    """Calibrate a label that decides and words that do not: packs keep so many of those that are right."""
    words = [10 + row for row in range(ROWS)]
    other = [word if row % 2 else -1 for row, word in enumerate(words)]
    packed = [word if row < kept else -2 for row, word in enumerate(other)]
    trials = [trial(1, 0, label=ALONE, words=words), trial(1, 1, label=ALONE, words=other)]
    trials += [trial(5, order, 0.2, label=ALONE, words=packed) for order in (0, 1)]
    gold = {"words": [*words[:180], *[None] * 20]}
    return calibrated(trials, [LABEL, WORDS], gold=gold, chosen=(), tolerance=0.05)


def test_gold_that_falls_for_sure_counts_in_any_field() -> None:
    """Also in one that does not decide, since its answers alone differ; the reason names it."""
    found = moody(kept=90)
    assert [one.decides for one in found.findings] == [True, False]
    assert (found.rows, found.sizes[1].safe) == (1, False)
    assert "at 5 `words`, which does not decide, has lost between" in found.reason
    assert found.sizes[1].loss == found.findings[1].fallen[5].most > 0.25


def test_gold_is_compared_at_one_seed() -> None:
    """Packs are held against the answers alone with their own seed, which the gold may not be made of."""
    found = moody(kept=ROWS)
    assert found.findings[1].gold[1].value == found.findings[1].gold[5].value == pytest.approx(0.5)
    assert not found.findings[1].fallen
    assert found.rows == 5
    trials = [trial(1, 0, label=ALONE), trial(1, 1, ok=[row < 100 for row in range(ROWS)], label=ALONE)]
    some = calibrated(trials, [LABEL], gold={"label": ALONE}, chosen=(), tolerance=0.05)
    assert some.findings[0].gold[1].value == 1.0


def test_cells_without_gold_do_not_count() -> None:
    """Blank text is no right answer, quoted or not, where no choice is blank."""
    gold = ["good" if label == "good" else blank for label, blank in zip(ALONE, ["", " "] * 100, strict=True)]
    found = labels({5: list(ALONE)}, gold=gold)
    assert (found.findings[0].gold[5].rows, found.findings[0].gold[5].value) == (100, 1.0)


def test_a_row_that_fails_in_packs_does_not_agree() -> None:
    """It has no answer, whatever stands in its place."""
    bad = [row >= 40 for row in range(ROWS)]
    trials = [trial(1, order, label=ALONE) for order in (0, 1)]
    trials += [trial(5, order, 0.2, ok=bad, label=ALONE) for order in (0, 1)]
    found = calibrated(trials, [LABEL], gold={}, chosen=(), tolerance=0.05)
    assert found.rows == 1
    assert found.sizes[1].failed == pytest.approx(0.2)
    assert found.sizes[1].agreement.value == pytest.approx(0.8)


def test_unstable_fields_do_not_decide() -> None:
    """A text that differs each time and a number that jumps say nothing of packs."""
    texts = [str(row) for row in range(ROWS)]
    trials = [
        trial(n, order, 1 / n, label=ALONE, note=[f"{text} {n} {order}" for text in texts])
        for n in (1, 10)
        for order in (0, 1)
    ]
    found = calibrated(trials, [LABEL, NOTE], gold={}, chosen=(), tolerance=0.05)
    assert [one.decides for one in found.findings] == [True, False]
    assert found.rows == 10
    named = calibrated(trials, [LABEL, NOTE], gold={}, chosen=("note",), tolerance=0.05)
    assert [one.decides for one in named.findings] == [False, True]


def test_near_numbers_agree() -> None:
    """A number agrees within a twentieth of the range that answers have."""
    alone = [row / ROWS for row in range(ROWS)]
    near, far = [x + 0.04 for x in alone], [x + 0.06 for x in alone]
    for moved, rows in ((near, 5), (far, 1)):
        trials = [trial(1, order, score=alone) for order in (0, 1)]
        trials += [trial(5, order, 0.2, score=moved) for order in (0, 1)]
        assert calibrated(trials, [SCORE], gold={}, chosen=(), tolerance=0.05).rows == rows


def test_where_tokens_cost_nothing_requests_decide() -> None:
    """On the free tier the largest safe size is taken."""
    free = dict.fromkeys([1, 5, 20, 50], 0.0)
    assert labels({5: wrong(0), 20: wrong(0), 50: wrong(0)}, free).rows == 50


def test_why_one_row_is_recommended_is_true() -> None:
    """No pack was tried, none costs less, none could be held against anything."""
    assert "no larger size was tried" in labels({}).reason
    assert "costs less" in labels({5: wrong(0)}, {1: 1.0, 5: 0.99}).reason
    failed = [trial(n, order, ok=[False] * 9, label=[None] * 9) for n in (1, 5) for order in (0, 1)]
    found = calibrated(failed, [LABEL], gold={}, chosen=(), tolerance=0.05)
    assert (found.rows, "no row of the sample has an answer" in found.reason) == (1, True)


def test_free_text_is_told_from_values() -> None:
    """Lists of choices are values, what holds free text anywhere is text; inner models have dotted names."""
    inner = Group((("name", Single(Kind.TEXT)), ("amount", Single(Kind.DECIMAL))))
    shape = Group(
        (
            ("label", Choice(Kind.TEXT, ("a", "b"))),
            ("tags", Many(Choice(Kind.TEXT, ("x",)))),
            ("lines", Many(inner)),
            ("total", inner),
            ("score", Single(Kind.NUMBER)),
        )
    )
    assert [(one.name, one.text, one.number) for one in fields(shape)] == [
        ("label", False, False),
        ("tags", False, False),
        ("lines", True, False),
        ("total.name", True, False),
        ("total.amount", False, False),
        ("score", False, True),
    ]
