"""What exists stands in the reference."""

import re
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from pipeline.arrow import BOOKKEEPING
from pipeline.cli.app import BUG, rowmill
from pipeline.emulator import faults
from pipeline.errors import Exit
from pipeline.flow import FailureKind
from pipeline.sections import Job

DOCS = Path(__file__).parent.parent / "docs"
REFERENCE = (DOCS / "reference.md").read_text()
NIGHTLY = (DOCS / "nightly.md").read_text()
README = (DOCS.parent / "README.md").read_text()


def job_keys() -> list[str]:
    """Return every key of a job file with its table."""
    keys = []
    for name, field in Job.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += [f"{name}.{inner}" for inner in kind.model_fields]
        else:
            keys.append(field.alias or name)
    return keys


def flags() -> list[str]:
    """Return every flag of every command, those in groups included."""
    commands = [one for command in rowmill.commands.values() for one in (command, *inner(command))]
    options = [
        option for command in commands for option in command.params if isinstance(option, click.Option)
    ]
    return sorted({name for option in options for name in option.opts if name.startswith("--")})


def inner(command: click.Command) -> list[click.Command]:
    """Return the commands of a group, none of another command."""
    return [*command.commands.values()] if isinstance(command, click.Group) else []


@pytest.mark.parametrize("flag", flags())
def test_every_flag_is_documented(flag: str) -> None:
    """No flag without a word in the reference."""
    assert re.search(rf"`{flag}\b", REFERENCE)


@pytest.mark.parametrize("key", job_keys())
def test_every_job_key_is_documented(key: str) -> None:
    """No key of a job file without a word in the reference."""
    assert f"`{key}`" in REFERENCE


@pytest.mark.parametrize("kind", FailureKind)
def test_every_failure_kind_is_documented(kind: FailureKind) -> None:
    """No value of `_error_kind` without a word in the reference."""
    assert f"`{kind}`" in REFERENCE


@pytest.mark.parametrize("column", BOOKKEEPING.names)
def test_every_bookkeeping_column_is_documented(column: str) -> None:
    """No column of ours without a word in the reference."""
    assert f"`{column}`" in REFERENCE


@pytest.mark.parametrize("code", [*map(int, Exit), BUG])
def test_every_exit_code_is_documented(code: int) -> None:
    """No exit code without a line in the reference; the README has those that a user meets."""
    assert f"| {code} |" in REFERENCE
    assert code == BUG or f"| {code} |" in README


@pytest.mark.parametrize("code", [*map(int, Exit), BUG])
def test_schedules_know_every_exit_code(code: int) -> None:
    """The page on schedules says what each means, and its unit starts again after 3 alone."""
    assert f"| {code} |" in NIGHTLY
    stop = re.search(r"RestartPreventExitStatus=(.*)", NIGHTLY)
    assert stop is not None
    assert (str(code) in stop[1].split()) == (code not in {Exit.OK, Exit.ROWS_FAILED, Exit.STOPPED})


@pytest.mark.parametrize("command", sorted(rowmill.commands))
def test_every_command_is_documented(command: str) -> None:
    """No command without a section in the reference."""
    assert f"### `rowmill {command}" in REFERENCE


@pytest.mark.parametrize(
    "kind",
    sorted(
        faults.REFUSAL_KINDS
        | faults.CONNECTION_KINDS
        | faults.ODD_KINDS
        | faults.TIER_KINDS.keys()
        | faults.JOB_KINDS
        | faults.DONE_KINDS
        | faults.OPERATIONS
    ),
)
def test_every_fault_is_documented(kind: str) -> None:
    """No fault of the emulator without a word in the reference."""
    assert f"`{kind}" in REFERENCE


def test_the_list_of_commands_fits_a_terminal() -> None:
    """No short help is cut at 80 letters."""
    context = click.Context(rowmill, info_name="rowmill", terminal_width=80)
    assert "..." not in rowmill.get_help(context).partition("Commands:")[2]


def test_links_lead_somewhere() -> None:
    """Relative links of all pages name files that exist."""
    for page in [DOCS.parent / "README.md", *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
