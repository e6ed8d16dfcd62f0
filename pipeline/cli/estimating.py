"""The command that tells beforehand what a job will take: estimate."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.app import rowmill
from pipeline.cli.options import (
    cache_options,
    cache_use,
    checked_job,
    endpoint_of,
    job_options,
    plan_of,
    sent_today,
)
from pipeline.cli.talk import tell
from pipeline.errors import UsageError
from pipeline.forecast import Forecast, forecast
from pipeline.gemini.counting import count_all
from pipeline.gemini.endpoint import Endpoint, is_vertex
from pipeline.offline import emulator, offline_endpoint
from pipeline.plan import CheckedJob, check_batches
from pipeline.recommendation import HEAD, NARROW, as_json, cells, foot, head
from pipeline.services import Asking
from pipeline.sizing import Count

WIDE = 120  # letters of a line where no terminal is
ROOMY = 110  # that all columns need


@rowmill.command(name="estimate", short_help="Say what a run will take, before it. Asks no model.")
@job_options
@click.option("--retry-failed", is_flag=True, help="Count in rows that have failed.")
@cache_options
@click.option("--json", "as_json_", is_flag=True, help="Print it as JSON.")
def estimate(*, retry_failed: bool, as_json_: bool, **options: object) -> None:
    """Say what JOB will take: rows, requests, tokens, cost and time, alone and packed, online and as a batch.

    With a key the API counts the tokens of a sample, which is free; no model is asked and nothing is written.
    """
    use = cache_use(options)
    checked = checked_job(options)
    check_batches(checked, vertex=is_vertex(os.environ) and not options["offline"])
    plan = plan_of(checked, options)
    now = time.time()
    with _counting(checked, options) as (count, vertex):
        free = checked.loaded.job.limits.free and not vertex
        asking = Asking(free, vertex, sent_today(checked, options, now) or 0, now)
        found = forecast(plan, count, asking, retry_failed=retry_failed, use=use)
    if as_json_:
        click.echo(json.dumps(as_json(found), indent=2, ensure_ascii=False))
    else:
        _print(found)


@contextmanager
def _counting(checked: CheckedJob, options: Mapping[str, object]) -> Iterator[tuple[Count | str, bool]]:
    """Yield who counts tokens, or why nobody does, and whether that is Vertex AI."""
    if options["offline"]:
        endpoint_of(options)  # refuses two addresses at once
        free = checked.loaded.job.limits.free
        with emulator(checked.limits, model=checked.model.id, free=free) as address:
            yield _counter(offline_endpoint(address), checked), False
        return
    try:
        found = endpoint_of(options)
    except UsageError as error:
        yield error.message, False
        return
    assert found is not None  # noqa: S101 - only `--offline` has none
    yield _counter(found, checked), found.vertex


def _counter(endpoint: Endpoint, checked: CheckedJob) -> Count:
    return partial(count_all, endpoint, checked.settings.model)


def _print(found: Forecast) -> None:
    out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    tell(head(found))
    if found.scope.prompts:
        out.print(_table(found, NARROW if out.width < ROOMY else range(len(HEAD))))
    tell(foot(found))


def _table(found: Forecast, columns: Sequence[int]) -> Table:
    """Return these columns of the ways as a table."""
    table = Table(box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(HEAD[column], justify="right" if column else "left", overflow="fold")
    for way in found.ways:
        row = cells(way)
        table.add_row(*(Text(row[column]) for column in columns), style="bold" if way.current else "")
    return table
