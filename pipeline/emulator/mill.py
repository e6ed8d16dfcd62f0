"""Runs batch jobs: waits, answers their lines in a thread and a few at a time, and writes the results.

The lines of a file are answered in an order drawn from their number, so results never stand in the order of
the input; those of inline requests keep theirs, for many of them have no key.
"""

import random
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.abc import TaskGroup

from pipeline.emulator.batches import OPEN, Batch, Batches, Input
from pipeline.emulator.counts import BATCH, Counts
from pipeline.emulator.files import Files
from pipeline.emulator.lines import Line, Reader
from pipeline.emulator.log import Log
from pipeline.emulator.settings import Settings

Clock = Callable[[], float]

_SLICE = 50  # lines that are answered before the loop may look after other requests
_TICK = 0.2  # seconds at most until a job notices that it is cancelled or that settings have changed


class Mill:
    """The jobs under way of one emulator; `open` and `close` it as the server starts and ends."""

    def __init__(
        self, files: Files, batches: Batches, *, counts: Counts, log: Log, clocks: tuple[Clock, Clock]
    ) -> None:
        self._files, self._batches, self._counts, self._log = files, batches, counts, log
        self._clock, self._wall = clocks
        self._lines = 0
        self._group: TaskGroup | None = None

    def open(self, group: TaskGroup) -> None:
        """Run jobs in a task group from now on."""
        self._group = group
        self._turn = CapacityLimiter(1)

    def restart(self) -> None:
        """Count lines from 1 again."""
        self._lines = 0

    async def read(self, path: Path, file: str, size: Callable[[bytes], int] | None) -> Input:
        """Find the lines of a job; `size` counts their tokens, where those are limited."""
        return await to_thread.run_sync(_read, path, file, size, limiter=self._turn)

    def start(self, job: Batch, reader: Reader, settings: Callable[[], Settings], fault: str) -> None:
        """Run a job; `settings` returns those of the moment, `fault` is its kind or empty."""
        if self._group is None:
            raise RuntimeError("jobs run only while the server does")
        first = self._lines
        self._lines += len(job.input.starts)
        self._group.start_soon(partial(self._run, job, reader, settings, fault=fault, first=first))

    async def _run(
        self, job: Batch, reader: Reader, settings: Callable[[], Settings], *, fault: str, first: int
    ) -> None:
        await self._wait(job, settings, lambda: job.created + settings().batch_wait)
        job.move("RUNNING", self._wall())
        began = self._wall()
        if fault == "fail" and job.state in OPEN:
            self._batches.end(job, "FAILED")
        elif fault == "stuck":
            await self._wait(job, settings, lambda: float("inf"))
        if job.state in OPEN and not job.cancelling:
            await self._answer(job, reader, settings, (first, began))
            await self._wait(job, settings, partial(_due, settings, began, 1.0))
        await self._finish(job, keeps=settings().cancel_keeps)

    async def _wait(self, job: Batch, settings: Callable[[], Settings], until: Callable[[], float]) -> None:
        """Wait until a moment, or until the job is over, has expired, or is to be cancelled."""
        while not self._over(job, settings()):
            rest = until() - self._wall()
            if rest <= 0:
                return
            await anyio.sleep(min(max(rest / 10, 0.01), _TICK))

    def _over(self, job: Batch, settings: Settings) -> bool:
        """See if a job has to stop, and let it expire when its time has come."""
        if self._wall() >= job.created + settings.batch_expiry:
            self._batches.end(job, "EXPIRED")
        return job.cancelling or job.state not in OPEN

    async def _answer(
        self, job: Batch, reader: Reader, settings: Callable[[], Settings], start: tuple[int, float]
    ) -> None:
        """Answer the lines slice by slice, spread over the time that the job takes."""
        first, began = start
        order = _order(len(job.input.starts), shuffled=bool(job.input.file))
        size = max(1, min(_SLICE, len(order) // 20)) if settings().batch_work else _SLICE
        for begin in range(0, len(order), size):
            await self._wait(job, settings, partial(_due, settings, began, begin / len(order)))
            if self._over(job, settings()):
                return
            turn = order[begin : begin + size]
            answer = partial(_answered, job.input, reader, turn, first=first, path=self._path(job))
            answered = await to_thread.run_sync(answer, limiter=self._turn)
            for line in answered:
                self._count(job, line)

    def _count(self, job: Batch, line: Line) -> None:
        if not line.digest:
            job.failed += 1
            return
        job.succeeded += 1
        self._counts.answer(line.digest, line.tokens, BATCH)
        self._counts.keys[line.key] += 1
        self._log.write(self._clock(), BATCH, line.tokens.prompt)

    async def _finish(self, job: Batch, *, keeps: bool) -> None:
        """Bring a job that is still open to its end, and hand over its results."""
        job.input.path.unlink(missing_ok=True)
        path = self._path(job)
        if job.state in OPEN and path.exists() and (keeps or not job.cancelling):
            if job.input.file:
                name = f"files/batch-{job.id}"
                await to_thread.run_sync(self._add, name, path)
                job.output = name
            else:
                job.inlined = path
        else:
            path.unlink(missing_ok=True)
        self._batches.end(job, "CANCELLED" if job.cancelling else "SUCCEEDED")

    def _add(self, name: str, path: Path) -> None:
        self._files.add(name, path, "application/jsonl", generated=True)

    def _path(self, job: Batch) -> Path:
        return self._files.path(f"output-{job.id}")


def _due(settings: Callable[[], Settings], began: float, share: float) -> float:
    """Return when so much of a job may be done that began to run at a time."""
    return began + settings().batch_work * share


def _read(path: Path, file: str, size: Callable[[bytes], int] | None) -> Input:
    starts, tokens, at = array("Q"), 0, 0
    with path.open("rb") as content:
        for line in content:
            if not line.isspace():
                starts.append(at)
                tokens += size(line) if size is not None else 0
            at += len(line)
    return Input(path, starts, file, tokens)


def _order(count: int, *, shuffled: bool) -> Sequence[int]:
    """Return the numbers of lines in the order in which they are answered."""
    order = array("Q", range(count))
    if shuffled:
        random.Random(count).shuffle(order)  # noqa: S311 - nobody has to guess it
        if count > 1 and list(order) == sorted(order):
            order.reverse()
    return order


def _answered(lines: Input, reader: Reader, turn: Sequence[int], *, first: int, path: Path) -> list[Line]:
    """Answer some lines and write the results behind those that are there."""
    with lines.path.open("rb") as content, path.open("ab") as output:
        answered = []
        for number in turn:
            content.seek(lines.starts[number])
            answered.append(reader.answer(content.readline(), first + number + 1))
        output.writelines(line.written + b"\n" for line in answered)
    return answered
