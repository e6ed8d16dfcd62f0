"""A run with `max_cost`: what is in flight counts before it is paid for."""

from collections.abc import Iterator
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from pipeline.asking import Service
from pipeline.errors import Exit
from pipeline.executors.halt import Halt
from pipeline.executors.purse import Purse
from pipeline.flow import Failure, FailureKind, Reply, Usage
from pipeline.ledger import Ledger
from pipeline.offline import offline_endpoint
from pipeline.progress import usd
from pipeline.run import run_job
from pipeline.usage import Enqueued, Tally
from tests.conftest import Emulator, Project, emulating, unwatched
from tests.test_gate import DAY, REPLY, Api, calls, gate


@pytest.fixture
def anyio_backend() -> str:
    """Return the backend that aiolimiter needs."""
    return "asyncio"


@pytest.fixture(scope="module")
def slow() -> Iterator[Emulator]:
    """Return an emulator that answers after everything that may leave has left."""
    with emulating("--latency", "0.5") as emulator:
        yield emulator


def billed(emulator: Emulator) -> float:
    """Return what the emulator has billed since it was reset, in USD."""
    stats = emulator.stats()
    return float(stats["prompt_tokens"] * 0.25 + stats["output_tokens"] * 1.5) / 1e6


def limited(project: Project, most: float, *, pack: int = 1) -> None:
    """Give a job a limit of its cost, and packs."""
    project.change("rpm = 600000\n", f"rpm = 600000\nmax_cost = {most}\n")
    project.change("[output]", f"[packing]\nrows = {pack}\n\n[output]")


@pytest.mark.parametrize(("rows", "pack"), [(600, 1), (1500, 25)])
def test_a_run_ends_at_the_limit_by_about_one_request(
    project: Project, slow: Emulator, rows: int, pack: int
) -> None:
    """Although all of its requests would be in flight before the first replies, alone or in packs."""
    slow.reset()
    project.rows([f"good {'and very ' * (n % 9)} {n}" for n in range(rows)])
    limited(project, most := 1e-4 * rows / 4 / (1 if pack == 1 else 3), pack=pack)
    report = project.run(slow.address)
    assert report.exit_code is Exit.STOPPED
    assert report.stop is not None
    assert billed(slow) == pytest.approx(report.cost_usd)
    assert most <= billed(slow) <= most + 2 * billed(slow) / slow.stats()["answered"]


def purse(most: float, each: float = 0.4) -> tuple[Purse, Tally, Halt]:
    """Return a purse from which each row of a request is expected to take as much."""
    tally, halt = Tally(total=10, started=0.0), Halt()
    return Purse(most, lambda _text, rows: rows * each, tally, halt), tally, halt


async def fly(one: Purse, tally: Tally, flown: list[int], *, rows: int = 1, usd: float = 0.4) -> None:
    """Ask about rows, and note how many requests are in flight; its reply costs as much."""
    async with one.held("text", rows) as paid:
        if not paid:
            return
        flown.append(one._in_flight)
        await anyio.wait_all_tasks_blocked()
    tally.replied(Usage(), usd)


@pytest.mark.anyio
async def test_no_more_leave_than_there_is_money_for() -> None:
    """Two at a time of five, then one, and the run is stopped where all is spent."""
    one, tally, halt = purse(1.0)
    flown: list[int] = []
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(fly, one, tally, flown)
    assert flown == [1, 2, 1]
    assert tally.cost_usd == 1.2
    assert halt.reason is not None
    assert halt.reason.kind is FailureKind.MAX_COST


@pytest.mark.anyio
async def test_what_cost_less_than_expected_lets_others_leave() -> None:
    """So does a request that has failed, which costs nothing."""
    one, tally, halt = purse(1.0)
    flown: list[int] = []
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(partial(fly, one, tally, flown, usd=0.0))
    assert flown == [1, 2, 2, 2, 2]
    assert not halt.pulled.is_set()


@pytest.mark.anyio
async def test_a_dear_request_leaves_when_nothing_is_in_flight() -> None:
    """And none that is cheaper overtakes it meanwhile."""
    one, tally, _ = purse(1.0)
    flown: list[int] = []
    async with anyio.create_task_group() as group:
        for rows in (1, 5, 1):
            group.start_soon(partial(fly, one, tally, flown, rows=rows, usd=0.1))
            await anyio.lowlevel.checkpoint()
    assert flown == [1, 1, 1]


@pytest.mark.anyio
async def test_an_instruction_in_a_cache_holds_back_the_cached_price() -> None:
    """So more requests are in flight near the limit; it counts when the money is taken."""
    one, _, halt = purse(1.0)
    with anyio.fail_after(10):
        async with one.held("text", 2, lambda: 0.6), one.held("text", 2, lambda: 0.6):
            assert one._held == pytest.approx(0.4)
            assert one.fits("text", 1)
            assert not one.fits("text", 2)
    assert not halt.pulled.is_set()


