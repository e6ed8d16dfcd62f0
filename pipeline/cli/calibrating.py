"""The command that finds out how many rows may share a request."""

import json
import sys

import click
from rich.console import Console

from pipeline.calibration import Calibration
from pipeline.cli.app import rowmill
from pipeline.cli.findings import TWICE, tables
from pipeline.cli.numbers import Number, Whole
from pipeline.cli.options import checked_job, endpoint_of, job_options, plan_of, service
from pipeline.cli.talk import complain, console, tell
from pipeline.errors import Exit, UsageError
from pipeline.plan import check_batches
from pipeline.progress import Progress, many, span
from pipeline.sweep import FREE, SIZES, Ended, Told, as_json, calibrate

WIDE = 100  # letters of a line where no terminal is
NARROW = 80  # a narrower terminal wraps the lines itself, so that no figure is cut
TAKEN = 'packing.rows = "auto" takes it from now on, for this prompt, schema, model, settings and address'
PRICED = (
    "all sizes are compared at the price of `{price}` today, whatever their trials were asked and paid for at"
)
FREE_WORDS = "tokens are free in this tier, so sizes are compared by requests alone"


@rowmill.command(name="calibrate", short_help="Find out how many rows may share a request.")
@job_options
@click.option("--sample", type=Whole(min=1), default=200, show_default=True, help="Rows to try it with.")
@click.option(
    "--sizes", metavar="N,N", default=",".join(map(str, SIZES)), show_default=True, help="Rows a request."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample and its shuffled order.")
@click.option(
    "--fields", metavar="NAME,NAME", help="The fields that decide, instead of those that are stable."
)
@click.option(
    "--tolerance",
    type=Number(0, 50, min_open=True),
    default=5.0,
    show_default=True,
    help="Percent of the rows by which agreement may fall.",
)
@click.option("--replace", is_flag=True, help="Take the result even where a better one is known.")
@click.option("--wait", is_flag=True, help="When the day's quota is used up, wait for its reset and go on.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option(
    "--json", "as_json_", is_flag=True, help="Print what was found as JSON, and nothing else there."
)
def calibrate_(*, wait: bool, quiet: bool, as_json_: bool, **options: object) -> Exit:
    """Ask about a sample of JOB's rows at several pack sizes, and recommend one: `packing.rows = "auto"`."""
    checked = checked_job(options)
    found = endpoint_of(options)
    if checked.loaded.job.mode == "batch":
        check_batches(checked, vertex=found is not None and found.vertex)
    plan = plan_of(checked, options)
    silent = quiet or as_json_
    with service(checked, found, wait=wait) as who:
        watch = Progress(console, quiet=silent).watch
        ended = calibrate(plan, who, _told(options), watch=watch, say=_silent if silent else _say)
    return _print(ended, as_json_=as_json_)


def _told(options: dict[str, object]) -> Told:
    fields, sizes = str(options["fields"] or ""), str(options["sizes"])
    try:
        numbers = tuple(int(size) for size in sizes.split(","))
    except ValueError as exc:
        raise UsageError(f"`{sizes}` are no sizes", "write numbers of rows, such as `--sizes 5,20`") from exc
    return Told(
        sample=int(str(options["sample"])),
        sizes=numbers,
        seed=int(str(options["seed"])),
        chosen=tuple(name.strip() for name in fields.split(",") if name.strip()),
        tolerance=float(str(options["tolerance"])) / 100,
        replace=bool(options["replace"]),
    )


def _say(words: str) -> None:
    console.print(words, markup=False, soft_wrap=True)


def _silent(_words: str) -> None:
    return


def _print(ended: Ended, *, as_json_: bool) -> Exit:
    found, stop = ended.calibration, ended.stop
    code = Exit.OK if stop is None else stop.exit_code
    if as_json_:
        content = {"job": ended.job, "exit_code": int(code), "sample": ended.sample}
        content |= {"price": ended.price}
        content |= {"this_run": {"requests": ended.requests, "cost_usd": round(ended.cost_usd, 12)}}
        content |= {"stopped": None if stop is None else stop.as_json()}
        content |= {"trials": ended.trials, "finished": ended.done, "requests_to_go": ended.to_go}
        content |= {"kept_instead": ended.better or None}
        content |= {"calibration": None if found is None else as_json(found)}
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        _tell(ended, found)
    if stop is not None:
        complain(stop.message, stop.hint)
    return code


def _tell(ended: Ended, found: Calibration | None) -> None:
    for note in ended.notes:
        _say(note)
    if found is not None:
        _show(ended, found)
    else:
        _stopped(ended)


def _show(ended: Ended, found: Calibration) -> None:
    """Show what was found: notes and costs on standard error, the figures on standard output."""
    _say(f"{ended.job}: {many(ended.sample, 'row')} in every way; this run: {_took(ended)}")
    _say(FREE_WORDS if ended.price == FREE else PRICED.format(price=ended.price))
    width = max(NARROW, console.width) if sys.stdout.isatty() else WIDE
    stdout = Console(file=sys.stdout, highlight=False, width=width)
    for table in tables(found):
        stdout.print(table)
    stdout.print(TWICE, markup=False)
    tell([f"recommended: {many(found.rows, 'row')} a request", f"  {found.reason}", ended.better or TAKEN])


def _stopped(ended: Ended) -> None:
    """Say what was spent, what is finished and what is left."""
    done = "; ".join(ended.done) or "none"
    _say(f"{ended.job}: {many(ended.sample, 'row')}, stopped before all was asked; this run: {_took(ended)}")
    _say(f"  finished, {len(ended.done)} of {ended.trials} trials: {done}")
    _say(f"  left: about {many(ended.to_go, 'request')}; what was answered is kept and not paid for again")


def _took(ended: Ended) -> str:
    if not ended.requests:
        return "no request was made"
    cost = "$0 (free tier)" if ended.price == FREE else f"${ended.cost_usd:,.4f}"
    return f"{many(ended.requests, 'request')}, {cost}, {span(ended.seconds)}"
