"""Shows a `Tally` while a run goes on: a live display on a terminal, a line now and then elsewhere."""

import math
import time
from dataclasses import dataclass
from datetime import timedelta
from textwrap import wrap

import anyio
import polars as pl
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.control import Control
from rich.live import Live
from rich.segment import ControlCode, ControlType
from rich.table import Table
from rich.text import Text

from pipeline.executors.gate import Gate
from pipeline.executors.halt import Halt
from pipeline.flow import Failure, FailureKind
from pipeline.limiter import Limiter
from pipeline.rates import dollars
from pipeline.usage import Enqueued, Tally

REDRAW_SECONDS = 0.25
LINE_SECONDS = 10.0
RARE_SECONDS = 300.0  # where batch jobs are waited for
NARROWEST = 6
ECHO = 5  # cells at the end of a line that stay free: a terminal shows ^C there
BAR, SHORTEST_BAR = 30, 8  # cells
BETWEEN = " · "
REASON_LINES = 3
GAP = 3  # letters between two columns
MESSAGE = 120  # letters of what the API said
LEAST_USD = 5e-5  # what is shown with four places
USED_UP = "are used up, by this run or others"
STOPPING = "stopping: {flying} in flight, paid for, may end; Ctrl-C {times} drops {them}"


@dataclass(frozen=True, slots=True)
class Watched:
    """What there is to see of a run while it goes on."""

    tally: Tally
    gate: Gate
    halt: Halt


