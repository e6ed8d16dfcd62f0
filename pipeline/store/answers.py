"""The file of the response cache: good answers by the id of what was asked, and never more than fit.

There is one in each folder of run folders, shared by all jobs there and by processes that run at the same
time. It holds nothing that was not paid for and kept elsewhere as well, so it may be deleted at any time.
"""

import math
import os
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote

from pydantic import ValidationError

from pipeline.disk import clear_drafts, draft_of, make_folder, may_read, sync_folder
from pipeline.errors import StoreError
from pipeline.flow import Reply
from pipeline.store.entries import REPLY, checksum
from pipeline.store.salvage import INDEX, LOG, RIGHTS, ForeignError, barred, is_damage

FILE = "cache.sqlite"
ALWAYS = 2**62  # a moment before which everything was used
PATIENCE = 10.0  # seconds that somebody else may write
AT_ONCE = 100_000  # entries that are removed in one transaction, so that nobody waits long
ROOM = 0.9  # of the bound is left filled when it was exceeded, so that not every part has to remove some
LOG_BYTES = 4_000_000  # that the log may keep on the disk
COLUMNS = ["id", "used", "since", "rows", "key", "digest", "body", "crc"]
TABLE = (
    "CREATE TABLE answer (id BLOB NOT NULL PRIMARY KEY, used INTEGER NOT NULL, since INTEGER NOT NULL, "
    "rows INTEGER NOT NULL, key BLOB NOT NULL, digest BLOB NOT NULL, body BLOB NOT NULL, "
    "crc INTEGER NOT NULL)"
)
OLDEST = "DELETE FROM answer WHERE rowid IN (SELECT rowid FROM answer ORDER BY used, rowid LIMIT ?)"


@dataclass(slots=True)
class Stock:
    """What a cache holds: entries by the model that answered, bytes on disk, and how old they are (UTC).

    `damaged` ones do not match their checksum and are never served. `used` is when any was last used.
    """

    entries: int = 0
    damaged: int = 0
    size: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None
    used: datetime | None = None
    models: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, object]:
        """Return it as JSON values; `docs/reference.md` names the keys."""
        moments = {"oldest": self.oldest, "newest": self.newest, "last_used": self.used}
        return {
            "entries": self.entries,
            "damaged": self.damaged,
            "bytes": self.size,
            **{name: None if when is None else when.isoformat() for name, when in moments.items()},
            "models": dict(self.models.most_common()),
        }


def connect(path: Path) -> sqlite3.Connection:
    """Open the file for reading and writing, made where it is missing. Raises sqlite3.Error and OSError."""
    if not path.exists():
        _make(path)
    db = opened(path, PATIENCE)
    try:
        db.execute(f"PRAGMA journal_size_limit={LOG_BYTES}")
        db.execute("PRAGMA synchronous=NORMAL")
    except BaseException:
        db.close()
        raise
    return db


def opened(path: Path, patience: float) -> sqlite3.Connection:
    """Open a file that exists. Raises sqlite3.Error, also where it is none of ours."""
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=patience,
    )
    try:
        columns = [name for _, name, *_ in db.execute("PRAGMA table_info(answer)")]
        if columns != COLUMNS:
            raise ForeignError(f"its columns are {', '.join(columns) or 'none'}")
    except BaseException:
        db.close()
        raise
    return db


def _make(path: Path) -> None:
    """Make an empty file, which appears whole; of several processes that do this one wins."""
    make_folder(path.parent)
    clear_drafts(path.parent, path.name)
    with draft_of(path) as (draft, handle):
        with closing(sqlite3.connect(draft, isolation_level=None)) as db:
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")
            db.execute(TABLE)
            db.execute("PRAGMA journal_mode=WAL")
        os.fsync(handle)
        with suppress(FileExistsError):
            os.link(draft, path)
    sync_folder(path.parent)


def filled(db: sqlite3.Connection) -> int:
    """Return the bytes that the entries take."""
    names = ("page_count", "freelist_count", "page_size")
    pages, free, size = (int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in names)
    return (pages - free) * size


def excess(db: sqlite3.Connection, most_bytes: int | None, before: int | None = None) -> int:
    """Return how many entries are to go, those first that have not been used for longest.

    That is all that were not used since the Unix time `before`, and so many that the rest takes well less
    than `most_bytes`, where it takes more now.
    """
    entries = int(db.execute("SELECT count(*) FROM answer").fetchone()[0])
    old = 0
    if before is not None:
        old = int(db.execute("SELECT count(*) FROM answer WHERE used < ?", (before,)).fetchone()[0])
    size = filled(db)
    if most_bytes is None or size <= most_bytes:
        return old
    return max(old, math.ceil(entries * (1 - ROOM * most_bytes / size)))


def remove(db: sqlite3.Connection, number: int) -> None:
    """Remove the entries that have not been used for longest, and give their room back to the disk."""
    while number > 0:
        db.execute(OLDEST, (min(number, AT_ONCE),))
        db.executescript("PRAGMA incremental_vacuum")  # `execute` would give back a single page
        number -= AT_ONCE
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # less where others read


