"""The script of docs/nightly.md, which asks a file of its own for every night."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import Exit
from tests.conftest import Emulator, Project, emulating

PAGE = Path(__file__).parent.parent / "docs" / "nightly.md"
HEAD = "id,text\n"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator without quotas."""
    with emulating() as running:
        yield running


@dataclass(frozen=True)
class Nights:
    """The project of the page, with its script."""

    project: Project
    emulator: Emulator

    def file(self, name: str, content: str) -> None:
        """Write the file of a night."""
        (self.project.folder / "in" / f"{name}.csv").write_text(HEAD + content)

    def start(self) -> subprocess.CompletedProcess[str]:
        """Start the script, as cron does."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.project.folder),
            "GOOGLE_GEMINI_BASE_URL": self.emulator.address,
        }
        command = ["sh", str(self.project.folder / "nightly.sh")]
        return subprocess.run(command, env=environment, text=True, capture_output=True, check=False)

    def asked(self) -> tuple[int, int]:
        """Start the script; return its exit code, and how many requests came in."""
        before = self.emulator.stats()["requests"]
        code = self.start().returncode
        return code, self.emulator.stats()["requests"] - before

    def texts(self, name: str) -> list[str]:
        """Return the texts in the table of a night."""
        return pl.read_parquet(self.project.folder / "out" / f"{name}.parquet")["text"].to_list()

    def tables(self) -> list[str]:
        """Return which nights have a table."""
        return sorted(path.stem for path in (self.project.folder / "out").iterdir())


@pytest.fixture
def nights(project: Project, emulator: Emulator) -> Nights:
    """Return the project with the script, whose job leaves bad rows out, and no file yet."""
    project.change('path = "rows.csv"', 'path = "in"\nbad_rows = "skip"')
    script = re.search(r"```sh\n(#!/bin/sh\n.*?)```", PAGE.read_text(), re.DOTALL)
    assert script is not None
    text = script[1].replace("/srv/reviews", str(project.folder)).replace("sentiment", "labels")
    (project.folder / "nightly.sh").write_text(text)
    (project.folder / "secrets.env").write_text("export GEMINI_API_KEY=test\n")
    (project.folder / "in").mkdir()
    rowmill = project.folder / ".venv" / "bin" / "rowmill"
    rowmill.parent.mkdir(parents=True)
    rowmill.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pipeline "$@"\n')
    rowmill.chmod(0o755)
    return Nights(project, emulator)


def test_each_night_asks_its_own_file(nights: Nights) -> None:
    """Of a finished file nothing is asked again."""
    nights.file("1", "1,good\n")
    assert nights.asked() == (Exit.OK, 1)
    nights.file("2", "2,bad\n3,fine\n")
    assert nights.asked() == (Exit.OK, 2)
    assert nights.tables() == ["1", "2"]
    told = json.loads((nights.project.folder / "log" / "1.json").read_text())
    assert (told["rows"], told["this_run"]["requests"]) == (1, 0)


def test_a_corrected_file_is_asked_whatever_its_time_says(nights: Nights) -> None:
    """Also where it is older than its table, as one that was copied with its time."""
    nights.file("1", "1,good\n")
    assert nights.asked() == (Exit.OK, 1)
    nights.file("1", "1,good\n4,warm\n")
    os.utime(nights.project.folder / "in" / "1.csv", (0, 0))
    assert nights.asked() == (Exit.OK, 1)
    assert nights.texts("1") == ["good", "warm"]


def test_a_changed_job_asks_every_file_anew(nights: Nights) -> None:
    """A file whose table is whole, too."""
    nights.file("1", "1,good\n")
    nights.file("2", "2,bad\n")
    assert nights.asked() == (Exit.OK, 2)
    nights.project.change("You label reviews.", "You label reviews with care.")
    assert nights.asked() == (Exit.OK, 2)


def test_a_file_that_changes_meanwhile_holds_up_no_other(nights: Nights) -> None:
    """It is named, and asked by the next start."""
    nights.file("1", "1,good\n2,bad\n")
    nights.file("2", "3,fine\n")
    nights.emulator.change(latency=1.0)
    before = nights.emulator.stats()["requests"]
    with ThreadPoolExecutor(1) as pool:
        night = pool.submit(nights.start)
        while nights.emulator.stats()["requests"] == before:
            time.sleep(0.02)
        nights.file("1", "1,good\n2,bad\n4,warm\n")
        ended = night.result()
    nights.emulator.change(latency=0.0)
    assert (ended.returncode, nights.tables()) == (Exit.STOPPED, ["2"])
    assert "in/1.csv: exit code 3" in ended.stderr
    told = json.loads((nights.project.folder / "log" / "1.json").read_text())
    assert told["stopped"]["kind"] == "input"
    assert nights.asked()[0] == Exit.OK
    assert nights.texts("1") == ["good", "bad", "warm"]


def test_rows_that_were_left_out_are_asked_once_mended(nights: Nights) -> None:
    """Also where the mended file is older than the table, as one that was copied with its time."""
    nights.file("1", "1,good\n2\n")
    assert nights.asked() == (Exit.ROWS_FAILED, 1)
    assert nights.asked() == (Exit.ROWS_FAILED, 0)
    nights.file("1", "1,good\n2,bad\n")
    os.utime(nights.project.folder / "in" / "1.csv", (0, 0))
    assert nights.asked() == (Exit.OK, 1)
    assert nights.texts("1") == ["good", "bad"]


def test_a_bad_file_holds_up_no_other(nights: Nights) -> None:
    """It is named and tried again until it is mended."""
    nights.file("1", "")
    (nights.project.folder / "in" / "1.csv").write_text("")
    nights.file("2", "2,bad\n")
    ended = nights.start()
    assert (ended.returncode, nights.tables()) == (Exit.BAD_INPUT, ["2"])
    assert "in/1.csv: exit code 2" in ended.stderr
    nights.file("1", "1,good\n")
    assert nights.asked() == (Exit.OK, 1)
    assert nights.tables() == ["1", "2"]


@pytest.mark.parametrize(
    ("code", "summary", "starts"),
    [(3, "", 2), (3, '"kind": "input"', 2), (3, '"kind": "quota_day"', 1), (4, "", 1), (5, "", 1)],
)
def test_only_what_stops_one_file_for_all_stops_the_script(
    nights: Nights, code: int, summary: str, starts: int
) -> None:
    """A file that changed while it was opened ends with 3 and no summary."""
    rowmill, told = nights.project.folder / ".venv" / "bin" / "rowmill", nights.project.folder / "told"
    rowmill.write_text(f"#!/bin/sh\nprintf x >> {told}\nprintf '{summary}'\nexit {code}\n")
    nights.file("1", "1,good\n")
    nights.file("2", "2,bad\n")
    assert nights.start().returncode == code
    assert len(told.read_text()) == starts


def test_a_used_up_quota_stops_the_night(nights: Nights) -> None:
    """What is left is asked by later starts, in the order of the files; a bad file is not what is told."""
    nights.project.change("rpm = 600000\n", "rpm = 600000\nrpd = 2\n")
    (nights.project.folder / "in" / "0.csv").write_text("")
    nights.file("1", "1,good\n2,bad\n3,fine\n")
    nights.file("2", "4,warm\n")
    assert nights.asked() == (Exit.STOPPED, 2)
    assert nights.tables() == []
    nights.project.change("rpd = 2\n", "rpd = 200\n")
    assert nights.asked() == (Exit.BAD_INPUT, 2)
    assert nights.tables() == ["1", "2"]