@dataclass(frozen=True, slots=True)
class Words:
    """Where a run stands, in words; the fields of each list from the most to the least useful."""

    rows: str
    left: list[str]
    rates: list[str]
    totals: list[str]
    reason: str

    @property
    def line(self) -> str:
        """All of it in one line."""
        reason = [self.reason] if self.reason else []
        return BETWEEN.join([self.rows, *self.rates, *self.totals, *self.left, *reason])


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
        drawn: list[int] = []  # the length of each line that stands there
        width = self._console.width
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                run.tally.mark(time.monotonic())
                if self._console.width < width:
                    self._console.control(unwrapped(drawn, self._console.width))
                width = self._console.width
                lines = drawing(words_of(run), run.tally, max(NARROWEST, width - ECHO))
                drawn = [cell_len(line) for line in lines]
                live.update(Text("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)
                await anyio.sleep(REDRAW_SECONDS)

    async def _lines(self, run: Watched) -> None:
        kept = f", {run.tally.kept:,} with a reply in the journal" if run.tally.kept else ""
        alike = f", {run.tally.alike:,} equal to one of these" if run.tally.alike else ""
        to_ask = many(run.tally.left - run.tally.kept, "row")
        packs = f" with up to {run.tally.pack} in a request" if run.tally.pack > 1 else ""
        before = f"{run.tally.earlier - run.tally.alike:,} done before"
        jobs = (
            f", {_jobs(run.tally.enqueued)} open at the API"
            if run.tally.enqueued and run.tally.enqueued.jobs
            else ""
        )
        words = f"{to_ask} to ask{packs}, {before}{kept}{alike}{jobs}"
        self._console.print(words, soft_wrap=True)
        while True:
            run.tally.mark(time.monotonic())
            await _between(run.tally)
            self._console.print(words_of(run).line, soft_wrap=True, markup=False)


async def _between(tally: Tally) -> None:
    """Wait until another line is due: soon, unless all there is to do is to wait for batch jobs."""
    since = time.monotonic()
    while True:
        await anyio.sleep(LINE_SECONDS)
        waits = tally.enqueued is not None and tally.enqueued.jobs and not tally.enqueued.beside
        if not waits or tally.stalled is not None or time.monotonic() - since >= RARE_SECONDS:
            return


def drawing(words: Words, tally: Tally, room: int) -> list[str]:
    """Return lines of at most `room` cells; the last fields of a line are left out where it is short."""
    head = _joined([words.rows, *words.left], room)
    bar = min(BAR, room - cell_len(head) - 1)
    if bar >= SHORTEST_BAR:
        head = f"{_bar(tally.answered, tally.total, bar)} {head}"
    lines = [head, _joined(words.rates, room), _joined(words.totals, room)]
    lines += wrap(words.reason, room, max_lines=REASON_LINES, placeholder=" …")
    return [line for line in lines if line]


def _joined(fields: list[str], room: int) -> str:
    """Join the first fields, as many as there is room for."""
    while len(fields) > 1 and cell_len(BETWEEN.join(fields)) > room:
        fields = fields[:-1]
    return BETWEEN.join(fields)


def _bar(done: int, total: int, width: int) -> str:
    filled = width * done // max(1, total)
    return "━" * filled + "─" * (width - filled)


def unwrapped(drawn: list[int], width: int) -> Control:
    """Erase the lines that a terminal has made of longer ones, since it became as narrow as that.

    `Live` knows nothing of them: it erases as many as it has drawn.
    """
    more = sum(max(0, math.ceil(length / width) - 1) for length in drawn)
    erased: list[ControlCode] = [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)]
    return Control(*erased * more)


def words_of(run: Watched) -> Words:
    """Say where a run stands."""
    now, tally, limits = time.monotonic(), run.tally, run.gate.limiter.limits
    failed = f", {tally.failed:,} failed" if tally.failed else ""
    tokens = f"{tally.usage.prompt:,} tokens in, {tally.usage.output + tally.usage.thoughts:,} out"
    rate = tally.rows_per_minute(now)
    rates = [
        *([] if rate is None else [f"{rate:,.0f} rows/min"]),
        f"{_of(limits.rpm, tally.requests_in_minute(now), 'request')} in the last minute",
        f"{_of(limits.tpm, tally.tokens_in_minute(now), 'input token')} in it",
    ]
    stopping, enqueued = run.halt.pulled.is_set(), tally.enqueued
    waiting = _stopping(run) if stopping else _waiting(run.gate, tally.trouble)
    slowed = [_enqueued(enqueued, looks=tally.stalled is None)] if enqueued else []
    slowed += _trouble(run)
    left = [] if waiting or enqueued else [_left(tally.seconds_left(now, limits, run.gate.day.so_far()))]
    return Words(
        rows=f"{tally.answered:,} of {tally.total:,} rows{failed}",
        left=left,
        rates=rates if enqueued is None or enqueued.beside else [],
        totals=[usd(tally.cost_usd), _requests(tally), tokens],
        reason=waiting or BETWEEN.join(slowed),
    )


def _requests(tally: Tally) -> str:
    """Return how many requests have left, those apart that were put into batch jobs."""
    submitted, online = tally.shipped.requests, tally.departed - tally.shipped.requests
    if submitted and online > 0:
        return f"{many(online, 'request')}, {submitted:,} submitted"
    return f"{many(submitted, 'request')} submitted" if submitted else many(online, "request")


def _trouble(run: Watched) -> list[str]:
    """Say what makes a run slower than it might be, though it goes on; empty where nothing does."""
    if (stalled := run.tally.stalled) is not None:
        told = f": {_short(run.tally.trouble.message)}" if run.tally.trouble is not None else ""
        now = time.monotonic()
        return [_silent(now - stalled.since, span(max(0.0, stalled.next - now))) + told]
    if run.tally.trouble is not None:
        return [f"asking again: {_short(run.tally.trouble.message)}"]
    held = _held(run.gate.limiter)
    return [held] if held else []


def _held(limiter: Limiter) -> str:
    """Say which limit is used up, and until when; empty where the pace alone holds requests back."""
    limits, wait = limiter.limits, span(limiter.room_in) if limiter.room_in >= 1 else ""
    to_go, next_ = (f", {wait} to go", f", next request in {wait}") if wait else ("", "")
    match limiter.short_of:
        case "nano_usd":
            return f"paced by the spend limit: {dollars(limits.spend_10min_usd or 0)} in ten minutes{next_}"
        case "requests":
            return f"waiting: the {limits.rpm:,} requests of this minute {USED_UP}{to_go}"
        case "tokens":
            return f"waiting: the {limits.tpm:,} input tokens of this minute {USED_UP}{to_go}"
    return ""


def _jobs(open_: Enqueued) -> str:
    return f"{many(open_.jobs, 'batch job')} with {many(open_.requests, 'request')}"


def _enqueued(open_: Enqueued, *, looks: bool) -> str:
    if not open_.jobs:
        return "putting rows into batch jobs"
    states = ", ".join(f"{number:,} {state}" for state, number in open_.states)
    now = time.time()
    due = f", next look in {span(max(0.0, open_.due - now))}" if looks else ""
    return f"{_jobs(open_)} ({states}){at_most(open_.usd)}, the oldest for {span(now - open_.oldest)}{due}"


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
        return _silent(time.monotonic() - gate.down_since, pause)
    return _refused(trouble, pause)


def _silent(seconds: float, pause: str) -> str:
    return f"the API has not answered for {span(seconds)}, next attempt in {pause}"


def _refused(trouble: Failure | None, pause: str) -> str:
    """Say why the API lets nothing through for now."""
    if trouble is not None and trouble.kind is FailureKind.SPEND_LIMITED:
        return f"the API says that the spend limit of ten minutes is reached, next request in {pause}"
    if trouble is not None and trouble.retry_after is None:
        return f"the API refuses requests for now, next one in {pause}"
    return f"the API asked to wait, {pause} to go"


def _of(limit: int | None, count: float, word: str) -> str:
    return many(round(count), word) if limit is None else f"{count:,.0f} of {many(limit, word)}"


def _short(message: str) -> str:
    return message if len(message) <= MESSAGE else f"{message[: MESSAGE - 1]}…"


def _left(seconds: float | None) -> str:
    return "time left unknown yet" if seconds is None else f"{span(seconds)} left"


def many(number: int, word: str) -> str:
    """Return a count with its word: `1 row`, `2,000 rows`."""
    return f"{number:,} {word}{'s' * (number != 1)}"


def usd(cost: float) -> str:
    """Return money for people: `$0.1161`; what four places would hide is `less than $0.0001`."""
    return "less than $0.0001" if 0 < cost < LEAST_USD else f"${cost:,.4f}"


def at_most(cost: float) -> str:
    """Return what open jobs may cost by the estimate, behind a comma; nothing where they cost nothing."""
    told = usd(cost)
    bound = told if told.startswith("less") else f"no more than {told}"
    return f", estimated at {bound}" if cost else ""


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


def picture(frame: pl.DataFrame, width: int, *, edge: bool = True, grouped: bool = False) -> Table:
    """Return a table for a terminal of `width` letters: a line for each row, the longest texts cut.

    Without an `edge` it has no blank lines around it, as where no terminal is; `grouped` numbers are counts,
    with their thousands set apart.
    """
    cells, wanted = _cells(frame, grouped=grouped)
    table = Table(box=SIMPLE_HEAD, show_edge=edge)
    texts = [not kind.is_numeric() for kind in frame.dtypes]
    fitted = _fitted(wanted, texts, width - GAP * len(wanted) - edge)
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


def fits(frame: pl.DataFrame, width: int, *, grouped: bool = False) -> bool:
    """Tell whether `picture` cuts no cell."""
    _, wanted = _cells(frame, grouped=grouped)
    return sum(wanted) + GAP * len(wanted) < width


def _cells(frame: pl.DataFrame, *, grouped: bool) -> tuple[list[list[str]], list[int]]:
    """Return the cells as text, row by row, and the width of each column."""
    shown = counted if grouped else _cell
    cells = [[shown(cell) for cell in row] for row in frame.iter_rows()]
    return cells, [max(map(len, column)) for column in zip(frame.columns, *cells, strict=True)]


def _fitted(widths: list[int], texts: list[bool], room: int) -> list[int]:
    """Shorten the widest columns until all fit: those of text first, since part of a number says nothing."""
    fitted = list(widths)
    for may in (texts, [True] * len(texts)):
        cut = [place for place, allowed in enumerate(may) if allowed]
        while sum(fitted) > room and cut and max(fitted[place] for place in cut) > NARROWEST:
            fitted[max(cut, key=fitted.__getitem__)] -= 1
    return fitted


def counted(cell: object) -> str:
    """Return a cell as text, a whole number as a count: `150,000`."""
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else _cell(cell)


def _cell(cell: object) -> str:
    if cell is None:
        return ""
    return f"{cell:.6f}".rstrip("0").rstrip(".") if isinstance(cell, float) else " ".join(str(cell).split())
