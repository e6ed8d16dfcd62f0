"""The options that commands about a job share, and what is built from them."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import click
from platformdirs import user_state_path

from pipeline.asking import Service
from pipeline.cli.conflicts import check_service_tier, mode_of
from pipeline.cli.numbers import Dollars, Whole
from pipeline.cli.talk import console
from pipeline.errors import StoreError, UsageError
from pipeline.gemini.endpoint import Endpoint, endpoint, is_vertex, origin
from pipeline.job import load_job
from pipeline.ledger import Ledger
from pipeline.offline import emulator, offline_endpoint
from pipeline.plan import CheckedJob, Plan, check_job, make_plan
from pipeline.quota import pacific_day
from pipeline.store.cache import Use
from pipeline.store.counts import sent_on
from pipeline.store.folder import OFFLINE

TIER = "Usage tier of the project. For 2 and 3, whose limits are not published, give --rpm and --tpm, too."
Command = TypeVar("Command", bound=Callable[..., object])


class PackRows(click.ParamType[object]):
    """A number of rows, or `auto`; the job's section checks the number."""

    name = "rows"

    def convert(self, value: object, _param: click.Parameter | None, _ctx: click.Context | None) -> object:
        """Return a number as an integer, and anything else as it is."""
        return int(value) if isinstance(value, str) and value.isdecimal() else value


def job_options(command: Command) -> Command:
    """Add what commands about a job share: the job, and what replaces its keys."""
    options = [
        click.argument("job", type=click.Path(path_type=Path)),
        click.option("--input", "input_", metavar="PATH", help="Input file, folder or glob."),
        click.option("--output", metavar="PATH", help="Output file: .parquet, .csv or .ndjson."),
        click.option("--runs-dir", type=click.Path(path_type=Path), help="Where run folders are kept."),
        click.option("--limit", type=Whole(min=1), metavar="N", help="Take the first N rows only."),
        click.option("--model", metavar="ID", help="Model id or alias."),
        click.option("--tier", type=click.Choice(["free", "1", "2", "3"]), help=TIER),
        click.option("--rpm", type=Whole(min=1), help="Requests per minute."),
        click.option("--tpm", type=Whole(min=1), help="Input tokens per minute."),
        click.option("--rpd", type=Whole(min=1), help="Requests per day (Pacific time)."),
        click.option("--concurrency", type=Whole(min=1), help="Most requests in flight."),
        click.option("--max-cost", type=Dollars(), metavar="USD", help="Stop at this cost."),
        click.option("--pack", type=PackRows(), metavar="N|auto", help="Rows that share a request."),
        click.option(
            "--service-tier", type=click.Choice(["flex", "standard", "priority"]), help="How it is served."
        ),
        click.option("--batch", is_flag=True, help="Ask by the Batch API."),
        click.option("--online", is_flag=True, help="Ask one by one, or in packs."),
        click.option("--base-url", metavar="URL", help="Address of the API, a gateway or an emulator."),
        click.option("--offline", is_flag=True, help="Ask a local emulator that runs for this command."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def cache_options(command: Command) -> Command:
    """Add how the cache of all jobs is used."""
    told = click.option("--no-cache", is_flag=True, help="Leave the cache of all jobs alone.")
    again = click.option(
        "--refresh", is_flag=True, help="Ask although the cache knows, and replace what it has."
    )
    return told(again(command))


def checked_job(options: Mapping[str, object]) -> CheckedJob:
    """Load and check the job with what the flags replace; paths of flags start from the working folder."""
    check_service_tier(options)
    overrides: dict[str, Mapping[str, object] | str | None] = {
        "mode": mode_of(options),
        "input": {"path": _absolute(options["input_"])},
        "output": {"path": _absolute(options["output"])},
        "model": {"id": options["model"], "service_tier": options["service_tier"]},
        "limits": {name: options[name] for name in ("tier", "rpm", "tpm", "rpd", "concurrency", "max_cost")},
        "packing": {"rows": options["pack"]},
    }
    job = options["job"]
    assert isinstance(job, Path)  # noqa: S101 - click made it one
    vertex = is_vertex(os.environ) and not options["offline"]
    return check_job(load_job(job, overrides), datetime.now(UTC).date(), vertex=vertex)


def cache_use(options: Mapping[str, object]) -> Use:
    """Return how the cache is used; raises UsageError where the flags contradict each other."""
    if options["no_cache"] and options["refresh"]:
        raise UsageError("`--no-cache` and `--refresh` contradict each other", "leave one of them out")
    return Use.NONE if options["no_cache"] else Use.REFRESH if options["refresh"] else Use.FULL


def _absolute(path: object) -> str | None:
    return None if path is None else os.path.abspath(os.path.expanduser(str(path)))


def plan_of(checked: CheckedJob, options: Mapping[str, object]) -> Plan:
    """Return the plan of a checked job; raises as `make_plan` does."""
    runs, limit = options["runs_dir"], options["limit"]
    return make_plan(
        checked,
        endpoint=_origin(options),
        runs=runs if isinstance(runs, Path) else None,
        limit=limit if isinstance(limit, int) else None,
    )


def _origin(options: Mapping[str, object]) -> str:
    """Name who answers, so that answers of different origin are never mixed."""
    return OFFLINE if options["offline"] else origin(os.environ, base_url=_text(options["base_url"]))


def endpoint_of(options: Mapping[str, object]) -> Endpoint | None:
    """Return the API that the environment names, or None for the emulator of this command."""
    if not options["offline"]:
        return endpoint(os.environ, base_url=_text(options["base_url"]))
    if options["base_url"]:
        raise UsageError("`--offline` and `--base-url` name two different APIs", "leave one of them out")
    return None


@contextmanager
def service(
    checked: CheckedJob, found: Endpoint | None, *, wait: bool, detach: bool = False
) -> Iterator[Service]:
    """Yield who answers; the emulator, where it is wanted, lives as long as the block."""
    free = checked.loaded.job.limits.free
    if found is not None:
        with closing(Ledger(_ledger_file(), _scope(checked, found))) as ledger:
            yield Service(found, ledger, free and not found.vertex, wait, detach=detach)
    else:
        emulating = emulator(checked.limits, model=checked.model.id, free=free)
        with emulating as address, closing(Ledger(None, "emulator")) as ledger:
            yield Service(offline_endpoint(address), ledger, free, wait, detach=detach)


def _ledger_file() -> Path:
    folder = os.environ.get("ROWMILL_STATE_DIR")
    return (Path(folder) if folder else user_state_path("rowmill")) / "ledger.sqlite"


def _scope(checked: CheckedJob, found: Endpoint) -> str:
    """Name what daily limits are counted for: the project and the model."""
    return f"{found.scope(checked.loaded.job.limits.project)}/{checked.model.id}"


def sent_today(checked: CheckedJob, options: Mapping[str, object], now: float) -> int | None:
    """Return how many requests were sent today, or None where no key says whose they are.

    It is None, too, where the count cannot be read; people are told then.
    """
    try:
        found = endpoint_of(options)
        return None if found is None else sent_on(_ledger_file(), _scope(checked, found), pacific_day(now))
    except UsageError:
        return None
    except StoreError as error:
        console.print(f"{error.message}; {error.hint}", markup=False, soft_wrap=True)
        return None


def _text(value: object) -> str | None:
    return None if value is None else str(value)
