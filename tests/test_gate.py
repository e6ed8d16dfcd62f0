"""What a request passes before it leaves, and how the day's quota ends a run or is waited for."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import date

import anyio
import pytest

from pipeline.executors.crew import Crew
from pipeline.executors.day import Day
from pipeline.executors.gate import Gate
from pipeline.executors.halt import Halt
from pipeline.flow import Failure, FailureKind, Reply, Unsent, Usage
from pipeline.ledger import Ledger
from pipeline.limiter import Limiter
from pipeline.models import Limits
from pipeline.quota import day_reset, pacific_day
from pipeline.tokens import CostEstimate, Costing, TokenEstimate

NOON = 1_795_464_000.0  # 2026-11-23 12:00 in California
REPLY = Reply("{}", "STOP", "", Usage(10, 0, 0, 5, 15), "m", "standard", 0.01, "api")
DAY = Failure(FailureKind.QUOTA_DAY, "the day", retry_after=0.05, quota_id="RequestsPerDay", quota_value=9)


@pytest.fixture
def anyio_backend() -> str:
    """Return the backend that aiolimiter needs."""
    return "asyncio"


@dataclass
class Api:
    """An API that answers as its script says, and then always with `rest`."""

    script: list[Reply | Failure]
    rest: Reply | Failure = field(default_factory=lambda: REPLY)
    calls: int = 0

    async def send(self) -> Reply | Failure:
        """Answer."""
        self.calls += 1
        await anyio.sleep(0.01)
        return self.script.pop(0) if self.script else self.rest


def gate(
    limits: Limits | None = None, *, now: float = NOON, wait: bool = False, ledger: Ledger | None = None
) -> Gate:
    """Return a gate whose clock began at `now`."""
    began = time.monotonic()

    def clock() -> float:
        return now + time.monotonic() - began

    ledger = ledger or Ledger(None, "test")
    limiter = Limiter(limits or Limits(), ledger, cap=100, wall=clock)
    costing = Costing(TokenEstimate(""), CostEstimate(None), lambda _reply: 0.0)
    halt = Halt()
    day = Day(limiter, ledger, halt, clock=clock, wait=wait)
    return Gate(limiter, day, halt, Crew(100), costing=costing)


async def calls(one: Gate, send: Callable[[], Awaitable[Reply | Failure]], number: int) -> list[object]:
    """Return what so many rows get that ask at the same time."""
    answers: list[object] = []

    async def row() -> None:
        answers.append(await one.call(send, "text"))
        one.leave()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(number):
                group.start_soon(row)
    return answers


@pytest.mark.anyio
async def test_a_daily_429_that_was_wrong_costs_one_probe() -> None:
    """After the delay one request probes; when it is answered the run goes on."""
    api = Api([REPLY, DAY])
    assert await calls(gate(), api.send, 5) == [REPLY] * 5
    assert api.calls == 6


@pytest.mark.anyio
async def test_a_daily_429_that_is_true_costs_the_probe_and_what_was_in_flight() -> None:
    """Twenty rows, one in flight and one probe: no further call, and the day is remembered."""
    ledger = Ledger(None, "test")
    one, api = gate(Limits(rpm=6_000), ledger=ledger), Api([REPLY], rest=DAY)
    assert await one.call(api.send, "first") == REPLY
    assert await one.call(api.send, "second") == DAY
    assert api.calls == 3
    assert ledger.refused(pacific_day(NOON))


@pytest.mark.anyio
async def test_nobody_else_asks_while_the_day_is_in_doubt() -> None:
    """Those that wait at the gate do not leave when it closes."""
    one, api = gate(Limits(rpm=600)), Api([REPLY], rest=DAY)
    await one.call(api.send, "first")
    answers: list[object] = []

    async def row() -> None:
        answer = await one.call(api.send, "text")
        answers.append(answer)
        if answer == DAY:
            one._halt.pull(DAY)

    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(row)
    in_flight = one.limiter.congestion._round.most
    assert api.calls <= 1 + in_flight + 1 < 30


@pytest.mark.anyio
async def test_a_day_known_to_be_over_costs_one_call() -> None:
    """Who types the command again on the same day is told after one request, without a second probe."""
    ledger = Ledger(None, "test")
    ledger.refuse(pacific_day(NOON))
    api = Api([], rest=DAY)
    assert await gate(ledger=ledger).call(api.send, "text") == DAY
    assert api.calls == 1


@pytest.mark.anyio
async def test_a_new_quota_on_the_same_day_is_used() -> None:
    """When the API answers again, for instance in a better tier, the refusal is forgotten."""
    ledger = Ledger(None, "test")
    ledger.refuse(pacific_day(NOON))
    assert await gate(ledger=ledger).call(Api([]).send, "text") == REPLY
    assert not ledger.refused(pacific_day(NOON))


@pytest.mark.anyio
async def test_our_own_count_wastes_no_call() -> None:
    """The request after the last of the day does not leave."""
    api = Api([])
    answers = await calls(gate(Limits(rpd=3)), api.send, 4)
    assert api.calls == 3
    assert [answer for answer in answers if isinstance(answer, Failure)] == [
        Failure(FailureKind.QUOTA_DAY, "all 3 requests of today are used")
    ]


@pytest.mark.anyio
async def test_waiting_goes_on_after_the_reset() -> None:
    """With `wait` the rows that the day has no room for are asked after midnight in California."""
    midnight = day_reset(NOON).timestamp()
    ledger, api = Ledger(None, "test"), Api([])
    one = gate(Limits(rpd=3), now=midnight - 0.5, wait=True, ledger=ledger)
    assert await calls(one, api.send, 5) == [REPLY] * 5
    one.limiter.close()
    assert (ledger.count(pacific_day(midnight - 1)), ledger.count(pacific_day(midnight))) == (3, 2)


@pytest.mark.anyio
async def test_a_refused_day_is_waited_for_without_calls() -> None:
    """A 429 of the day, its probe, and then nothing until the reset."""
    midnight = day_reset(NOON).timestamp()
    api = Api([REPLY, DAY, DAY])
    one = gate(now=midnight - 0.5, wait=True)
    await one.call(api.send, "first")
    assert await one.call(api.send, "second") == REPLY
    assert api.calls == 4


@pytest.mark.anyio
async def test_a_pulled_halt_ends_the_wait_for_the_reset() -> None:
    """Ctrl-C during the night is heard at once."""
    one = gate(Limits(rpd=1), wait=True)
    await one.call(Api([]).send, "first")
    async with anyio.create_task_group() as group:
        group.start_soon(one.call, Api([]).send, "second")
        with anyio.fail_after(5):
            while one.day.parked_until is None:  # noqa: ASYNC110 - it tells nobody
                await anyio.sleep(0.01)
            assert one.day.parked_until.date() == date(2026, 11, 24)
            one._halt.pull(None)


@pytest.mark.anyio
async def test_a_lower_limit_that_the_api_names_is_kept() -> None:
    """The 429 of a minute is returned to the row, and the limiter knows the true limit."""
    quota = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
    minute = Failure(FailureKind.RATE_LIMITED, "", retry_after=1.0, quota_id=quota, quota_value=10)
    one = gate(Limits(rpm=6_000))
    assert await one.call(Api([minute]).send, "text") == minute
    assert one.limiter.limits.rpm == 10


@pytest.mark.anyio
async def test_a_bare_429_lowers_what_is_in_flight() -> None:
    """Vertex AI names no quota: there the number in flight is cut."""
    bare = Failure(FailureKind.RATE_LIMITED, "Resource exhausted")
    one = gate()
    await calls(one, Api([REPLY]).send, 1)
    await anyio.sleep(0.25)
    await calls(one, Api([], rest=bare).send, 20)
    assert one.limiter.congestion.limit < 20


@pytest.mark.anyio
async def test_a_row_above_the_budget_opens_nothing() -> None:
    """It is refused here and not by the API, so whether the API answers is still unknown."""
    ledger = Ledger(None, "test")
    ledger.refuse(pacific_day(NOON))
    one = gate(Limits(tpm=10), ledger=ledger)
    answer = await one.call(Api([]).send, "word " * 200)
    assert isinstance(answer, Failure)
    assert answer.kind is FailureKind.TOO_LONG
    assert not one.answered
    assert ledger.refused(pacific_day(NOON))


@pytest.mark.anyio
async def test_a_service_that_hangs_opens_nothing() -> None:
    """A request that met its time limit is no sign that the API is there."""
    one = gate()
    await one.call(Api([Failure(FailureKind.TIMEOUT, "no answer")]).send, "text")
    assert not one.answered
    assert one.down_since is not None


@pytest.mark.anyio
async def test_a_refusal_ends_an_outage() -> None:
    """Who says that there are too many requests is there: time without any answer starts anew."""
    one = gate()
    lost = Failure(FailureKind.CONNECTION, "reset")
    await one.call(Api([REPLY, lost]).send, "text")
    await one.call(Api([lost]).send, "text")
    assert one.down_since is not None
    await one.call(Api([Failure(FailureKind.RATE_LIMITED, "", retry_after=1.0)]).send, "text")
    assert one.down_since is None


@pytest.mark.anyio
@pytest.mark.parametrize(("unsent", "counted"), [(Unsent.REFUSED, 1), (None, 2)])
async def test_a_request_that_never_left_is_none_of_the_day(unsent: Unsent | None, counted: int) -> None:
    """A refused connection leaves the day's count as it was, a broken one may have been answered."""
    ledger = Ledger(None, "test")
    one = gate(Limits(rpd=9), ledger=ledger)
    await one.call(Api([Failure(FailureKind.CONNECTION, "", unsent=unsent)]).send, "text")
    one.limiter.close()  # it is counted with the next lease
    await one.call(Api([REPLY]).send, "text")
    one.limiter.close()
    assert ledger.count(pacific_day(NOON)) == counted


@pytest.mark.anyio
async def test_a_reply_that_does_not_say_what_it_counted_teaches_nothing() -> None:
    """The reservation stays."""
    one = gate(Limits(tpm=10_000))
    unknown = Reply("{}", "STOP", "", Usage(), "m", "standard", 0.01, "api")
    before = one._costing.tokens.tokens("text " * 100)
    for _ in range(20):
        await one.call(Api([unknown]).send, "text " * 100)
    assert one._costing.tokens.tokens("text " * 100) == before


@pytest.mark.anyio
async def test_who_fails_before_any_answer_gives_way_to_all_others() -> None:
    """Each asks once before any asks again, in their order, and the run is not held back besides."""
    one, asked = gate(), list[str]()
    broken = Failure(FailureKind.SERVER, "")

    async def row(name: str) -> None:
        async def send() -> Reply | Failure:
            asked.append(name)
            return REPLY if len(asked) > 4 else broken

        while await one.call(send, name) is broken:
            assert one.limiter.congestion.held_until == 0.0
            await one.tried()
        one.leave()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for name in "abc":
                group.start_soon(row, name)
    assert asked[:5] == ["a", "b", "c", "a", "b"]
    assert (one.answered, one.vain) == (True, 0)
