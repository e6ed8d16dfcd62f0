"""What can be done for a SQLite file that is damaged: see it, read what is left, and set it aside.

SQLite itself drops a torn end of its log without a word, and has no checksums of its pages.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from pipeline.disk import DAMAGED, free_name, may_read, may_write, sync_folder

DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
LOG, INDEX = "-wal", "-shm"
RIGHTS = (
    "give yourself the right to read and write it with `chmod` or `chown` (has another user run a job here?)"
)
PATIENCE = 5.0  # seconds that somebody else may write
AT_A_GLANCE = 2**26  # bytes of a file that SQLite looks through in a tenth of a second
GAP = 10_000  # rows of which none can be read, after which no more are looked for
_HEAD, _FRAME = 32, 24  # bytes; https://www.sqlite.org/fileformat2.html#the_write_ahead_log
_MAGIC = frozenset({0x377F0682, 0x377F0683})


class ForeignError(sqlite3.DatabaseError):
    """A database that somebody else has made, or another version."""


def is_damage(exc: Exception) -> bool:
    """Tell whether the file itself is damaged or foreign, and not the disk full or in error."""
    if isinstance(exc, ForeignError):
        return True
    code = getattr(exc, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF) in DAMAGE


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a database for reading, without leaving a file beside it. Raises sqlite3.Error and OSError."""
    size = 0
    with suppress(FileNotFoundError):
        size = path.with_name(path.name + LOG).stat().st_size
    # without a log nothing but the file counts, and SQLite need make no shared memory for others
    how = "mode=ro" if size else "mode=ro&immutable=1"
    return sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=PATIENCE)


def barred(path: Path, *, write: bool) -> Path | None:
    """Return what of a database may not be read, its log included; where it is to `write`, or written to.

    SQLite tells no more than that it cannot open the file.
    """
    for one in (path, *(path.with_name(path.name + ending) for ending in (LOG, INDEX))):
        if one.exists() and not (may_read(one) and (may_write(one) or not write)):
            return one
    return path.parent if write and path.parent.exists() and not may_write(path.parent) else None


def log_pages(path: Path) -> int:
    """Return how many pages of finished transactions the log of the database `path` holds since it was begun.

    What a killed process or a power cut has left unfinished behind them does not count: nobody was told that
    it is kept. A log whose head cannot be read counts as one page.
    """
    try:
        with path.with_name(path.name + LOG).open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            if size <= _HEAD:
                return 0
            head = log.read(_HEAD)
            if int.from_bytes(head[:4]) not in _MAGIC:
                return 1
            frames = enumerate(_frames(log.fileno(), size, head), start=1)
            return max((number for number, (_, pages) in frames if pages), default=0)
    except FileNotFoundError:
        return 0


def fault_at_a_glance(db: sqlite3.Connection, path: Path, most: int = AT_A_GLANCE) -> str | None:
    """Say what is wrong with the database `path`, which is open as `db`, as far as that is soon seen.

    Of a file of more than `most` bytes only that it was cut: a query may need no page of those that are gone.
    Raises sqlite3.Error and OSError.
    """
    if path.stat().st_size > most:
        return "pages at its end are missing" if _is_cut(path) else None
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    return None if found == "ok" else str(found)


def _is_cut(path: Path) -> bool:
    """Tell whether pages are neither in the file nor in its log. Without a log SQLite finds that itself."""
    try:
        with path.with_name(path.name + LOG).open("rb") as log:
            size, head = os.fstat(log.fileno()).st_size, log.read(_HEAD)
            if int.from_bytes(head[:4]) not in _MAGIC:
                return False
            logged, open_, pages = set[int](), set[int](), 0
            for page, ends in _frames(log.fileno(), size, head):
                open_.add(page)
                if ends:
                    logged |= open_
                    open_, pages = set(), ends
    except FileNotFoundError:
        return False
    there = path.stat().st_size // int.from_bytes(head[8:12])  # after the log, which moves there
    return sum(there < page <= pages for page in logged) < pages - there


def _frames(log: int, size: int, head: bytes) -> Iterator[tuple[int, int]]:
    """Yield the page that each whole frame holds, to the last before one that is left from before.

    With it goes how many pages the database has, where the frame ends a transaction, else 0.
    """
    step = _FRAME + int.from_bytes(head[8:12])
    for number in range(1, (size - _HEAD) // step + 1):
        frame = os.pread(log, _FRAME, _HEAD + (number - 1) * step)
        if frame[8:16] != head[16:24]:
            return
        yield int.from_bytes(frame[:4]), int.from_bytes(frame[4:8])


def copy_log(path: Path) -> Path:
    """Keep a copy of the log of the database `path` beside it, durably; return its name."""
    place = free_name(path.with_name(f"{path.name}{LOG}{DAMAGED}"))
    shutil.copyfile(path.with_name(path.name + LOG), place)
    with place.open("rb") as copy:
        os.fsync(copy.fileno())
    sync_folder(path.parent)
    return place


def put_aside(path: Path, instead: Path | None = None) -> Path:
    """Rename a database and its log so that they are kept and still belong together; return the new name.

    `instead`, a whole database, takes its place. A crash between the steps leaves either the damaged one in
    its place, to be put aside again under the same name, or the new one.
    """
    place = _place(path)
    if not place.exists():
        os.link(path, place)
    for ending in (LOG, INDEX):  # first, since it must not be taken for the log of the new one
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).rename(place.with_name(place.name + ending))
    sync_folder(path.parent)
    if instead is None:
        path.unlink()
    else:
        instead.rename(path)
    sync_folder(path.parent)
    return place


def _place(path: Path) -> Path:
    begun = [one for one in path.parent.glob(f"{path.name}{DAMAGED}*") if one.samefile(path)]
    return begun[0] if begun else free_name(path.with_name(f"{path.name}{DAMAGED}"))


def readable(path: Path, query: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a damaged database that can be read.

    `query` gives the rows whose first column, a rowid, is from the first `?` on, in its order, and no more
    than the second `?`.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30.0)) as db:
            # else SQLite refuses a file that is shorter than its head says; here what is gone is a gap
            db.execute("PRAGMA writable_schema=ON")
            yield from _past_gaps(db, query)
    except sqlite3.DatabaseError as exc:
        if not is_damage(exc) and exc.sqlite_errorcode != sqlite3.SQLITE_ERROR:  # it has no such table
            raise


def _past_gaps(db: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    start, gap = 0, 0
    while gap <= GAP:
        limit = 1 if gap else -1  # one by one, since Python reads a row ahead and an error takes both
        try:
            for row in db.execute(query, (start, limit)):
                start, gap = row[0] + 1, 0
                yield row
        except sqlite3.DatabaseError as exc:
            if not is_damage(exc):
                raise
            start, gap = start + bool(gap), gap + 1
        else:
            if limit < 0 or gap:
                return
