"""The command line: builds, calls one function of the library, prints, and maps errors to exit codes."""

import atexit
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, TypeVar

import click
import polars as pl
import pyarrow as pa
from platformdirs import user_state_path
from rich.console import Console

from pipeline import emulator as emulator_server
from pipeline.asking import Service
from pipeline.errors import Exit, InputError, RowmillError, UsageError
from pipeline.gemini.endpoint import Endpoint, endpoint, is_vertex, origin
from pipeline.job import load_job, project_of
from pipeline.ledger import Ledger, sent_on
from pipeline.offline import emulator, offline_endpoint
from pipeline.output import first_rows
from pipeline.plan import RUNS, CheckedJob, Plan, check_job, make_plan
from pipeline.progress import Progress, many, picture
from pipeline.quota import pacific_day
from pipeline.removal import Choice, age, remove_run, sweep
from pipeline.report import RunReport
from pipeline.run import run_job
from pipeline.runs import Run, find_runs, select, size
from pipeline.status import job_status
from pipeline.verify import verify_job

Command = TypeVar("Command", bound=Callable[..., object])
WIDE = 200  # letters of a table that no terminal shows
PAID_AGAIN = "Written tables stay. The answers in these folders will be paid for again when they are needed."
BUG = 70  # the exit code of a fault of our own, as in sysexits.h


class Talk(Console):
    """Standard error; when nobody reads it any more, the run goes on in silence."""

    def on_broken_pipe(self) -> None:
        """Say nothing more."""
        self.quiet = True


console = Talk(stderr=True, highlight=False)


def main() -> None:
    """Run the command and exit with its code; the one place where errors become exit codes."""
    signal.signal(signal.SIGTERM, _interrupt)
    _keep_memory_flat()
    try:
        code = rowmill.main(standalone_mode=False)
    except RowmillError as error:
        _complain(error.message, error.hint)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = Exit.BAD_INPUT
    except (KeyboardInterrupt, click.Abort):
        _complain("stopped before the end", "run the same command again: it goes on where it stopped")
        code = Exit.STOPPED
    except SystemExit as asked:
        code = asked.code if isinstance(asked.code, int) else BUG
    except BaseException:  # noqa: BLE001 - a bug, also a panic of Rust, must not look like failed rows
        traceback.print_exc()
        code = BUG
    sys.exit(code)


def _keep_memory_flat() -> None:
    """Choose for the process what memory that does not grow with the input needs; benchmarks/memory.py."""
    os.environ.setdefault("POLARS_CSV_CHUNK_SIZE", "300000")  # bytes; it reads less far ahead
    os.environ.setdefault("POLARS_ROW_GROUP_PREFETCH_SIZE", "1")  # so it does in Parquet
    pa.set_memory_pool(pa.system_memory_pool())  # gives back what mimalloc keeps
    gc.freeze()  # what the imports have made stays: no collection has to walk over it
    atexit.register(gc.unfreeze)  # or libraries report it as leaked


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _complain(message: str, hint: str) -> None:
    console.print(f"error: {message}\n\nhint: {hint}", style=None, markup=False, soft_wrap=True)


