"""The daily quota: doubted, over, waited for, whatever the clock does meanwhile."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from pipeline.executors.day import LATE, SLICE, Day
from pipeline.executors.halt import Halt
from pipeline.flow import Failure, FailureKind
from pipeline.ledger import Ledger
from pipeline.limiter import Limiter
from pipeline.models import Limits
from pipeline.quota import day_reset, pacific_day

NOON = datetime(2026, 11, 23, 20, tzinfo=UTC).timestamp()  # 12:00 in California
HOURS = 3_600.0


@pytest.fixture
def anyio_backend() -> str:
    """Return the backend that aiolimiter needs."""
    return "asyncio"


class Sleeper(Halt):
    """A halt whose sleeps take no time but move a clock, by `took` of what they were to take."""

    def __init__(self, now: float, took: Callable[[float], float] = lambda seconds: seconds) -> None:
        super().__init__()
        self.now, self.took, self.slept = now, took, list[float]()

    async def sleep(self, seconds: float) -> bool:
        """Move the clock."""
        self.slept.append(seconds)
        self.now += self.took(seconds)
        return not self.pulled.is_set()


def day(halt: Sleeper, *, wait: bool = True, ledger: Ledger | None = None) -> Day:
    """Return a day on the sleeper's clock."""
    ledger = ledger or Ledger(None, "test")
    limiter = Limiter(Limits(), ledger, cap=1)
    return Day(limiter, ledger, halt, clock=lambda: halt.now, wait=wait)


def refused(delay: float | None = 5.0) -> Failure:
    """Return a 429 for the day."""
    return Failure(FailureKind.QUOTA_DAY, "", retry_after=delay)


@pytest.mark.anyio
async def test_the_reset_is_waited_for_in_slices() -> None:
    """Twelve hours, never more than half a minute at once, and not a second too short."""
    halt = Sleeper(NOON)
    assert await day(halt).over()
    assert sum(halt.slept) == 12 * HOURS
    assert max(halt.slept) <= SLICE


@pytest.mark.anyio
@pytest.mark.parametrize(("start", "hours"), [("2026-11-01T07:30", 24.5), ("2027-03-14T08:30", 22.5)])
async def test_days_when_the_clocks_change_are_waited_for_in_full(start: str, hours: float) -> None:
    """Such a day has 25 or 23 hours."""
    halt = Sleeper(datetime.fromisoformat(start).replace(tzinfo=UTC).timestamp())
    assert await day(halt).over()
    assert sum(halt.slept) == hours * HOURS


@pytest.mark.anyio
async def test_a_laptop_that_slept_notices_at_once() -> None:
    """A slice during which a night went by is the last one."""
    halt = Sleeper(NOON, took=lambda _seconds: 20 * HOURS)
    assert await day(halt).over()
    assert len(halt.slept) == 1


@pytest.mark.anyio
async def test_without_waiting_the_day_ends_the_run() -> None:
    """Nobody sleeps who did not ask for it."""
    halt = Sleeper(NOON)
    assert not await day(halt, wait=False).over()
    assert not halt.slept


@pytest.mark.anyio
async def test_a_delay_of_hours_needs_no_probe() -> None:
    """When the API itself names a wait until the reset, it is believed."""
    ledger = Ledger(None, "test")
    assert not await day(Sleeper(NOON), wait=False, ledger=ledger).refused(refused(10 * HOURS))
    assert ledger.refused(pacific_day(NOON))


@pytest.mark.anyio
async def test_a_reset_that_is_late_does_not_cost_a_day() -> None:
    """Within minutes of midnight a refusal may be of yesterday: it is probed again, and not parked."""
    midnight = day_reset(NOON).timestamp()
    halt = Sleeper(midnight + 60)
    one = day(halt)
    one.doubt(refused())
    assert await one.refused(refused())
    assert not halt.slept
    halt.now = midnight + LATE + 1
    assert await one.refused(refused())
    assert sum(halt.slept) == 24 * HOURS - LATE - 1
