"""What is wrong with a journal, the response cache or a part: read whole, by every check, never changed."""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from pipeline.flow import FailureKind
from pipeline.keys import SIZE
from pipeline.store.entries import FAILURE, REPLY, checksum
from pipeline.store.reading import UNREADABLE, opened, part_files
from pipeline.store.salvage import RIGHTS, barred, fault_at_a_glance, open_to_read

MOST = 20  # kinds of findings in one file that are told
NAMED = 5  # rows or replies of one kind
_DIGITS = re.compile(r"\d[\d,]*")
_NUMBERED = re.compile(r"(?:row|reply|answer) (\d[\d,]*)")
ASK = "`rowmill run JOB` sets it aside; what it held is taken from the journal or asked again"
LAST = "the last of them counts; please report how it came about"
FORGET = "`rowmill run JOB` takes over what can be read, and asks and pays again for what no part holds"
ABSENT = "the journal is missing, so only the parts hold the answers"
ANEW = "keep the parts; the next run that asks makes a new one, and pays again for what no part has"
DELETE = "it may be deleted: it only saves money, and no table is made from it"


@dataclass(frozen=True, slots=True)
class _Kept:
    """A database of answers: what it and one of them are called, how to read them, what to do about them."""

    name: str
    entry: str
    entries: str
    hint: str


_JOURNAL = _Kept("journal", "reply", "SELECT rowid, id, key, digest, failed, body, crc FROM reply", FORGET)
_CACHE = _Kept("cache", "answer", "SELECT rowid, id, key, digest, 0, body, crc FROM answer", DELETE)


@dataclass(frozen=True, slots=True)
class Finding:
    """One inconsistency: in which file, what it is, and what to do.

    A `notice` is none: it is worth knowing, and nothing is wrong.
    """

    place: Path
    what: str
    hint: str
    notice: bool = False

    def as_json(self) -> dict[str, str]:
        """Return it as JSON values."""
        severity = "notice" if self.notice else "fault"
        return {"severity": severity, "file": str(self.place), "what": self.what, "hint": self.hint}


def few(findings: Iterable[Finding]) -> list[Finding]:
    """Return one finding for those of a kind, with their number and the first; a count above `MOST` kinds."""
    kinds, more = dict[str, _Kind](), 0
    for finding in findings:
        name = _DIGITS.sub("#", finding.what)
        if name in kinds or len(kinds) < MOST:
            kinds.setdefault(name, _Kind(finding)).add(finding.what)
        else:
            more += 1
    shown = [kind.finding() for kind in kinds.values()]
    return [*shown, replace(shown[-1], what=f"and {more:,} more of other kinds")] if more else shown


@dataclass(slots=True)
class _Kind:
    """Findings that differ by numbers only."""

    first: Finding
    count: int = 0
    numbers: list[str] = field(default_factory=list)

    def add(self, what: str) -> None:
        self.count += 1
        if len(self.numbers) < NAMED and (found := _NUMBERED.match(what)):
            self.numbers.append(found[1])

    def finding(self) -> Finding:
        if self.count == 1:
            return self.first
        which = f": {', '.join(self.numbers)}{' …' * (self.count > NAMED)}" if self.numbers else ""
        return replace(self.first, what=f"{self.first.what} ({self.count:,} of this kind{which})")


def count_replies(path: Path) -> int | None:
    """Return how many replies a journal holds, 0 where there is none, None where it cannot be read."""
    if not path.exists():
        return 0
    try:
        with closing(open_to_read(path)) as db:
            if fault_at_a_glance(db, path) is not None:
                return None
            return int(db.execute("SELECT count(*) FROM reply").fetchone()[0])
    except (sqlite3.Error, OSError):
        return None


def is_missing(journal: Path, parts: Path) -> bool:
    """Tell whether there is no journal beside parts, which a run does not leave behind."""
    return not journal.exists() and bool(part_files(parts))


def check_journal(path: Path, parts: Path) -> tuple[list[Finding], int | None]:
    """Return what is wrong with a journal, and how many replies were read, None where it cannot be.

    None that is there is a notice beside `parts`, and no fault, since it may be deleted.
    """
    if path.exists():
        return _check(path, _JOURNAL)
    return ([Finding(path, ABSENT, ANEW, notice=True)] if is_missing(path, parts) else []), 0


def check_cache(path: Path) -> list[Finding]:
    """Return what is wrong with the response cache, as notices, since no job needs it."""
    if not path.exists():
        return []
    before = path.stat().st_mtime_ns
    found, _ = _check(path, _CACHE)
    if found and path.stat().st_mtime_ns != before:
        found, _ = _check(path, _CACHE)  # another job wrote it meanwhile; now there is a log to read it by
    return [replace(one, notice=True) for one in found]