def _job_options(command: Command) -> Command:
    """Add what `run`, `status` and `schema` share: the job and what replaces its keys."""
    options = [
        click.argument("job", type=click.Path(path_type=Path)),
        click.option("--input", "input_", metavar="PATH", help="Input file, folder or glob."),
        click.option("--output", metavar="PATH", help="Output file: .parquet, .csv or .ndjson."),
        click.option("--runs-dir", type=click.Path(path_type=Path), help="Where run folders are kept."),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Take the first N rows only."),
        click.option("--model", metavar="ID", help="Model id or alias."),
        click.option("--tier", type=click.Choice(["free", "1", "2", "3"]), help="Usage tier of the project."),
        click.option("--rpm", type=click.IntRange(min=1), help="Requests per minute."),
        click.option("--tpm", type=click.IntRange(min=1), help="Input tokens per minute."),
        click.option("--rpd", type=click.IntRange(min=1), help="Requests per day (Pacific time)."),
        click.option("--concurrency", type=click.IntRange(min=1), help="Most requests in flight."),
        click.option(
            "--max-cost", type=click.FloatRange(min=0, min_open=True), metavar="USD", help="Stop there."
        ),
        click.option("--pack", type=click.IntRange(1, 200), metavar="N", help="Rows that share a request."),
        click.option("--base-url", metavar="URL", help="Address of the API, a gateway or an emulator."),
        click.option("--offline", is_flag=True, help="Ask a local emulator that runs for this command."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"auto_envvar_prefix": "ROWMILL", "help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rowmill")
def rowmill() -> None:
    """Ask Gemini Flash-Lite one typed question about every row of a table."""


@rowmill.command(short_help="Ask for every row without an answer, write the table.")
@_job_options
@click.option("--wait", is_flag=True, help="When the day's quota is used up, wait for its reset and go on.")
@click.option("--retry-failed", is_flag=True, help="Ask again for rows that have failed.")
@click.option("--quiet", is_flag=True, help="Show no progress and no summary.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON, and nothing else there.")
@click.option("--show", type=click.IntRange(min=0), default=0, metavar="N", help="Print the first N results.")
def run(*, wait: bool, retry_failed: bool, quiet: bool, as_json: bool, show: int, **options: object) -> Exit:
    """Run JOB: ask for every row that has no answer yet, and write the table."""
    checked = _checked(options)
    found = _endpoint(options)
    plan = _plan(checked, options)
    with _service(checked, found, wait=wait) as service:
        watch = Progress(console, quiet=quiet or as_json).watch
        report = run_job(plan, service, watch=watch, retry_failed=retry_failed)
    _print_report(report, quiet=quiet, as_json=as_json)
    if not as_json:
        _show(report, checked, show)
    return report.exit_code


@rowmill.command(short_help="Say how far a job is. Asks nothing.")
@_job_options
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(*, as_json: bool, **options: object) -> None:
    """Say how far JOB is: rows, tokens, cost, and when the daily quota resets. Asks nothing."""
    checked = _checked(options)
    now = time.time()
    found = job_status(_plan(checked, options), _sent_today(checked, options, now), now)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else "\n".join(found.sentences()))


@rowmill.command(short_help="Print what is sent and what comes out.")
@_job_options
def schema(**options: object) -> None:
    """Print the JSON schema that JOB sends and the Arrow schema of its output."""
    checked = _checked(options)
    console.print("sent as the response's JSON schema:", soft_wrap=True)
    click.echo(json.dumps(checked.json_schema, indent=2, ensure_ascii=False))
    console.print("\ncolumns of the output:", soft_wrap=True)
    try:
        columns = pl.DataFrame(schema=_plan(checked, options).source.types).to_arrow().schema
    except InputError as error:
        console.print(f"without the columns of the input: {error.message}", markup=False, soft_wrap=True)
        columns = pl.DataFrame().to_arrow().schema
    click.echo(checked.layout.output(columns).to_string(show_schema_metadata=False))


@rowmill.command(name="verify", short_help="Read all that a job has stored again, and say what is wrong.")
@_job_options
@click.option("--json", "as_json", is_flag=True, help="Print what was read and found as JSON.")
def verify(*, as_json: bool, **options: object) -> Exit:
    """Read parts, journal and output of JOB again and print every inconsistency. Changes nothing."""
    verdict = verify_job(_plan(_checked(options), options))
    if as_json:
        click.echo(json.dumps(verdict.as_json(), indent=2, ensure_ascii=False))
    else:
        for line in verdict.sentences():
            console.print(line, markup=False, soft_wrap=True)
        for finding in verdict.findings:
            click.echo(f"{finding.place}: {finding.what}; {finding.hint}")
    return verdict.exit_code


