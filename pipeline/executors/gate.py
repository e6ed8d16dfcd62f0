"""What a request passes before it leaves: the minute's budgets, the day's quota, and the first answer.

Until the API has answered once, requests go one at a time. A wrong key, model or schema is then found with
a single request instead of one for each worker, and nothing is spent.
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
from pipeline.retry import TABLE, Act

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
        self._probe: anyio.Event | None = None  # set when the one request that is under way has ended
        self._suspects = 0

    async def call(self, send: Send, text: str) -> Reply | Failure | None:
        """Return what `send` answers to `text` once it may leave, or None when the run is stopped before."""
        while not self._answered and self._probe is not None and not self._halt.pulled.is_set():
            with self._halt.waiting():
                await self._probe.wait()
        if self._answered:
            return await self._pass(send, text)
        probe = self._probe = anyio.Event()
        try:
            answer = await self._pass(send, text)
            self._judge(answer)
            return answer
        finally:
            self._probe = None
            probe.set()

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
        if isinstance(answer, Failure) and answer.kind is FailureKind.BAD_REQUEST:
            self._suspect(answer)
        elif isinstance(answer, Reply) or TABLE[answer.kind].act in (Act.AGAIN, Act.GIVE_UP):
            self._answered = True

    def _suspect(self, answer: Failure) -> None:
        self._suspects += 1
        if self._suspects == SUSPECT:
            said = f"each of the first {SUSPECT} requests was refused: {answer.message}"
            self._halt.pull(Failure(FailureKind.CONFIG, said))