def _check(path: Path, kept: _Kept) -> tuple[list[Finding], int | None]:
    try:
        with closing(open_to_read(path)) as db:
            said = [str(line).splitlines()[-1] for (line,) in db.execute(f"PRAGMA integrity_check({MOST})")]
            found = [Finding(path, f"SQLite says: {line}", kept.hint) for line in said if line != "ok"]
            found = few(found) + few(_bad_entries(path, db, kept))
            return found, int(db.execute(f"SELECT count(*) FROM ({kept.entries})").fetchone()[0])  # noqa: S608
    except (sqlite3.Error, OSError) as exc:
        if (shut := barred(path, write=False)) is not None:
            return [Finding(shut, f"the {kept.name} may not be read", RIGHTS)], None
        return [Finding(path, f"the {kept.name} cannot be read: {exc}", kept.hint)], None


def _bad_entries(path: Path, db: sqlite3.Connection, kept: _Kept) -> Iterator[Finding]:
    for rowid, id_, key, digest, failed, body, crc in db.execute(kept.entries):
        if checksum(id_, key, digest, failed, body) != crc:
            yield Finding(path, f"{kept.entry} {rowid:,} does not match its checksum", kept.hint)
        elif wrong := entry_fault([id_, key, digest], failed, body):
            yield Finding(path, f"{kept.entry} {rowid:,} {wrong}", kept.hint)


def entry_fault(names: Sequence[object], failed: object, body: object) -> str | None:
    """Say what is wrong with an entry of a journal: its names (id, key, digest), its mark, its body."""
    if any(not isinstance(name, bytes) or len(name) != SIZE for name in names):
        return f"is named by other than {SIZE} bytes"
    if failed not in (0, 1) or not isinstance(body, bytes | str):
        return "is of another type than it was written with"
    try:
        (FAILURE if failed else REPLY).validate_json(body)
    except ValidationError as exc:
        return f"does not parse: {exc.errors()[0]['msg']}"
    return None


def check_part(path: Path, schema: pa.Schema, fingerprint: str | None = None) -> list[Finding]:
    """Return what is wrong with a part: whose it is, pages, checksums, types, values."""
    try:
        with opened(path, fingerprint) as file:
            if (wrong := _types(file.schema_arrow, schema)) is not None:
                return [Finding(path, wrong, ASK)]
            rows, names = 0, list[bytes]()
            found = list[Finding]()
            for batch in file.iter_batches():
                batch.validate(full=True)
                found += [
                    Finding(path, f"row {rows + number + 1:,} {wrong}", ASK)
                    for number, wrong in _faults(batch)
                ]
                keys, digests = batch["_key"].to_pylist(), batch["_digest"].to_pylist()
                names += [key + digest for key, digest in zip(keys, digests, strict=True) if key and digest]
                rows += len(batch)
    except UNREADABLE as exc:
        hint = RIGHTS if isinstance(exc, PermissionError) else ASK
        return [Finding(path, f"the part cannot be read: {str(exc).splitlines()[0]}", hint)]
    return few(found) + few(_doubled(path, names))


def _types(found: pa.Schema, wanted: pa.Schema) -> str | None:
    for name in dict.fromkeys([*wanted.names, *found.names]):
        if name not in found.names or name not in wanted.names:
            return f"the part {'lacks the' if name in wanted.names else 'has a strange'} column `{name}`"
        if found.field(name).type != wanted.field(name).type:
            return f"column `{name}` is {found.field(name).type} and should be {wanted.field(name).type}"
    return None


def _faults(batch: pa.RecordBatch) -> Iterator[tuple[int, str]]:
    """Yield the number of each row that no run has written, and what is wrong with it."""
    ok = pc.equal(batch["_status"], "ok")
    kinds = pa.array([str(kind) for kind in FailureKind], pa.string())
    refused = pc.is_in(batch["_error_kind"], kinds)
    tests = {
        "has no key, digest or status": pc.or_(
            pc.or_(pc.is_null(batch["_key"]), pc.is_null(batch["_digest"])),
            pc.invert(pc.is_in(batch["_status"], pa.array(["ok", "failed"]))),
        ),
        "is `ok` and has no answer": pc.and_(ok, pc.is_null(batch["answer"])),
        "has failed and has an answer": pc.and_(pc.invert(ok), pc.is_valid(batch["answer"])),
        "has failed for no known reason": pc.and_(pc.invert(ok), pc.invert(refused)),
        "is `ok` and has an error": pc.and_(ok, pc.is_valid(batch["_error_kind"])),
        "has a cost that is none": pc.invert(
            pc.fill_null(
                pc.and_(pc.is_finite(batch["_cost_usd"]), pc.greater_equal(batch["_cost_usd"], 0)), False
            )
        ),
    }
    for wrong, mask in tests.items():
        for number in np.flatnonzero(pc.fill_null(mask, True).to_numpy(zero_copy_only=False)):
            yield int(number), wrong


def _doubled(path: Path, names: Sequence[bytes]) -> Iterator[Finding]:
    seen = dict[bytes, int]()
    for number, name in enumerate(names, start=1):
        first = seen.setdefault(name, number)
        if first != number:
            yield Finding(path, f"rows {first:,} and {number:,} answer the same text of the same key", LAST)