@pytest.mark.anyio
async def test_who_loses_the_cache_while_it_waits_for_quota_takes_the_money_anew() -> None:
    """It has not left yet, so its whole price is held back before it does."""
    one, api, saved = gate(), Api([]), 0.3
    one.purse = Purse(1.0, lambda _text, _rows: 0.4, Tally(total=20, started=0.0), one._halt)
    assert await one.call(api.send, "first") == REPLY
    one.limiter.pause(0.3)
    held: list[float] = []

    async def send() -> Reply | Failure:
        assert one.purse is not None
        held.append(one.purse._held)
        return REPLY

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(one.call, send, "text", less=lambda: saved))
            await anyio.wait_all_tasks_blocked()
            assert one.purse._held == pytest.approx(0.1)
            saved = 0.0
    assert held == [pytest.approx(0.4)]


@pytest.mark.anyio
async def test_a_stop_wakes_who_waits_for_money() -> None:
    """It has not left, and holds nothing back."""
    one, _, halt = purse(1.0)
    with anyio.fail_after(10):
        async with one.held("text", 2), anyio.create_task_group() as group:
            flown: list[int] = []
            group.start_soon(fly, one, Tally(1, 0.0), flown)
            group.start_soon(fly, one, Tally(1, 0.0), flown)
            await anyio.wait_all_tasks_blocked()
            halt.pull(None)
    assert (flown, one._in_flight, one._held) == ([], 0, 0.0)


@pytest.mark.anyio
async def test_open_batch_jobs_count_as_spent() -> None:
    """What they may cost is not there for what is asked online."""
    one, tally, halt = purse(1.0)
    assert one.fits("text", 2)
    tally.enqueued = Enqueued(1, 1, 0.5, (), 0.0, 0.0)
    assert not one.fits("text", 2)
    async with one.held("text", 1) as paid:
        assert paid
        assert not one.fits("text", 1)
    tally.enqueued = Enqueued(1, 1, 1.0, (), 0.0, 0.0)
    async with one.held("text", 1) as paid:
        assert not paid
    assert halt.reason is not None
    assert "beside open batch jobs, which may cost $1.0000" in halt.reason.message


@pytest.mark.parametrize("pack", [1, 4])
def test_retries_and_equal_prompts_wait_for_no_money_of_their_own(project: Project, pack: int) -> None:
    """A request that fails gives back what it held, and a twin of one that waits holds nothing."""
    project.rows([f"good {n % 40}" for n in range(200)])
    limited(project, 0.0035, pack=pack)
    flags = [flag for fault in ("500@4", "badjson@6", "reset@8") for flag in ("--fault", fault)]
    with emulating("--latency", "0.05", *flags) as emulator:
        report = project.run(emulator.address)
        assert (report.exit_code, report.stop, report.table.ok) == (Exit.OK, None, 200)
        assert report.requests == emulator.stats()["requests"] >= 40 / pack + 3
        assert billed(emulator) == pytest.approx(report.cost_usd)
        assert not [note for note in report.notes if "max_cost" in note]


def test_a_run_that_ends_beyond_the_limit_says_so(project: Project, slow: Emulator) -> None:
    """With all rows answered nothing stops it, and the same exit code as ever."""
    project.rows(["good"])
    limited(project, 1e-5)
    report = project.run(slow.address)
    assert report.exit_code is Exit.OK
    assert report.notes == [f"spent {usd(report.cost_usd)}, less than $0.0001 more than `max_cost`"]


def test_free_tokens_hold_nothing_up(project: Project, slow: Emulator) -> None:
    """They cost nothing, so a limit of the cost changes nothing."""
    project.rows([f"good {n}" for n in range(30)])
    limited(project, 1e-9)
    service = Service(offline_endpoint(slow.address), Ledger(None, "test"), free=True)
    report = run_job(project.plan(), service, watch=unwatched)
    assert (report.exit_code, report.cost_usd, report.notes) == (Exit.OK, 0.0, [])


@pytest.mark.anyio
async def test_a_closed_gate_and_a_short_purse_do_not_wait_for_each_other() -> None:
    """Who waits for money does not leave while the day is in doubt, and who probes gets some."""
    one, api = gate(), Api([REPLY, DAY])
    one.purse = Purse(1.0, lambda _text, _rows: 0.4, Tally(total=20, started=0.0), one._halt)
    assert await calls(one, api.send, 20) == [REPLY] * 20
    assert api.calls == 21
