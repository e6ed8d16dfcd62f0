"""Prompts that break the server each time, shared by several rows: these fail, and the run goes on."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import pytest

from benchmarks.proxy import Proxy, proxying
from pipeline.errors import Exit
from pipeline.executors import courier
from pipeline.flow import FailureKind
from pipeline.report import RunReport
from pipeline.retry import TABLE, Rule
from tests.conftest import Emulator, Project, emulating
from tests.reviews import word

GOOD = [f"good {word(n)}" for n in range(60)]
BROKEN = "page 200"  # a kind that a row may cause, with few tries
TRIES = 3


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator that answers everything."""
    with emulating() as running:
        yield running


@pytest.fixture(params=[1, 20])
def packed(request: pytest.FixtureRequest, project: Project) -> Project:
    """Return a project whose rows are asked one by one, or in packs."""
    in_packs(project, request.param)
    return project


def in_packs(project: Project, rows: int) -> None:
    """Let so many rows share a request."""
    project.change("[output]", f"[packing]\nrows = {rows}\n\n[output]")


def run(
    project: Project,
    emulator: Emulator,
    plan: Callable[[bytes], str],
    *,
    longest: float = 60.0,
    again: bool = False,
) -> RunReport:
    """Run the job through a proxy that breaks what the plan says."""
    with proxying(Proxy(emulator.address, plan)) as proxy:
        return project.run(proxy.address, longest_outage=longest, retry_failed=again)


def marked(body: bytes) -> str:
    """Break what has a marked row in it."""
    return BROKEN if b"<bad" in body else ""


def failed(project: Project) -> list[int]:
    """Return which rows of the table have failed."""
    return [n for n, kind in enumerate(project.table()["_error_kind"]) if kind == "garbled"]


def soon(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the last prompts fail after so many seconds without an answer, with pauses no longer than that."""
    monkeypatch.setattr(courier, "LAST_SILENCE", seconds)
    rule = replace(TABLE[FailureKind.GARBLED], ceiling=seconds)
    monkeypatch.setitem(cast("dict[FailureKind, Rule]", TABLE), FailureKind.GARBLED, rule)


@pytest.mark.parametrize("twins", [2, 30])
def test_rows_with_one_broken_prompt_fail_together(packed: Project, emulator: Emulator, twins: int) -> None:
    """At the end of the input, where no other row tells whether it is an outage: asked as often as one."""
    packed.rows(GOOD + ["<bad>"] * twins)
    report = run(packed, emulator, marked)
    assert (report.exit_code, report.table.failed, report.pending) == (Exit.ROWS_FAILED, twins, 0)
    assert failed(packed) == list(range(60, 60 + twins))
    assert report.requests <= 60 + 2 * TRIES
    again = run(packed, emulator, marked, again=True)
    assert (again.exit_code, again.table.failed, again.requests) == (Exit.ROWS_FAILED, twins, TRIES)


@pytest.mark.parametrize(("rows", "at"), [(1, 0), (20, 15)])
def test_a_broken_prompt_at_the_head_does_not_stop_the_run(
    project: Project, emulator: Emulator, rows: int, at: int
) -> None:
    """Before any answer, too: others are asked in its place, wherever in a pack it stands."""
    in_packs(project, rows)
    project.rows(GOOD[:at] + ["<bad>"] * 5 + GOOD[at:])
    report = run(project, emulator, marked)
    assert (report.exit_code, report.pending) == (Exit.ROWS_FAILED, 0)
    assert failed(project) == list(range(at, at + 5))
    assert report.requests <= 60 + 8 * TRIES


def test_rows_that_all_have_one_broken_prompt_fail(packed: Project, emulator: Emulator) -> None:
    """As the only row of a table does, and asked as often."""
    packed.rows(["<bad>"] * 50)
    report = run(packed, emulator, marked)
    assert (report.exit_code, report.table.failed, report.requests) == (Exit.ROWS_FAILED, 50, TRIES)


def test_two_broken_prompts_come_to_an_end(packed: Project, emulator: Emulator) -> None:
    """Neither tells of the other whether it is an outage, so no row fails of it."""
    packed.rows(GOOD + ["<bad>"] * 5 + ["<bad too>"] * 5)
    report = run(packed, emulator, marked, longest=2.0)
    assert (report.exit_code, report.table.failed, report.pending) == (Exit.STOPPED, 0, 10)


def test_several_broken_prompts_at_the_end_fail_after_a_while(
    project: Project, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are all that is left, so the run need not wait for the end of an outage, and writes its table."""
    soon(monkeypatch, 2.0)
    bad = [f"<bad {word(n)}>" for n in range(3)]
    project.rows(GOOD + [text for text in bad for _ in range(3)])
    report = run(project, emulator, marked, longest=100.0)
    assert (report.exit_code, report.pending) == (Exit.ROWS_FAILED, 0)
    assert failed(project) == list(range(60, 69))


def test_more_broken_prompts_than_a_few_are_an_outage(
    project: Project, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end, too: they stay pending."""
    soon(monkeypatch, 0.5)
    monkeypatch.setattr(courier, "LAST", 3)
    project.rows(GOOD + [f"<bad {word(n)}>" for n in range(5)])
    report = run(project, emulator, marked, longest=3.0)
    assert (report.exit_code, report.table.failed, report.pending) == (Exit.STOPPED, 0, 5)


def test_a_broken_pack_is_parted_soon(project: Project, emulator: Emulator) -> None:
    """The rows beside a broken prompt are answered in the same run, and it fails in the end."""
    in_packs(project, 10)
    project.rows([*GOOD[:33], "<bad>", *GOOD[33:]])
    report = run(project, emulator, marked)
    assert (report.exit_code, report.table.ok, failed(project)) == (Exit.ROWS_FAILED, 60, [33])


def test_an_outage_in_the_midst_fails_no_row_with_equal_ones(packed: Project, emulator: Emulator) -> None:
    """In the midst of a run: all that is left stays to be asked."""
    packed.rows([text for text in GOOD for _ in range(3)])
    packed.change("[limits]", "[limits]\nconcurrency = 2")
    left = iter(range(1 if "rows = 20" in packed.job.read_text() else 20))
    report = run(packed, emulator, lambda _: "" if next(left, None) is not None else BROKEN, longest=1.0)
    assert (report.exit_code, report.table.failed) == (Exit.STOPPED, 0)
    assert report.pending >= 100


def test_an_outage_from_the_start_fails_no_row_with_equal_ones(project: Project, emulator: Emulator) -> None:
    """Rows that wait for the first prompt are not held to its failure when the next one fails, too."""
    project.rows(["<bad>"] * 30 + GOOD)
    report = run(project, emulator, lambda _: BROKEN)
    assert (report.exit_code, report.table.failed, report.requests) == (
        Exit.STOPPED,
        0,
        2 * TRIES,
    )
    assert report.pending == 90


def test_a_stop_in_an_outage_from_the_start_fails_no_row(project: Project, emulator: Emulator) -> None:
    """The first prompt is not to blame as long as nobody has told; its row is asked by the next run."""
    project.rows(GOOD)
    left = iter(range(TRIES))

    def broken(_: bytes) -> str:
        if next(left, None) is None:  # the second prompt is being asked
            os.kill(os.getpid(), signal.SIGTERM)
        return BROKEN

    report = run(project, emulator, broken)
    assert (report.exit_code, report.table.failed, report.pending) == (Exit.STOPPED, 0, 60)
    again = run(project, emulator, lambda _: "")
    assert (again.exit_code, again.requests) == (Exit.OK, 60)
