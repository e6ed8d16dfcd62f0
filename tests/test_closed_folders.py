"""Run folders that the user may not read: nobody says that there are none."""

from collections.abc import Iterator

import pytest

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
