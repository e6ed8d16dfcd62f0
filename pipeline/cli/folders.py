"""The commands about run folders: runs, clean; and how others find the runs that are named, and ask."""

import json
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import click
import polars as pl
from rich.console import Console

from pipeline.cli.app import rowmill, signal_name
from pipeline.cli.talk import FURTHER, complain, console, hanging
from pipeline.errors import DeclinedError, Exit, UsageError
from pipeline.job import load_job, project_of
from pipeline.plan import RUNS
from pipeline.progress import counted, fits, many, picture
from pipeline.removal import Choice, age, damaged, remove_damaged, remove_run, sweep
from pipeline.runs import Closed, Run, find_runs, is_meant, select, size

WIDE = 10_000  # letters of a table that no terminal shows: a line for each run, whatever its name
LOST = (
    "{jobs} of these runs {are} open at the API and paid for: what they answer would be lost. Run the job "
    "again first, with the settings that it had, to take it in, or cancel them (`rowmill cancel`)."
)
PAID_AGAIN = (
    "Written tables stay. The answers in these folders will be paid for again when they are needed, except "
    "those that the cache still holds."
)
NOBODY, YES = "nobody is there to ask, so nothing was done", "give `--yes`"
ANSWER = "run the same command again and answer `y`, or give `--yes`"


