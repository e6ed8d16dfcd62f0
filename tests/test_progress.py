"""What is said while a run goes on."""

import io
import sys
import time
from contextlib import closing
from datetime import date
from pathlib import Path

import anyio
import polars as pl
import pytest
from rich.console import Console

from pipeline.cli.talk import Talk, hanging, tell
from pipeline.executors.crew import Crew
from pipeline.executors.day import Day
from pipeline.executors.gate import Gate
from pipeline.executors.halt import Halt
from pipeline.executors.parting import Dear
from pipeline.flow import Failure, FailureKind, Outcome, Spent, Usage
from pipeline.leases import Moment
from pipeline.ledger import Ledger
from pipeline.limiter import Limiter
from pipeline.models import Limits
from pipeline.progress import MESSAGE, Watched, drawing, picture, unwrapped, words_of
from pipeline.quota import NANO, Amount, allowances
from pipeline.rates import dollars
from pipeline.tokens import CostEstimate, Costing, TokenEstimate
from pipeline.usage import Enqueued, Stalled, Tally


def watched(limits: Limits, ledger: Ledger | None = None) -> Watched:
    """Return a run that has asked nothing yet."""
    ledger, halt, crew = ledger or Ledger(None, "test"), Halt(), Crew(4)
    limiter = Limiter(limits, ledger, cap=4)
    day = Day(limiter, ledger, halt, wait=False)
    costing = Costing(TokenEstimate(""), CostEstimate(None), lambda _reply: 0.0)
    return Watched(Tally(total=9, started=0.0), Gate(limiter, day, halt, crew, costing=costing), halt)


async def held(run: Watched, amount: Amount) -> str:
    """Return what a run says when it has waited for room for some time."""
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(run.gate.limiter.admit, lambda: amount)
        for _ in range(1_000):
            if reason := words_of(run).reason:
                break
            await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    return reason


@pytest.mark.anyio
async def test_a_run_held_by_the_spend_limit_says_so() -> None:
    """Whoever waits for money is told that it is money, and not that it were spent."""
    run = watched(Limits(spend_10min_usd=1.0))
    reason = await held(run, Amount(1, 10, NANO // 2))
    assert reason.startswith("paced by the spend limit: $1 in ten minutes")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(rpm=60), "waiting: the 60 requests of this minute are used up, by this run or others"),
        (Limits(tpm=600), "waiting: the 600 input tokens of this minute are used up, by this run or others"),
    ],
)
async def test_a_minute_that_others_have_used_up_is_named(tmp_path: Path, limits: Limits, words: str) -> None:
    """What another run has sent is a reason to wait, and until when is told."""
    with closing(Ledger(tmp_path / "l", "t")) as other, closing(Ledger(tmp_path / "l", "t")) as own:
        now = lambda: Moment(time.monotonic(), date(2026, 11, 22))  # noqa: E731 - it is one expression
        each = Amount(1, 10)
        other.lease(each, 60, list(allowances(limits, 0.0)), rpd=None, clock=now)
        reason = await held(watched(limits, own), each)
    assert reason.startswith(words)
    assert reason.endswith(" to go")


def busy() -> Watched:
    """Return a run with large numbers and a long reason."""
    run = watched(Limits(rpm=30_000, tpm=30_000_000))
    tally = run.tally
    tally.total, tally.failed, tally.requests = 12_345_678, 1_234, 2_345_678
    tally.replied(Usage(prompt=1_234_567_890, output=123_456_789, total=1_358_024_679), 1_234.5678)
    tally.done, tally.replies, tally.started = 1_234_567, 1_234_567, time.monotonic() - 100
    tally.refused(Failure(FailureKind.SERVER, "the API has failed " * 20))
    return run


@pytest.mark.parametrize("width", [20, 60, 70, 80, 100, 120, 200])
def test_what_is_drawn_fits(width: int) -> None:
    """No line is longer than there is room, and at 60 the rows and what is wrong are still there."""
    run = busy()
    lines = drawing(words_of(run), run.tally, width)
    assert len(lines) <= 6
    assert width < 60 or max(map(len, lines)) <= width
    assert "1,235,801 of 12,345,678 rows, 1,234 failed" in lines[0]
    assert any("asking again" in line for line in lines)
    assert any("input tokens in it" in line for line in lines) == (width >= 120)


def test_lines_that_a_narrower_terminal_has_wrapped_are_erased() -> None:
    """A line of 70 takes two at 40 and three at 30; one that still fits takes no more than it did."""
    assert unwrapped([70, 30], 40).segment.text.count("\x1b[1A") == 1
    assert unwrapped([70, 30], 30).segment.text.count("\x1b[1A") == 2
    assert not unwrapped([70, 30], 80).segment.text


@pytest.mark.anyio
async def test_what_the_api_said_is_cut_where_it_is_long() -> None:
    """The line stays readable, and shows that something was cut."""
    run = watched(Limits())
    run.tally.refused(Failure(FailureKind.SERVER, "x" * 500))
    said = words_of(run).reason
    assert said.endswith("x…")
    assert len(said) < MESSAGE + 20


