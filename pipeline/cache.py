"""The journal: replies by request digest in SQLite, on disk before anything is done with them.

Each reply is one transaction, written when it arrives and before it is judged. A killed process has
therefore handed every reply to the operating system; `sync` makes them survive a power cut. A reply found
here is not asked for again, whoever asks. The file may be deleted at any time: only replies whose rows
are in no part yet are then paid for again.
"""

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import StoreError
from pipeline.flow import Failure, Reply, Row
from pipeline.parts import Heads, heads

OFTEN = 2_000  # replies between two checkpoints at most: their log takes about 15 MB
LATEST = 50_000  # replies among which those are whose rows are in no part yet
_BITS = 24  # of an id, which tell that it was never kept
REPLY = TypeAdapter(Reply)
FAILURE = TypeAdapter(Failure)


@dataclass(frozen=True, slots=True)
class Entry:
    """What was answered, and the key of the row that paid for it."""

    key: bytes
    answer: Reply | Failure


class Journal:
    """Replies and final failures of one run folder. One task writes, threads may `sync` and `checkpoint`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = False
        self._since = 0
        try:
            self._db = self._open()
            fresh = self._db.execute("SELECT 1 FROM reply LIMIT 1").fetchone() is None
            self._seen = bytearray(2**_BITS // 8) if fresh else None  # a map of the ids that were kept
            self._log = os.open(f"{path}-wal", os.O_RDONLY)
        except (sqlite3.Error, OSError) as exc:
            raise self._broken("opened", exc) from exc

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=30.0)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA wal_autocheckpoint=0")  # `checkpoint` does it, away from the event loop
        db.execute(
            "CREATE TABLE IF NOT EXISTS reply (id BLOB NOT NULL, key BLOB NOT NULL, digest BLOB NOT NULL, "
            "failed INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (id, key))"
        )
        return db

    def find(self, request_id: bytes, key: bytes) -> Entry | None:
        """Return what was answered to the request; the answer that the row `key` paid for comes first."""
        if self._seen is not None:
            byte, bit = _place(request_id)
            if not self._seen[byte] & bit:
                return None
        query = "SELECT key, failed, body FROM reply WHERE id = ? ORDER BY key != ? LIMIT 1"
        row = self._run(query, request_id, key).fetchone()
        if row is None:
            return None
        key, failed, body = row
        try:
            return Entry(key, FAILURE.validate_json(body) if failed else REPLY.validate_json(body))
        except ValidationError:  # of another version, or damaged: as good as not there
            return None

    def keep(self, request_id: bytes, row: Row, answer: Reply | Failure) -> None:
        """Write down an answer that `row` has paid for; when this returns, a killed process keeps it."""
        failed = isinstance(answer, Failure)
        body = FAILURE.dump_json(answer) if isinstance(answer, Failure) else REPLY.dump_json(answer)
        values = (request_id, row.key, row.digest, failed, body)
        self._run("INSERT OR REPLACE INTO reply VALUES (?, ?, ?, ?, ?)", *values)
        if self._seen is not None:
            byte, bit = _place(request_id)
            self._seen[byte] |= bit
        self._kept = True
        self._since += 1

    def keep_all(self, answers: Iterable[tuple[bytes, Row, Reply | Failure]]) -> None:
        """Write down several answers, by request id and row: all of them or none."""
        self._run("BEGIN")
        for request_id, row, answer in answers:
            self.keep(request_id, row, answer)
        self._run("COMMIT")

    def sync(self) -> None:
        """Make all that was kept since the last time survive a power cut."""
        if not self._kept:
            return
        self._kept = False
        try:
            os.fdatasync(self._log)
        except OSError as exc:
            raise self._broken("synced", exc) from exc
        if self._since > OFTEN:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Move the log into the file, so that the log stays small."""
        self._since = 0
        try:
            db = sqlite3.connect(self._path, timeout=30.0)
            try:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            finally:
                db.close()
        except sqlite3.Error as exc:
            raise self._broken("written", exc) from exc

    def close(self) -> None:
        """Close the file; what was kept stays."""
        os.close(self._log)
        self._db.close()

    def _run(self, statement: str, *values: object) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as exc:
            raise self._broken("written", exc) from exc

    def _broken(self, verb: str, exc: Exception) -> StoreError:
        return StoreError(
            f"the journal `{self._path}` cannot be {verb}: {exc}",
            "free some space if the disk is full, then run the same command again; if the file itself "
            "is damaged, delete it: finished rows are kept in the parts",
        )


def latest(path: Path) -> tuple[Heads, Heads]:
    """Return the heads of key and digest of the rows that paid for a journal's latest replies.

    Among them are all that are in no part yet. Another process may write it meanwhile; empty where there is
    no journal that can be read.
    """
    query = "SELECT key, digest FROM reply ORDER BY rowid DESC LIMIT ?"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as db:
            rows = db.execute(query, (LATEST,)).fetchall()
    except sqlite3.Error:
        rows = []
    return heads([key for key, _ in rows]), heads([digest for _, digest in rows])


def _place(request_id: bytes) -> tuple[int, int]:
    """Return the byte and the bit of the map that stand for an id."""
    number = int.from_bytes(request_id[:3], "little")
    return number >> 3, 1 << (number & 7)
