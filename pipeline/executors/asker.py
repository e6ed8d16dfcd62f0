"""One row's way to its answer: render, ask, keep, judge, and ask again as `retry` says.

A reply is in the journal before it is judged. On the next run of the same command the same steps are
walked again over the journal, without a request, to the point where the last run ended.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pydantic import BaseModel

from pipeline.executors.courier import Courier
from pipeline.executors.flights import Flights
from pipeline.flow import NOTHING_SPENT, Failure, FailureKind, Outcome, Reply, Request, Row, Spent
from pipeline.gemini.failures import failure_of_reply
from pipeline.keys import request_id
from pipeline.retry import Act, is_final, larger_cap, next_step
from pipeline.schema import validate
from pipeline.store.cache import Cache, Learned
from pipeline.store.journal import Journal
from pipeline.template import Template

REPAIR = "{text}\n\nA first answer to this was rejected: {error}\nAnswer again, with that mended."


class Source(Protocol):
    """Where a worker takes rows from, and where it hands them over when they have ended."""

    async def take(self, most: int, /) -> Sequence[tuple[Row, int]]:
        """Return as many rows, or fewer, none at the end; each with the times that it was given up before."""
        ...

    def give_back(self, rows: Sequence[Row], /) -> None:
        """Let whoever takes next have rows that were taken here, and about which nothing was asked."""

    async def end(self, outcomes: list[Outcome], /) -> None:
        """Hand over rows that have ended."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is the same for every row. `price` gives the USD that a reply cost.

    `max_output_tokens` is what the job asks for; where it sets none, `bound` is sent. That keeps a loop short
    and has no part in an answer that is whole, so it has none in the id of a request either: an open batch or
    the journal knows a row whatever bound it was asked with.
    """

    template: Template
    answer: type[BaseModel]
    fingerprint: str
    max_output_tokens: int | None
    bound: int | None
    output_ceiling: int
    price: Callable[[Reply], float]


@dataclass(slots=True)
class Attempt:
    """Where a row stands: what is sent next, and what was taken so far."""

    row: Row
    turn: int
    prompt: str
    text: str
    cap: int | None
    question: bytes = b""  # the id of its first request in its first round, which the cache knows it by
    spent: Spent = NOTHING_SPENT  # but for `attempts`, which the end of the row takes in
    attempts: int = 0
    replies: int = 0
    thoughts: int = 0
    saved_usd: float = 0.0  # counted at its end, since a row that has not ended may begin again
    sent: bool = False  # something, in this run
    enlarged: bool = False
    seen: dict[FailureKind, int] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether it is asked as it was at first, so that it may stand in a pack."""
        return self.text is self.prompt and not self.enlarged

    @property
    def fresh(self) -> bool:
        """Whether nothing is known of it yet."""
        return not (self.replies or self.turn)

    def leaves(self) -> None:
        """Say that a request with this row is on its way."""
        self.sent = True
        self.attempts += 1


