"""What a request passes before it leaves: the minute's budgets, the day's quota, and the first answer.

Until the API has answered once, requests go one at a time, for one row. A wrong key, model or schema is then
found with a single request instead of one for each worker, and nothing is spent.
"""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio

from pipeline.executors.halt import Halt
from pipeline.flow import Failure, FailureKind, Reply
from pipeline.ledger import Ledger
from pipeline.limiter import Limiter
from pipeline.models import Limits
from pipeline.quota import Estimate, pacific_day
from pipeline.retry import OUTAGE, TABLE, Act

Send: TypeAlias = Callable[[], Awaitable[Reply | Failure]]

SUSPECT = 3  # this many first rows refused as bad requests, and it is the request, not the rows


class Gate:
    """Lets requests leave. `clock` is the Unix time, which tells the day."""

    def __init__(
        self,
        limits: Limits,
        ledger: Ledger,
        halt: Halt,
        *,
        estimate: Estimate,
        clock: Callable[[], float],
    ) -> None:
        self.limiter = Limiter(limits)
        self._estimate = estimate
        self._limits = limits
        self._ledger = ledger
        self._halt = halt
        self._clock = clock
        self._answered = False
        self._probing: int | None = None  # the task that alone may ask until the API has answered
        self._changed = anyio.Event()
        self._suspects = 0

    async def call(self, send: Send, text: str) -> Reply | Failure | None:
        """Return what `send` answers to `text` once it may leave, or None when the run is stopped before."""
        me = anyio.get_current_task().id
        while not self._answered and self._probing not in (None, me) and not self._halt.pulled.is_set():
            with self._halt.waiting():
                await self._changed.wait()
        if self._answered:
            return await self._pass(send, text)
        self._probing = me
        answer = await self._pass(send, text)
        self._judge(answer)
        return answer

    def doubts(self, answer: Failure) -> bool:
        """Say whether a refusal may yet turn out to be of the request and not of its row."""
        return answer.kind is FailureKind.BAD_REQUEST and not self._answered

    def leave(self) -> None:
        """Say that the row of this task has ended, so that another may try the API in its place."""
        if self._probing == anyio.get_current_task().id:
            self._probing = None
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _pass(self, send: Send, text: str) -> Reply | Failure | None:
        tokens = self._estimate.tokens(text)
        if self._limits.tpm is not None and tokens > self._limits.tpm:
            said = f"about {tokens:,} input tokens, where {self._limits.tpm:,} a minute are allowed (tpm)"
            return Failure(FailureKind.TOO_LONG, said)
        admission = None
        with self._halt.waiting():
            admission = await self.limiter.admit(lambda: self._estimate.tokens(text))
        if admission is None or self._halt.pulled.is_set():
            return None
        if not self._ledger.take(pacific_day(self._clock()), self._limits.rpd):
            return Failure(FailureKind.QUOTA_DAY, f"all {self._limits.rpd} requests of today are used")
        answer = await send()
        if isinstance(answer, Reply):
            self.limiter.settle(admission, answer.usage.prompt)
            self._estimate.learn(text, answer.usage.prompt)
        return answer

    def _judge(self, answer: Reply | Failure | None) -> None:
        """Open the gate, unless the answer leaves open whether any request is welcome."""
        if answer is None:
            return
        if isinstance(answer, Failure):
            if answer.kind is FailureKind.BAD_REQUEST:
                self._suspect(answer)
                return
            if answer.kind in OUTAGE or TABLE[answer.kind].act not in (Act.AGAIN, Act.GIVE_UP):
                return
        self._answered = True
        self._wake()

    def _suspect(self, answer: Failure) -> None:
        self._suspects += 1
        if self._suspects == SUSPECT:
            said = f"each of the first {SUSPECT} requests was refused: {answer.message}"
            self._halt.pull(Failure(FailureKind.CONFIG, said))