@rowmill.command(name="runs", short_help="List the run folders. Asks nothing.")
@click.argument("job", type=click.Path(path_type=Path), required=False)
@click.option("--runs-dir", type=click.Path(path_type=Path), help="Where run folders are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def runs(job: Path | None, runs_dir: Path | None, *, as_json: bool) -> None:
    """List the run folders of JOB, or of all jobs of the project in the working folder."""
    where, name = _place(job, runs_dir)
    found = find_runs(where, name)
    if as_json:
        click.echo(json.dumps([one.as_json() for one in found], indent=2, ensure_ascii=False))
    elif found:
        _print_runs(found, sys.stdout)
    else:
        console.print(f"no runs in {where}", markup=False, soft_wrap=True)


@rowmill.command(short_help="Remove the folders of finished runs, after asking.")
@click.argument("names", metavar="[JOB|RUN]...", nargs=-1)
@click.option("--runs-dir", type=click.Path(path_type=Path), help="Where run folders are kept.")
@click.option(
    "--older-than", metavar="AGE", help="Only what has not changed for so long: `30d`, `12h`, `2w`."
)
@click.option("--all", "unfinished", is_flag=True, help="Unfinished runs as well.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clean(names: tuple[str, ...], runs_dir: Path | None, *, unfinished: bool, yes: bool, **rest: Any) -> None:
    """Remove the folders of finished runs.

    Of each JOB (a job file), each RUN (as `rowmill runs` names it, finished or not), or of the project in the
    working folder. The tables that were written stay; the answers are paid for again when they are needed.
    """
    before = None if rest["older_than"] is None else datetime.now(UTC) - age(rest["older_than"])
    chosen = _chosen(names, runs_dir)
    going = [one.run for one in chosen if one.may_go(before, unfinished=unfinished)]
    for one in chosen:
        if one.run not in going:
            console.print(f"kept: {one.run.name} ({one.run.state})", markup=False, soft_wrap=True)
    if not going:
        console.print("nothing to remove", soft_wrap=True)
        return
    _print_runs(going, sys.stderr)
    total = size(sum(run.size for run in going))
    console.print(PAID_AGAIN, soft_wrap=True)
    if not (yes or _agrees(f"remove {many(len(going), 'run')}, {total}?")):
        return
    for one in chosen:
        if one.run in going:
            remove_run(one.run, unfinished=unfinished or one.named)
    console.print(f"removed {many(len(going), 'run')}, {total}", soft_wrap=True)


@rowmill.command()
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8_600, show_default=True, help="0 takes a free one."
)
@click.option("--rpm", type=click.IntRange(min=0), help="Requests per minute.")
@click.option("--tpm", type=click.IntRange(min=0), help="Input tokens per minute.")
@click.option("--rpd", type=click.IntRange(min=0), help="Requests per day (Pacific time).")
@click.option("--capacity", type=click.IntRange(min=0), help="Requests in flight; a bare 429 above it.")
@click.option("--latency", type=click.FloatRange(min=0), default=0.0, help="Seconds until an answer.")
@click.option("--jitter", type=click.FloatRange(min=0), default=0.0, help="Up to so many seconds more.")
@click.option("--log", metavar="FILE", help="Write time, status and tokens of each request.")
@click.option("--fault", "faults", multiple=True, metavar="KIND@N", help="A scripted fault; may be repeated.")
@click.option("--tier", type=click.Choice(["free", "paid"]), default="paid", help="How its quotas are named.")
def emulate(port: int, faults: tuple[str, ...], **quotas: Any) -> None:
    """Serve the Gemini API emulator on the loopback until it is stopped."""
    try:
        settings = emulator_server.Settings(faults=faults, **quotas)
    except ValueError as error:
        raise UsageError(str(error), "`docs/reference.md` lists the faults") from error
    console.print("answers come from rules, not from a model; stop with Ctrl-C", soft_wrap=True)
    emulator_server.serve(settings, port)


def _print_runs(found: Sequence[Run], stream: TextIO) -> None:
    width = console.width if stream.isatty() else WIDE
    table = picture(pl.DataFrame([one.cells() for one in found]), width)
    Console(file=stream, highlight=False, width=width).print(table)


def _place(job: Path | None, runs_dir: Path | None) -> tuple[Path, str | None]:
    """Return where run folders are, and the name of the job if one is given."""
    if job is None:
        return runs_dir or project_of(Path("x").absolute()) / RUNS, None
    loaded = load_job(job)
    return runs_dir or loaded.project / RUNS, loaded.job.name


def _chosen(names: Sequence[str], runs_dir: Path | None) -> list[Choice]:
    """Return the runs that `clean` was told of: by job files, by their own names, or all."""
    chosen: dict[Path, Choice] = {}
    for name in names or (None,):
        job = Path(name) if name and name.endswith(".toml") else None
        where, only = _place(job, runs_dir)
        sweep(where)
        found = find_runs(where, only)
        named = name is not None and job is None
        for run in select(found, name) if name is not None and named else found:
            chosen[run.folder.path] = Choice(run, named)
    return list(chosen.values())


def _agrees(question: str) -> bool:
    try:
        return click.confirm(question, err=True)
    except click.Abort as abort:
        if sys.stdin.isatty():  # Ctrl-C
            raise
        raise UsageError("nobody is there to ask, so nothing was removed", "give `--yes`") from abort


def _checked(options: Mapping[str, object]) -> CheckedJob:
    """Load and check the job with what the flags replace; paths of flags start from the working folder."""
    overrides: dict[str, dict[str, object]] = {
        "input": {"path": _absolute(options["input_"])},
        "output": {"path": _absolute(options["output"])},
        "model": {"id": options["model"]},
        "limits": {name: options[name] for name in ("tier", "rpm", "tpm", "rpd", "concurrency", "max_cost")},
        "packing": {"rows": options["pack"]},
    }
    job = options["job"]
    assert isinstance(job, Path)  # noqa: S101 - click made it one
    vertex = is_vertex(os.environ) and not options["offline"]
    return check_job(load_job(job, overrides), datetime.now(UTC).date(), vertex=vertex)


def _absolute(path: object) -> str | None:
    return None if path is None else os.path.abspath(os.path.expanduser(str(path)))


def _plan(checked: CheckedJob, options: Mapping[str, object]) -> Plan:
    runs, limit = options["runs_dir"], options["limit"]
    return make_plan(
        checked,
        endpoint=_origin(options),
        runs=runs if isinstance(runs, Path) else None,
        limit=limit if isinstance(limit, int) else None,
    )


def _origin(options: Mapping[str, object]) -> str:
    """Name who answers, so that answers of different origin are never mixed."""
    return "emulator" if options["offline"] else origin(os.environ, base_url=_text(options["base_url"]))


def _endpoint(options: Mapping[str, object]) -> Endpoint | None:
    """Return the API that the environment names, or None for the emulator of this command."""
    if not options["offline"]:
        return endpoint(os.environ, base_url=_text(options["base_url"]))
    if options["base_url"]:
        raise UsageError("`--offline` and `--base-url` name two different APIs", "leave one of them out")
    return None


@contextmanager
def _service(checked: CheckedJob, found: Endpoint | None, *, wait: bool) -> Iterator[Service]:
    """Yield who answers; the emulator, where it is wanted, lives as long as the block."""
    free = checked.loaded.job.limits.free
    if found is not None:
        with closing(Ledger(_ledger_file(), _scope(checked, found))) as ledger:
            yield Service(found, ledger, free and not found.vertex, wait)
    else:
        emulating = emulator(checked.limits, model=checked.model.id, free=free)
        with emulating as address, closing(Ledger(None, "emulator")) as ledger:
            yield Service(offline_endpoint(address), ledger, free, wait)


def _ledger_file() -> Path:
    folder = os.environ.get("ROWMILL_STATE_DIR")
    return (Path(folder) if folder else user_state_path("rowmill")) / "ledger.sqlite"


def _scope(checked: CheckedJob, found: Endpoint) -> str:
    """Name what daily limits are counted for: the project and the model."""
    return f"{found.scope(checked.loaded.job.limits.project)}/{checked.model.id}"


def _sent_today(checked: CheckedJob, options: Mapping[str, object], now: float) -> int | None:
    """Return how many requests were sent today, or None where no key says whose they are."""
    try:
        found = _endpoint(options)
    except UsageError:
        return None
    return None if found is None else sent_on(_ledger_file(), _scope(checked, found), pacific_day(now))


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _print_report(report: RunReport, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2, ensure_ascii=False))
    elif not quiet:
        for line in [*report.notes, *report.sentences()]:
            console.print(line, markup=False, soft_wrap=True)
    if report.stop is not None:
        _complain(report.stop.message, report.stop.hint)
    elif report.table.failed and not (quiet or as_json):
        note = (
            "hint: `_error_kind` and `_error` in the output say why rows failed; `--retry-failed` asks again"
        )
        console.print(note, markup=False, soft_wrap=True)


def _show(report: RunReport, checked: CheckedJob, rows: int) -> None:
    """Print the first results on standard output: key columns, answers, cost."""
    if report.output is None or not rows:
        return
    frame = first_rows(report.output, rows)
    key, answers = checked.loaded.job.input.key, checked.layout.answers
    wanted = [name for name in (*key, *answers, "_status", "_cost_usd") if name in frame.columns]
    stdout = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    stdout.print(picture(frame.select(wanted), stdout.width))
