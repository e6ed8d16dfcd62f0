"""One row's way to its answer: render, ask, keep, judge, and ask again as `retry` says.

A reply is in the journal before it is judged. On the next run of the same command the same steps are
walked again over the journal, without a request, to the point where the last run ended.
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from pydantic import BaseModel

from pipeline.cache import Journal
from pipeline.executors.crew import Crew
from pipeline.executors.gate import Gate
from pipeline.executors.halt import Halt
from pipeline.flow import Failure, FailureKind, Outcome, Reply, Request, Row, Spent
from pipeline.gemini.failures import failure_of_reply
from pipeline.keys import request_id
from pipeline.retry import (
    LONGEST_OUTAGE,
    LONGEST_PAUSE,
    OUTAGE,
    ROWS_OWN,
    TABLE,
    Act,
    Step,
    is_final,
    larger_cap,
    next_step,
)
from pipeline.schema import validate
from pipeline.template import Template
from pipeline.usage import Tally

REPAIR = "{text}\n\nA first answer to this was rejected: {error}\nAnswer again, with that mended."


class Client(Protocol):
    """The API."""

    async def ask(self, request: Request) -> Reply | Failure:
        """Return the answer to one request; never raises for what the network or the API does."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """What is the same for every row. `price` gives the USD that a reply cost."""

    template: Template
    answer: type[BaseModel]
    fingerprint: str
    max_output_tokens: int | None
    output_ceiling: int
    price: Callable[[Reply], float]


@dataclass(slots=True)
class _Attempt:
    """Where a row stands: what is sent next, and what was taken so far."""

    text: str
    cap: int | None
    spent: Spent
    replies: int = 0
    thoughts: int = 0
    sent: bool = False  # something, in this run


class Asker:
    """Asks for one row at a time; many workers share one."""

    def __init__(
        self,
        question: Question,
        client: Client,
        gate: Gate,
        journal: Journal,
        *,
        halt: Halt,
        crew: Crew,
        tally: Tally,
        longest_outage: float = LONGEST_OUTAGE,
    ) -> None:
        self._question = question
        self._client = client
        self._gate = gate
        self._journal = journal
        self._halt = halt
        self._crew = crew
        self._tally = tally
        self._longest_outage = longest_outage
        self._suspects = 0  # first rows whose failure may be their own

    async def outcome(self, row: Row, turn: int) -> Outcome | None:
        """Return how the row ended, or None when the run was stopped before that.

        `turn` counts the times the row was given up before. When all attempts met an outage and nobody
        else was answered meanwhile, it is not the row's fault: it is asked again until the outage has lasted
        too long, and then the run stops and the row stays pending.
        """
        try:
            return await self._outcome(row, turn)
        finally:
            self._gate.leave()

    async def _outcome(self, row: Row, turn: int) -> Outcome | None:
        text = self._question.template.render(row.values)
        if isinstance(text, str) and not text.strip():
            text = Failure(FailureKind.TEMPLATE, "the prompt of this row is empty")
        if isinstance(text, Failure):
            return self._ended(row, text, _Attempt("", None, Spent()), turn)
        attempt = _Attempt(text, self._question.max_output_tokens, Spent())
        seen: Counter[FailureKind] = Counter()
        before = self._tally.replies
        while (answer := await self._answer(row, attempt, turn)) is not None:
            if not isinstance(answer, Failure):
                return self._ended(row, answer, attempt, turn)
            if self._is_gone(answer):
                self._halt.pull(answer)
                break
            seen[answer.kind] += 1
            step = next_step(answer, seen[answer.kind], random.random())  # noqa: S311 - it spreads waits
            if step.act is Act.GIVE_UP or (step.act is Act.ENLARGE and attempt.cap is None):
                if self._is_outage(answer, before):
                    if await self._outlast(answer):
                        continue
                    break
                return self._ended(row, answer, attempt, turn)
            if not await self._take(step, answer, attempt, text):
                break
        return None

    def _ended(self, row: Row, answer: BaseModel | Failure, attempt: _Attempt, turn: int) -> Outcome:
        self._tally.unasked += not attempt.sent
        return Outcome(row.key, row.digest, answer, attempt.spent, turn)

    def _is_outage(self, failure: Failure, before: int) -> bool:
        """Tell whether the service is to blame, and not the row: nobody else was answered meanwhile.

        Before any answer, the first row with a failure that may be its own is to blame; the second is not.
        Later the last row is, since no other one will ever tell.
        """
        if failure.kind not in OUTAGE or self._tally.replies != before:
            return False
        if failure.kind not in ROWS_OWN:
            return True
        if self._gate.answered:
            return self._tally.left > 1
        self._suspects += 1
        return self._suspects > 1

    def _is_gone(self, failure: Failure) -> bool:
        """Tell whether nothing has been answered for too long, however often this row has asked."""
        since = self._gate.down_since
        if failure.kind not in OUTAGE or not self._gate.answered or since is None:
            return False
        return time.monotonic() - since > self._longest_outage

    async def _outlast(self, failure: Failure) -> bool:
        """Wait for the next attempt in an outage; stop the run where the API has never answered."""
        if not self._gate.answered:
            self._halt.pull(failure)
            return False
        with self._crew.away():
            return await self._halt.sleep(TABLE[failure.kind].ceiling * random.uniform(0.5, 1))  # noqa: S311

    async def _answer(self, row: Row, attempt: _Attempt, turn: int) -> BaseModel | Failure | None:
        """Return the judged answer to one request, from the journal or from the API; None when stopped."""
        question = self._question
        id_ = request_id(question.fingerprint, attempt.text, attempt.cap, turn, attempt.replies)
        entry = self._journal.find(id_, row.key)
        if entry is not None:
            paid = entry.key == row.key
            attempt.spent = replace(attempt.spent, attempts=attempt.spent.attempts + paid)
            self._charge(attempt, entry.answer, paid=paid)
            return self._judged(entry.answer)
        answer = await self._ask(Request(id_, attempt.text, attempt.cap), row, attempt)
        if answer is None:
            return None
        self._charge(attempt, answer, paid=True)
        return self._judged(answer)

    async def _ask(self, request: Request, row: Row, attempt: _Attempt) -> Reply | Failure | None:
        answer = await self._gate.call(lambda: self._send(request, attempt), request.text)
        if isinstance(answer, Reply):
            self._journal.keep(request.id, row, answer)
            self._tally.replied(answer.usage, self._question.price(answer))
        elif answer is not None and attempt.sent and is_final(answer) and not self._gate.doubts(answer):
            self._journal.keep(request.id, row, answer)
        return answer

    async def _send(self, request: Request, attempt: _Attempt) -> Reply | Failure:
        self._tally.sent()
        attempt.sent = True
        attempt.spent = replace(attempt.spent, attempts=attempt.spent.attempts + 1)
        answer = await self._client.ask(request)
        if isinstance(answer, Failure):
            self._tally.refused(answer)
        return answer

    def _charge(self, attempt: _Attempt, answer: Reply | Failure, *, paid: bool) -> None:
        """Add to what the row took; an answer that another row paid for costs nothing again."""
        spent = attempt.spent
        if isinstance(answer, Failure):
            return
        attempt.replies += 1
        attempt.thoughts = answer.usage.thoughts
        attempt.spent = Spent(
            usage=spent.usage + answer.usage if paid else spent.usage,
            cost_usd=spent.cost_usd + self._question.price(answer) if paid else spent.cost_usd,
            model=answer.model,
            attempts=spent.attempts,
            latency_ms=round(answer.seconds * 1000) if paid else spent.latency_ms,
            source=answer.source if paid else "cache",
        )

    def _judged(self, answer: Reply | Failure) -> BaseModel | Failure:
        if isinstance(answer, Failure):
            return answer
        return failure_of_reply(answer) or validate(self._question.answer, answer.text)

    async def _take(self, step: Step, failure: Failure, attempt: _Attempt, text: str) -> bool:
        """Prepare the next attempt; False when there is none because the run stops."""
        match step.act:
            case Act.ENLARGE if attempt.cap is not None:
                attempt.cap = larger_cap(attempt.cap, attempt.thoughts, self._question.output_ceiling)
            case Act.REPAIR:
                attempt.text = REPAIR.format(text=text, error=failure.message)
            case Act.PAUSE if step.wait > LONGEST_PAUSE:
                self._halt.pull(failure)
                return False
            case Act.PAUSE:
                self._gate.limiter.pause(step.wait)
                return not self._halt.pulled.is_set()
            case Act.STOP | Act.REFUSE:
                self._halt.pull(failure)
                return False
        if not step.wait:
            return True
        with self._crew.away():
            return await self._halt.sleep(step.wait)
