"""The journal: replies by request digest in SQLite, on disk before anything is done with them.

Each reply is one transaction, written when it arrives and before it is judged. A killed process has
therefore handed every reply to the operating system; `sync` makes them survive a power cut. A reply found
here is not asked for again, whoever asks. The file may be deleted at any time: only replies whose rows
are in no part yet are then paid for again.

Each reply has a checksum, since SQLite has none: one that does not match is as good as not there. A damaged
file is set aside, what can be read of it goes on in a new one, and `notes` says so.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TypeVar

from pipeline.disk import draft_of, sync_folder, whole_file
from pipeline.errors import StoreError
from pipeline.flow import Failure, Reply, Row
from pipeline.store.entries import (
    ADD,
    ADD_NEW,
    COLUMNS,
    Entry,
    Values,
    entry_of,
    is_whole,
    make_tables,
    values_of,
)
from pipeline.store.pages import Value, rows
from pipeline.store.salvage import (
    LOG,
    ForeignError,
    copy_log,
    fault_at_a_glance,
    is_damage,
    log_pages,
    put_aside,
    readable,
)

OFTEN = 2_000  # replies between two checkpoints at most: their log takes about 15 MB
ENTRY = "SELECT rowid, id, key, digest, failed, body, crc FROM reply "
ALL = ENTRY + "NOT INDEXED WHERE rowid >= ? ORDER BY rowid LIMIT ?"
EMPTIED = "nothing is in it"
_BITS = 24  # of an id, which tell that it was never kept

Done = TypeVar("Done")


class Journal:
    """Replies and final failures of one run folder. One task writes, threads may `sync` and `checkpoint`.

    Every method raises StoreError when the disk fails. After a failed sync nothing is written any more, since
    the system may have dropped what it could not write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = False
        self._since = 0
        self._lost: str | None = None  # why nothing may be written any more
        self._sick = False  # found damaged by another thread
        self._damaged = 0
        self._notes: list[str] = []
        self._syncing, self._moving = threading.Lock(), threading.Lock()  # not while the file is replaced
        try:
            try:
                self._begin()
            except sqlite3.DatabaseError as exc:
                if not is_damage(exc):
                    raise
                self._replace()
                self._begin()
        except (sqlite3.Error, OSError) as exc:
            raise self._broken("opened", exc) from exc

    @property
    def notes(self) -> list[str]:
        """What was found damaged since it was opened, a sentence each."""
        if not self._damaged:
            return [*self._notes]
        entries = "1 reply" if self._damaged == 1 else f"{self._damaged:,} replies"
        return [*self._notes, f"{entries} in the journal had a wrong checksum: set aside, and asked again"]

    def _begin(self) -> None:
        self._db = self._open()
        fresh = self._db.execute("SELECT 1 FROM reply LIMIT 1").fetchone() is None
        self._seen = bytearray(2**_BITS // 8) if fresh else None  # a map of the ids that were kept
        self._log = os.open(f"{self._path}-wal", os.O_RDONLY)
        sync_folder(self._path.parent)  # we sync the log by ourselves, so nobody else does this

    def _open(self) -> sqlite3.Connection:
        there, written = self._path.exists(), log_pages(self._path)
        empty = not (there and self._path.stat().st_size)
        if written and empty:
            self._lose_log(written)  # or SQLite removes it
            written = 0
        elif there and empty:
            raise ForeignError(EMPTIED)
        elif empty and not self._path.with_name(self._path.name + LOG).exists():
            _make(self._path)
        db = _connected(self._path)
        try:
            self._check_log(db, written)
            make_tables(db)
            self._look_through(db)
        except BaseException:
            db.close()
            raise
        return db

    def _check_log(self, db: sqlite3.Connection, written: int) -> None:
        """Keep a copy of a log of which SQLite can use less than was written."""
        _, used, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if written > max(used, 0):
            self._lose_log(written - max(used, 0))

    def _look_through(self, db: sqlite3.Connection) -> None:
        """Look at all pages of a file that is not large. Raises ForeignError for a damaged or a cut one."""
        if (found := fault_at_a_glance(db, self._path)) is not None:
            raise ForeignError(found)

    def _lose_log(self, pages: int) -> None:
        kept = copy_log(self._path)
        self._notes.append(
            f"the last {pages:,} pages of the journal's log cannot be used: a copy of it is kept as "
            f"`{kept.name}`, and what only they held is asked again"
        )

    def find(self, request_id: bytes, key: bytes) -> Entry | None:
        """Return what was answered to the request; the answer that the row `key` paid for comes first."""
        if self._seen is not None:
            byte, bit = _place(request_id)
            if not self._seen[byte] & bit:
                return None
        query = ENTRY + "WHERE id = ? ORDER BY key != ?"
        for rowid, *values in self._run(query, request_id, key):
            if is_whole(values):
                return entry_of(values)
            self._put_away(rowid, values[0], values[-1])
        return None

    def keep(self, request_id: bytes, row: Row, answer: Reply | Failure) -> None:
        """Write down an answer that `row` has paid for; when this returns, a killed process keeps it."""
        self._run(ADD, *values_of(request_id, row, answer))
        self._note(request_id)

    def keep_all(self, answers: Iterable[tuple[bytes, Row, Reply | Failure]]) -> None:
        """Write down several answers, by request id and row: all of them or none."""
        entries = [values_of(*answer) for answer in answers]
        self._do(lambda db: _add_all(db, entries))
        for request_id, *_ in entries:
            self._note(request_id)

    def _note(self, request_id: bytes) -> None:
        if self._seen is not None:
            byte, bit = _place(request_id)
            self._seen[byte] |= bit
        self._kept = True
        self._since += 1

    def _put_away(self, *entry: object) -> None:
        """Move an entry (rowid, id and checksum) to where nobody looks for it."""
        self._damaged += 1
        self._run("INSERT INTO damaged SELECT * FROM reply WHERE rowid = ? AND id = ? AND crc = ?", *entry)
        self._run("DELETE FROM reply WHERE rowid = ? AND id = ? AND crc = ?", *entry)

    def sync(self) -> None:
        """Make all that was kept since the last time survive a power cut."""
        if not self._kept:
            return
        with self._syncing:
            self._kept = False
            try:
                os.fdatasync(self._log)
            except OSError as exc:
                self._lost = str(exc)
                raise self._broken("synced", exc) from exc
        if self._since > OFTEN:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Move the log into the file, so that the log stays small."""
        with self._moving:
            if self._lost is not None:
                raise self._broken("written", OSError(self._lost))
            self._since = 0
            try:
                with closing(sqlite3.connect(self._path, timeout=30.0)) as db:
                    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error as exc:
                if is_damage(exc):
                    self._sick = True  # whoever writes replaces it
                    return
                self._lost = str(exc)
                raise self._broken("written", exc) from exc

    def close(self) -> None:
        """Close the file; what was kept stays."""
        with self._syncing, self._moving:
            os.close(self._log)
            if self._lost is None:
                self._db.close()
                return
            # The last to close a database writes its log into it, but for one that may only read.
            with ExitStack() as others:
                with suppress(sqlite3.Error):  # the run ends with the first error
                    db = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)
                    others.enter_context(closing(db)).execute("SELECT 1 FROM reply LIMIT 1").fetchone()
                self._db.close()

    def _run(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        return self._do(lambda db: db.execute(statement, values).fetchall())

    def _do(self, act: Callable[[sqlite3.Connection], Done]) -> Done:
        """Do something with the file, and again on a new one where this one turns out to be damaged."""
        if self._lost is not None:
            raise self._broken("written", OSError(self._lost))
        try:
            try:
                if self._sick:
                    self._renew()
                return act(self._db)
            except sqlite3.DatabaseError as exc:
                if not is_damage(exc):
                    raise
                self._renew()
                return act(self._db)
        except (sqlite3.Error, OSError) as exc:
            raise self._broken("written", exc) from exc

    def _renew(self) -> None:
        """Go on with a new file, in the middle of a run."""
        with self._syncing, self._moving:
            self._replace()
            self._db.close()
            os.close(self._log)
            self._begin()
            self._sick, self._kept = False, True

    def _replace(self) -> None:
        """Set the file aside; a new one with what can be read of it takes its place."""
        with draft_of(self._path) as (draft, handle):
            taken = _refill(draft, self._path)
            os.fsync(handle)
            kept = put_aside(self._path, draft)
        self._notes.append(
            f"the journal was damaged: it was set aside as `{kept.name}`, {taken:,} of its replies were "
            "taken over, and what else was in it is asked again where no part has it"
        )

    def _broken(self, verb: str, exc: Exception) -> StoreError:
        return StoreError(
            f"the journal `{self._path}` cannot be {verb}: {exc}",
            "free some space if the disk is full, and see to the disk if it fails; then run the same command "
            "again: what was answered is kept",
        )


def _add_all(db: sqlite3.Connection, entries: list[Values]) -> None:
    db.execute("BEGIN")
    db.executemany(ADD, entries)
    db.execute("COMMIT")


def mended(path: Path) -> list[str]:
    """Open a journal that no row needs just now, so that a damaged one is set aside; return what was found.

    For the owner of the folder only; raises StoreError.
    """
    if not path.exists():
        return []
    with closing(Journal(path)) as journal:
        return journal.notes


def _connected(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA wal_autocheckpoint=0")  # `checkpoint` does it, away from the event loop
    except BaseException:
        db.close()
        raise
    return db


def _make(path: Path) -> None:
    """Make an empty journal, whole at once: a kill leaves no file of 0 bytes, so such a one was emptied."""
    with whole_file(path) as draft, closing(sqlite3.connect(draft)) as db:
        db.execute("PRAGMA journal_mode=MEMORY")
        make_tables(db)


def _refill(draft: Path, damaged: Path) -> int:
    """Make a journal of the replies of a damaged one that can be read; return how many these are.

    The pages are read by themselves, too: with one page of the tree all rows behind it are out of reach.
    """
    with closing(sqlite3.connect(draft, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=MEMORY")
        db.execute("BEGIN")
        make_tables(db)
        for _, *values in readable(damaged, ALL):
            if is_whole(values):
                db.execute(ADD, values)
        if damaged.exists():
            db.executemany(ADD_NEW, (values for values in rows(damaged) if _is_entry(values)))
        db.execute("COMMIT")
        return int(db.execute("SELECT count(*) FROM reply").fetchone()[0])


def _is_entry(values: list[Value]) -> bool:
    return len(values) == len(COLUMNS) and is_whole([*values])


def _place(request_id: bytes) -> tuple[int, int]:
    """Return the byte and the bit of the map that stand for an id."""
    number = int.from_bytes(request_id[:3], "little")
    return number >> 3, 1 << (number & 7)
