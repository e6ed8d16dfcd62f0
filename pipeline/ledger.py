"""Requests of the current Pacific day, counted across runs and processes.

SQLite in the user's state folder is the lock: each request is counted in its own transaction before it
leaves, so that a killed process has counted what it sent. The limit is per project and model.
"""

import sqlite3
from contextlib import closing, suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Protocol

from pipeline.errors import StoreError

COUNT = "SELECT requests FROM sent WHERE scope = ? AND day = ?"
KEPT_DAYS = 40


class Ledger(Protocol):
    """Counts requests per day of one project and model."""

    def count(self, day: date) -> int:
        """Return how many requests were sent on `day`."""
        ...

    def take(self, day: date, limit: int | None) -> bool:
        """Count one more request on `day`, unless `limit` is reached; say whether it may leave."""
        ...


class MemoryLedger:
    """A count that ends with the process: for the emulator that is started for one run."""

    def __init__(self) -> None:
        self._sent: dict[date, int] = {}

    def count(self, day: date) -> int:
        """Return how many requests were sent on `day`."""
        return self._sent.get(day, 0)

    def take(self, day: date, limit: int | None) -> bool:
        """Count one more request on `day`, unless `limit` is reached."""
        sent = self.count(day)
        if limit is not None and sent >= limit:
            return False
        self._sent[day] = sent + 1
        return True


def sent_on(path: Path, scope: str, day: date) -> int:
    """Return the count of a day without changing anything on disk; 0 where nothing was counted."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            row = db.execute(COUNT, (scope, day.isoformat())).fetchone()
    except sqlite3.Error:  # no file yet, or none that can be read
        return 0
    return int(row[0]) if row else 0


class FileLedger:
    """The count in a SQLite file that all runs of a user share; `scope` names project and model."""

    def __init__(self, path: Path, scope: str) -> None:
        self._path = path
        self._scope = scope
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30.0)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS sent (scope TEXT, day TEXT, requests INTEGER NOT NULL, "
                "PRIMARY KEY (scope, day)) WITHOUT ROWID"
            )
        except (sqlite3.Error, OSError) as exc:
            raise self._broken("opened", exc) from exc

    def count(self, day: date) -> int:
        """Return how many requests were sent on `day`."""
        try:
            row = self._db.execute(COUNT, (self._scope, day.isoformat())).fetchone()
        except sqlite3.Error as exc:
            raise self._broken("read", exc) from exc
        return int(row[0]) if row else 0

    def take(self, day: date, limit: int | None) -> bool:
        """Count one more request on `day`, unless `limit` is reached; one transaction."""
        most = 2**62 if limit is None else limit
        if most <= 0:
            return False
        try:
            changed = self._db.execute(
                "INSERT INTO sent VALUES (?, ?, 1) ON CONFLICT (scope, day) "
                "DO UPDATE SET requests = requests + 1 WHERE requests < ?",
                (self._scope, day.isoformat(), most),
            )
        except sqlite3.Error as exc:
            raise self._broken("written", exc) from exc
        return changed.rowcount == 1

    def close(self) -> None:
        """Forget days long past and close the file."""
        with closing(self._db) as db, suppress(sqlite3.Error):  # the next run tidies up
            last = db.execute("SELECT max(day) FROM sent").fetchone()[0]
            if last is not None:
                oldest = date.fromisoformat(last) - timedelta(days=KEPT_DAYS)
                db.execute("DELETE FROM sent WHERE day < ?", (oldest.isoformat(),))

    def _broken(self, verb: str, exc: Exception) -> StoreError:
        return StoreError(
            f"the count of today's requests in `{self._path}` cannot be {verb}: {exc}",
            "set ROWMILL_STATE_DIR to a folder that can be written, or delete the file "
            "(today's requests are then counted from 0)",
        )
