"""Putting what is to be asked into lines: which rows share one, and what a line will count."""

from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pipeline.executors.asker import Attempt
from pipeline.executors.packed import ECHO_TOKENS, FIRST_ROOM, WIDER, WIDEST, WRAPPING, Packing, pack_cap
from pipeline.flow import FailureKind
from pipeline.gemini.lines import request_line
from pipeline.models import Price
from pipeline.packing import packed, packs
from pipeline.store.batches import Member
from pipeline.tokens import FITTED, Costing

SMALLER = 4  # times fewer rows stand together when they are asked again
FAR = 1.5  # times the typical answer that a line is thought to cost at most


@dataclass(slots=True)
class Held:
    """A prompt that waits for its line, and the numbers of the rows that have it."""

    attempt: Attempt
    rows: list[int]


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is to be written: its request, whose it is, and what it will count."""

    text: str
    cap: int | None
    packed: bool
    members: list[Member]
    rows: list[int]
    tokens: int
    cost_usd: float

    def body(self, key: str, alone: Mapping[str, object], together: Mapping[str, object]) -> bytes:
        """Return it as it is sent; requests for one row share `alone`, those for several `together`."""
        return request_line(key, self.text, self.cap, together if self.packed else alone)


class Ahead:
    """Lines, of which some may be looked at before they are taken."""

    def __init__(self, lines: AsyncIterator[Line]) -> None:
        self._lines = lines
        self._seen: deque[Line] = deque()

    async def next(self) -> Line | None:
        """Take the next line; None after the last."""
        return self._seen.popleft() if self._seen else await anext(self._lines, None)

    async def hold(self, count: int, *, packed: bool) -> bool:
        """Tell whether at least `count` of the next lines are for several rows, or for one."""
        found = sum(line.packed is packed for line in self._seen)
        while found < count and len(self._seen) < 2 * count:
            line = await anext(self._lines, None)
            if line is None:
                break
            self._seen.append(line)
            found += line.packed is packed
        return found >= count


@dataclass(slots=True)
class Loading:
    """Gathers prompts until a line is full. `price` is that of a batch; None costs nothing."""

    packing: Packing | None
    costing: Costing
    price: Price | None
    _held: dict[int, dict[bytes, Held]] = field(default_factory=dict)  # by the most rows of a line
    _places: dict[bytes, int] = field(default_factory=dict)
    _unwritten: dict[bytes, Line] = field(default_factory=dict)  # lines that were looked at and not taken

    def add(self, attempt: Attempt, id_: bytes, row: int, vain: int) -> Iterator[Line]:
        """Take a row in, which lines were to blame for `vain` times; yield the lines that are full."""
        if id_ in self._unwritten:
            self._unwritten[id_].rows.append(row)
            return
        if id_ in self._places:
            self._held[self._places[id_]][id_].rows.append(row)
            return
        most = self._most(attempt, vain)
        self._places[id_] = most
        held = self._held.setdefault(most, {})
        held[id_] = Held(attempt, [row])
        if len(held) >= most:
            yield from self._lines(most, last=False)

    def clear(self) -> None:
        """Forget what is held."""
        self._unwritten.clear()
        self._held.clear()
        self._places.clear()

    def settled(self, line: Line) -> None:
        """Forget a line of which it is known now what its rows wait for."""
        for member in line.members:
            self._unwritten.pop(member.id, None)

    def rest(self) -> Iterator[Line]:
        """Yield what is held, in lines that need not be full."""
        for most in list(self._held):
            yield from self._lines(most, last=True)

    def _most(self, attempt: Attempt, vain: int) -> int:
        """Return with how many others a row may stand in a line."""
        if self.packing is None or not attempt.plain:
            return 1
        again = vain + attempt.seen.get(FailureKind.MISSING, 0)
        return int(max(1, self.packing.budget.rows // SMALLER**again))

    def _lines(self, most: int, *, last: bool) -> Iterator[Line]:
        """Yield lines of what is held; unless they are the `last`, what the budgets leave over stays."""
        held = list(self._held.pop(most, {}).items())
        tokens = [self.costing.tokens.added(one.attempt.text) + WRAPPING for _, one in held]
        runs = list(self._runs(tokens, most))
        if len(runs) > 1 and not last:
            self._held[most] = dict(held[n] for n in runs.pop())
        for id_, _ in held[: sum(map(len, runs))]:
            del self._places[id_]
        for run in runs:
            line = self._line([held[n] for n in run])
            self._unwritten |= {member.id: line for member in line.members}
            yield line

    def _runs(self, tokens: list[int], most: int) -> Iterator[range]:
        if self.packing is None or most == 1:
            return iter([range(n, n + 1) for n in range(len(tokens))])
        each = min(self.packing.max_output_tokens or WIDEST, round(WIDER * self.costing.cost.output))
        return packs(tokens, each + ECHO_TOKENS, replace(self.packing.budget, rows=most))

    def _line(self, held: list[tuple[bytes, Held]]) -> Line:
        attempts = [one.attempt for _, one in held]
        together = len(attempts) > 1 and self.packing is not None
        text, tags, cap = attempts[0].text, [""], attempts[0].cap
        if together and self.packing is not None:
            pack = packed([attempt.text for attempt in attempts])
            text, tags = pack.text, list(pack.ids)
            cap = pack_cap(self.packing, self.costing, len(attempts))
        tokens = self.costing.tokens.most(text)
        members = [
            Member(id_, one.attempt.row.key, one.attempt.row.digest, len(one.attempt.text), tag)
            for (id_, one), tag in zip(held, tags, strict=True)
        ]
        return Line(
            text=text,
            cap=cap,
            packed=together,
            members=members,
            rows=[row for _, one in held for row in one.rows],
            tokens=tokens,
            cost_usd=self._cost(tokens, len(attempts), cap),
        )

    def _cost(self, tokens: int, rows: int, cap: int | None) -> float:
        """Return what a line may cost; before a few answers have come, as if it used all that it may."""
        if self.price is None:
            return 0.0
        cost = self.costing.cost
        taught = cost.seen >= FITTED
        output = (FAR if taught else FIRST_ROOM) * rows * cost.output
        if cap is not None:
            output = min(output, cap) if taught else cap
        return (tokens * self.price.input + output * self.price.output) / 1e6