def keep_within(db: sqlite3.Connection, most_bytes: int) -> None:
    """Remove as much as the bound asks for."""
    while filled(db) > most_bytes and (number := excess(db, most_bytes)):
        remove(db, number)


def answer_of(id_: object, values: Sequence[object]) -> Reply | None:
    """Return the answer of an entry (key, digest, body, crc), or None where that is damaged."""
    key, digest, body, crc = values
    if checksum(id_, key, digest, False, body) != crc or not isinstance(body, bytes):
        return None
    try:
        return REPLY.validate_json(body)
    except ValidationError:  # of another version
        return None


def surplus(path: Path, most_bytes: int | None, before: int | None) -> int:
    """Return how many entries `prune` has to remove, as `excess` counts them. Raises StoreError."""
    if not path.exists():
        return 0
    try:
        with closing(opened(path, PATIENCE)) as db:
            return excess(db, most_bytes, before)
    except (sqlite3.Error, OSError) as exc:
        raise unusable(path, exc) from exc


def extent(path: Path) -> tuple[int, datetime | None]:
    """Return how many answers are kept, and when any was last used that was not since. Raises StoreError."""
    if not path.exists():
        return 0, None
    try:
        with closing(opened(path, PATIENCE)) as db:
            entries, oldest = db.execute("SELECT count(*), min(used) FROM answer").fetchone()
    except (sqlite3.Error, OSError) as exc:
        raise unusable(path, exc) from exc
    return int(entries), None if oldest is None else datetime.fromtimestamp(oldest, UTC)


def prune(path: Path, number: int) -> None:
    """Remove the entries that have not been used for longest, also while runs go on. Raises StoreError."""
    try:
        with closing(opened(path, PATIENCE)) as db:
            remove(db, number)
    except (sqlite3.Error, OSError) as exc:
        raise unusable(path, exc) from exc


def stock(path: Path) -> Stock:
    """Read the whole cache and return what is in it; an empty one where there is none. Raises StoreError."""
    found = Stock()
    if not path.exists():
        return found
    try:
        with closing(opened(path, PATIENCE)) as db:
            for id_, used, since, *values in db.execute(
                "SELECT id, used, since, key, digest, body, crc FROM answer NOT INDEXED"
            ):
                reply = answer_of(id_, values)
                found.entries += 1
                if reply is None:
                    found.damaged += 1
                    continue
                found.models[reply.model + (" (emulator)" if reply.source == "emulator" else "")] += 1
                kept, last = datetime.fromtimestamp(since, UTC), datetime.fromtimestamp(used, UTC)
                found.oldest = min(found.oldest or kept, kept)
                found.newest = max(found.newest or kept, kept)
                found.used = max(found.used or last, last)
    except (sqlite3.Error, OSError) as exc:
        raise unusable(path, exc) from exc
    found.size = disk_size(path)
    return found


def answered(path: Path, ids: Sequence[bytes], most_rows: int) -> dict[bytes, Reply]:
    """Return the answers here to these requests that shared their request with at most so many rows.

    Of a file that is missing or cannot be read none: a run would go on without it, too.
    """
    found: dict[bytes, Reply] = {}
    with suppress(sqlite3.Error, OSError), closing(opened(path, PATIENCE)) as db:
        for id_ in ids:
            values = db.execute("SELECT key, digest, body, crc FROM answer WHERE id = ?", (id_,)).fetchone()
            reply = None if values is None else answer_of(id_, values)
            if reply is not None and reply.rows <= most_rows:
                found[id_] = reply
    return found


def disk_size(path: Path) -> int:
    """Return the bytes that the file and its log take on the disk."""
    sizes = 0
    for one in (path, path.with_name(path.name + LOG)):
        with suppress(FileNotFoundError):
            sizes += one.stat().st_size
    return sizes


def reason(path: Path, exc: Exception) -> str:
    """Return what an error of the cache `path` means.

    SQLite does not tell what it may not read from what it has no room for.
    """
    if (one := barred(path, write=True)) is not None:
        return f"`{one}` may not be {'written to' if may_read(one) else 'read'}"
    code = getattr(exc, "sqlite_errorcode", None) or 0
    if code & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return str(exc)
    folder = os.environ.get("SQLITE_TMPDIR") or os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108
    return f"{exc}, there or in the folder of temporary files `{folder}` (TMPDIR names another)"


def unusable(path: Path, exc: Exception) -> StoreError:
    """Return the error of a command that is about the cache."""
    hint = "try again when no run writes it"
    if barred(path, write=True) is not None:
        hint = f"{RIGHTS}; a run with `--no-cache` does without it"
    elif is_damage(exc):
        files = " ".join(quote(f"{path}{ending}") for ending in ("", LOG, INDEX))
        hint = f"it holds only what saves money; when no run writes it, remove it: `rm -f {files}`"
    return StoreError(f"the cache `{path}` cannot be used: {reason(path, exc)}", hint)
