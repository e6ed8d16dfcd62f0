"""The limiter keeps its promises on a real event loop."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from pipeline.flow import Failure, FailureKind
from pipeline.leases import Full
from pipeline.ledger import Ledger
from pipeline.limiter import Admission, Limiter
from pipeline.models import Limits
from pipeline.quota import Amount


@pytest.fixture
def anyio_backend() -> str:
    """Return the backend that aiolimiter needs."""
    return "asyncio"


def limiter(limits: Limits, *, cap: int = 1_000, paced: bool = True) -> Limiter:
    """Return a limiter that nobody shares."""
    return Limiter(limits, Ledger(None, "test"), cap=cap, paced=paced)


def tokens(number: int) -> Callable[[], Amount]:
    """Return an estimate."""
    return lambda: Amount(1, number)


async def admitted(one: Limiter, number: int = 1) -> Admission:
    """Wait for a request to be admitted."""
    found = await one.admit(tokens(number))
    assert isinstance(found, Admission)
    return found


@pytest.mark.anyio
async def test_requests_leave_in_order() -> None:
    """A large prompt is not overtaken by small ones that came later."""
    one, left = limiter(Limits(tpm=600_000)), []

    async def ask(name: str, number: int) -> None:
        await one.admit(tokens(number))
        left.append(name)

    async with anyio.create_task_group() as group:
        for name, number in [("large", 8_000), ("small", 1), ("tiny", 1)]:
            group.start_soon(ask, name, number)
            await anyio.lowlevel.checkpoint()
    assert left == ["large", "small", "tiny"]


@pytest.mark.anyio
async def test_what_was_underestimated_is_charged_later() -> None:
    """Tokens that a reply counted above the estimate hold back the next request."""
    one = limiter(Limits(tpm=60_000))
    one.end(await admitted(one, 700), Amount(1, 1_200))
    started = time.monotonic()
    await admitted(one, 100)
    assert time.monotonic() - started >= 0.2  # 1,300 tokens in all, where 1,000 leave at once


@pytest.mark.anyio
async def test_requests_are_spread_over_the_minute() -> None:
    """Of 600 a minute 10 leave in a second, from the first second on."""
    one = limiter(Limits(rpm=600))
    started, left = time.monotonic(), 0
    while time.monotonic() - started < 0.95:
        await admitted(one)
        left += 1
    assert 9 <= left <= 11


@pytest.mark.anyio
async def test_a_request_above_the_bucket_leaves_all_the_same() -> None:
    """One request may be larger than what the bucket holds at once."""
    with anyio.move_on_after(5) as waited:
        await admitted(limiter(Limits(tpm=1_000_000)), 30_000)
    assert not waited.cancelled_caught


@pytest.mark.anyio
async def test_a_pause_holds_back_everything() -> None:
    """Nothing leaves before the pause has ended."""
    one = limiter(Limits())
    one.pause(0.2)
    started = time.monotonic()
    await admitted(one)
    assert time.monotonic() - started >= 0.2


@pytest.mark.anyio
async def test_no_more_are_in_flight_than_the_cap() -> None:
    """The next request leaves when one has come back."""
    one = limiter(Limits(), cap=2)
    first, _ = await admitted(one), await admitted(one)
    with anyio.move_on_after(0.05) as waited:
        await admitted(one)
    assert waited.cancelled_caught
    one.end(first, Amount(1))
    with anyio.fail_after(1):
        await admitted(one)
    assert one.in_flight == 2


@pytest.mark.anyio
async def test_without_a_known_rate_few_leave_at_first() -> None:
    """Where nothing is known of the service it is not flooded."""
    one, left = limiter(Limits(), paced=False), 0
    with anyio.move_on_after(0.05):
        while True:
            await admitted(one)
            left += 1
    assert left == 8


@pytest.mark.anyio
async def test_a_lower_limit_of_the_api_is_kept_to() -> None:
    """After a 429 that names 60 a minute, one request leaves in a second."""
    one = limiter(Limits(rpm=60_000))
    quota = "GenerateRequestsPerMinutePerProjectPerModel"
    one.learn(Failure(FailureKind.RATE_LIMITED, "", quota_id=quota, quota_value=60))
    assert one.limits.rpm == 60
    await admitted(one)
    with anyio.move_on_after(0.5) as waited:
        await admitted(one)
    assert waited.cancelled_caught


@pytest.mark.anyio
async def test_the_day_s_limit_is_told() -> None:
    """The request after the last of the day is not admitted."""
    one = limiter(Limits(rpd=1))
    await admitted(one)
    found = await one.admit(tokens(1))
    assert isinstance(found, Full)
    assert found.day


@pytest.mark.anyio
async def test_who_does_not_want_to_leave_any_more_takes_no_room() -> None:
    """What was decided while a request waited is heeded, and nothing is counted for it."""
    ledger = Ledger(None, "test")
    one = Limiter(Limits(rpd=1), ledger, cap=1)
    assert await one.admit(tokens(1), lambda: False) is None
    assert one.in_flight == 0
    await admitted(one)


@pytest.mark.anyio
async def test_two_runs_share_the_rate(tmp_path: Path) -> None:
    """Two limiters on one ledger both get on, and a change of shares lets no burst through."""
    path, left = tmp_path / "ledger.sqlite", [0, 0]
    with closing(Ledger(path, "p")) as first, closing(Ledger(path, "p")) as second:

        async def ask(place: int, one: Limiter) -> None:
            while True:
                await admitted(one)
                left[place] += 1

        with anyio.move_on_after(1.5):
            async with anyio.create_task_group() as group:
                for place, ledger in enumerate((first, second)):
                    group.start_soon(ask, place, Limiter(Limits(rpm=600), ledger, cap=1_000))
    assert sum(left) <= 2 * 15 + 4
    assert min(left) >= 10


@pytest.mark.anyio
async def test_what_was_waited_for_is_there_at_once() -> None:
    """At a high rate the next requests need not wait, until what was waited for is used up."""
    one = limiter(Limits(rpm=60_000))  # 20 in a fiftieth of a second
    assert one.admit_now(Amount(1)) is None
    await admitted(one)
    at_once = 0
    while one.admit_now(Amount(1)) is not None:
        at_once += 1
    assert 17 <= at_once <= 19


@pytest.mark.anyio
async def test_nobody_overtakes_the_line() -> None:
    """While one waits for its turn, another is not admitted at once."""
    one = limiter(Limits(rpm=60_000))
    await admitted(one)
    one.pause(0.1)
    async with anyio.create_task_group() as group:
        group.start_soon(admitted, one)
        await anyio.lowlevel.checkpoint()
        assert one.admit_now(Amount(1)) is None
