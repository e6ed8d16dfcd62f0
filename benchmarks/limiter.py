"""Measures what admitting a request costs: 30,000 a minute through the limiter and its ledger on disk.

    python benchmarks/limiter.py [--rpm 30000] [--seconds 20]

Workers ask for admission, wait as long as an answer would take and settle what it counted, and do nothing
else. CPU is user + system time of the process, its event loop included; the share is of one core. The timers
alone, which only stand for the answers, are to be subtracted.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground import echo, table
from pipeline.leases import Moment
from pipeline.ledger import LEASE_SECONDS, Ledger
from pipeline.limiter import Admission, Limiter
from pipeline.models import MARGIN, Limits
from pipeline.quota import Amount, allowances, pacific_day

LATENCY = 0.5
FILLED = 900.0  # seconds for which the ledger has been in use before
TICK = 0.02
IN_LINE = 4  # workers that wait for admission at any time


async def limited(rpm: int, seconds: float, folder: Path) -> tuple[int, float]:
    """Send requests at the limit for so long; return how many left and the CPU seconds that it took."""
    with closing(Ledger(folder / "ledger.sqlite", "p/m")) as ledger:
        limits = Limits(rpm=rpm, tpm=rpm * 1_000, rpd=10**9, spend_10min_usd=1e6)
        fill(ledger, limits)
        with closing(Limiter(limits, ledger, cap=10_000)) as limiter:
            began = time.process_time()
            return await flood(limiter, seconds), time.process_time() - began


def fill(ledger: Ledger, limits: Limits) -> None:
    """Let the ledger look as after a quarter of an hour at a low rate: full of old leases."""
    now, day = time.monotonic(), pacific_day(time.time())
    allowed = list(allowances(limits, MARGIN))
    for step in range(round(FILLED / LEASE_SECONDS)):
        moment = Moment(now - FILLED + step * LEASE_SECONDS, day)
        ledger.lease(Amount(1, 50, 100_000), 1, allowed, rpd=None, clock=partial(_same, moment))


def _same(moment: Moment) -> Moment:
    return moment


async def flood(limiter: Limiter, seconds: float) -> int:
    """Keep some workers in line and let those that were admitted come back later."""
    left, end, loop = 0, time.monotonic() + seconds, asyncio.get_running_loop()

    async def stand() -> None:
        nonlocal left
        while time.monotonic() < end:
            admission = await limiter.admit(lambda: Amount(1, random.randint(20, 400), 100_000))
            assert isinstance(admission, Admission)
            left += 1
            loop.call_later(LATENCY, limiter.end, admission, Amount(1, 200, 90_000))

    async with anyio.create_task_group() as group:
        for _ in range(IN_LINE):
            group.start_soon(stand)
    await anyio.sleep(LATENCY)
    return left


async def free(rpm: int, seconds: float) -> tuple[int, float]:
    """Let as many timers end as answers would come, and do nothing else."""
    left, end, loop = 0, time.monotonic() + seconds, asyncio.get_running_loop()
    due, began = 0.0, time.process_time()
    while time.monotonic() < end:
        await anyio.sleep(TICK)
        due += rpm / 60 * TICK
        while left < due:
            loop.call_later(LATENCY, int)
            left += 1
    return left, time.process_time() - began


def main() -> int:
    """Print CPU per admission and its share of a core."""
    parser = argparse.ArgumentParser(description="CPU of the limiter")
    parser.add_argument("--rpm", type=int, default=30_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    print(echo(), flush=True)
    lines = []
    with tempfile.TemporaryDirectory(prefix="rowmill-") as name:
        for way in ("limiter and ledger", "timers alone"):
            if way == "timers alone":
                left, cpu = asyncio.run(free(given.rpm, given.seconds))
            else:
                left, cpu = asyncio.run(limited(given.rpm, given.seconds, Path(name)))
            took = given.seconds
            lines.append(
                [way, f"{left:,}", f"{left / took * 60:,.0f}", f"{cpu / left * 1e6:.0f}", f"{cpu / took:.1%}"]
            )
    print(table(["", "left", "a minute", "CPU µs each", "of one core"], lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
