"""How a run stops early: waiting ends at once, what is in flight may end within a deadline."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from anyio.abc import TaskStatus

from pipeline.flow import Failure

WORDS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


class Halt:
    """Pulled once, with the reason; None is a wish of the user (Ctrl-C, SIGTERM, SIGHUP).

    Waits that stand inside `waiting()` are cut short when it is pulled; calls to the API stand outside
    and are left to end, since they are paid for.
    """

    def __init__(self) -> None:
        self.pulled = anyio.Event()
        self.reason: Failure | None = None
        self.signal = WORDS[signal.SIGINT]  # which one it was, where there is no reason
        self._hurried = False
        self._waits: set[anyio.CancelScope] = set()
        self._flights: set[anyio.CancelScope] = set()

    def pull(self, reason: Failure | None) -> None:
        """Stop the run; the first reason stays."""
        if self.pulled.is_set():
            return
        self.reason = reason
        self.pulled.set()
        for scope in self._waits:
            scope.cancel()

    def hurry(self) -> None:
        """Drop what is in flight, too."""
        self._hurried = True
        for scope in self._flights:
            scope.cancel()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Run a block that ends at once when the run is stopped; check `pulled` afterwards."""
        with _ending(self._waits, at_once=self.pulled.is_set()):
            yield

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Run a block that ends at once when the run is hurried."""
        with _ending(self._flights, at_once=self._hurried):
            yield

    async def sleep(self, seconds: float) -> bool:
        """Sleep, unless the run is stopped; say whether it goes on."""
        with self.waiting():
            await anyio.sleep(seconds)
        return not self.pulled.is_set()


@contextmanager
def _ending(scopes: set[anyio.CancelScope], *, at_once: bool) -> Iterator[None]:
    """Run a block in a scope that stands among `scopes` meanwhile."""
    with anyio.CancelScope() as scope:
        scopes.add(scope)
        if at_once:
            scope.cancel()
        try:
            yield
        finally:
            scopes.discard(scope)


async def stop_on_signal(halt: Halt, *, task_status: TaskStatus[None]) -> None:
    """Stop on the first Ctrl-C, SIGTERM or SIGHUP; on a second do not even wait for what is in flight.

    What is in flight is paid for, and each request has its own time limit. Who kills the process meanwhile
    loses no more than by killing it at once. A terminal that is closed sends SIGHUP more than once, so that
    never hurries; where it is ignored (`nohup`), it stays so. Start it before anything else: a signal that
    nobody hears raises an exception wherever the program stands, also inside of a task.
    """
    if threading.current_thread() is not threading.main_thread():
        task_status.started()
        return  # only the main thread hears signals; whoever runs us in another one stops us otherwise
    numbers = tuple(WORDS)
    before = {
        number: handler for number in numbers if (handler := signal.getsignal(number)) != signal.SIG_IGN
    }
    try:
        with anyio.open_signal_receiver(*before) as signals:
            task_status.started()
            halt.signal = WORDS[await anext(signals)]
            halt.pull(None)
            async for number in signals:  # to the end, since the parts are still to be written
                if number != signal.SIGHUP:
                    halt.hurry()
    finally:  # the receiver leaves the system's own handlers behind, which end the process at once
        for number, handler in before.items():
            signal.signal(number, handler)
