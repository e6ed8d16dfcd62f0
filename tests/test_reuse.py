"""What caches of a long instruction save beforehand, and that the true bill lies between the ends."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models import Price
from pipeline.reuse import Pace, in_batch, online
from tests.conftest import Emulator, Project, emulating
from tests.reviews import INSTRUCTION
from tests.test_cli import KEY, Shell, shell

__all__ = ["shell"]

STANDARD = Price(0.25, 1.5, 0.025, storage=1.0)
HALF = Price(0.125, 0.75, 0.025, storage=1.0)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator."""
    with emulating("--tier", "paid") as running:
        yield running


def pace(uses: float, rate: float = 10.0, *, hours: float = 1.0, day: int | None = None) -> Pace:
    """Return how a run goes whose calls take two seconds."""
    return Pace(uses, rate, call=2.0, in_flight=4_096, hours=hours, day=day)


def test_what_leaves_before_there_is_a_cache_carries_the_instruction() -> None:
    """Ten a second, two seconds to the first answers and two for the cache: 42 of 10,000 requests."""
    found = online(STANDARD, 2_000, pace(10_000))
    uses = 10_000 - 42
    assert found.tokens == 2_000 * uses
    assert found.expected == pytest.approx(2_000 * (uses * 0.225 - 1.0 - 0.25) / 1e6)
    assert found.most == pytest.approx(2_000 * 10_000 * 0.225 / 1e6)
    assert found.least < found.expected


def test_a_short_run_may_end_before_there_is_a_cache() -> None:
    """Then nothing is expected of it, and all requests at the most may yet find the instruction cached."""
    found = online(STANDARD, 2_000, pace(40))
    assert (found.expected, found.least, found.tokens) == (0, 0, 0)
    assert found.most == pytest.approx(2_000 * 40 * 0.225 / 1e6)


def test_a_slow_run_makes_no_cache() -> None:
    """Below 4.4 requests an hour the storage costs more than they save."""
    assert online(STANDARD, 2_000, pace(400, 0.001, hours=100)).expected == 0
    assert online(STANDARD, 2_000, pace(600, 0.002, hours=100)).expected > 0


def test_every_day_begins_without_a_cache() -> None:
    """A limit of requests a day ends the run, and its cache, as often as there are days."""
    assert online(STANDARD, 2_000, pace(400, day=100)).tokens == 2_000 * 4 * (100 - 42)


@given(st.integers(0, 10**6), st.floats(0.01, 10**4), st.floats(0, 10**3), st.none() | st.integers(1, 10**5))
def test_what_is_expected_lies_between_the_ends(
    uses: int, rate: float, hours: float, day: int | None
) -> None:
    """Whatever the pace, and in batches, too."""
    for price in (STANDARD, HALF, Price(0.25, 1.5, 0.25)):
        for found in (
            online(price, 2_000, pace(uses, rate, hours=hours, day=day)),
            in_batch(price, 2_000, pace(uses)),
        ):
            assert found.least <= found.expected <= found.most


@pytest.mark.parametrize(
    "case",
    [
        ("", 1, 40, None),
        ("", 10, 400, 1_024),
        ("rpm = 6000", 1, 200, 1_024),
        ('service_tier = "flex"', 1, 300, None),
        ('context_cache = "off"', 1, 100, 1_024),
        ('mode = "batch"', 1, 300, None),
        ('mode = "batch"', 10, 300, 1_024),
    ],
)
def test_the_bill_lies_between_the_ends(
    shell: Shell, project: Project, emulator: Emulator, case: tuple[str, int, int, int | None]
) -> None:
    """With a long instruction, whether the run caches it, the API does, both, or nobody."""
    told, pack, rows, implicit = case
    emulator.change(implicit_cache=implicit)
    project.change('"You label reviews."', f'"{INSTRUCTION}"')
    if told.startswith("mode"):
        project.change('name = "labels"', f'name = "labels"\n{told}')
    elif told.startswith("rpm"):
        project.change("rpm = 600000", told)
    else:
        project.change("max_output_tokens = 200", f"max_output_tokens = 200\n{told}")
    project.rows([f"{'good' if n % 3 else 'terrible'} coat {n}" for n in range(rows)])
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    at = ("--pack", pack, "--base-url", emulator.address, "--json")
    own = json.loads(shell("estimate", project.job, *at).out)["ways"][0]
    cost = json.loads(shell("run", project.job, *at).out)["this_run"]["cost_usd"]
    assert own["cost_usd"]["low"] <= cost <= own["cost_usd"]["high"]
