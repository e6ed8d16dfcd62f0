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
from pipeline.retry import FEWER_PROBES, TABLE, Rule
from tests.conftest import Emulator, Project, emulating
from tests.reviews import word

GOOD = [f"good {word(n)}" for n in range(60)]
BROKEN = "page 200"  # a kind that a row may cause, with few tries
TRIES = 3
PROBED = FEWER_PROBES  # requests before an outage from the start is believed


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
    for kind in (FailureKind.GARBLED, FailureKind.CONNECTION):
        rule = replace(TABLE[kind], ceiling=seconds)
        monkeypatch.setitem(cast("dict[FailureKind, Rule]", TABLE), kind, rule)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be hardly any pause between two attempts."""
    rule = replace(TABLE[FailureKind.GARBLED], wait=0.01)
    monkeypatch.setitem(cast("dict[FailureKind, Rule]", TABLE), FailureKind.GARBLED, rule)


def different(number: int) -> list[str]:
    """Return so many broken prompts."""
    return [f"<bad {word(n)}>" for n in range(number)]


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


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("at", [[0, 1, 2], list(range(10)), [0, 20, 40], [*range(7), *range(8, 12)]])
def test_different_broken_prompts_at_the_head_do_not_stop_the_run(
    packed: Project, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, at: list[int]
) -> None:
    """The others are answered, wherever these stand, and they fail as they do at the end."""
    soon(monkeypatch, 1.0)
    monkeypatch.setattr(courier, "LAST", 60)
    texts = list(GOOD)
    for n, text in zip(at, different(len(at)), strict=True):
        texts[n] = text
    packed.rows(texts)
    report = run(packed, emulator, marked)
    assert (report.exit_code, report.table.ok, failed(packed)) == (Exit.ROWS_FAILED, 60 - len(at), at)


@pytest.mark.usefixtures("quick")
def test_a_few_rows_are_all_tried_before_any_answer(project: Project, emulator: Emulator) -> None:
    """Alone, where they came in one pack: the only good one is found."""
    in_packs(project, 20)
    project.rows([GOOD[0], *different(3)])
    report = run(project, emulator, marked)
    assert (report.table.ok, report.table.failed, report.pending) == (1, 3, 0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("texts", [["<bad>"], ["<bad>"] * 50, different(2), different(60)])
def test_rows_stay_pending_where_none_was_answered(
    packed: Project, emulator: Emulator, texts: list[str]
) -> None:
    """Nobody can tell whether it is an outage, which few requests find out."""
    packed.rows(texts)
    report = run(packed, emulator, marked)
    assert (report.exit_code, report.table.failed, report.pending) == (Exit.STOPPED, 0, len(texts))
    assert report.requests == PROBED


@pytest.mark.usefixtures("quick")
def test_what_was_answered_just_now_tells_after_a_kill(
    packed: Project, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command ends as the first one would have, though only broken prompts are left to it."""
    packed.rows(GOOD)
    assert run(packed, emulator, marked).exit_code is Exit.OK
    soon(monkeypatch, 1.0)
    packed.rows(GOOD + different(3))
    again = run(packed, emulator, marked)
    assert (again.exit_code, failed(packed), again.pending) == (Exit.ROWS_FAILED, [60, 61, 62], 0)
    for file in again.folder.glob("replies.sqlite*"):
        file.unlink()  # as after a while: what has failed before may fail again
    later = run(packed, emulator, marked, again=True)
    assert (later.exit_code, later.table.failed, later.pending) == (Exit.ROWS_FAILED, 3, 0)


@pytest.mark.parametrize("rows", [1, 20])
def test_a_prompt_whose_connection_breaks_fails_as_the_last_one(
    project: Project, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """After the same silence as others, with its twins."""
    in_packs(project, rows)
    soon(monkeypatch, 1.0)
    project.rows([*GOOD, "<bad>", "<bad>"])
    report = run(project, emulator, lambda body: "reset before" if b"<bad" in body else "")
    assert (report.exit_code, report.table.ok, report.table.failed) == (Exit.ROWS_FAILED, 60, 2)
    assert list(project.table()["_error_kind"])[60:] == ["connection"] * 2


def test_two_broken_prompts_come_to_an_end(project: Project, emulator: Emulator) -> None:
    """Neither tells of the other whether it is an outage, so no row fails of it."""
    project.rows(GOOD + ["<bad>"] * 5 + ["<bad too>"] * 5)
    report = run(project, emulator, marked, longest=5.0)
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


@pytest.mark.usefixtures("quick")
def test_an_outage_at_the_end_fails_no_more_packs_than_single_rows(
    project: Project, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few packs may hold many prompts, which look like an outage one by one, too."""
    soon(monkeypatch, 0.5)
    monkeypatch.setattr(courier, "LAST", 3)
    in_packs(project, 2)
    project.rows(GOOD[:8])
    left = iter(range(1))
    report = run(project, emulator, lambda _: "" if next(left, None) is not None else BROKEN, longest=6.0)
    assert (report.exit_code, report.table.failed, report.pending) == (Exit.STOPPED, 0, 6)


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


@pytest.mark.usefixtures("quick")
def test_an_outage_from_the_start_fails_no_row_with_equal_ones(project: Project, emulator: Emulator) -> None:
    """Rows that wait for the first prompt are not held to its failure when the next one fails, too."""
    project.rows(["<bad>"] * 30 + GOOD)
    report = run(project, emulator, lambda _: BROKEN)
    assert (report.exit_code, report.table.failed, report.requests) == (
        Exit.STOPPED,
        0,
        PROBED,
    )
    assert report.pending == 90


@pytest.mark.usefixtures("quick")
def test_an_outage_at_the_start_is_outlasted(packed: Project, emulator: Emulator) -> None:
    """All rows are answered once it has ended, those that were tried in it, too."""
    packed.rows(GOOD)
    left = iter(range(PROBED - 1))
    report = run(packed, emulator, lambda _: "" if next(left, None) is None else BROKEN)
    assert (report.exit_code, report.table.ok) == (Exit.OK, 60)


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
