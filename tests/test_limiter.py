"""The limiter keeps its promises on a real event loop."""

import time

import anyio
import pytest

from pipeline.limiter import Limiter
from pipeline.models import Limits


@pytest.fixture
def anyio_backend() -> str:
    """Return the backend that aiolimiter needs."""
    return "asyncio"


@pytest.mark.anyio
async def test_requests_leave_in_order() -> None:
    """A large prompt is not overtaken by small ones that came later."""
    limiter, left = Limiter(Limits(tpm=600_000)), []

    async def ask(name: str, tokens: int) -> None:
        await limiter.admit(lambda: tokens)
        left.append(name)

    async with anyio.create_task_group() as group:
        for name, tokens in [("large", 8_000), ("small", 1), ("tiny", 1)]:
            group.start_soon(ask, name, tokens)
            await anyio.lowlevel.checkpoint()
    assert left == ["large", "small", "tiny"]


@pytest.mark.anyio
async def test_what_was_underestimated_is_charged_later() -> None:
    """Tokens that a reply counted above the estimate hold back the next request."""
    limiter = Limiter(Limits(tpm=60_000))
    limiter.settle(await limiter.admit(lambda: 700), 1_200)
    started = time.monotonic()
    await limiter.admit(lambda: 100)
    assert time.monotonic() - started >= 0.2  # 1,300 tokens in all, where 1,000 leave at once


@pytest.mark.anyio
async def test_requests_are_spread_over_the_minute() -> None:
    """Of 600 a minute a second's worth leaves at once, and then 10 a second."""
    limiter = Limiter(Limits(rpm=600))
    started, left = time.monotonic(), 0
    while time.monotonic() - started < 0.25:
        await limiter.admit(lambda: 1)
        left += 1
    assert 8 <= left <= 14


@pytest.mark.anyio
async def test_a_request_above_the_bucket_leaves_all_the_same() -> None:
    """One request may be larger than what the bucket holds at once."""
    limiter = Limiter(Limits(tpm=1_000_000))
    with anyio.move_on_after(5) as waited:
        await limiter.admit(lambda: 30_000)
    assert not waited.cancelled_caught


@pytest.mark.anyio
async def test_a_pause_holds_back_everything() -> None:
    """Nothing leaves before the pause has ended."""
    limiter = Limiter(Limits())
    limiter.pause(0.2)
    started = time.monotonic()
    await limiter.admit(lambda: 1)
    assert time.monotonic() - started >= 0.2
