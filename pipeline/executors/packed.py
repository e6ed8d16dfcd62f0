"""Several rows' way to their answers with one request.

What came back is shared out by id and kept row by row, each with its share of what the request took. So a
later run walks over it without knowing which rows stood together. Rows that got nothing are asked again in
packs of half the size, in the end alone, where `asker` has the last word. What went well is asked before what
did not, so that a row which fails alone can be told from a service that answers nobody.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import anyio

from pipeline.executors.asker import Asker, Attempt, Source
from pipeline.executors.courier import Courier
from pipeline.flow import MISSING, Failure, Outcome, Reply, Request
from pipeline.packing import Budget, Unpacked, packed, packs, shares, split, unpacked
from pipeline.tokens import Costing

ECHO_TOKENS = 12  # what an element of the array takes besides the answer in it
WRAPPING = 11  # what the tags around a row's prompt take
WIDER = 1.5  # times the typical answer for which a pack is to have room at least
ROOM = 2  # times the typical answer that the rows of a pack may take
FIRST_ROOM = 4  # as long as no answer has been seen
SPARE = 200  # tokens more for each pack
REACH = 10  # times as many rows as a pack holds that are looked at to fill it, at most
WIDEST = 65_535  # tokens of an answer where the job sets no cap


@dataclass(frozen=True, slots=True)
class Packing:
    """What packs may hold, the name of the echoed id, and the tokens that one answer and a reply may have."""

    budget: Budget
    name: str
    max_output_tokens: int | None
    output_ceiling: int


@dataclass(slots=True)
class Hand:
    """The rows that a worker has taken: how many it still has, and how those have ended that have.

    `twins` wait for the answer to an equal prompt, which this worker asks or another one; `changes` are those
    of the flights up to where the rows were looked at.
    """

    rows: int = 0
    changes: int = 0
    done: list[Outcome] = field(default_factory=list)
    twins: list[Attempt] = field(default_factory=list)


class PackAsker:
    """Asks for many rows at a time; many workers share one."""

    def __init__(self, packing: Packing, asker: Asker, courier: Courier, costing: Costing) -> None:
        self._packing = packing
        self._asker = asker
        self._courier = courier  # of requests with the schema of packs
        self._costing = costing
        self._filling = anyio.Lock()  # or each worker would be left with half a pack at the end

    async def ask(self, source: Source) -> None:
        """Take rows until a pack is full and hand over how they ended; fewer when the run was stopped.

        What others are asking is waited for when all of its own is asked, so that it holds nothing that they
        may be waiting for.
        """
        hand, most = Hand(), self._packing.budget.rows
        async with self._filling:
            todo = deque(self._whole(self._packs(await self._filled(source, hand), most), source, hand))
        replies = self._courier.tally.replies
        try:
            while todo or hand.twins:
                if not todo:
                    left = await self._landed(hand)
                    most = max(1, most // 2)  # these were asked in vain, too
                    todo += self._packs(left, most)
                    continue
                pack = self._next(todo)
                alone = len(pack) == 1 and self._courier.tally.replies == replies
                queued = sum(map(len, todo))
                behind = queued if alone else 0
                with self._asker.flights.after(queued, apart=alone):
                    again = await self._asked(pack, hand, hand.rows - behind, more=bool(todo))
                if again is None:
                    break
                parts = self._packs(again, max(1, len(pack) // 2))
                if len(pack) == 1:  # it comes after the others: see `_next`
                    todo.extendleft(parts)
                else:
                    todo += parts
                await self._hand_over(hand, source)  # not before, or others would look for the same prompts
        finally:
            self._courier.gate.leave()
        await self._hand_over(hand, source)

    async def _hand_over(self, hand: Hand, source: Source) -> None:
        """Let go of the rows that have ended: they count while others of their pack are asked again."""
        done, hand.done = hand.done, []
        hand.rows -= len(done)
        if done:
            await source.end(done)

    def _next(self, todo: deque[list[Attempt]]) -> list[Attempt]:
        """Take out the pack to ask next.

        Before any answer that is the last of the largest: the half without the bad row opens the gate.
        """
        if self._courier.gate.answered:
            return todo.popleft()
        at = max(range(len(todo)), key=lambda n: (len(todo[n]), n))
        pack = todo[at]
        del todo[at]
        return pack

    def _whole(self, found: list[list[Attempt]], source: Source, hand: Hand) -> list[list[Attempt]]:
        """Give the last pack back where it only holds what the budgets left over; return the others.

        Whoever takes next fills it up.
        """
        if len(found) > 1 and found[-2][0].plain:
            left = [attempt.row for attempt in found.pop()]
            source.give_back(left)
            hand.rows -= len(left)
        return found

    async def _filled(self, source: Source, hand: Hand) -> list[Attempt]:
        """Take rows until a pack of different prompts is to be asked, as far as there are any in reach."""
        first: dict[bytes, Attempt] = {}
        most = self._packing.budget.rows
        hand.changes = self._asker.flights.changes
        while len(first) < most and hand.rows < most * (REACH if first else 1):
            rows = await source.take(most - len(first))
            if not rows:
                break
            hand.rows += len(rows)
            for begun in self._asker.begin_all(rows):
                if isinstance(begun, Outcome):
                    hand.done.append(begun)
                else:
                    self._sort(begun, first, hand)
        return list(first.values())

    def _sort(self, attempt: Attempt, first: dict[bytes, Attempt], hand: Hand) -> None:
        """Put a row with those that are the `first` to ask something, or with those that wait."""
        id_ = self._asker.id_of(attempt)
        if id_ in first or self._asker.flights.has(id_):
            hand.twins.append(attempt)
        else:
            first[id_] = attempt

    async def _landed(self, hand: Hand) -> list[Attempt]:
        """Wait for what others are asking; return those that are to be asked after all."""
        self._courier.gate.leave()  # whoever asks for them may need to try the API first
        twins, hand.twins = hand.twins, []
        first: dict[bytes, Attempt] = {}
        for attempt in twins:
            if not await self._asker.flights.landed(self._asker.id_of(attempt), hand.rows):
                return []
            self._look_again(attempt, first, hand)
        return list(first.values())

    def _look_again(self, attempt: Attempt, first: dict[bytes, Attempt], hand: Hand) -> None:
        """Sort a row whose prompt others may have asked and been answered since it was looked at."""
        outcome = self._asker.replay(attempt)
        if outcome is None:
            self._sort(attempt, first, hand)
        else:
            hand.done.append(outcome)

    async def _asked(self, pack: list[Attempt], hand: Hand, held: int, *, more: bool) -> list[Attempt] | None:
        """Ask about the prompts of a pack that nobody else is asking by now; return those to ask again."""
        first: dict[bytes, Attempt] = {}
        if self._asker.flights.changes == hand.changes:
            first = {self._asker.id_of(attempt): attempt for attempt in pack}
        else:
            for attempt in pack:
                self._look_again(attempt, first, hand)
        attempts = list(first.values())
        if len(attempts) > 1 and not all(attempt.plain for attempt in attempts):
            return attempts  # others were answered badly, so one of these is to be asked alone
        if not attempts:
            return []
        if len(attempts) == 1:
            return await self._alone(attempts[0], hand.done, held, more=more)
        with self._asker.flights.of(first):
            return await self._ask(first, hand.done, held)

    async def _alone(
        self, attempt: Attempt, done: list[Outcome], held: int, *, more: bool
    ) -> list[Attempt] | None:
        ended = await self._asker.finish(attempt, held=held, more=more)
        if isinstance(ended, Attempt):
            return [ended]
        if ended is None:
            return None
        done.append(ended)
        return []

    async def _ask(self, first: dict[bytes, Attempt], done: list[Outcome], held: int) -> list[Attempt] | None:
        """Ask once; add the rows that have ended to `done` and return the others, or None when stopped."""
        attempts = list(first.values())
        pack = packed([attempt.text for attempt in attempts])
        request = Request(b"", pack.text, pack_cap(self._packing, self._costing, len(attempts)))

        def sent() -> None:
            for attempt in attempts:
                attempt.leaves()

        answer = await self._courier.deliver(request, sent, ids=first, held=held)
        if answer is None:
            return None
        if isinstance(answer, Failure):
            if not self._courier.tells_nothing(answer):  # else others have had their turn
                await self._courier.let_others_try(held)  # their packs may have no such row
            return attempts
        lengths = [len(attempt.text) for attempt in attempts]
        pieces = shared_out(answer, lengths, unpacked(answer.text, pack.ids, self._packing.name))
        self._asker.keep(attempts, pieces, answer)
        left = []
        for attempt, piece in zip(attempts, pieces, strict=True):
            outcome = self._asker.judge(attempt, piece)
            if outcome is None:
                left.append(attempt)
            else:
                done.append(outcome)
        return left

    def _packs(self, attempts: list[Attempt], rows: int) -> list[list[Attempt]]:
        """Put attempts together; one that is to be asked in another way than the rest stands alone."""
        alone = [[attempt] for attempt in attempts if not attempt.plain]
        plain = [attempt for attempt in attempts if attempt.plain]
        tokens = [self._costing.tokens.added(attempt.text) + WRAPPING for attempt in plain]
        budget = replace(self._packing.budget, rows=rows)
        each = min(self._packing.max_output_tokens or WIDEST, round(WIDER * self._costing.cost.output))
        return alone + [[plain[n] for n in run] for run in packs(tokens, each + ECHO_TOKENS, budget)]


def shared_out(reply: Reply, lengths: Sequence[int], found: Unpacked) -> list[Reply]:
    """Return what each row got out of a reply: its own answer or none, and its share of what was taken.

    `lengths` are those of the rows' prompts.
    """
    answers = [answer or "" for answer in found.answers]
    taken = shares(reply.usage, lengths, [len(answer) for answer in answers])
    stored = split(reply.stored, lengths)
    return [
        Reply(
            text=answer,
            finish="STOP" if answer else MISSING,
            block="",
            usage=usage,
            model=reply.model,
            tier=reply.tier,
            seconds=reply.seconds,
            source=reply.source,
            rows=len(lengths),
            at=reply.at,
            stored=part,
        )
        for answer, usage, part in zip(answers, taken, stored, strict=True)
    ]


def pack_cap(packing: Packing, costing: Costing, rows: int) -> int:
    """Return the most output tokens of a pack, so that a model that repeats itself is cut soon.

    It is a multiple of what answers have taken, at most the sum of the job's caps for single rows, and never
    more than the budget of a pack's answer.
    """
    cost = costing.cost
    room = (ROOM if cost.seen else FIRST_ROOM) * cost.output + ECHO_TOKENS
    told = rows * ((packing.max_output_tokens or WIDEST) + ECHO_TOKENS)
    return min(SPARE + round(rows * room), told, packing.budget.output_tokens, packing.output_ceiling)
