"""The commands and flags about the response cache."""

import io
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store.answers import FILE, stock
from tests.conftest import Emulator, Project, emulating
from tests.test_cli import KEY, Shell, shell

__all__ = ["shell"]  # a fixture


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator without quotas."""
    with emulating() as running:
        yield running


@pytest.fixture
def rowmill(shell: Shell, project: Project, emulator: Emulator) -> Shell:
    """Return the command in a project that was run once."""
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    shell.monkeypatch.chdir(project.folder)
    project.rows(["good", "bad", "fine"])
    assert asked(shell, project, emulator) == 3
    project.change('name = "labels"', 'name = "others"')
    return shell


def asked(command: Shell, project: Project, emulator: Emulator, *flags: str) -> int:
    """Run the job and return how many requests it has sent."""
    said = command("run", project.job, "--base-url", emulator.address, "--json", *flags)
    requests: int = json.loads(said.out)["this_run"]["requests"]
    return requests


@pytest.mark.parametrize(("flags", "requests"), [((), 0), (("--no-cache",), 3), (("--refresh",), 3)])
def test_flags_of_a_run(
    rowmill: Shell, project: Project, emulator: Emulator, flags: tuple[str, ...], requests: int
) -> None:
    """Another job takes the answers, unless it is told to ask."""
    assert asked(rowmill, project, emulator, *flags) == requests


def test_contradicting_flags(rowmill: Shell, project: Project) -> None:
    """Leaving the cache alone and replacing what it has is not possible at once."""
    said = rowmill("run", project.job, "--offline", "--no-cache", "--refresh")
    assert (said.code, "contradict" in said.err) == (2, True)


def test_stats(rowmill: Shell, project: Project) -> None:
    """It says how many answers there are and whose, for people and as JSON."""
    said = rowmill("cache", "stats")
    assert said.code == 0
    assert "3 answers" in said.out
    assert "gemini-3.1-flash-lite (emulator): 3 answers" in said.out
    assert "keeps it below 1,024 MB" in said.out
    told = json.loads(rowmill("cache", "stats", "--json").out)
    assert (told["entries"], told["damaged"], told["cache"]) == (
        3,
        0,
        str(project.folder / ".rowmill" / FILE),
    )


def test_prune_asks_first(rowmill: Shell, project: Project) -> None:
    """Nothing goes where nobody is there to ask; with `--yes` it does."""
    path = project.folder / ".rowmill" / FILE
    rowmill.monkeypatch.setattr("sys.stdin", io.StringIO(""))
    said = rowmill("cache", "prune", "--all")
    assert (said.code, stock(path).entries) == (2, 3)
    assert "\nerror: nobody is there to ask" in said.err
    told = rowmill("cache", "prune", "--older-than", "1h", "--yes").err
    assert re.search(r"nothing to remove: .*/cache.sqlite holds 3 answers, [\d.]+ kB; ", told)
    assert re.search(r"for longest was used at \d{4}-\d\d-\d\d \d\d:\d\d\n", told)
    rowmill.monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    said = rowmill("cache", "prune", "--all")
    assert (said.code, said.err[-1], stock(path).entries) == (0, "\n", 3)
    rowmill.monkeypatch.setattr("sys.stdin", None)
    said = rowmill("cache", "prune", "--all")
    assert (said.code, "error: nobody is there to ask" in said.err, stock(path).entries) == (2, True, 3)
    assert "nothing to remove" in rowmill("cache", "prune", "--max-mb", "5", "--yes").err
    assert "removed 3 answers" in rowmill("cache", "prune", "--all", "--yes").err
    assert stock(path).entries == 0


@pytest.mark.parametrize("bound", [("--older-than", "1d"), ("--max-mb", "1")])
def test_all_and_a_bound_are_refused(rowmill: Shell, project: Project, bound: tuple[str, str]) -> None:
    """Whoever gives a bound does not want every answer removed."""
    said = rowmill("cache", "prune", "--all", *bound, "--yes")
    assert (said.code, "leave `--all` out" in said.err) == (2, True)
    assert stock(project.folder / ".rowmill" / FILE).entries == 3


def test_prune_needs_to_know_what(rowmill: Shell) -> None:
    """Without a word on what is to go, nothing goes."""
    said = rowmill("cache", "prune")
    assert (said.code, "--older-than" in said.err) == (2, True)


def test_where_there_is_no_cache(shell: Shell, project: Project) -> None:
    """Both commands say so and change nothing."""
    shell.monkeypatch.chdir(project.folder)
    assert "no answers in" in shell("cache", "stats").out
    assert "nothing to remove: no answers in " in shell("cache", "prune", "--all").err
    assert not (project.folder / ".rowmill").exists()


def test_a_terminal_gets_what_goes_on_further_in(rowmill: Shell) -> None:
    """As from the other commands, so that no path is taken for a line of its own."""
    rowmill.monkeypatch.setenv("FORCE_COLOR", "1")
    rowmill.monkeypatch.setenv("COLUMNS", "30")
    lines = rowmill("cache", "stats").out.splitlines()
    assert {len(line) - len(line.lstrip()) for line in lines} == {0, 2, 4}


def test_a_folder_that_is_no_project_is_told_so(shell: Shell, tmp_path: Path) -> None:
    """Nobody takes the empty cache of another folder for that of the project."""
    (tmp_path / "elsewhere").mkdir()
    shell.monkeypatch.chdir(tmp_path / "elsewhere")
    assert "elsewhere is no project" in shell("cache", "stats").out


def test_a_damaged_cache_is_an_error_of_the_store(rowmill: Shell, project: Project) -> None:
    """The commands say what to do, and end with 4."""
    (project.folder / ".rowmill" / FILE).write_bytes(b"rubbish" * 1_000)
    said = rowmill("cache", "stats")
    assert said.code == 4
    command = said.err[said.err.index("`rm -f ") + 1 :].split("`")[0]
    subprocess.run(command, shell=True, check=True)
    assert rowmill("cache", "stats").code == 0


def test_refresh_says_which_rows_keep_their_answer(project: Project, rowmill: Shell) -> None:
    """And how to ask for them again."""
    project.rows(["good", "bad"])
    rowmill("run", project.job, "--offline")
    said = rowmill("run", project.job, "--offline", "--refresh").err
    assert "2 rows of this job keep the answer that they have" in said
    names = [path.name for path in (project.folder / ".rowmill" / "others").iterdir()]
    assert f"`rowmill clean others/{names[0]}`" in said
    assert "beyond `--limit`" not in said
    said = rowmill("run", project.job, "--offline", "--refresh", "--limit", "1").err
    assert "All answers in that folder go with it, also those to rows beyond `--limit`" in said
