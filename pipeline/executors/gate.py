"""What a request passes before it leaves: the first answer, the money, the budgets of minute and day.

The gate is closed until the API has answered once: requests go one at a time. A wrong key, model or schema is
then found with a single request instead of one for each worker, and nothing is spent. Where a row may be to
blame for a failure, the next one tries in its place. The gate closes again when the API says that the day's
requests are used up.
"""

import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio

from pipeline.executors.crew import Crew
from pipeline.executors.day import Day
from pipeline.executors.halt import Halt
from pipeline.executors.purse import Less, Purse, nothing
from pipeline.flow import Failure, FailureKind, Reply
from pipeline.leases import Full
from pipeline.limiter import Admission, Limiter
from pipeline.quota import NANO, Amount
from pipeline.retry import OUTAGE, TABLE, Act
from pipeline.tokens import Costing

Send: TypeAlias = Callable[[], Awaitable[Reply | Failure]]

TURN = 0.1  # seconds between two looks at whether the API has answered others
SUSPECT = 3  # this many first rows refused as bad requests, and it is the request, not the rows


class Gate:
    """Lets requests leave, learns from their answers, and closes when none is welcome."""

    def __init__(
        self,
        limiter: Limiter,
        day: Day,
        halt: Halt,
        crew: Crew,
        *,
        costing: Costing,
        purse: Purse | None = None,
    ) -> None:
        self.limiter = limiter
        self.day = day
        self.answered = False  # at least once
        self.down_since: float | None = None  # when the API ceased to answer at all
        self.resumed = False  # rows may fail before: they have, or a run that was answered has just stopped
        self.vain = 0  # requests that have failed one by one since the gate was closed
        self._costing = costing
        self.purse = purse  # where the run may not spend what it likes
        self._halt = halt
        self._crew = crew
        self._open = False
        self._probing: int | None = None  # the task that alone may ask while the gate is closed
        self._changed = anyio.Event()
        self._suspects = 0
        self._aside: deque[object] = deque()  # those that have tried in vain and let others try, in order

    @property
    def closed(self) -> bool:
        """Whether requests go one at a time, since nobody knows yet whether any is welcome."""
        return not self._open

    async def call(
        self, send: Send, text: str, *, rows: int = 1, less: Less = nothing
    ) -> Reply | Failure | None:
        """Return what `send` answers to `text` once it may leave, or None when the run is stopped before.

        `rows` is how many rows the text asks about, each of which takes an answer's tokens; `less` is as in
        `Purse.held`.
        """
        while await self._turn():
            if (too_long := self._too_long(text)) is not None:
                return too_long
            probe = not self._open
            answer = await self._pass(send, text, rows, less)
            if isinstance(answer, Full):
                said = f"all {self.limiter.limits.rpd} requests of today are used"
                answer = Failure(FailureKind.QUOTA_DAY, said)
                self._shut()
                self.down_since = None  # nobody asks for hours
                again = await self.day.over()
            elif isinstance(answer, Failure) and answer.kind is FailureKind.QUOTA_DAY:
                again = await self.day.refused(answer) if probe else self._doubt(answer)
            else:
                if probe:
                    self._judge(answer, rows)
                again = answer is None  # gate or cache were gone before it left, or the run is stopped
            if not again:
                return answer
        return None

    async def once(self, send: Send, text: str, *, rows: int) -> Reply | Failure | None:
        """Return what `send` answers to `text`, which is asked once and whatever others have met.

        None where it may not leave: for want of money, on a day that is used up, or in a run that is stopped.
        """
        if self._too_long(text) is not None or not (self.purse is None or self.purse.fits(text, rows)):
            return None
        answer = await self._sent(send, text, rows, lambda: True)
        self.down_since = None  # it says nothing of the requests that come later
        return None if isinstance(answer, Full) else answer

    def doubts(self, answer: Failure) -> bool:
        """Say whether a refusal may yet turn out to be of the request and not of its row."""
        return answer.kind is FailureKind.BAD_REQUEST and not self.answered

    def leave(self) -> None:
        """Say that the row of this task has ended, so that another may try the API in its place."""
        if self._probing is not None and self._probing == anyio.get_current_task().id:
            self._probing = None
            self._wake()

    async def tried(self) -> bool:
        """Let others try the API until it answers, or it is this one's turn again, after all of them.

        False if the run is stopped before.
        """
        if self._open:
            return True
        self.leave()
        me = object()
        self._aside.append(me)
        try:
            with self._crew.away():
                while await self._halt.sleep(TURN):  # in which another task takes over
                    if self._open or (self._probing is None and self._aside[0] is me):
                        return True
        finally:
            self._aside.remove(me)
        return False

    async def _turn(self) -> bool:
        """Wait until the gate is open or this task is the one that probes; False when the run is stopped."""
        if self._open:
            return not self._halt.pulled.is_set()
        me = anyio.get_current_task().id
        while not self._open and self._probing not in (None, me) and not self._halt.pulled.is_set():
            with self._halt.waiting():
                await self._changed.wait()
        if not self._open:
            self._probing = me
        return not self._halt.pulled.is_set()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _too_long(self, text: str) -> Failure | None:
        """Return why a request can never leave: it alone is more than a minute's tokens."""
        limit = self.limiter.limits.tpm
        if limit is None or self._costing.tokens.least(text) <= limit:
            return None
        tokens = self._costing.tokens.tokens(text)
        said = (
            f"about {tokens:,} input tokens, where {limit:,} a minute are allowed (tpm): shorten the row, or "
            "raise `tpm` or the tier"
        )
        return Failure(FailureKind.TOO_LONG, said)

    async def _pass(self, send: Send, text: str, rows: int, less: Less) -> Reply | Failure | Full | None:
        if self.purse is None:
            return await self._sent(send, text, rows, lambda: True)
        probe = not self._open
        async with self.purse.held(text, rows, less) as paid:  # first: whoever waits for money keeps no quota
            if not paid or not (probe or self._open):
                return None
            saved = less()
            return await self._sent(send, text, rows, lambda: less() >= saved)

    async def _sent(
        self, send: Send, text: str, rows: int, holds: Callable[[], bool]
    ) -> Reply | Failure | Full | None:
        """Send a request once it is admitted; None where what it costs `holds` no longer before that."""
        admission = await self._admitted(text, rows, holds)
        if not isinstance(admission, Admission):
            return admission
        counted = admission.amount
        try:
            with self._crew.away():
                answer = await send()
            counted = self._heed(answer, text, rows, admission)
        finally:
            self.limiter.end(admission, counted)
        return answer

    async def _admitted(self, text: str, rows: int, holds: Callable[[], bool]) -> Admission | Full | None:
        now = self.limiter.admit_now(self._costing.amount(text, rows))
        if now is not None:
            return now
        probe = not self._open
        with self._halt.waiting():
            return await self.limiter.admit(
                lambda: self._costing.amount(text, rows),
                lambda: (probe or self._open) and holds() and not self._halt.pulled.is_set(),
            )
        return None  # the run is stopped

    def _heed(self, answer: Reply | Failure, text: str, rows: int, admission: Admission) -> Amount:
        """Learn from an answer; return what the request counted."""
        now, congestion = time.monotonic(), self.limiter.congestion
        if isinstance(answer, Reply) or answer.kind not in OUTAGE:
            self.down_since = None
        if isinstance(answer, Reply):
            congestion.answered(answer.seconds, now)
            self.answered = True
            if not answer.usage.prompt:  # the reply does not say
                return admission.amount
            self._costing.learn(text, answer, rows)
            return Amount(1, answer.usage.prompt, round(self._costing.usd(answer) * NANO))
        if answer.unsent is not None:
            self.limiter.unsent(admission)
        if answer.kind is FailureKind.RATE_LIMITED:
            self.limiter.learn(answer)
        if names_no_quota(answer):
            congestion.exhausted(now)
        alone = not self._open and answer.kind in OUTAGE  # who asks next waits by itself
        if (answer.kind in OUTAGE and not alone) or answer.kind is FailureKind.SPEND_LIMITED:
            congestion.overloaded(now)
        if answer.kind in OUTAGE:
            self.down_since = now if self.down_since is None else self.down_since
            self.vain += alone
        if answer.kind is FailureKind.TIMEOUT:
            return admission.amount  # nobody knows whether it is paid
        return Amount(1, admission.amount.tokens)  # what was refused costs nothing, yet it counts

    def _judge(self, answer: Reply | Failure | None, rows: int) -> None:
        """Open the gate, unless the answer leaves open whether any request is welcome.

        A refused pack says nothing: one of its rows may be to blame.
        """
        if answer is None:
            return
        if isinstance(answer, Failure):
            if answer.kind is FailureKind.BAD_REQUEST and not self.answered:
                if rows == 1:
                    self._suspect(answer)
                return
            if answer.kind in OUTAGE or TABLE[answer.kind].act not in (Act.AGAIN, Act.GIVE_UP):
                return
        self.day.welcome()
        self.trust()

    def trust(self) -> None:
        """Open the gate."""
        self._probing, self.answered, self._open, self.vain = None, True, True, 0
        self._wake()

    def _suspect(self, answer: Failure) -> None:
        self._suspects += 1
        if self._suspects == SUSPECT:
            said = f"each of the first {SUSPECT} requests was refused: {answer.message}"
            self._halt.pull(Failure(FailureKind.CONFIG, said))

    def _doubt(self, answer: Failure) -> bool:
        """Close the gate at the first 429 for the day; what else left before it comes back likewise."""
        if self._open:
            self._open, self._probing = False, None
            self.day.doubt(answer)
        return True

    def _shut(self) -> None:
        """Close the gate; this task probes, unless another does."""
        self._open = False
        if self._probing is None:
            self._probing = anyio.get_current_task().id


def names_no_quota(failure: Failure) -> bool:
    """Say whether a failure is a 429 without any detail: then fewer requests in flight help."""
    bare = failure.quota_id is None and failure.retry_after is None
    return failure.kind is FailureKind.RATE_LIMITED and bare
