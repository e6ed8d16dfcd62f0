"""Service tiers: asked for, served, and billed as served."""

import pytest

from pipeline.errors import Exit, JobError
from pipeline.job import job_model
from pipeline.sections import ModelSection
from pipeline.tiers import check_tier, served_otherwise
from tests.bills import billed
from tests.conftest import TODAY, Project, emulating
from tests.reviews import word
from tests.test_costs import rows_of, runs_of

LITE = "gemini-3.1-flash-lite"
ROWS = 60


def section(**keys: object) -> ModelSection:
    """Return `[model]` with these keys."""
    return ModelSection.model_validate({"id": LITE, **keys})


@pytest.mark.parametrize(
    ("keys", "vertex"),
    [
        ({"service_tier": "flex"}, True),
        ({"id": "gemini-2.5-flash-lite", "service_tier": "priority"}, False),
        ({"service_tier": "priority", "price": {"input": 1, "output": 2}}, False),
    ],
)
def test_a_tier_that_cannot_be_had_or_billed_is_refused(keys: dict[str, object], vertex: bool) -> None:
    """Before the first request, with what to do instead."""
    told = section(**keys)
    with pytest.raises(JobError) as refused:
        check_tier(told, job_model(told, TODAY), vertex=vertex)
    assert "leave" in refused.value.hint


def test_the_standard_tier_is_always_fine() -> None:
    """Nothing is sent, so nobody can refuse it."""
    check_tier(section(), job_model(section(), TODAY), vertex=True)


@pytest.mark.parametrize(
    ("keys", "seconds"),
    [({}, 120), ({"service_tier": "flex"}, 900), ({"service_tier": "flex", "timeout": 60.0}, 60)],
)
def test_flex_has_time(keys: dict[str, object], seconds: float) -> None:
    """A tier that answers within minutes is waited for; the job's own word wins."""
    assert section(**keys).deadline == seconds


def test_what_was_served_otherwise_is_said() -> None:
    """A reply that names no tier counts as standard, which is what it is billed as."""
    assert served_otherwise("priority", {"priority": 7}) == []
    assert served_otherwise("standard", {"": 3, "standard": 4}) == []
    (said,) = served_otherwise("priority", {"priority": 7, "standard": 2, "": 1})
    assert said.startswith("3 of 10 replies")
    assert "3 `standard`" in said


@pytest.mark.parametrize(
    ("tier", "faults"),
    [
        ("flex", ["503-shed%0.2"]),
        ("priority", []),
        ("priority", ["downgrade%0.3"]),
    ],
)
def test_replies_cost_what_was_served(project: Project, tier: str, faults: list[str]) -> None:
    """Shed requests come again, downgraded ones cost the standard price, and the bills agree."""
    project.change("max_output_tokens = 200", f'max_output_tokens = 200\nservice_tier = "{tier}"')
    project.rows([f"good {word(n)}" for n in range(ROWS)])
    flags = [flag for fault in faults for flag in ("--fault", fault)]
    with emulating(*flags) as emulator:
        report = project.run(emulator.address)
        assert report.exit_code is Exit.OK
        assert rows_of(project) == runs_of(report) == billed(emulator)
        shed = emulator.stats()["by_status"].get("503", 0)
    otherwise = [note for note in report.notes if "another tier" in note]
    assert (shed > 0) == (faults == ["503-shed%0.2"])
    assert len(otherwise) == (faults == ["downgrade%0.3"])
    assert sum(report.tiers.values()) == ROWS


def test_the_tier_is_no_identity(project: Project) -> None:
    """What was answered in one tier is not asked again in another."""
    project.rows(["good", "bad"])
    with emulating() as emulator:
        project.run(emulator.address)
        project.change("max_output_tokens = 200", 'max_output_tokens = 200\nservice_tier = "flex"')
        assert project.run(emulator.address).requests == 0
