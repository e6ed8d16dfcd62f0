"""Whatever happens to a job, in whatever order, it ends in the table that a fresh run would give.

Hypothesis draws sequences of runs, stops, kills, damage and changes of input and prompt. More of them:
ROWMILL_SEQUENCES=500.
"""

import multiprocessing
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pipeline.errors import Exit, StoreError
from pipeline.report import RunReport
from tests.conftest import JOB, SCHEMA, Emulator, Project, emulating

SEQUENCES = int(os.environ.get("ROWMILL_SEQUENCES", "15"))
STEPS = 16
IN_FLIGHT = 4
ILL = "<ill>"  # rows with this fail while the emulator is told so
FAULT = [f"finish-safety~{ILL}"]
TEXTS = [
    f"{word} {what} {ILL if what == 'seam' else '.'}"
    for word in ["good", "bad", "fine", "awful", "cool", "dull"]
    for what in ["coat", "box", "seam", "shop", "mail"]
]
PROMPTS = [  # each counts other tokens, so that an answer to another prompt would be seen
    ("You label reviews.", "Review: {{ text }}"),
    ("You label reviews of a shop that sells coats.", "Review: {{ text }}"),
    ("You label reviews.", "Here is what a customer wrote: {{ text }}"),
]
TOKENS = ["_prompt_tokens", "_output_tokens", "_thought_tokens"]

Texts = dict[tuple[int, str], dict[str, object]]  # by prompt and text: what a row of a fresh run holds


def make_project(folder: Path) -> Project:
    """Make a project without rows and without a job."""
    for name in ("jobs", "schemas"):
        (folder / name).mkdir()
    (folder / "schemas" / "label.py").write_text(SCHEMA)
    return Project(folder)


def write_job(
    project: Project, prompt: int, *, keyed: bool, path: str = "rows.csv", rpd: int | None = None
) -> None:
    """Write the job with one of the prompts, and with at most so many requests a day."""
    system, row = PROMPTS[prompt]
    text = JOB.replace("You label reviews.", system).replace("Review: {{ text }}", row)
    text = text.replace("rows.csv", path).replace('["id"]', '["id"]' if keyed else "[]")
    limits = f"concurrency = {IN_FLIGHT}\n" + (f"rpd = {rpd}\n" if rpd else "")
    project.job.write_text(text.replace("[output]", limits + "[output]"))


def fresh_run(address: str, prompt: int, rows: list[tuple[str, str]], *, keyed: bool) -> pl.DataFrame:
    """Return the table of a run that knows nothing."""
    with tempfile.TemporaryDirectory() as name:
        project = make_project(Path(name))
        write_job(project, prompt, keyed=keyed)
        write_rows(project.folder / "rows.csv", rows)
        assert project.run(address).exit_code is Exit.OK
        return project.table()


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    """Write the input."""
    pl.DataFrame(rows, schema=["id", "text"], orient="row").write_csv(path)


def run_to_death(project: Project, address: str, retry_failed: bool) -> None:
    """Run in a process that will be killed."""
    with suppress(StoreError):
        project.run(address, retry_failed=retry_failed)


