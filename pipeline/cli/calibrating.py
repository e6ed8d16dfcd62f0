"""The command that finds out how many rows may share a request."""

import json
import sys
from collections.abc import Iterator

import click
import polars as pl
from rich.console import Console

from pipeline.calibration import Calibration, Share
from pipeline.cli.app import rowmill
from pipeline.cli.options import checked_job, endpoint_of, job_options, plan_of, service
from pipeline.cli.talk import complain, console
from pipeline.errors import Exit, UsageError
from pipeline.progress import Progress, many, picture
from pipeline.trials import SIZES, Ended, Told, as_json, calibrate

WIDE = 160


@rowmill.command(name="calibrate", short_help="Find out how many rows may share a request.")
@job_options
@click.option(
    "--sample", type=click.IntRange(min=1), default=200, show_default=True, help="Rows to try it with."
)
@click.option(
    "--sizes", metavar="N,N", default=",".join(map(str, SIZES)), show_default=True, help="Rows a request."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample and its shuffled order.")
@click.option(
    "--fields", metavar="NAME,NAME", help="The fields that decide, instead of those that are stable."
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 50, min_open=True),
    default=5.0,
    show_default=True,
    help="Percent of the rows by which agreement may fall.",
)
@click.option("--wait", is_flag=True, help="When the day's quota is used up, wait for its reset and go on.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option(
    "--json", "as_json_", is_flag=True, help="Print what was found as JSON, and nothing else there."
)
def calibrate_(*, wait: bool, quiet: bool, as_json_: bool, **options: object) -> Exit:
    """Ask about a sample of JOB's rows at several pack sizes, and recommend one: `packing.rows = "auto"`."""
    checked = checked_job(options)
    found = endpoint_of(options)
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
        content |= {"this_run": {"requests": ended.requests, "cost_usd": round(ended.cost_usd, 12)}}
        content |= {"stopped": None if stop is None else {"message": stop.message, "hint": stop.hint}}
        content |= {"calibration": None if found is None else as_json(found)}
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
    elif found is not None:
        _show(ended, found)
    if stop is not None:
        complain(stop.message, stop.hint)
    return code


def _show(ended: Ended, found: Calibration) -> None:
    for note in ended.notes:
        _say(note)
    took = (
        f"{many(ended.requests, 'request')}, ${ended.cost_usd:,.4f}"
        if ended.requests
        else "no request was made"
    )
    _say(f"{ended.job}: {many(ended.sample, 'row')} in every way; this run: {took}")
    width = console.width if sys.stdout.isatty() else WIDE
    stdout = Console(file=sys.stdout, highlight=False, width=width)
    stdout.print(picture(pl.DataFrame(list(_sizes(found))), width))
    stdout.print(picture(pl.DataFrame(list(_fields(found))), width))
    click.echo(f"recommended: {many(found.rows, 'row')} a request\n  {found.reason}")
    _say('packing.rows = "auto" takes it from now on, for this prompt, schema and model')


def _sizes(found: Calibration) -> Iterator[dict[str, object]]:
    for size in found.sizes:
        yield {
            "rows a request": str(size.rows),
            "requests/1,000 rows": f"{size.requests * 1000:,.0f}",
            "tokens in/row": f"{size.prompt_tokens:,.0f}",
            "out/row": f"{size.output_tokens:,.0f}",
            "$/1,000 rows": f"{size.cost_usd * 1000:,.4f}",
            "failed": f"{size.failed:.1%}",
            "as alone": _percent(size.agreement),
            "in both orders": _percent(size.orders),
            "lost at most": "" if size.rows == 1 else f"{max(0.0, size.loss):.1%}",
            "safe": "" if size.rows == 1 else ("yes" if size.safe else "no"),
        }


def _fields(found: Calibration) -> Iterator[dict[str, object]]:
    for one in found.findings:
        cells: dict[str, object] = {"field": one.field.name, "decides": "yes" if one.decides else "no"}
        cells["asked twice alone"] = _percent(one.floor)
        cells |= {f"as alone at {size}": _percent(share) for size, share in one.agreement.items()}
        for size in found.sizes if any(other.gold for other in found.findings) else ():
            share = one.gold.get(size.rows)
            cells[f"gold at {size.rows}"] = "" if share is None else _percent(share)
        yield cells


def _percent(share: Share) -> str:
    low, high = share.interval
    return f"{share.value:.1%} ({100 * low:.0f}–{100 * high:.0f})"
