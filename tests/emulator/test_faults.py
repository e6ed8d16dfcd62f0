"""Reading fault specs and choosing which request meets which fault."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.emulator.faults import Fault, Script, parse_fault


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("503@3", Fault("503", first=3, last=3)),
        ("503@3-5", Fault("503", first=3, last=5)),
        ("hang@3+", Fault("hang", first=3)),
        ("slow:2.5@1", Fault("slow", 2.5, first=1, last=1)),
        ("429-minute%0.05", Fault("429-minute", share=0.05)),
        ("cut~kettle", Fault("cut", word="kettle")),
        ("cut~tea pot#2", Fault("cut", word="tea pot", times=2)),
        ("finish-safety@1", Fault("finish-safety", first=1, last=1)),
        ("batch-create/done-reset@2", Fault("done-reset", first=2, last=2, place="batch-create")),
        ("line/500~a/b", Fault("500", word="a/b", place="line")),
        ("500~a/b", Fault("500", word="a/b")),
    ],
)
def test_a_spec_is_read(spec: str, fault: Fault) -> None:
    """Each selector and the parameter have their own form."""
    assert parse_fault(spec) == fault


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("503", "is not KIND@N"),
        ("506@1", "unknown kind `506`"),
        ("503@0", "is not N, N-M"),
        ("batch-make/503@1", "unknown place `batch-make`"),
        ("line/hang@1", "unknown kind `hang`"),
        ("batch/503@1", "unknown kind `503`"),
        ("503@5-3", "3 comes before 5"),
        ("503:2@1", "takes no parameter"),
        ("slow:x@1", "is no number of seconds"),
        ("503%0", "is not above 0"),
        ("503%1.5", "is not above 0"),
        ("503~", "the word is empty"),
        ("503~a#0", "is no count from 1"),
    ],
)
def test_a_wrong_spec_is_told(spec: str, complaint: str) -> None:
    """The message has the spec and what is wrong with it."""
    with pytest.raises(ValueError, match=complaint) as caught:
        parse_fault(spec)
    assert spec in str(caught.value)


def test_requests_are_chosen_by_number() -> None:
    """A span is inclusive, an open one never ends, and the first fault that applies wins."""
    script = Script(("500@2-3", "503@3+"))
    kinds = [fault and fault.kind for fault in (script.pick(n, "text") for n in range(1, 6))]
    assert kinds == [None, "500", "500", "503", "503"]


def test_requests_are_chosen_by_a_word_a_number_of_times() -> None:
    """After its count is used up a word means nothing, until a restart."""
    script = Script(("500~tea#1",))
    assert [bool(script.pick(n, "tea")) for n in (1, 2)] == [True, False]
    script.restart()
    assert script.pick(3, "tea") is not None
    assert script.pick(4, "coffee") is None


@given(share=st.floats(0.05, 0.95))
def test_a_share_is_drawn_from_the_prompt(share: float) -> None:
    """About the share of prompts meets the fault, the same ones in whatever order they come."""
    prompts = [f"prompt {number}" for number in range(400)]
    spec = (f"500%{share:.6f}",)
    forward = {text for text in prompts if Script(spec).pick(1, text)}
    script = Script(spec)
    backward = {text for text in reversed(prompts) if script.pick(1, text)}
    assert forward == backward
    assert abs(len(forward) / 400 - share) < 0.15


def test_a_share_is_drawn_anew_for_each_attempt() -> None:
    """A prompt that met the fault once does not meet it forever."""
    script = Script(("500%0.5",))
    assert {script.pick(n, "the same") is None for n in range(20)} == {True, False}


def test_each_place_has_faults_of_its_own() -> None:
    """A script takes those of its place alone."""
    specs = ("500@1", "line/400-argument@1", "batch/stuck@1")
    kinds = [fault and fault.kind for fault in (Script(specs, place).pick(1, "") for place in ("", "batch"))]
    assert kinds == ["500", "stuck"]
    assert not Script(specs, "file-get")


@pytest.mark.parametrize(("kind", "tier"), [("503-shed", "flex"), ("downgrade", "priority")])
def test_some_faults_meet_one_service_tier(kind: str, tier: str) -> None:
    """Others go on to the next fault."""
    script = Script((f"{kind}%1", "500%1"))
    kinds = [fault and fault.kind for fault in (script.pick(1, "a", tier), script.pick(1, "a"))]
    assert kinds == [kind, "500"]


def test_a_seed_draws_other_prompts() -> None:
    """The same share of them, and the same ones for the same seed."""
    drawn = [
        {n for n in range(400) if Script(("500%0.5",), seed=seed).pick(1, str(n))} for seed in (0, 1, 1, 2)
    ]
    assert drawn[1] == drawn[2]
    assert len({frozenset(one) for one in drawn}) == 3