@pytest.mark.parametrize("texts", [1, 9])
def test_of_a_wide_table_texts_are_cut_and_no_numbers(texts: int) -> None:
    """What stands there fits, with the whole name and value of the cost."""
    columns = {f"a_long_name_{n}": ["a long text that says much " * 5] for n in range(texts)}
    frame = pl.DataFrame({**columns, "_cost_usd": [0.000123]})
    console = Console(width=120, file=io.StringIO())
    console.print(picture(frame, 120))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "_cost_usd" in shown
    assert "0.000123" in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_a_run_by_batches_shows_no_rate_before_its_first_job() -> None:
    """Requests a minute mean nothing to it, and it has sent none."""
    run = watched(Limits(rpm=4_000))
    run.tally.enqueued = Enqueued(0, 0, 0.0, (), 0.0, 0.0)
    said = "0 of 9 rows · $0.0000 · 0 requests · 0 tokens in, 0 out · putting rows into batch jobs"
    assert words_of(run).line == said


def test_requests_that_were_submitted_are_told_from_those_that_were_asked() -> None:
    """What stands in a job may not have been looked at by anybody yet."""
    run = watched(Limits(rpm=4_000))
    run.tally.requests = 119
    run.tally.shipped.created(1, 119, 595)
    assert words_of(run).totals[1] == "119 requests submitted"
    run.tally.sent()
    assert words_of(run).totals[1] == "1 request, 119 submitted"


@pytest.mark.parametrize(
    ("usd", "said"),
    [(1e-6, "$0.000001"), (0.05, "$0.05"), (20.0, "$20"), (1_234_567.5, "$1,234,567.5"), (0.1 + 0.2, "$0.3")],
)
def test_a_limit_in_dollars_is_told_as_it_was_given(usd: float, said: str) -> None:
    """However small it is."""
    assert dollars(usd) == said
    assert Dear(0.1, 0.0, usd).words.endswith(f"is left of the {said} that the run may spend")


def test_a_run_shows_a_rate_of_rows_once_there_is_one() -> None:
    """Before that, only what the last minute holds, which is what counts against the limits."""
    run = watched(Limits(rpm=4_000, tpm=4_000_000))
    run.tally.started = time.monotonic()
    run.tally.sent()
    assert words_of(run).rates == [
        "1 of 4,000 requests in the last minute",
        "0 of 4,000,000 input tokens in it",
    ]
    run.tally.started -= 30
    run.tally.add(Outcome(b"k", b"d", Failure(FailureKind.SERVER, "no answer"), Spent()))
    assert words_of(run).rates[0] == "2 rows/min"


def test_jobs_that_are_open_while_rows_are_asked_online_are_named() -> None:
    """With the rates of what is asked, and what they may cost."""
    run = watched(Limits(rpm=4_000))
    run.tally.enqueued = Enqueued(1, 5, 0.01, (("running", 1),), time.time() - 60, 0.0, beside=True)
    line = words_of(run).line
    assert "0 of 4,000 requests in the last minute · 0 input tokens in it" in line
    assert (
        "1 batch job with 5 requests (1 running), estimated at no more than $0.0100, the oldest for 60 s"
        in line
    )


def test_a_run_by_batches_says_that_nobody_answers() -> None:
    """For how long, and when it tries again; that it would look at its jobs now says nothing."""
    run = watched(Limits(rpm=4_000))
    now = time.monotonic()
    run.tally.enqueued = Enqueued(1, 5, 0.0, (("running", 1),), time.time() - 60, 0.0)
    run.tally.trouble = Failure(FailureKind.CONNECTION, "no connection")
    run.tally.stalled = Stalled(now - 40, now + 30.2)
    said = "the oldest for 60 s · the API has not answered for 40 s, next attempt in 30 s: no connection"
    assert words_of(run).line.endswith(said)


@pytest.mark.parametrize(("terminal", "lines"), [(True, 2), (False, 1)])
def test_results_end_their_lines_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, terminal: bool, lines: int
) -> None:
    """As notes do: on a terminal, while a file gets whole lines."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "20")
    tell(["several words [of] a note"])
    said = capsys.readouterr().out
    assert (len(said.splitlines()), said.split()) == (lines, ["several", "words", "[of]", "a", "note"])


def test_notes_end_their_lines_between_words() -> None:
    """On a terminal; in a file a note is one line."""
    said = "several words of a note"
    for terminal, lines in [(True, ["several words of a", "  note"]), (False, [said])]:
        talk = Talk(file=io.StringIO(), force_terminal=terminal, width=18)
        talk.print(said, soft_wrap=True)
        assert isinstance(talk.file, io.StringIO)
        assert [line.rstrip() for line in talk.file.getvalue().splitlines()] == lines


def test_what_goes_on_stands_further_in_than_its_line() -> None:
    """So no path is taken for a line of its own, and it stays whole, whatever the width."""
    said = "error: no file\n\n  written: /one/long-path/of/labels.parquet  twice\n"
    broken = "error: no\n  file\n\n  written:\n    /one/long-path/of/labels.parquet\n    twice\n"
    assert hanging(said, 12) == broken
    assert hanging(said, 80) == said
    assert hanging("a b", 0) == "a\n  b"
