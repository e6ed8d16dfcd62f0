"""What follows from each kind of failure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.flow import Failure, FailureKind, Unsent
from pipeline.retry import (
    HINTS,
    OUTAGE,
    TABLE,
    Act,
    hint_of,
    hint_of_rows,
    is_final,
    larger_cap,
    next_probe,
    next_step,
)

KINDS = st.sampled_from(FailureKind)


def test_every_kind_has_a_rule() -> None:
    """No kind of failure is left to chance."""
    assert set(TABLE) == set(FailureKind)


def test_every_stop_has_a_hint() -> None:
    """Whatever ends a run says what to do next."""
    ends = {kind for kind, rule in TABLE.items() if rule.act in (Act.STOP, Act.REFUSE)}
    assert ends | OUTAGE | {FailureKind.RATE_LIMITED, FailureKind.SPEND_LIMITED} == set(HINTS)


@pytest.mark.parametrize(
    ("kinds", "asks", "changed"),
    [
        ({"invalid"}, True, set()),
        ({"template"}, False, {"template"}),
        ({"safety", "too_long"}, False, {"safety", "too_long"}),
        ({"invalid", "safety", "template"}, True, {"safety", "template"}),
    ],
)
def test_a_hint_on_failed_rows_tells_which_asking_again_may_cure(
    kinds: set[str], asks: bool, changed: set[str]
) -> None:
    """What comes again with the same prompt wants another row or another prompt."""
    hint = hint_of_rows(kinds)
    assert ("`--retry-failed` asks again" in hint) is asks
    assert {kind for kind in FailureKind if f"`{kind}`" in hint} == changed


def test_a_hint_names_why_nothing_left() -> None:
    """Each cause has words of its own, and what a kept connection did has those of its kind."""
    hints = {hint_of(Failure(FailureKind.CONNECTION, "", unsent=why)) for why in Unsent}
    assert len(hints) == len(Unsent)
    assert hint_of(Failure(FailureKind.CONNECTION, "")) in hints


@given(kind=KINDS, draw=st.floats(0, 0.999))
def test_no_row_is_asked_for_ever(kind: FailureKind, draw: float) -> None:
    """After at most 20 failures of one kind a row is given up or the run has ended."""
    acts = [next_step(Failure(kind, ""), seen, draw).act for seen in range(1, 21)]
    assert acts[-1] in (Act.GIVE_UP, Act.STOP, Act.REFUSE)


@pytest.mark.parametrize("kind", [FailureKind.SAFETY, FailureKind.BLOCKED, FailureKind.RECITATION])
def test_a_refused_text_costs_one_call(kind: FailureKind) -> None:
    """What the model refuses is not asked again."""
    assert next_step(Failure(kind, ""), 1, 0.5).act is Act.GIVE_UP
    assert is_final(kind)


@pytest.mark.parametrize(
    ("kind", "act"), [(FailureKind.MAX_TOKENS, Act.ENLARGE), (FailureKind.INVALID, Act.REPAIR)]
)
def test_a_spoilt_answer_is_asked_for_once_more(kind: FailureKind, act: Act) -> None:
    """A cut answer gets a larger cap and an invalid one its error, once."""
    steps = [next_step(Failure(kind, ""), seen, 0.5).act for seen in (1, 2)]
    assert steps == [act, Act.GIVE_UP]


@given(wait=st.floats(0, 3600), draw=st.floats(0, 0.999), seen=st.integers(1, 12))
def test_the_server_is_waited_for_in_full(wait: float, draw: float, seen: int) -> None:
    """A delay that the server names is never cut short, and at most a second longer."""
    step = next_step(Failure(FailureKind.RATE_LIMITED, "", retry_after=wait), seen, draw)
    assert wait <= step.wait <= wait + 1


@given(seen=st.integers(1, 4), draw=st.floats(0, 0.999))
def test_waits_grow_and_spread(seen: int, draw: float) -> None:
    """Without a delay from the server each wait lies between half and all of the doubled one."""
    step = next_step(Failure(FailureKind.SERVER, ""), seen, draw)
    assert 0.5 * 2 ** (seen - 1) <= step.wait <= 2 ** (seen - 1)


@pytest.mark.parametrize(("kind", "most"), [(FailureKind.SERVER, 20), (FailureKind.GARBLED, 12)])
def test_few_rows_are_probed_in_an_outage(kind: FailureKind, most: int) -> None:
    """Each with a longer pause, as long as it may be the rows, and in minutes at most."""
    waits = [next_probe(Failure(kind, ""), failed, 0.99) for failed in range(1, most + 1)]
    told = [wait for wait in waits if wait is not None]
    assert waits == [*sorted(told), None]
    assert (sum(told[:3]) < 5, sum(told) < 300) == (True, True)


def test_a_probe_waits_as_long_as_the_server_asks() -> None:
    """Whatever the pause would be."""
    wait = next_probe(Failure(FailureKind.SERVER, "", retry_after=50.0), 1, 0.5)
    assert wait is not None
    assert 50 <= wait <= 51


def test_a_larger_cap_makes_room_for_the_thoughts() -> None:
    """What was thought comes on top, and the model's own limit holds."""
    assert larger_cap(200, 150, 65_535) == 950
    assert larger_cap(60_000, 0, 65_535) == 65_535
