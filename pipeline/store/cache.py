"""The response cache as a run uses it: what was asked once is not paid for again, by no job of the project.

An entry is an answer that was good enough for a row, under the id of the row's first request. It comes out
of the journal, which stays what counts for the run itself. Nothing that happens to the cache stops a run:
from the first fault on the run goes on without it, and `notes` says so. A damaged file is set aside and begun
anew.

One task calls `find` and `learn`, which cost next to nothing; `write` does all that takes time, in a thread.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pipeline.flow import Reply
from pipeline.keys import SIZE
from pipeline.store.answers import answer_of, connect, keep_within, opened, reason
from pipeline.store.entries import checksum
from pipeline.store.salvage import RIGHTS, barred, is_damage, put_aside

GLANCE = 0.1  # seconds that a look may wait for somebody else
RECORD = 2 * SIZE + 3  # bytes: id, key, and three digits for the rows of a pack
# One statement for thousands of entries, packed into one value (?2): while it runs, nobody waits for Python
TAKE = (
    "WITH RECURSIVE step(at) AS (SELECT 1 UNION ALL SELECT at + ?4 FROM step WHERE at + ?4 <= ?1) "
    "INSERT INTO answer SELECT reply.id, ?3, ?3, substr(?2, at + 32, 3) + 0, reply.key, "
    "reply.digest, reply.body, reply.crc FROM step CROSS JOIN journal.reply "
    "ON reply.id = substr(?2, at, 16) AND reply.key = substr(?2, at + 16, 16) WHERE NOT reply.failed "
)
OVER = (
    "ON CONFLICT (id) DO UPDATE SET used = excluded.used, since = excluded.since, rows = excluded.rows, "
    "key = excluded.key, digest = excluded.digest, body = excluded.body, crc = excluded.crc "
)
NEWER = (  # than what is there, where it came in an earlier run or out of a batch
    "WHERE coalesce(json_extract(CAST(excluded.body AS TEXT), '$.at'), 0) "
    "> coalesce(json_extract(CAST(answer.body AS TEXT), '$.at'), 0)"
)
NOT_PACKED = "WHERE excluded.rows <= answer.rows"  # rather the answer that shared its request with fewer
KEEP = "ON CONFLICT DO NOTHING"
MARK = (
    "WITH RECURSIVE step(at) AS (SELECT 1 UNION ALL SELECT at + ?4 FROM step WHERE at + ?4 <= ?1) "
    "UPDATE answer SET used = ?3 WHERE used < ?3 - 3600 "  # not again within an hour
    "AND id IN (SELECT substr(?2, at, 16) FROM step)"
)
LOOK = "SELECT id, key, digest, body, crc FROM answer WHERE id IN "
AT_ONCE = 999  # questions; no SQLite takes fewer variables
ADD = "INSERT INTO answer VALUES (?, ?, ?, ?, ?, ?, ?, ?) "

Value = TypeVar("Value")


class Use(Enum):
    """How a run uses the cache: in full, only to replace what it knows, or not at all."""

    FULL = "full"
    REFRESH = "refresh"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Learned:
    """A good answer: the id of the question, the one that the journal has it under, and the paying row.

    `rows` shared the request, `asked` tells what this run has asked from what an earlier one had.
    """

    id: bytes
    reply_id: bytes
    key: bytes
    rows: int
    asked: bool


class Cache:
    """Answers of all jobs in a folder of run folders.

    `most_bytes` bounds the file, `most_rows` is how many rows may have shared the request of an answer: a run
    that asks for rows alone takes no answers out of packs.
    """

    def __init__(self, path: Path, use: Use, *, most_bytes: int, most_rows: int) -> None:
        self._path, self._use = path, use
        self._most_bytes, self._most_rows = most_bytes, most_rows
        self._learned: list[Learned] = []
        self._used: list[bytes] = []
        self._bad: list[tuple[bytes, int]] = []  # damaged entries, by id and checksum
        self._notes: list[str] = []
        self._damaged = 0
        self._off = use is Use.NONE
        self._sick = False  # found damaged by who looks; who writes sets it aside
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._retired: list[sqlite3.Connection] = []
        self._inode: int | None = None  # of the file that is open
        self._version = 0
        if use is Use.FULL and path.exists():
            self._open_reader()

    @property
    def notes(self) -> list[str]:
        """What happened to the cache, a sentence each."""
        if not self._damaged:
            return [*self._notes]
        answers = "1 answer" if self._damaged == 1 else f"{self._damaged:,} answers"
        return [*self._notes, f"{answers} in the cache had a wrong checksum: removed, and asked again"]

    def find(self, ids: Sequence[bytes]) -> dict[bytes, Reply]:
        """Return the answers that are known to these requests."""
        reader = self._reader
        if reader is None or not ids:
            return {}
        found = {}
        try:
            for id_, *values in _entries(reader, ids):
                reply = answer_of(id_, values)
                if reply is None:
                    self._damaged += 1
                    self._bad.append((id_, values[-1]))
                elif reply.rows <= self._most_rows:
                    found[id_] = reply
        except sqlite3.Error as exc:
            self._fail(exc)
            return {}
        return found

    def use(self, id_: bytes) -> None:
        """Say that an answer which was found was good."""
        self._used.append(id_)

    def learn(self, learned: Learned) -> None:
        """Say that the journal has a good answer."""
        if not self._off:
            self._learned.append(learned)

    def write(self, journal: Path, now: float) -> None:
        """Take over what was learned, out of the journal; `now` is Unix time. Never raises."""
        learned, used, bad = _taken(self._learned), _taken(self._used), _taken(self._bad)
        if self._off or not (learned or used or bad or self._sick):
            return
        try:
            try:
                self._write(journal, learned, used=used, bad=bad, now=int(now))
            except sqlite3.DatabaseError as exc:
                if not (is_damage(exc) and self._is_damaged()):
                    raise
                self._renew()
                self._write(journal, learned, used=[], bad=[], now=int(now))
        except (sqlite3.Error, OSError) as exc:
            self._give_up(exc)

    def close(self) -> None:
        """Close the file."""
        self._off = True
        self._close_reader()
        for db in (*self._retired, self._writer):
            if db is not None:
                with suppress(sqlite3.Error):  # its log is read by who comes next
                    db.close()
        self._retired, self._writer = [], None

    def _open_reader(self) -> None:
        try:
            self._inode = self._path.stat().st_ino
            self._reader = opened(self._path, GLANCE)
            if self._reader.execute("SELECT 1 FROM answer LIMIT 1").fetchone() is None:
                self._close_reader()  # nothing to find
        except (sqlite3.Error, OSError) as exc:
            self._fail(exc)

    def _close_reader(self) -> None:
        """Look no more; the file is closed at the end, since somebody may be looking just now."""
        if self._reader is not None:
            self._retired.append(self._reader)
            self._reader = None

    def _fail(self, exc: Exception) -> None:
        """Look no more; where the file is damaged, let `write` set it aside."""
        self._close_reader()
        if is_damage(exc):
            self._sick = True
        else:
            self._give_up(exc)

    def _give_up(self, exc: Exception) -> None:
        if not self._off:
            why = reason(self._path, exc)
            note = f"the cache `{self._path}` cannot be used: {why}; the run went on without it"
            if barred(self._path, write=True) is not None:
                note += f": {RIGHTS}, or leave it out with `--no-cache`"
            self._notes.append(note)
        self._off = True

    def _write(
        self,
        journal: Path,
        learned: list[Learned],
        *,
        used: list[bytes],
        bad: list[tuple[bytes, int]],
        now: int,
    ) -> None:
        if self._sick:
            self._renew()
        if self._writer is None:
            self._writer = connect(self._path)
            self._inode = self._path.stat().st_ino
            self._version = _version(self._writer)
        db = self._writer
        db.execute("ATTACH ? AS journal", (f"{journal.absolute().as_uri()}?mode=ro",))
        try:
            db.execute("BEGIN IMMEDIATE")
            try:
                db.executemany("DELETE FROM answer WHERE id = ? AND crc = ?", bad)
                if used:
                    db.execute(MARK, (len(used) * SIZE, b"".join(used), now, SIZE))
                self._take(db, learned, now)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        finally:
            db.execute("DETACH journal")
        keep_within(db, self._most_bytes)
        if self._reader is None and self._use is Use.FULL and _version(db) != self._version:
            self._open_reader()  # others have come to fill it, too

    def _take(self, db: sqlite3.Connection, learned: list[Learned], now: int) -> None:
        refreshes = self._use is Use.REFRESH
        rules = (OVER, OVER + NEWER) if refreshes else (OVER + NOT_PACKED, KEEP)
        for asked, rule in zip((True, False), rules, strict=True):
            chosen = [one for one in learned if one.asked is asked]
            records = b"".join(
                [one.id + one.key + b"%03d" % one.rows for one in chosen if one.id == one.reply_id]
            )
            if records:
                db.execute(TAKE + rule, (len(records), records, now, RECORD))
            for one in chosen:
                if one.id != one.reply_id:  # it was asked in another way in the end
                    _take_one(db, one, now, rule)

    def _is_damaged(self) -> bool:
        """Tell whether it is the cache that is damaged, and not the journal, which mends itself."""
        if self._writer is None:
            return True  # it could not even be opened
        try:
            return bool(self._writer.execute("PRAGMA main.quick_check(1)").fetchone() != ("ok",))
        except sqlite3.DatabaseError as exc:
            return is_damage(exc)

    def _renew(self) -> None:
        """Set the file aside; the next write makes a new one."""
        self._close_reader()
        if self._writer is not None:
            with suppress(sqlite3.Error):
                self._writer.close()
        self._writer, self._sick = None, False
        with suppress(FileNotFoundError):  # somebody else has done it
            if self._inode in (None, self._path.stat().st_ino):
                kept = put_aside(self._path)
                self._notes.append(f"the cache was damaged: it was set aside as `{kept.name}` and begun anew")


def _take_one(db: sqlite3.Connection, learned: Learned, now: int, rule: str) -> None:
    """Take over an answer under another id than the journal has it under."""
    query = "SELECT key, digest, body, crc FROM journal.reply WHERE id = ? AND key = ? AND NOT failed"
    for *values, crc in db.execute(query, (learned.reply_id, learned.key)).fetchall():
        key, digest, body = values
        if checksum(learned.reply_id, key, digest, False, body) == crc:
            mine = checksum(learned.id, key, digest, False, body)
            db.execute(ADD + rule, (learned.id, now, now, learned.rows, *values, mine))


def _taken(values: list[Value]) -> list[Value]:
    """Take out what is there now; another thread may add to it meanwhile."""
    taken = values[:]
    del values[: len(taken)]
    return taken


def _entries(reader: sqlite3.Connection, ids: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
    for start in range(0, len(ids), AT_ONCE):
        some = ids[start : start + AT_ONCE]
        yield from reader.execute(_look(len(some)), some)


@cache
def _look(number: int) -> str:
    return f"{LOOK}({','.join('?' * number)})"


def _version(db: sqlite3.Connection) -> int:
    """Return a number that changes when another connection has written."""
    return int(db.execute("PRAGMA data_version").fetchone()[0])
