"""The command that gives up batch jobs: cancel."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from shlex import quote

import click

from pipeline.batch import Batch
from pipeline.cli.app import rowmill
from pipeline.cli.folders import agrees, blamed, chosen
from pipeline.cli.talk import complain, console
from pipeline.errors import Exit, StoreError
from pipeline.executors.parting import jobs_of, price_of
from pipeline.gemini.endpoint import Endpoint, endpoint
from pipeline.progress import many
from pipeline.runs import Closed, Run
from pipeline.store.folder import is_offline
from pipeline.withdrawal import Withdrawal, free, may_be_cancelled, withdraw

AFTER = (
    "What these jobs have answered by then is paid for, and the next `rowmill run` takes it in. The rest it "
    "asks again, in jobs or with `--online` one by one."
)
OFFLINE = " ended with the emulator of an offline run"
FREED = "taken back: {jobs}; the next run asks the rows again"
NEXT = "hint: `rowmill run {job}`, with the settings that it had, takes in what was answered"


@rowmill.command(short_help="Cancel open batch jobs, after asking.")
@click.argument("names", metavar="JOB|RUN...", nargs=-1, required=True)
@click.option("--runs-dir", type=click.Path(path_type=Path), help="Where run folders are kept.")
@click.option("--base-url", metavar="URL", help="Address of the API, a gateway or an emulator.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def cancel(names: tuple[str, ...], runs_dir: Path | None, base_url: str | None, *, yes: bool) -> Exit:
    """Cancel the open batch jobs of each JOB (a job file, or its name) or RUN, whatever its settings were.

    A RUN is named as `rowmill runs` does. Answers that are there already are kept for the next run.
    """
    closed: Closed = {}
    runs = [one.run for one in chosen(names, runs_dir, closed)]
    code = blamed(closed)
    found = [(run, batches) for run in runs if (batches := may_be_cancelled(run.folder))]
    if not found:
        if not closed:
            console.print("nothing to cancel", soft_wrap=True)
        return code
    going = [run for run, _ in found if not is_offline(run.folder)]
    who = endpoint(os.environ, base_url=base_url) if going else None
    _announce(found)
    if not (yes or _agreed(found)):
        return code
    freed = [_freed(run) for run, _ in found if run not in going]
    return max(code, Exit.OK if who is None else _cancel(going, who, names), *freed)


def _announce(found: list[tuple[Run, list[Batch]]]) -> None:
    """Say what is about to be cancelled: at the API, or in run folders whose emulator has ended."""
    for run, batches in found:
        end = OFFLINE if is_offline(run.folder) else price_of(batches)
        _say(run, jobs_of(batches) + end)
    if not all(is_offline(run.folder) for run, _ in found):
        console.print(AFTER, soft_wrap=True)


def _agreed(found: list[tuple[Run, list[Batch]]]) -> bool:
    count = many(sum(len(batches) for _, batches in found), "batch job")
    return agrees(f"cancel {count}?", "nothing was cancelled")


def _freed(run: Run) -> Exit:
    """Take back what an emulator had that has ended; where a run goes on there, say so."""
    try:
        _say(run, FREED.format(jobs=jobs_of(free(run.folder))))
    except StoreError as error:  # the jobs of the others are to end all the same
        complain(f"{run.name}: {error.message}", error.hint)
        return error.exit_code
    return Exit.OK


def _cancel(going: list[Run], who: Endpoint, names: Sequence[str]) -> Exit:
    """Cancel what the API has open for what was named."""
    code = max(_cancelled(run, who) for run in going)  # the most serious has the highest number
    if code is Exit.OK:
        job = quote(names[0]) if len(names) == 1 and names[0].endswith(".toml") else "JOB.toml"
        console.print(NEXT.format(job=job), markup=False, soft_wrap=True)
    return code


def _cancelled(run: Run, who: Endpoint) -> Exit:
    """Cancel the jobs of one run and say what came of it; those of the others are to end as well."""
    try:
        done = withdraw(run.folder, who, partial(_say, run))
    except StoreError as error:
        complain(f"{run.name}: {error.message}", error.hint)
        return error.exit_code
    for words in _told(done):
        _say(run, words)
    if done.stop is None:
        return Exit.OK
    complain(f"{run.name}: {done.stop.message}", done.stop.hint)
    return done.stop.exit_code


def _told(done: Withdrawal) -> list[str]:
    kinds: Sequence[tuple[str, list[Batch]]] = (
        ("cancelled: ", done.cancelled),
        ("had ended before: ", done.ended),
        ("not created yet, and dropped: ", done.dropped),
        ("ended with their emulator, and taken back: ", done.stranded),
    )
    told = [words + jobs_of(batches) for words, batches in kinds if batches]
    if done.caches:
        told.append(f"deleted: {many(done.caches, 'context cache')} of the instruction")
    return told + done.notes


def _say(run: Run, words: str) -> None:
    console.print(f"{run.name}: {words}", markup=False, soft_wrap=True)
