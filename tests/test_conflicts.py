"""Flags that contradict each other, or mean nothing where they stand, are refused before anything happens."""

import pytest

from tests.conftest import Project
from tests.test_cli import Shell, shell

__all__ = ["shell"]  # a fixture

CONFLICTS = {
    "--batch --online": "leave one of them out",
    "--detach": "add `--batch`",
    "--detach --online": "add `--batch`",
    "--batch --wait --detach": "leave one of them out",
    "--batch --detach": "start `rowmill emulate`",
    "--batch --service-tier flex": "leave `--service-tier` out",
}


@pytest.mark.parametrize("flags", CONFLICTS)
def test_flags_that_contradict_each_other_are_refused(shell: Shell, project: Project, flags: str) -> None:
    """With 2 and a hint, before a run folder is made."""
    project.rows(["good"])
    said = shell("run", project.job, "--offline", "--tier", "1", *flags.split())
    assert said.code == 2
    assert CONFLICTS[flags] in said.err
    assert not (project.folder / ".rowmill").exists()


def test_the_mode_of_the_job_gives_flags_their_meaning(shell: Shell, project: Project) -> None:
    """A job that asks by batches may be asked in a tier of its own where these leave something unanswered."""
    project.rows(["good"])
    project.change('name = "labels"', 'name = "labels"\nmode = "batch"')
    said = shell("run", project.job, "--offline", "--service-tier", "standard")
    assert said.code == 0


def test_what_is_typed_wins_over_the_environment(shell: Shell, project: Project) -> None:
    """`ROWMILL_RUN_BATCH` does not contradict `--online`."""
    project.rows(["good"])
    shell.monkeypatch.setenv("ROWMILL_RUN_BATCH", "1")
    assert shell("run", project.job, "--offline", "--online").code == 0


def test_commands_that_ask_nothing_refuse_them_too(shell: Shell, project: Project) -> None:
    """An estimate of two modes at once is none."""
    project.rows(["good"])
    assert shell("estimate", project.job, "--offline", "--batch", "--online").code == 2


def test_an_amount_that_is_none_is_told_in_words(shell: Shell, project: Project) -> None:
    """By the flag's own name, whether it is no number or no amount."""
    project.rows(["good"])
    assert (
        "`--max-cost` must be an amount of dollars, not `abc`"
        in shell("run", project.job, "--max-cost", "abc").err
    )
    for amount in ("0", "-1"):
        said = shell("run", project.job, "--max-cost", amount).err
        assert f"`--max-cost` must be more than 0, not `{amount}`" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("cache prune --max-mb 0.5", "`--max-mb` must be a whole number, at least 1, not `0.5`"),
        ("cache prune --max-mb 0", "`--max-mb` must be a whole number, at least 1, not `0`"),
        (
            "emulate --port 70000",
            "`--port` must be a whole number, at least 0 and at most 65,535, not `70000`",
        ),
        ("emulate --latency x", "`--latency` must be a number, at least 0, not `x`"),
        ("calibrate job.toml --tolerance 0", "must be a number, more than 0 and at most 50, not `0`"),
    ],
)
def test_a_number_that_is_none_is_told_in_words(shell: Shell, words: str, said: str) -> None:
    """By the flag's own name, with its bounds and what was given."""
    told = shell(*words.split())
    assert (told.code, said in told.err) == (2, True)


@pytest.mark.parametrize("gold", ['{ labl = "text" }', '{ label = "txt" }'])
def test_gold_that_is_not_there_is_refused_by_a_run(shell: Shell, project: Project, gold: str) -> None:
    """Before anything is asked for it, and not only when it is calibrated."""
    project.rows(["good"])
    project.change("[input]", f"gold = {gold}\n[input]")
    said = shell("run", project.job, "--offline")
    assert said.code == 2
    assert "which [gold] names" in said.err
    assert "did you mean" in said.err
