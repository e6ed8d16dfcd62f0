"""The commands about one job: run, status, schema, verify."""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace

import click
import polars as pl
from rich.console import Console

from pipeline.cli.app import rowmill
from pipeline.cli.conflicts import check_stay
from pipeline.cli.numbers import Whole
from pipeline.cli.options import (
    cache_options,
    cache_use,
    checked_job,
    endpoint_of,
    job_options,
    plan_of,
    sent_today,
    service,
)
from pipeline.cli.talk import complain, console, tell
from pipeline.errors import Exit, InputError
from pipeline.gemini.endpoint import is_vertex
from pipeline.output import first_rows
from pipeline.plan import CheckedJob, check_batches
from pipeline.progress import Progress, picture
from pipeline.report import RunReport, Stop
from pipeline.retry import hint_of_rows
from pipeline.run import run_job
from pipeline.status import job_status
from pipeline.verify import verify_job

MUCH = 200  # characters
BEHIND = (
    "hint: {:,} characters of `prompt.row` are the same for every row and stand behind its first cell, where "
    "they are paid in full each time; `prompt.system` comes first, once for a whole pack, and can be cached"
)


@rowmill.command(short_help="Ask for every row without an answer, write the table.")
@job_options
@click.option("--wait", is_flag=True, help="When the day's quota is used up, wait for its reset and go on.")
@click.option(
    "--detach", is_flag=True, help="Leave batch jobs to the API and end with 3 while they are open."
)
@click.option("--retry-failed", is_flag=True, help="Ask again for rows that have failed.")
@cache_options
@click.option("--quiet", is_flag=True, help="Show no progress and no summary.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on standard output.")
@click.option("--show", type=Whole(min=0), default=0, metavar="N", help="Print the first N results.")
def run(
    *,
    wait: bool,
    detach: bool,
    retry_failed: bool,
    quiet: bool,
    as_json: bool,
    show: int,
    **options: object,
) -> Exit:
    """Run JOB: ask for every row that has no answer yet, and write the table."""
    use = cache_use(options)
    checked = checked_job(options)
    check_stay(checked.loaded.job.mode, wait=wait, detach=detach, offline=bool(options["offline"]))
    found = endpoint_of(options)
    check_batches(checked, vertex=found is not None and found.vertex)
    plan = plan_of(checked, options)
    with service(checked, found, wait=wait, detach=detach) as who:
        watch = Progress(console, quiet=quiet or as_json).watch
        report = run_job(plan, replace(who, use=use), watch=watch, retry_failed=retry_failed)
    _print_report(report, quiet=quiet, as_json=as_json)
    if not as_json:
        _show(report, checked, show)
    return report.exit_code


@rowmill.command(short_help="Say how far a job is. Asks nothing.")
@job_options
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(*, as_json: bool, **options: object) -> None:
    """Say how far JOB is: rows, tokens, cost, and when the daily quota resets. Asks nothing."""
    checked = checked_job(options)
    now = time.time()
    sent = sent_today(checked, options, now)
    found = job_status(plan_of(checked, options), sent, now, vertex=_on_vertex(options))
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        tell(found.sentences())


@rowmill.command(short_help="Print what is sent and what comes out.")
@job_options
def schema(**options: object) -> None:
    """Print the JSON schema that JOB sends and the Arrow schema of its output."""
    checked = checked_job(options)
    console.print("sent as the response's JSON schema:", soft_wrap=True)
    click.echo(json.dumps(checked.json_schema, indent=2, ensure_ascii=False))
    if checked.template.fixed_after >= MUCH:
        console.print(f"\n{BEHIND.format(checked.template.fixed_after)}", markup=False, soft_wrap=True)
    console.print("\ncolumns of the output:", soft_wrap=True)
    try:
        columns = pl.DataFrame(schema=plan_of(checked, options).source.types).to_arrow().schema
    except InputError as error:
        console.print(f"without the columns of the input: {error.message}", markup=False, soft_wrap=True)
        columns = pl.DataFrame().to_arrow().schema
    click.echo(checked.layout.output(columns).to_string(show_schema_metadata=False))


@rowmill.command(name="verify", short_help="Read all that a job has stored again, and say what is wrong.")
@job_options
@click.option("--json", "as_json", is_flag=True, help="Print what was read and found as JSON.")
def verify(*, as_json: bool, **options: object) -> Exit:
    """Read parts, journal and output of JOB again and print every inconsistency. Changes nothing."""
    verdict = verify_job(plan_of(checked_job(options), options), vertex=_on_vertex(options))
    if as_json:
        click.echo(json.dumps(verdict.as_json(), indent=2, ensure_ascii=False))
    else:
        for line in verdict.sentences():
            console.print(line, markup=False, soft_wrap=True)
        for finding in verdict.findings:
            notice = "notice: " if finding.notice else ""
            click.echo(f"{notice}{finding.place}: {finding.what}; {finding.hint}")
    return verdict.exit_code


def _on_vertex(options: Mapping[str, object]) -> bool:
    return is_vertex(os.environ) and not options["offline"]


def _print_report(report: RunReport, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2, ensure_ascii=False))
    elif not quiet:
        for line in [*report.notes, *report.sentences()]:
            console.print(line, markup=False, soft_wrap=True)
    if (quiet or as_json) and (left_out := report.left_out.sentences()):
        # cron mails what is said here, and the table does not show these rows as it does failed ones
        console.print(left_out[0].strip(), markup=False, soft_wrap=True)
    if report.stop is not None:
        _print_stop(report.stop, quiet=quiet or as_json)
    elif report.table.failed and not (quiet or as_json):
        console.print(f"hint: {hint_of_rows(report.table.kinds)}", markup=False, soft_wrap=True)


def _print_stop(stop: Stop, *, quiet: bool) -> None:
    """Say why a run ended early; where that was asked for, no more than that is said to who wants quiet."""
    if not stop.asked:
        complain(stop.message, stop.hint)
        return
    words = stop.message if quiet else f"{stop.message}\n\nhint: {stop.hint}"
    console.print(words, markup=False, soft_wrap=True)


def _show(report: RunReport, checked: CheckedJob, rows: int) -> None:
    """Print the first results on standard output: key columns, answers, cost."""
    if report.output is None or not rows:
        return
    frame = first_rows(report.output, rows)
    key, answers = checked.loaded.job.input.key, checked.layout.answers
    wanted = [name for name in (*key, *answers, "_status", "_cost_usd") if name in frame.columns]
    stdout = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    stdout.print(picture(frame.select(wanted), stdout.width))