class Mill(RuleBasedStateMachine):
    """One job, and what is done to it."""

    emulator: Emulator
    expected: Texts

    @initialize(keyed=st.booleans(), rows=st.integers(1, 12))
    def begin(self, keyed: bool, rows: int) -> None:
        """Start with some rows, identified by a key column or by their text."""
        self.keyed = keyed
        self.place = tempfile.TemporaryDirectory()
        self.project = make_project(Path(self.place.name))
        self.prompt, self.ids = 0, 0
        self.inputs: dict[str, list[tuple[str, str]]] = {"rows.csv": [], "other.csv": []}
        self.path = "rows.csv"
        self.ill = False
        self.damaged = False  # something was damaged that was paid for
        self.straight = True  # the input only grew under one prompt, and nothing was killed
        self.lost = self.again = 0  # answers that no process had taken at a kill; failed rows asked again
        self.answered: set[tuple[int, str, str]] = set()  # what stood in a whole table and is kept
        self.emulator.change(faults=[], latency=0.0)
        self.emulator.reset()
        self.add(rows, 1)
        self.inputs["other.csv"] = [(f"o{n}", TEXTS[-n]) for n in range(1, 5)]

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The input."""
        return self.inputs[self.path]

    def name(self, row: tuple[str, str]) -> tuple[int, str, str]:
        """Return what tells a question from others under all prompts."""
        return self.prompt, row[0] if self.keyed else "", row[1]

    def questions(self) -> set[tuple[int, str, str]]:
        """Return the different questions of the present input."""
        return {self.name(row) for row in self.rows}

    def folders(self) -> list[Path]:
        """Return the run folders."""
        return sorted(self.project.folder.glob(".rowmill/labels/*/"))

    def parts(self) -> list[Path]:
        """Return all parts."""
        return sorted(self.project.folder.glob(".rowmill/labels/*/parts/*.parquet"))

    # what happens to the input

    @rule(count=st.integers(1, 8), step=st.integers(1, 11))
    def add(self, count: int, step: int) -> None:
        """Let the input grow; texts come again under other keys, or without any."""
        for _ in range(count):
            self.rows.append((str(self.ids), TEXTS[self.ids * step % len(TEXTS)]))
            self.ids += 1

    @rule(data=st.data())
    def double(self, data: st.DataObject) -> None:
        """Let a row come twice; under a key of its own where there are keys."""
        self.ids += 1
        place = data.draw(st.integers(0, len(self.rows)))
        self.rows.insert(place, (str(self.ids - 1), data.draw(st.sampled_from(self.rows))[1]))

    @rule(data=st.data(), text=st.sampled_from(TEXTS))
    def change(self, data: st.DataObject, text: str) -> None:
        """Change the text of a row."""
        place = data.draw(st.integers(0, len(self.rows) - 1))
        self.rows[place] = (self.rows[place][0], text)
        self.straight = False

    @precondition(lambda self: len(self.rows) > 1)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Take rows out of the input."""
        first = data.draw(st.integers(0, len(self.rows) - 1))
        last = data.draw(st.integers(first, len(self.rows) - 1))
        gone = self.rows[first:last]
        del self.rows[first:last]
        self.straight = self.straight and not gone

    @rule(seed=st.integers(0, 99))
    def reorder(self, seed: int) -> None:
        """Bring the rows into another order."""
        random.Random(seed).shuffle(self.rows)

    @rule()
    def switch_input(self) -> None:
        """Name the other file."""
        self.path = "other.csv" if self.path == "rows.csv" else "rows.csv"
        self.straight = False

    @rule(prompt=st.integers(0, len(PROMPTS) - 1))
    def switch_prompt(self, prompt: int) -> None:
        """Take another prompt, or go back to one."""
        self.straight = self.straight and prompt == self.prompt
        self.prompt = prompt

    @rule(ill=st.booleans())
    def fall_ill(self, ill: bool) -> None:
        """Let some texts fail from now on, or no more."""
        self.ill = ill
        self.emulator.change(faults=FAULT if ill else [])

    # what happens to the run folder

    @precondition(lambda self: bool(self.parts()))
    @rule(data=st.data())
    def flip_byte_of_part(self, data: st.DataObject) -> None:
        """Damage one byte of a part, wherever."""
        part = data.draw(st.sampled_from(range(len(self.parts()))))
        path = self.parts()[part]
        raw = bytearray(path.read_bytes())
        raw[round(data.draw(st.floats(0, 1)) * (len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(raw)
        self.straight = False

    @precondition(lambda self: bool(self.parts()))
    @rule(data=st.data(), share=st.floats(0, 1, exclude_max=True))
    def truncate_part(self, data: st.DataObject, share: float) -> None:
        """Cut a part off."""
        path = self.parts()[data.draw(st.integers(0, len(self.parts()) - 1))]
        os.truncate(path, int(path.stat().st_size * share))
        self.straight = False

    @precondition(lambda self: bool(self.folders()))
    @rule(data=st.data())
    def delete_journal(self, data: st.DataObject) -> None:
        """Delete a journal with all that belongs to it; it may be, at any time."""
        folder = self.folders()[data.draw(st.integers(0, len(self.folders()) - 1))]
        for file in folder.glob("replies.sqlite*"):
            file.unlink()
        self.damaged, self.straight = True, False

    @precondition(lambda self: any(self.project.folder.glob(".rowmill/labels/*/*-wal")))
    @rule(share=st.floats(0, 1, exclude_max=True), garbage=st.binary(max_size=100))
    def tear_log(self, share: float, garbage: bytes) -> None:
        """Leave the log of a killed run as a power cut may: its end missing, or rubbish."""
        for log in self.project.folder.glob(".rowmill/labels/*/*-wal"):
            log.write_bytes(log.read_bytes()[: int(log.stat().st_size * share)] + garbage)
        self.damaged, self.straight = True, False

    def journals(self) -> list[Path]:
        """Return journals and their logs that hold anything; a deleted one is not there."""
        found = self.project.folder.glob(".rowmill/labels/*/replies.sqlite*")
        return sorted(file for file in found if file.stat().st_size)

    @precondition(lambda self: bool(self.journals()))
    @rule(data=st.data())
    def flip_byte_of_journal(self, data: st.DataObject) -> None:
        """Damage one byte of a journal or of its log, wherever."""
        files = self.journals()
        path = files[data.draw(st.integers(0, len(files) - 1))]
        raw = bytearray(path.read_bytes())
        raw[round(data.draw(st.floats(0, 1)) * (len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(raw)
        self.damaged, self.straight = True, False

    @precondition(lambda self: bool(self.folders()))
    @rule()
    def leave_drafts(self) -> None:
        """Leave what a killed process may have left half written."""
        for folder in self.folders():
            (folder / "parts" / "part-0000009.parquet.123.tmp").write_bytes(b"PAR1 half a part")
        self.project.output.parent.mkdir(exist_ok=True)
        self.project.output.with_name("labels.parquet.123.tmp").write_bytes(b"PAR1")

    # runs

    @rule()
    def run(self) -> None:
        """Run to the end."""
        self.complete(self._run())

    @rule()
    def retry(self) -> None:
        """Ask again for what has failed."""
        self.complete(self._run(retry_failed=True))

    @rule(requests=st.integers(1, 6), retry_failed=st.booleans())
    def run_part_of_the_day(self, requests: int, retry_failed: bool) -> None:
        """Run until the day's requests are used up."""
        report = self._run(rpd=requests, retry_failed=retry_failed)
        assert report.requests <= requests
        if report.output is not None and report.stop is None:
            self.complete(report)
        elif report.stop is not None:
            assert report.exit_code is Exit.STOPPED

    @rule(answers=st.integers(0, 6), retry_failed=st.booleans())
    def kill(self, answers: int, retry_failed: bool) -> None:
        """Kill a run when it has got some answers; what was in flight may be paid for again, and no more."""
        self._write(None)
        self.emulator.change(latency=0.01)
        before = self.emulator.stats()["answered"]
        process = multiprocessing.get_context("forkserver").Process(
            target=run_to_death, args=(self.project, self.emulator.address, retry_failed)
        )
        process.start()
        while process.is_alive() and self.emulator.stats()["answered"] < before + answers + 1:
            time.sleep(0.001)
        process.kill()
        process.join()
        process.close()
        while (stats := self.emulator.stats())["in_flight"]:
            time.sleep(0.001)
        self.emulator.change(latency=0.0)
        known = sum(map(kept, self.folders()))
        if not self.damaged:
            assert stats["answered"] - known - self.lost <= IN_FLIGHT
            self.lost = stats["answered"] - known
        self.again += retry_failed * (stats["answered"] - before)
        self.straight = False

    def _write(self, rpd: int | None) -> None:
        write_job(self.project, self.prompt, keyed=self.keyed, path=self.path, rpd=rpd)
        write_rows(self.project.folder / self.path, self.rows)

    def _run(self, *, rpd: int | None = None, retry_failed: bool = False) -> RunReport:
        """Run, again where a damaged part was found; the emulator must have billed what the run says."""
        self._write(rpd)
        before = self.emulator.stats()
        for _ in range(len(self.parts()) + 1):
            with suppress(StoreError):
                report = self.project.run(self.emulator.address, retry_failed=retry_failed)
                break
        else:
            raise AssertionError("the same command does not get over damaged parts")
        billed = self.emulator.stats()
        asked = billed["requests"] - before["requests"]
        if report.requests == asked:  # else an earlier turn of the loop has asked
            assert report.usage.prompt == billed["prompt_tokens"] - before["prompt_tokens"]
        if retry_failed:
            self.again += asked
        elif not self.damaged:
            assert asked <= len(self.questions() - self.answered)
        return report

    # what must be true

    def complete(self, report: RunReport) -> None:
        """Check that the table holds each row once, in order, as a fresh run has it or as failed."""
        assert (report.pending, report.stop) == (0, None)
        table = self.project.table()
        assert list(zip(table["id"].cast(str), table["text"].fill_null(""), strict=True)) == self.rows
        for row in table.iter_rows(named=True):
            self.check_row(row)
            if row["_status"] == "ok" and not self.damaged:
                self.answered.add(self.name((str(row["id"]), row["text"])))
        stats = self.emulator.stats()
        if not self.damaged:
            assert stats["repeated"] <= self.lost + self.again
        if self.straight:
            assert table["_prompt_tokens"].sum() == stats["prompt_tokens"]
            assert table["_output_tokens"].sum() == stats["output_tokens"]

    def check_row(self, row: dict[str, object]) -> None:
        """Compare a row of the table with that of a fresh run."""
        if row["_status"] == "failed":
            assert (ILL in str(row["text"]), row["_error_kind"], row["label"]) == (True, "safety", None)
            return
        fresh = self.expected[self.prompt, str(row["text"])]
        names = ["label", "reason", "_error_kind", "_model"]
        if row["_attempts"] == 1:
            names += [*TOKENS, "_cost_usd"]
        assert {name: row[name] for name in names} == {name: fresh[name] for name in names}

    def teardown(self) -> None:
        """Whatever has happened: once all is well, the same command gives the table of a fresh run."""
        if not hasattr(self, "project"):
            return
        with self.place:
            self.fall_ill(ill=False)
            self.run()
            self.retry()
            report = self._run()
            assert not report.requests
            mine, fresh = (
                self.project.table(),
                fresh_run(self.emulator.address, self.prompt, self.rows, keyed=self.keyed),
            )
            ours = [name for name in mine.columns if not name.startswith("_")]
            assert mine.select(*ours, "_status").equals(fresh.select(*ours, "_status"))
            left = [*report.folder.rglob("*.tmp"), *self.project.output.parent.glob("*.tmp")]
            assert not left


def kept(folder: Path) -> int:
    """Return how many replies a journal holds, without mending it: that is the next run's part."""
    with tempfile.TemporaryDirectory() as name:
        for file in folder.glob("replies.sqlite*"):
            (Path(name) / file.name).write_bytes(file.read_bytes())
        with closing(sqlite3.connect(Path(name) / "replies.sqlite")) as db:
            try:
                return int(db.execute("SELECT count(*) FROM reply").fetchone()[0])
            except sqlite3.OperationalError:  # killed before the table was made
                return 0


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator whose settings the sequences change."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.test_stateful"])
    with emulating() as running:
        yield running


@pytest.fixture(scope="module")
def expected(emulator: Emulator) -> Texts:
    """Return what fresh runs answer to each text under each prompt."""
    rows = [(str(n), text) for n, text in enumerate(TEXTS)]
    tables = [fresh_run(emulator.address, prompt, rows, keyed=True) for prompt in range(len(PROMPTS))]
    return {
        (prompt, row["text"]): row
        for prompt, table in enumerate(tables)
        for row in table.iter_rows(named=True)
    }


@pytest.mark.timeout(60 + 20 * SEQUENCES)
def test_any_sequence_ends_in_the_table_of_a_fresh_run(emulator: Emulator, expected: Texts) -> None:
    """Runs, stops, kills, damage and changes in any order."""
    machine = type("Sequence", (Mill,), {"emulator": emulator, "expected": expected})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=SEQUENCES,
            stateful_step_count=STEPS,
            derandomize=True,
            phases=[Phase.generate],  # shrinking would take ten times as long
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
