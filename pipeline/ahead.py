"""Work on one thing while the next is being worked on, in the order in which they come."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS = 3  # of which one usually waits

Item = TypeVar("Item")
Done = TypeVar("Done")


def ahead(act: Callable[[Item], Done], items: Iterable[Item]) -> Iterator[Done]:
    """Yield `act(item)` for each item in order, `THREADS` of them at a time in threads.

    It helps where `act` spends its time in code that lets other threads run, as numpy and Arrow do. Items are
    taken from the iterable by the caller's thread, no more of them than threads. What `act` raises is raised.
    """
    waiting: deque[Future[Done]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for item in items:
            waiting.append(pool.submit(act, item))
            if len(waiting) == THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