class Asker:
    """Asks for one row at a time; many workers share one."""

    def __init__(
        self, question: Question, courier: Courier, journal: Journal, flights: Flights, *, cache: Cache
    ) -> None:
        self.flights = flights
        self._cache = cache
        self._question = question
        self._courier = courier
        self._journal = journal

    async def ask(self, source: Source) -> None:
        """Take a row and hand over how it ended; nothing when the run was stopped before that."""
        done = []
        try:
            for row, turn in await source.take(1):
                begun = self.begin(row, turn)
                outcome = begun if isinstance(begun, Outcome) else await self.finish(begun)
                if not isinstance(outcome, Outcome):
                    break
                done.append(outcome)
        finally:
            self._courier.gate.leave()
        if done:
            await source.end(done)

    def begin(self, row: Row, turn: int) -> Attempt | Outcome:
        """Do what `begin_all` does for one row."""
        return self.begin_all([(row, turn)])[0]

    def begin_all(self, rows: Sequence[tuple[Row, int]]) -> list[Attempt | Outcome]:
        """Render rows and walk over what journal and cache have of them; return those that have ended so."""
        begun = [self._begin(row, turn) for row, turn in rows]
        ids = [one.question for one in begun if isinstance(one, Attempt) and one.fresh]
        known = self._cache.find(ids)
        if not known:
            return begun
        return [self._served(one, known) or one if isinstance(one, Attempt) else one for one in begun]

    def _begin(self, row: Row, turn: int) -> Attempt | Outcome:
        text = self._question.template.render(row.values)
        if isinstance(text, str) and not text.strip():
            text = Failure(FailureKind.TEMPLATE, "the prompt of this row is empty")
        if isinstance(text, Failure):
            return self._ended(Attempt(row, turn, "", "", None), text)
        told = self._question.max_output_tokens
        id_ = request_id(self._question.fingerprint, text, told, 0)
        attempt = Attempt(row, turn, text, text, told or self._question.bound, id_)
        return self.replay(attempt) or attempt

    def _served(self, attempt: Attempt, known: Mapping[bytes, Reply]) -> Outcome | None:
        """Return how a row ended if the cache has an answer that is good for it."""
        reply = known.get(attempt.question) if attempt.fresh else None
        if reply is None or failure_of_reply(reply):
            return None
        answer = validate(self._question.answer, reply.text)
        if isinstance(answer, Failure):  # the class is stricter than the schema that is sent
            return None
        self._cache.use(attempt.question)
        saved = self._courier.tally.saved
        saved.cached += 1
        saved.emulated |= reply.source == "emulator"
        self._charge(attempt, reply, paid=False)
        return self._ended(attempt, answer)

    def replay(self, attempt: Attempt) -> Outcome | None:
        """Take in what is known of the requests of a row; return how it ended, if that is the end.

        That is what the journal has, and of equal prompts the failure that one of them met in this run.
        """
        row = attempt.row
        while (entry := self._journal.find(self.id_of(attempt), row.key)) is not None:
            paid = entry.key == row.key
            attempt.attempts += paid
            outcome = self.judge(attempt, entry.answer, paid=paid)
            if outcome is not None:
                return outcome
        failure = self.flights.failure_of(self.id_of(attempt))
        return None if failure is None else self.judge(attempt, failure)

    async def finish(
        self, attempt: Attempt, *, held: int = 1, more: bool = False
    ) -> Outcome | Attempt | None:
        """Ask until the row has ended; None when the run is stopped before that.

        What another row is asking just now is waited for; `held` and `more` are as in `Courier.deliver`. The
        attempt itself is returned where it is to be asked again after the others.
        """
        while True:
            id_ = self.id_of(attempt)
            if self.flights.has(id_):
                self._courier.gate.leave()  # whoever asks may need to try the API first
                outcome = self.replay(attempt) if await self.flights.landed(id_, held) else None
                if outcome is not None or self.flights.halted:
                    return outcome
                continue
            with self.flights.of([id_]):
                request = Request(id_, attempt.text, attempt.cap)
                answer = await self._courier.deliver(request, attempt.leaves, ids=[id_], held=held, more=more)
                if answer is None:
                    return None
                if more and isinstance(answer, Failure) and self._courier.tells_nothing(answer):
                    return attempt
                self._keep(id_, attempt, answer)
                if isinstance(answer, Failure):
                    if not await self._courier.let_others_try(held):
                        return None  # nobody has told whether it is an outage
                    self.flights.fail(id_, answer)
            outcome = self.judge(attempt, answer)
            if outcome is not None:
                return outcome

    def judge(self, attempt: Attempt, answer: Reply | Failure, *, paid: bool = True) -> Outcome | None:
        """Take an answer in; return how the row ended, or None where it is to be asked again.

        An answer that another row has `paid` for costs nothing again.
        """
        if isinstance(answer, Failure):
            return self._ended(attempt, answer)
        id_ = self.id_of(attempt)
        self._charge(attempt, answer, paid=paid)
        found = failure_of_reply(answer) or validate(self._question.answer, answer.text)
        if not isinstance(found, Failure):
            self._good(attempt, id_, answer, paid=paid)
            return self._ended(attempt, found)
        times = attempt.seen[found.kind] = attempt.seen.get(found.kind, 0) + 1
        step = next_step(found, times, random.random())  # noqa: S311 - it spreads waits
        match step.act:
            case Act.ENLARGE if attempt.cap is not None:
                attempt.cap = larger_cap(attempt.cap, attempt.thoughts, self._question.output_ceiling)
                attempt.enlarged = True
            case Act.REPAIR:
                attempt.text = REPAIR.format(text=attempt.prompt, error=found.message)
            case Act.AGAIN:
                pass
            case _:
                return self._ended(attempt, found)
        return None

    def _good(self, attempt: Attempt, id_: bytes, reply: Reply, *, paid: bool) -> None:
        """Tell the cache of a good answer, or count what sharing it has saved."""
        if paid:
            learned = Learned(attempt.question, id_, attempt.row.key, reply.rows, asked=attempt.sent)
            self._cache.learn(learned)
        else:
            saved = self._courier.tally.saved
            saved.shared += 1
            saved.emulated |= reply.source == "emulator"

    def keep(self, attempts: list[Attempt], pieces: list[Reply], reply: Reply) -> None:
        """Write down what each row got out of one reply, before anything is done with it."""
        self._journal.keep_all(
            [(self.id_of(one), one.row, piece) for one, piece in zip(attempts, pieces, strict=True)]
        )
        self._count(reply)

    def _keep(self, id_: bytes, attempt: Attempt, answer: Reply | Failure) -> None:
        if isinstance(answer, Reply):
            self._journal.keep(id_, attempt.row, answer)
            self._count(answer)
        elif attempt.sent and is_final(answer.kind) and not self._courier.gate.doubts(answer):
            self._journal.keep(id_, attempt.row, answer)

    def _count(self, reply: Reply) -> None:
        tally = self._courier.tally
        tally.unwritten -= 1
        tally.replied(reply.usage, self._question.price(reply), reply.tier)
        tally.emulated |= reply.source == "emulator"

    def id_of(self, attempt: Attempt) -> bytes:
        """Return the id of the request that a row needs next."""
        if attempt.fresh and attempt.plain:
            return attempt.question
        print_ = self._question.fingerprint
        cap = attempt.cap if attempt.enlarged else self._question.max_output_tokens
        return request_id(print_, attempt.text, cap, attempt.turn, reply=attempt.replies)

    def _ended(self, attempt: Attempt, answer: BaseModel | Failure) -> Outcome:
        self._courier.tally.saved.cost_usd += attempt.saved_usd
        row, spent = attempt.row, attempt.spent
        if spent.attempts != attempt.attempts:
            spent = replace(spent, attempts=attempt.attempts)
        if isinstance(answer, Failure) and not attempt.replies and answer.source != spent.source:
            spent = replace(spent, source=answer.source)
        return Outcome(row.key, row.digest, answer, spent, attempt.turn, asked=attempt.sent)

    def _charge(self, attempt: Attempt, reply: Reply, *, paid: bool) -> None:
        spent, cost = attempt.spent, self._question.price(reply)
        attempt.replies += 1
        attempt.thoughts = reply.usage.thoughts
        attempt.saved_usd += 0.0 if paid else cost
        attempt.spent = Spent(
            usage=spent.usage + reply.usage if paid else spent.usage,
            cost_usd=spent.cost_usd + cost if paid else spent.cost_usd,
            model=reply.model,
            attempts=attempt.attempts,
            latency_ms=round(reply.seconds * 1000) if paid else spent.latency_ms,
            source=reply.source if paid else "cache",
            rows=reply.rows,
        )
