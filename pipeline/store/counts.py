"""The file of the ledger: opened by several runs at once, checked, and begun anew where it is damaged."""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path

from pipeline.disk import clear_drafts, draft_of
from pipeline.errors import StoreError
from pipeline.store.salvage import ForeignError, is_damage, open_to_read, put_aside, readable

BUSY_SECONDS = 0.05  # until the next attempt where another run has the file
OPENINGS = 50  # attempts at opening it: the first two runs of a machine may do so at once
DAYS = {  # what is taken over from a damaged file
    "sent": "SELECT 0, scope, day, requests FROM sent WHERE 0 >= ? LIMIT ?",
    "refused": "SELECT 0, scope, day FROM refused WHERE 0 >= ? LIMIT ?",
}
ANEW = (
    "the count of today's requests was damaged: it was set aside as `{place}`, and what could be "
    "read of it goes on in a new file; the last minutes count from 0"
)
COUNT = "SELECT requests FROM sent WHERE scope = ? AND day = ?"
SCHEMA = """
CREATE TABLE IF NOT EXISTS sent (
    scope TEXT, day TEXT, requests INTEGER NOT NULL, PRIMARY KEY (scope, day)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refused (scope TEXT, day TEXT, PRIMARY KEY (scope, day)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases (
    id INTEGER PRIMARY KEY AUTOINCREMENT, scope TEXT NOT NULL, owner TEXT NOT NULL, at REAL NOT NULL,
    requests INTEGER NOT NULL, tokens INTEGER NOT NULL, nano_usd INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS leases_at ON leases (scope, at);
CREATE TABLE IF NOT EXISTS queue (
    scope TEXT, owner TEXT, since REAL NOT NULL, seen REAL NOT NULL,
    requests INTEGER NOT NULL, tokens INTEGER NOT NULL, nano_usd INTEGER NOT NULL, PRIMARY KEY (scope, owner)
) WITHOUT ROWID;
"""


def opened(path: Path | None) -> tuple[sqlite3.Connection, list[str]]:
    """Open the file, or one in memory where `path` is None, and make its tables where they are missing.

    With it goes a note where it was damaged and set aside. Raises sqlite3.Error and OSError.
    """
    try:
        return _opened(path), []
    except sqlite3.DatabaseError as exc:
        if path is None or not is_damage(exc):
            raise
    with _alone(path):
        try:
            return _opened(path), []  # another run may have replaced it meanwhile
        except sqlite3.DatabaseError as exc:
            if not is_damage(exc):
                raise
            kept = _replace(path)
    return _opened(path), [ANEW.format(place=kept)]


def _opened(path: Path | None) -> sqlite3.Connection:
    """Open the file and make its tables; again where another run does the same just now."""
    db = sqlite3.connect(path or ":memory:", isolation_level=None, timeout=BUSY_SECONDS)
    for attempt in range(OPENINGS):
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")  # a power cut takes the last counts, not the file
            db.executescript(SCHEMA)
            _check(db)
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or attempt == OPENINGS - 1:
                db.close()
                raise
            time.sleep(BUSY_SECONDS)
        except sqlite3.DatabaseError:
            db.close()
            raise
        else:
            break
    return db


def _check(db: sqlite3.Connection) -> None:
    """Look through the whole file, which is small. Raises ForeignError for a damaged one."""
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise ForeignError(found)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other runs from replacing the file at the same time."""
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _replace(path: Path) -> str:
    """Set a damaged file aside, and begin a new one with the days of it; return the name of the old one."""
    clear_drafts(path.parent, path.name)
    with draft_of(path) as (draft, handle):
        with closing(sqlite3.connect(draft)) as db:
            db.execute("PRAGMA journal_mode=MEMORY")
            db.executescript(SCHEMA)
            for name, query in DAYS.items():
                for _, *values in readable(path, query):
                    marks = ", ".join("?" * len(values))
                    db.execute(f"INSERT OR IGNORE INTO {name} VALUES ({marks})", values)  # noqa: S608
            db.commit()
        os.fsync(handle)
        return put_aside(path, draft).name


def sent_on(path: Path, scope: str, day: date) -> int:
    """Return the count of a day without changing anything on disk; 0 where nothing was counted.

    Raises StoreError where the file is there and cannot be read.
    """
    if not path.exists():
        return 0
    try:
        with closing(open_to_read(path)) as db:
            row = db.execute(COUNT, (scope, day.isoformat())).fetchone()
    except sqlite3.Error as exc:
        if exc.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # no table yet: a run begins just now
            return 0
        raise StoreError(
            f"the count of today's requests in `{path}` cannot be read: {exc}",
            "see who may read it, and that ROWMILL_STATE_DIR is as for the runs; where it is damaged, the "
            "next run mends it",
        ) from exc
    return int(row[0]) if row else 0
