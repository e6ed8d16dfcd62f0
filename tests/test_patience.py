"""How long calls of the Batch API are made again, and what is shown meanwhile."""

import time
from collections.abc import Awaitable, Callable

import pytest

from pipeline.executors.halt import Halt
from pipeline.executors.patience import Patience
from pipeline.flow import Failure, FailureKind, Unsent
from pipeline.retry import LONGEST_OUTAGE
from pipeline.usage import Tally

REFUSED = Failure(FailureKind.CONNECTION, "no connection (refused)", unsent=Unsent.REFUSED)
NO_NETWORK = Failure(FailureKind.CONNECTION, "no network", unsent=Unsent.NETWORK)
OFTEN = 20  # times that a call fails, more than a first one may


@pytest.fixture
def anyio_backend() -> str:
    """Return the backend of a run."""
    return "asyncio"


class Hasty(Halt):
    """A halt that waits for nothing, and counts for how long it would have."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.waited = 0.0
        self.shown: list[float] = []
        self._tally = tally
        self.said: list[Failure] = []

    async def sleep(self, seconds: float) -> bool:
        """Count the seconds, and what progress has to tell of them."""
        self.waited += seconds
        if self._tally.stalled is not None:
            self.shown.append(self._tally.stalled.next - time.monotonic())
        return True


def failing(failure: Failure, times: int) -> Callable[[], Awaitable[str | Failure]]:
    """Return a call that meets a failure so many times before it is answered."""
    left = iter([failure] * times)

    async def call() -> str | Failure:
        return next(left, "answered")

    return call


def patient() -> tuple[Patience, Hasty, Tally]:
    """Return a run's patience, what it waits with, and what it counts in."""
    tally = Tally(1, 0.0)
    halt = Hasty(tally)
    return Patience(tally, halt, LONGEST_OUTAGE, halt.said.append), halt, tally


@pytest.mark.anyio
async def test_an_address_where_nobody_listens_is_given_up_after_half_a_minute() -> None:
    """As online: before any answer it may be a wrong address. That it waits is told once."""
    patience, halt, tally = patient()
    assert await patience.asked(failing(REFUSED, OFTEN)) is REFUSED
    assert halt.said == [REFUSED]
    assert 10 < halt.waited < 40
    assert halt.shown == sorted(halt.shown)
    assert halt.shown[-1] > 5
    assert tally.stalled is None


@pytest.mark.anyio
async def test_once_the_api_has_answered_an_outage_is_waited_out() -> None:
    """It was there, so it will be again; a refusal is an answer, too."""
    for first in ("answered", Failure(FailureKind.BAD_REQUEST, "no")):
        patience, _, _ = patient()

        async def call(found: str | Failure = first) -> str | Failure:
            return found

        assert await patience.asked(call) is first
        assert await patience.asked(failing(REFUSED, OFTEN)) == "answered"


@pytest.mark.anyio
async def test_a_machine_without_a_network_is_waited_for() -> None:
    """It may just have been started."""
    patience, _, _ = patient()
    assert await patience.asked(failing(NO_NETWORK, OFTEN)) == "answered"
