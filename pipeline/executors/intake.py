"""Taking in what a batch has answered: from a file of results, line by line, into the journal.

It may be done twice: an answer that the journal has is replaced by itself, and not counted again. A line is
known by its key, never by its place. What no line answers is asked again by whoever comes next.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.batch import Batch, Vain
from pipeline.executors.packed import shared_out
from pipeline.flow import Failure, FailureKind, Reply, Row
from pipeline.gemini.lines import Answer, Job, answer_of_line
from pipeline.packing import unpacked
from pipeline.retry import TABLE, Act, is_final, is_of_cache
from pipeline.store.batches import Member, Table
from pipeline.store.journal import Journal

AT_ONCE = 500  # lines between two transactions of the journal
SUSPECT = 3  # this many refused lines and no answer: it is the request, not the rows
LONGEST_KEY = 100
SEPARATE = Vain(10**6)  # behind so many times, a request is asked in no batch any more


@dataclass(slots=True)
class Taken:
    """What the lines of one file were.

    `told` counts lines of ours, `foreign` those of nobody's, `cached` replies that read from a cache, `kinds`
    what was refused, `final` what of that is the end of its row; `refusal` is what would stop a run.
    """

    told: int = 0
    replies: int = 0
    foreign: int = 0
    cached: int = 0
    kinds: Counter[FailureKind] = field(default_factory=Counter)
    final: Counter[FailureKind] = field(default_factory=Counter)
    refusal: Failure | None = None

    @property
    def passing(self) -> Counter[FailureKind]:
        """What lines were refused for whose rows have not ended."""
        return self.kinds if self.verdict is not None else self.kinds - self.final

    @property
    def verdict(self) -> Failure | None:
        """Why none of the lines could be answered, or None where one was or others may be."""
        if self.replies or self.refusal is None:
            return None
        if TABLE[self.refusal.kind].act is Act.REFUSE:
            return self.refusal
        if self.kinds[FailureKind.BAD_REQUEST] < max(SUSPECT, self.told):
            return None
        said = f"each of the {self.told} lines of a batch was refused: {self.refusal.message}"
        return Failure(FailureKind.CONFIG, said)


def key_of(batch: int, line: int) -> str:
    """Return the key of a line."""
    return f"{batch:06d}-{line:06d}"


def lost_cache(batch: Batch, taken: Taken) -> bool:
    """Tell whether the cache of a batch was gone, or the job failed of it."""
    failed = batch.state == "FAILED" and "cache" in batch.why.lower()
    return bool(batch.cache) and (failed or FailureKind.CACHE in taken.kinds)


def in_vain(batch: Batch, taken: Taken, *, lost: bool) -> Vain:
    """Return what a job that is over adds to the requests that it has not answered; `lost` is its cache."""
    if batch.spilled or batch.state == "EXPIRED":
        return SEPARATE
    if batch.withdrawn or (lost and taken.told):  # it was not the request
        return Vain()
    return Vain(1, whole=int(not taken.told))


class Intake:
    """Puts answers of lines into the journal; `name` is that of the echoed id in packs."""

    def __init__(
        self,
        table: Table,
        journal: Journal,
        name: str,
        *,
        replied: Callable[[Reply, int, int], None],  # the reply, the batch it is from or 0, and its rows
        secrets: tuple[str, ...],
    ) -> None:
        self._table = table
        self._journal = journal
        self._name = name
        self._replied = replied
        self._secrets = secrets

    def take(self, batch: Batch, results: Path) -> Taken:
        """Read results into the journal and return what their lines were. Raises StoreError and OSError."""
        taken, seen = Taken(), set[int]()
        kept: list[tuple[bytes, Row, Reply | Failure]] = []
        suspects: list[tuple[bytes, Row, Reply | Failure]] = []
        for answer in self._answers(batch, results):
            line = _line_of(answer.key, batch.number)
            members = self._table.members(batch.number, line) if line is not None else []
            if line is None or line in seen or not members:
                taken.foreign += 1
                continue
            seen.add(line)
            taken.told += 1
            if isinstance(answer.answer, Reply):
                reply = _bearing(answer.answer, 0 if taken.replies else batch.stored)
                taken.replies += 1
                taken.cached += reply.usage.cached > 0
                if self._journal.find(members[0].id, b"") is None:  # or it was counted when it came first
                    self._replied(reply, batch.number, len(members))
                kept += self._pieces(reply, members)
            else:
                self._refused(_of_line(answer.answer, batch), members, taken, kept=kept, suspects=suspects)
            if len(kept) >= AT_ONCE:
                self._journal.keep_all(kept)
                kept = []
        if taken.verdict is None:
            kept += suspects
        self._journal.keep_all(kept)
        return taken

    def keep(self, reply: Reply, members: list[Member]) -> None:
        """Put the answer to a line that was asked online into the journal. Raises StoreError."""
        self._replied(reply, 0, len(members))
        self._journal.keep_all(list(self._pieces(reply, members)))

    def _answers(self, batch: Batch, results: Path) -> Iterator[Answer]:
        job = Job(batch.seconds, batch.ended or batch.since, bool(batch.emulated), self._secrets)
        with results.open("rb") as lines:
            for raw in lines:
                found = answer_of_line(raw.decode("utf-8", "replace"), job)
                if found is not None:
                    yield found

    def _pieces(self, reply: Reply, members: list[Member]) -> Iterator[tuple[bytes, Row, Reply | Failure]]:
        pieces = [reply]
        if members[0].tag:
            found = unpacked(reply.text, [member.tag for member in members], self._name)
            pieces = shared_out(reply, [member.letters for member in members], found)
        for member, piece in zip(members, pieces, strict=True):
            yield member.id, _row(member), piece

    def _refused(
        self,
        failure: Failure,
        members: list[Member],
        taken: Taken,
        *,
        kept: list[tuple[bytes, Row, Reply | Failure]],
        suspects: list[tuple[bytes, Row, Reply | Failure]],
    ) -> None:
        """Keep a failure that is the row's own for good; any other leaves its rows without an answer."""
        taken.kinds[failure.kind] += 1
        if taken.refusal is None and TABLE[failure.kind].act in (Act.REFUSE, Act.GIVE_UP):
            taken.refusal = failure
        if is_final(failure.kind) and not members[0].tag:
            place = suspects if failure.kind is FailureKind.BAD_REQUEST else kept
            taken.final[failure.kind] += 1
            place.append((members[0].id, _row(members[0]), failure))


def _bearing(reply: Reply, stored: int) -> Reply:
    return replace(reply, stored=stored) if stored else reply


def _of_line(failure: Failure, batch: Batch) -> Failure:
    """Return a refusal that is about the cache as such: its line is asked again without."""
    of_cache = bool(batch.cache) and is_of_cache(failure)
    return replace(failure, kind=FailureKind.CACHE) if of_cache else failure


def _row(member: Member) -> Row:
    return Row(0, member.key, member.digest, {})


def _line_of(key: str, number: int) -> int | None:
    batch, dash, line = key[:LONGEST_KEY].partition("-")
    if not dash or not (batch.isdecimal() and line.isdecimal()) or int(batch) != number:
        return None
    return int(line)
