"""Shows a `Tally` while a run goes on: a live display on a terminal, a line now and then elsewhere."""

import time
from dataclasses import dataclass
from datetime import timedelta

import anyio
import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.executors.gate import Gate
from pipeline.executors.halt import Halt
from pipeline.flow import Failure, FailureKind
from pipeline.usage import Enqueued, Tally

REDRAW_SECONDS = 0.25
LINE_SECONDS = 10.0
RARE_SECONDS = 300.0  # where batch jobs are waited for
NARROWEST = 6
BETWEEN = 3  # letters between two columns
MESSAGE = 120  # letters of what the API said
STOPPING = "stopping: {flying} in flight, paid for, may end; Ctrl-C {times} drops {them}"


@dataclass(frozen=True, slots=True)
class Watched:
    """What there is to see of a run while it goes on."""

    tally: Tally
    gate: Gate
    halt: Halt


class Progress:
    """Draws on `console`, which is standard error; `quiet` draws nothing."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet

    async def watch(self, run: Watched) -> None:
        """Draw until cancelled."""
        if self._quiet:
            return
        if self._console.is_terminal:
            await self._live(run)
        else:
            await self._lines(run)

    async def _live(self, run: Watched) -> None:
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                run.tally.mark(time.monotonic())
                live.update(_picture(run), refresh=True)
                await anyio.sleep(REDRAW_SECONDS)

    async def _lines(self, run: Watched) -> None:
        kept = f", {run.tally.kept:,} with a reply in the journal" if run.tally.kept else ""
        alike = f", {run.tally.alike:,} equal to one of these" if run.tally.alike else ""
        to_ask = many(run.tally.left - run.tally.kept, "row")
        packs = f" with up to {run.tally.pack} in a request" if run.tally.pack > 1 else ""
        before = f"{run.tally.earlier - run.tally.alike:,} done before"
        words = f"{to_ask} to ask{packs}, {before}{kept}{alike}"
        self._console.print(words, soft_wrap=True)
        while True:
            run.tally.mark(time.monotonic())
            await anyio.sleep(LINE_SECONDS if run.tally.enqueued is None else RARE_SECONDS)
            self._console.print(" · ".join(words_of(run)), soft_wrap=True)


def _picture(run: Watched) -> Table:
    grid = Table.grid(padding=(0, 1))
    rows, *rest = words_of(run)
    done = run.tally.answered
    grid.add_row(ProgressBar(total=max(1, run.tally.total), completed=done, width=30), Text(rows))
    grid.add_row(Text(""), Text(" · ".join(rest[:3])))
    grid.add_row(Text(""), Text(" · ".join(rest[3:])))
    return grid


def words_of(run: Watched) -> list[str]:
    """Return rows; rates; requests and tokens a minute; requests and tokens so far, cost and time left."""
    now, tally, limits = time.monotonic(), run.tally, run.gate.limiter.limits
    failed = f", {tally.failed:,} failed" if tally.failed else ""
    words = [
        f"{tally.answered:,} of {tally.total:,} rows{failed}",
        f"{tally.rows_per_second(now) * 60:,.0f} rows/min",
        f"{tally.requests_per_minute(now):,.0f}{_of(limits.rpm)} requests/min",
        f"{tally.tokens_per_minute(now):,.0f}{_of(limits.tpm)} input tokens/min",
        f"{many(tally.requests, 'request')}, {tally.usage.prompt:,} tokens in, "
        f"{tally.usage.output + tally.usage.thoughts:,} out",
        f"${tally.cost_usd:,.4f}",
        _left(tally.seconds_left(now, limits, run.gate.day.so_far())),
    ]
    if tally.enqueued is not None:
        words[1:4], words[-1] = [], _enqueued(tally.enqueued)
    if run.halt.pulled.is_set():
        words[-1] = _stopping(run)
    elif waiting := _waiting(run.gate, tally.trouble):
        words[-1] = waiting
    elif tally.trouble is not None:
        words.append(f"asking again: {_short(tally.trouble.message)}")
    elif run.gate.limiter.short_of == "nano_usd":
        words.append(f"held by the spend limit of ${limits.spend_10min_usd:,.2f} per ten minutes")
    return words


def _enqueued(open_: Enqueued) -> str:
    states = ", ".join(f"{number:,} {state}" for state, number in open_.states)
    due = max(0.0, open_.due - time.time())
    return (
        f"{many(open_.jobs, 'batch job')} ({states}), {many(open_.rows, 'row')} in them, the oldest for "
        f"{span(open_.oldest)}, next look in {span(due)}"
    )


def _stopping(run: Watched) -> str:
    flying = run.gate.limiter.in_flight
    times = "again" if run.halt.reason is None else "twice"
    return STOPPING.format(flying=many(flying, "request"), times=times, them="it" if flying == 1 else "them")


def _waiting(gate: Gate, trouble: Failure | None) -> str:
    """Say what the whole run waits for, and for how long; empty when it does not."""
    pause = span(gate.limiter.paused_for)
    if gate.day.parked_until is not None:
        reset = gate.day.parked_until.astimezone()
        to_go = span(max(0.0, reset.timestamp() - time.time()))
        return f"today's quota is used up, waiting for its reset at {reset:%a %d %b %H:%M %Z}, {to_go} to go"
    if gate.limiter.paused_for <= 1:
        return ""
    if gate.day.doubted:
        return f"the API says that today's quota is used up, asking once more in {pause}"
    if gate.down_since is not None:
        down = span(time.monotonic() - gate.down_since)
        return f"the API has not answered for {down}, next attempt in {pause}"
    return _refused(trouble, pause)


def _refused(trouble: Failure | None, pause: str) -> str:
    """Say why the API lets nothing through for now."""
    if trouble is not None and trouble.kind is FailureKind.SPEND_LIMITED:
        return f"the API says that the spend limit of ten minutes is reached, next request in {pause}"
    if trouble is not None and trouble.retry_after is None:
        return f"the API refuses requests for now, next one in {pause}"
    return f"the API asked to wait, {pause} to go"


def _of(limit: int | None) -> str:
    return "" if limit is None else f" of {limit:,}"


def _short(message: str) -> str:
    return message if len(message) <= MESSAGE else f"{message[: MESSAGE - 1]}…"


def _left(seconds: float | None) -> str:
    return "time left unknown yet" if seconds is None else f"{span(seconds)} left"


def many(number: int, word: str) -> str:
    """Return a count with its word: `1 row`, `2,000 rows`."""
    return f"{number:,} {word}{'s' * (number != 1)}"


def span(seconds: float) -> str:
    """Return a length of time for people: `12 s`, `4 min`, `3:20 h` or `2 days 3 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    whole = timedelta(seconds=round(seconds))
    hours, minutes = divmod(whole.seconds // 60, 60)
    if whole.days:
        return f"{whole.days} day{'s' * (whole.days > 1)} {hours} h"
    return f"{hours}:{minutes:02d} h"


def picture(frame: pl.DataFrame, width: int, *, edge: bool = True) -> Table:
    """Return a table for a terminal of `width` letters: a line for each row, the longest cells cut.

    Without an `edge` it has no blank lines around it, as where no terminal is.
    """
    cells, wanted = _cells(frame)
    table = Table(box=SIMPLE_HEAD, show_edge=edge)
    fitted = _fitted(wanted, width - BETWEEN * len(wanted))
    for (name, kind), most in zip(frame.schema.items(), fitted, strict=True):
        table.add_column(
            name,
            no_wrap=True,
            overflow="ellipsis",
            width=most,
            justify="right" if kind.is_numeric() else "left",
        )
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def fits(frame: pl.DataFrame, width: int) -> bool:
    """Tell whether `picture` cuts no cell."""
    _, wanted = _cells(frame)
    return sum(wanted) + BETWEEN * len(wanted) <= width


def _cells(frame: pl.DataFrame) -> tuple[list[list[str]], list[int]]:
    """Return the cells as text, row by row, and the width of each column."""
    cells = [[_cell(cell) for cell in row] for row in frame.iter_rows()]
    return cells, [max(map(len, column)) for column in zip(frame.columns, *cells, strict=True)]


def _fitted(widths: list[int], room: int) -> list[int]:
    """Shorten the widest columns until all fit."""
    fitted = list(widths)
    while sum(fitted) > room and max(fitted) > NARROWEST:
        fitted[fitted.index(max(fitted))] -= 1
    return fitted


def _cell(cell: object) -> str:
    if cell is None:
        return ""
    return f"{cell:.6f}".rstrip("0").rstrip(".") if isinstance(cell, float) else " ".join(str(cell).split())
