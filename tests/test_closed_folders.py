"""Run folders that the user may not read: nobody says that there are none."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store.cache import Cache, Learned, Use
from tests.conftest import Project, as_nobody, open_to_all
from tests.test_cli import Shell, shell

__all__ = ["shell"]


@pytest.fixture
def shut(shell: Shell, project: Project) -> Iterator[Project]:
    """Return a project with a run whose folders are closed to everybody."""
    project.rows(["good"])
    assert shell("run", project.job, "--offline", "--quiet").code == 0
    open_to_all(project.folder)
    shell.monkeypatch.chdir(project.folder)
    (project.folder / "out").chmod(0o777)
    (project.folder / ".rowmill").chmod(0)
    yield project
    (project.folder / ".rowmill").chmod(0o755)


def test_clean_does_not_send_people_to_another_folder(shell: Shell, project: Project) -> None:
    """Who may not remove a run is told that, and nothing of what a run would do."""
    project.rows(["good"])
    assert shell("run", project.job, "--offline", "--quiet").code == 0
    open_to_all(project.folder)
    with as_nobody():
        said = shell("clean", project.job, "--yes")
    assert said.code == 4
    assert "cannot be written: Permission denied" in said.err
    assert "see that you may write there" in said.err
    assert "--runs-dir" not in said.err


@pytest.mark.parametrize(
    "words",
    [
        ["status", "jobs/labels.toml", "--offline"],
        ["verify", "jobs/labels.toml", "--offline"],
        ["estimate", "jobs/labels.toml", "--offline"],
        ["runs"],
        ["runs", "jobs/labels.toml"],
        ["clean", "--yes"],
        ["cache", "stats"],
        ["cache", "prune", "--all", "--yes"],
    ],
)
def test_what_cannot_be_read_is_not_called_empty(shell: Shell, shut: Project, words: list[str]) -> None:
    """Every command that only reads says so and ends with 4."""
    with as_nobody():
        said = shell(*words)
    assert (said.code, said.out) == (4, "")
    assert f"`{shut.folder / '.rowmill'}` cannot be read: Permission denied" in said.err
    assert "the right to read" in said.err
    assert "disk is full" not in said.err


@pytest.mark.parametrize("words", [["status"], ["verify"], ["estimate"], ["run", "--quiet"]])
def test_answers_that_cannot_be_read_are_not_called_lost(
    shell: Shell, project: Project, words: list[str]
) -> None:
    """Parts in a closed folder are neither gone nor asked again: what to do is said, and nothing else."""
    project.rows(["good"])
    assert shell("run", project.job, "--offline", "--quiet").code == 0
    open_to_all(project.folder)
    project.output.parent.chmod(0o777)
    parts = project.plan("emulator").folder.parts
    parts.chmod(0)
    with as_nobody():
        said = shell(*words, project.job, "--offline")
    parts.chmod(0o755)
    assert (said.code, said.out) == (4, "")
    assert f"`{parts}` cannot be read: Permission denied" in said.err
    assert "the right to read" in said.err


@pytest.mark.parametrize("shut", ["parts", "run", "job"])
def test_a_closed_run_holds_up_no_other(shell: Shell, project: Project, shut: str) -> None:
    """The others are listed and removed; it is named, and the exit code tells of it."""
    project.rows(["good"])
    assert shell("run", project.job, "--offline", "--quiet").code == 0
    closed = project.plan("emulator").folder
    project.change('name = "labels"', 'name = "others"')
    assert shell("run", project.job, "--offline", "--quiet").code == 0
    other = project.plan("emulator").folder
    open_to_all(project.folder)
    for path in (other.path.parent, other.path, other.parts):
        path.chmod(0o777)
    (other.path / "lock").chmod(0o666)
    folder = {"parts": closed.parts, "run": closed.path, "job": closed.path.parent}[shut]
    folder.chmod(0)
    shell.monkeypatch.chdir(project.folder)
    with as_nobody():
        listed, named = shell("runs", "--json"), shell("runs", f"labels/{closed.path.name[:4]}")
        alone, cleaned = shell("runs", "others"), shell("clean", "--yes")
    folder.chmod(0o755)
    assert [run["job"] for run in json.loads(listed.out)] == ["others"]
    for said in (listed, named, cleaned):
        assert said.code == 4
        assert f"`{folder}` cannot be read: Permission denied" in said.err
        assert "the right to read" in said.err
    assert (named.out, "no run" in named.err) == ("", False)
    assert (alone.code, "cannot be read" in alone.err) == (0, False)
    assert "removed 1 run" in cleaned.err
    assert not other.path.exists()
    assert closed.journal.exists()


@pytest.fixture
def locked(shell: Shell, project: Project) -> Iterator[Path]:
    """Return the cache of a project whose job has run, which only its owner may read."""
    project.rows(["good"])
    assert shell("run", project.job, "--offline", "--quiet").code == 0
    open_to_all(project.folder)
    shell.monkeypatch.chdir(project.folder)
    (project.folder / "out").chmod(0o777)
    cache = project.folder / ".rowmill" / "cache.sqlite"
    cache.chmod(0)
    yield cache
    cache.chmod(0o644)


@pytest.mark.parametrize("words", [["cache", "stats"], ["cache", "prune", "--all", "--yes"]])
def test_a_closed_cache_is_told_by_its_name(shell: Shell, locked: Path, words: list[str]) -> None:
    """Neither a run that writes it nor the folder of temporary files is blamed."""
    with as_nobody():
        said = shell(*words)
    assert said.code == 4
    assert f"`{locked}` may not be read" in said.err
    assert "`chmod` or `chown`" in said.err
    assert "`--no-cache`" in said.err
    assert "TMPDIR" not in said.err
    assert "try again" not in said.err


def test_a_run_says_why_it_does_without_the_cache(shell: Shell, locked: Path) -> None:
    """The note names the file and both ways out."""
    for mode, verb in ((0, "read"), (0o444, "written to")):
        locked.chmod(mode)
        with as_nobody():
            cache = Cache(locked, Use.FULL, most_bytes=10**6, most_rows=1)
            cache.learn(Learned(b"i" * 16, b"i" * 16, b"k" * 16, 1, True))
            cache.write(locked.parent / "none.sqlite", 0.0)
            cache.close()
        (note,) = cache.notes
        assert f"`{locked}` may not be {verb};" in note
        assert "`chmod` or `chown`" in note
        assert "`--no-cache`" in note


def test_files_that_may_not_be_read_are_not_called_damaged(shell: Shell, locked: Path) -> None:
    """The hint of `verify` and `status` is to open them, not to delete them or to run again."""
    job = locked.parent.parent / "jobs" / "labels.toml"
    (journal,) = locked.parent.glob("labels/*/replies.sqlite")
    journal.chmod(0)
    with as_nobody():
        verified, status = shell("verify", job, "--offline"), shell("status", job, "--offline")
    (part,) = locked.parent.glob("labels/*/parts/*")
    part.chmod(0)
    with as_nobody():
        parts = shell("verify", job, "--offline")
    journal.chmod(0o644)
    assert f"notice: {locked}: the cache may not be read" in verified.out
    assert f"notice: {journal}: the journal may not be read" in verified.out
    assert verified.out.count("`chmod` or `chown`") == 2
    assert "delete" not in verified.out
    assert f"`{journal}` may not be read" in status.out
    assert f"{part}: the part cannot be read: [Errno 13] Permission denied" in parts.out
    assert parts.out.count("`chmod` or `chown`") == 3