@rowmill.command(name="runs", short_help="List the run folders. Asks nothing.")
@click.argument("names", metavar="[JOB|RUN]...", nargs=-1)
@click.option("--runs-dir", type=click.Path(path_type=Path), help="Where run folders are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def runs(names: tuple[str, ...], runs_dir: Path | None, *, as_json: bool) -> Exit:
    """List the run folders of each JOB (a job file, or its name), each RUN, or all of the project.

    `answered` counts rows that have an answer or have failed, of all inputs that were ever asked, `failed`
    those among them; `replies` are what the API has sent for them, as far as the journal keeps it.
    """
    closed: Closed = {}
    found = [one.run for one in chosen(names, runs_dir, closed)]
    if as_json:
        click.echo(json.dumps([one.as_json() for one in found], indent=2, ensure_ascii=False))
    elif found:
        _print_runs(found, sys.stdout)
    elif not closed:
        for name in names or (None,):
            where, only = place(_job_file(name), runs_dir)
            of_job = "" if only is None else f" of job `{only}`"
            console.print(f"no runs{of_job} in {where}", markup=False, soft_wrap=True)
    return blamed(closed)


@rowmill.command(short_help="Remove the folders of finished runs, after asking.")
@click.argument("names", metavar="[JOB|RUN]...", nargs=-1)
@click.option("--runs-dir", type=click.Path(path_type=Path), help="Where run folders are kept.")
@click.option(
    "--older-than", metavar="AGE", help="Only what has not changed for so long: `30d`, `12h`, `90m`, `2w`."
)
@click.option("--all", "unfinished", is_flag=True, help="Unfinished and damaged runs as well.")
@click.option("--damaged", "aside", is_flag=True, help="Only what was set aside as damaged, in any run.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clean(names: tuple[str, ...], runs_dir: Path | None, *, unfinished: bool, yes: bool, **rest: Any) -> Exit:
    """Remove the folders of finished runs.

    Of each JOB (a job file, or its name), each RUN (as `rowmill runs` names it, in any state), or of the
    project in the working folder. The tables that were written stay; the answers are paid for again when they
    are needed.
    """
    before = None if rest["older_than"] is None else datetime.now(UTC) - age(rest["older_than"])
    closed: Closed = {}
    found = chosen(names, runs_dir, closed, tidy=True)
    code = blamed(closed)
    if rest["aside"]:
        _clean_damaged([one.run for one in found if one.may_go(None, unfinished=True)], before, yes=yes)
    else:
        _clean(found, before, unfinished=unfinished, yes=yes)
    return code


def _clean(found: Sequence[Choice], before: datetime | None, *, unfinished: bool, yes: bool) -> None:
    """Remove the folders of runs, after asking."""
    going = [one.run for one in found if one.may_go(before, unfinished=unfinished)]
    for one in found:
        if one.run not in going:
            console.print(f"kept: {one.run.name} ({one.run.shown_state})", markup=False, soft_wrap=True)
    if not going:
        console.print("nothing to remove", soft_wrap=True)
        return
    _print_runs(going, sys.stderr)
    total = size(sum(run.size for run in going))
    if jobs := sum(run.batches or 0 for run in going):
        console.print(
            LOST.format(jobs=many(jobs, "batch job"), are="is" if jobs == 1 else "are"), soft_wrap=True
        )
    console.print(PAID_AGAIN, soft_wrap=True)
    if not (yes or agrees(f"remove {many(len(going), 'run')}, {total}?")):
        return
    for one in found:
        if one.run in going:
            remove_run(one.run, unfinished=unfinished or one.named)
    console.print(f"removed {many(len(going), 'run')}, {total}", soft_wrap=True)


def _clean_damaged(runs: Sequence[Run], before: datetime | None, *, yes: bool) -> None:
    """Remove what was set aside, after asking; no answer goes with it."""
    going = [(run, files) for run in runs if (files := damaged(run, before))]
    paths = [path for _, files in going for path in files]
    if not paths:
        console.print("nothing to remove", soft_wrap=True)
        return
    for path in paths:
        console.print(str(path), markup=False, soft_wrap=True)
    total = f"{many(len(paths), 'damaged file')}, {size(sum(path.stat().st_size for path in paths))}"
    if yes or agrees(f"remove {total}?"):
        for run, files in going:
            remove_damaged(run, files)
        console.print(f"removed {total}", soft_wrap=True)


def _print_runs(found: Sequence[Run], stream: TextIO) -> None:
    print_runs(found, stream, console.width if stream.isatty() else None)


def print_runs(found: Sequence[Run], stream: TextIO, width: int | None) -> None:
    """Print a table where no cell of it must be cut, else some lines for each run.

    `width` is the terminal's, None where there is none.
    """
    cells, room = [one.cells() for one in found], width or WIDE
    out = Console(file=stream, highlight=False, width=room)
    frame = pl.DataFrame(cells, infer_schema_length=None)
    if fits(frame, room, grouped=True):
        out.print(picture(frame, room, edge=width is not None, grouped=True))
        return
    for one in cells:
        out.print(str(one.pop("run")), style="bold", markup=False, soft_wrap=True)
        told = [f"{name} {counted(cell)}" for name, cell in one.items() if cell not in (None, "")]
        for line in _lines(told, room - len(FURTHER)):
            out.print(hanging(f"{FURTHER}{line}", room), markup=False, soft_wrap=True)


def _lines(told: Sequence[str], room: int) -> list[str]:
    """Put as much into a line as it has room for, and a label with its value."""
    lines = [""]
    for one in told:
        line = f"{lines[-1]}, {one}" if lines[-1] else one
        if lines[-1] and len(line) >= room:  # a comma may follow
            lines[-1] += ","
            lines.append(one)
        else:
            lines[-1] = line
    return lines


def place(job: Path | None, runs_dir: Path | None) -> tuple[Path, str | None]:
    """Return where run folders are, and the name of the job if one is given."""
    if job is None:
        return runs_dir or project_of(Path("x").absolute()) / RUNS, None
    loaded = load_job(job)
    return runs_dir or loaded.project / RUNS, loaded.job.name


def chosen(
    names: Sequence[str], runs_dir: Path | None, closed: Closed, *, tidy: bool = False
) -> list[Choice]:
    """Return the runs that a command was told of: by job files, by names of jobs or their own, or all.

    Those of them that cannot be read are added to `closed`. Where it is to `tidy`, what a killed removal has
    left goes first.
    """
    told: dict[Path, Choice] = {}
    for name in names or (None,):
        job = _job_file(name)
        where, only = place(job, runs_dir)
        if tidy:
            sweep(where)
        shut: Closed = {}
        found = find_runs(where, only, shut)
        if name is not None and job is None:
            found = select(found, name, shut)
            shut = {path: error for path, error in shut.items() if is_meant(path, name)}
        closed |= shut
        for run in found:
            told[run.folder.path] = Choice(run, named=name is not None and "/" in name and job is None)
    return list(told.values())


def blamed(closed: Closed) -> Exit:
    """Say which folders cannot be read, and return the exit code that this makes."""
    for error in closed.values():
        complain(error.message, error.hint)
    return Exit.STORE if closed else Exit.OK


def _job_file(name: str | None) -> Path | None:
    return Path(name) if name and name.endswith(".toml") else None


def agrees(question: str, undone: str = "nothing was removed") -> bool:
    """Ask, and say whether the answer was yes.

    Raises UsageError where nobody is there to ask, DeclinedError where a signal or the end of the input
    (Ctrl-D) stands for an answer; `undone` says what has not happened then.
    """
    if sys.stdin is None:  # it was closed before the command began
        raise UsageError(NOBODY, YES)
    signal.siginterrupt(signal.SIGINT, True)  # Polars has the wait for a key go on after Ctrl-C
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort as abort:
        click.echo(err=True)  # the question has no end of line
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise DeclinedError(f"stopped by {signal_name(abort)}: {undone}", ANSWER) from abort
        if sys.stdin.isatty():
            raise DeclinedError(f"the question has no answer: {undone}", ANSWER) from abort
        raise UsageError(NOBODY, YES) from abort
    if not sys.stdin.isatty():
        click.echo(err=True)  # nor has an answer that no key was pressed for
    return agreed
