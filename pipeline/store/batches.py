"""The table of batches: which jobs of the Batch API exist, and which requests stand in their lines.

SQLite, each transaction synced before it returns: what is written here before a job is created must survive a
power cut as well, since the job costs money. Unlike the journal, it must not be deleted while jobs are open.
The context caches that lines name stand here, too: their storage costs money for as long as they are there.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

from pipeline.batch import ASKING, BEFORE, Batch, Stage, Vain
from pipeline.disk import whole_file
from pipeline.errors import StoreError
from pipeline.heads import Heads, heads
from pipeline.store.inspection import Finding

FILE = "batches.sqlite"
LINES = "batches"  # the folder of files of lines and of results, in the run folder
KEEP = "keep a copy and report it; jobs that are open there would be paid for again without it"
LOST = (
    "see to the disk, and to your rights there; where the file is lost, put a copy of it back, or move it "
    "and the folder `batches` away: what open jobs were asked is then asked and paid for again"
)

_COLUMNS = tuple(field.name for field in fields(Batch))
# columns that tables of an earlier version lack, and their default
_LATER = {"cache": "''", "stored": "0", "withdrawn": "0"}
_ADDED = {"batch": _LATER, "vain": {"whole": "0"}}
_TABLES = (
    f"CREATE TABLE IF NOT EXISTS batch ({', '.join(_COLUMNS)}, PRIMARY KEY (number))",
    "CREATE TABLE IF NOT EXISTS member (batch INTEGER NOT NULL, line INTEGER NOT NULL, "
    "place INTEGER NOT NULL, id BLOB NOT NULL, key BLOB NOT NULL, digest BLOB NOT NULL, "
    "letters INTEGER NOT NULL, tag TEXT NOT NULL, PRIMARY KEY (batch, line, place)) WITHOUT ROWID",
    "CREATE UNIQUE INDEX IF NOT EXISTS member_id ON member (id)",
    "CREATE TABLE IF NOT EXISTS cache (name TEXT NOT NULL PRIMARY KEY, display TEXT NOT NULL, "
    "tokens INTEGER NOT NULL, expires REAL NOT NULL, borne REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS vain (id BLOB NOT NULL PRIMARY KEY, times INTEGER NOT NULL, "
    "whole INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID",
)
_KEEP = "INSERT OR REPLACE INTO cache VALUES (?, ?, ?, ?, ?)"
_ASKED = (
    "INSERT INTO vain (id, times, whole) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
    "times = times + excluded.times, whole = whole + excluded.whole"
)
_PUT = (
    f"INSERT OR REPLACE INTO batch ({', '.join(_COLUMNS)}) "  # noqa: S608 - names of ours
    f"VALUES ({', '.join('?' * len(_COLUMNS))})"
)

Done = TypeVar("Done")


class Member(NamedTuple):
    """A request in a line: its id, whose row pays, the letters of its prompt, and its id in the pack."""

    id: bytes
    key: bytes
    digest: bytes
    letters: int
    tag: str


class Kept(NamedTuple):
    """A context cache: the names that the API and we have for it, and its tokens.

    `expires` is when it ends, `borne` until when answers have borne its storage (Unix times).
    """

    name: str
    display: str
    tokens: int
    expires: float
    borne: float


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a run folder keeps the table and the files of its batches."""

    folder: Path

    @property
    def table(self) -> Path:
        """The SQLite file."""
        return self.folder / FILE

    def lines(self, number: int) -> Path:
        """Return the file of a batch's lines."""
        return self.folder / LINES / f"{number:06d}.jsonl"

    def results(self, number: int) -> Path:
        """Return the file of what came back for them."""
        return self.folder / LINES / f"{number:06d}.results.jsonl"


class Table:
    """Batches and their lines. One task uses it at a time, in any thread. Every method raises StoreError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = self._do(lambda: _opened(path))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def all(self) -> list[Batch]:
        """Return all batches, the oldest first."""
        return self._do(lambda: list(_batches(self._db)))

    def open(self) -> list[Batch]:
        """Return the batches that are not closed, the oldest first."""
        return [batch for batch in self.all() if batch.stage is not Stage.CLOSED]

    def put(self, batch: Batch) -> Batch:
        """Write down where a batch stands; when this returns, it survives a power cut."""
        self._do(lambda: self._db.execute(_PUT, astuple(batch)))
        return batch

    def caches(self) -> list[Kept]:
        """Return the context caches that have not been deleted."""
        query = "SELECT name, display, tokens, expires, borne FROM cache ORDER BY name"
        return [Kept(*row) for row in self._do(lambda: self._db.execute(query).fetchall())]

    def keep(self, cache: Kept) -> None:
        """Write down how a context cache stands."""
        self._do(lambda: self._db.execute(_KEEP, cache))

    def forget(self, cache: str) -> None:
        """Forget a context cache that is gone."""
        self._do(lambda: self._db.execute("DELETE FROM cache WHERE name = ?", (cache,)))

    def bear(self, batch: Batch, cache: Kept) -> None:
        """Write down what a batch bears of a cache's storage, and until when that is borne."""
        self._do(lambda: self._db.execute("BEGIN IMMEDIATE"))
        try:
            self._do(lambda: self._db.execute(_PUT, astuple(batch)))
            self._do(lambda: self._db.execute(_KEEP, cache))
        except BaseException:
            self._db.rollback()
            raise
        self._do(lambda: self._db.execute("COMMIT"))

    @contextmanager
    def planning(self) -> Iterator[int]:
        """Yield the number of a new batch; what the block adds to it is kept as a whole or not at all."""
        self._do(lambda: self._db.execute("BEGIN IMMEDIATE"))
        try:
            (last,) = self._do(lambda: self._db.execute("SELECT max(number) FROM batch").fetchone())
            yield (last or 0) + 1
        except BaseException:
            self._db.rollback()
            raise
        self._do(lambda: self._db.execute("COMMIT"))

    def add(self, number: int, line: int, members: Iterable[Member]) -> None:
        """Add a line to the batch that is being planned."""
        rows = [(number, line, place, *member) for place, member in enumerate(members)]
        self._do(lambda: self._db.executemany("INSERT INTO member VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows))

    def holder(self, request_id: bytes) -> int | None:
        """Return the number of the batch in which a request is asked."""
        query = "SELECT batch FROM member WHERE id = ?"
        found = self._do(lambda: self._db.execute(query, (request_id,)).fetchone())
        return None if found is None else int(found[0])

    def members(self, number: int, line: int) -> list[Member]:
        """Return the requests of a line in their order; none for a line that is not there."""
        query = "SELECT id, key, digest, letters, tag FROM member WHERE batch = ? AND line = ? ORDER BY place"
        return [Member(*row) for row in self._do(lambda: self._db.execute(query, (number, line)).fetchall())]

    def vain(self, request_id: bytes) -> Vain:
        """Return how often a request was asked in a batch without an answer."""
        query = "SELECT times, whole FROM vain WHERE id = ?"
        found = self._do(lambda: self._db.execute(query, (request_id,)).fetchone())
        return Vain() if found is None else Vain(*found)

    def finish(self, batch: Batch, answered: Callable[[bytes], bool], vain: Vain) -> int:
        """Take the lines of a batch away and write down where it stands; return how many were not answered.

        Those that are not `answered` have been asked in vain so often more.
        """
        self._do(lambda: self._db.execute("BEGIN IMMEDIATE"))
        try:
            left = self._do(lambda: self._take_back(batch.number, answered, vain))
            self._do(lambda: self._db.execute("DELETE FROM member WHERE batch = ?", (batch.number,)))
            self._do(lambda: self._db.execute(_PUT, astuple(batch)))
        except BaseException:
            self._db.rollback()
            raise
        self._do(lambda: self._db.execute("COMMIT"))
        return left

    def _take_back(self, number: int, answered: Callable[[bytes], bool], vain: Vain) -> int:
        left = 0
        for (id_,) in self._db.execute("SELECT id FROM member WHERE batch = ?", (number,)):
            if not answered(id_):
                left += 1
                self._db.execute(_ASKED, (id_, *vain))
        return left

    def _do(self, act: Callable[[], Done]) -> Done:
        try:
            return act()
        except (sqlite3.Error, OSError, ValueError, TypeError) as exc:
            raise StoreError(
                f"the table of batches `{self._path}` cannot be used: {exc}",
                "free some space if the disk is full, see to the disk if it fails; then run the same command "
                "again. Do not delete the file while jobs are open: they would be paid for twice",
            ) from exc


def check_batches(folder: Path) -> Iterator[Finding]:
    """Find what is wrong with the table of batches of a run folder and with their files. Changes nothing."""
    paths = Paths(folder)
    if _is_missing(paths.table):
        return
    try:
        with _read_only(paths.table) as db:
            for (said,) in db.execute("PRAGMA integrity_check"):
                if said != "ok":
                    yield Finding(paths.table, str(said), KEEP)
            batches = list(_batches(db))
            lines = dict(db.execute("SELECT batch, count(DISTINCT line) FROM member GROUP BY batch"))
    except (sqlite3.Error, ValueError, TypeError) as exc:
        yield Finding(paths.table, f"it cannot be read: {exc}", KEEP)
        return
    yield from _check_lines(paths, batches, lines)
    live = {batch.number for batch in batches if batch.stage is not Stage.CLOSED}
    for path in sorted((folder / LINES).glob("*.jsonl")):
        number = path.name.partition(".")[0]
        if not number.isdecimal() or int(number) not in live:
            yield Finding(path, "it is of no open batch", "nothing: the next run by batches removes it")


def _check_lines(paths: Paths, batches: list[Batch], lines: dict[int, int]) -> Iterator[Finding]:
    """Compare batches with how many lines the table has of each."""
    for batch in batches:
        wanted = batch.lines if batch.stage in ASKING else 0
        if lines.pop(batch.number, 0) != wanted:
            yield Finding(paths.table, f"batch {batch.number} does not have its {wanted:,} lines", KEEP)
        if batch.stage in BEFORE and not paths.lines(batch.number).exists():
            yield Finding(paths.lines(batch.number), "the file of an open batch is missing", KEEP)
    for number in lines:
        yield Finding(paths.table, f"lines are of batch {number}, which it does not have", KEEP)


def open_batches_of(folder: Path) -> list[Batch]:
    """Return the batches of a run folder whose lines are still to be answered; empty where it has no table.

    Changes nothing; another process may write the table meanwhile. Raises StoreError.
    """
    return _read(folder / FILE, lambda db: [batch for batch in _batches(db) if batch.stage in ASKING])


def enqueued(folder: Path, batches: Iterable[Batch]) -> Heads:
    """Return the heads of the digests of the rows that pay for the lines of these batches of a run folder.

    Changes nothing, as `open_batches_of`. Raises StoreError.
    """
    query, numbers = "SELECT digest FROM member WHERE batch = ?", [batch.number for batch in batches]

    def found(db: sqlite3.Connection) -> list[bytes]:
        return [digest for number in numbers for (digest,) in db.execute(query, (number,))]

    return heads(_read(folder / FILE, found))


def _read(path: Path, look: Callable[[sqlite3.Connection], list[Done]]) -> list[Done]:
    """Return what is found in a table, nothing where there is none."""
    if _is_missing(path):
        return []
    if not path.stat().st_size and not _undoing(path).exists():
        raise StoreError(f"the table of batches `{path}` is empty, but there are files of batches", LOST)
    try:
        with _read_only(path) as db:
            return look(db)
    except (sqlite3.Error, ValueError, TypeError) as exc:
        raise StoreError(f"the table of batches `{path}` cannot be read: {exc}", LOST) from exc


def _is_missing(path: Path) -> bool:
    """Tell whether there is no table, or a file without a byte where nothing else speaks of batches."""
    if not path.exists():
        return True
    return not (path.stat().st_size or _undoing(path).exists() or any(path.with_name(LINES).glob("*")))


def _undoing(path: Path) -> Path:
    """Return where SQLite keeps what a transaction has changed, until it is done."""
    return path.with_name(f"{path.name}-journal")


@contextmanager
def _read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the table, or a copy of it where a killed process has left a transaction that is to be undone."""
    begun = _undoing(path)
    with TemporaryDirectory(prefix="rowmill-") as folder:
        if begun.exists():
            for one in (begun, path):
                with suppress(FileNotFoundError):
                    shutil.copy(one, folder)
            path = Path(folder) / path.name
        how = "rw" if path.is_relative_to(folder) else "ro"
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode={how}", uri=True, timeout=5.0)) as db:
            yield db


def _batches(db: sqlite3.Connection) -> Iterator[Batch]:
    there = _names(db, "batch")
    columns = [name for name in _COLUMNS if name in there or name not in _LATER]
    for values in db.execute(f"SELECT {', '.join(columns)} FROM batch ORDER BY number"):  # noqa: S608
        known = dict(zip(columns, values, strict=True))
        flags = {name: bool(known.get(name)) for name in ("spilled", "withdrawn")}
        emulated = str(known["emulated"] or "")  # a number in a table of an earlier version
        yield Batch(**{**known, **flags, "emulated": emulated, "stage": Stage(known["stage"])})


def _names(db: sqlite3.Connection, table: str) -> set[str]:
    return {name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")}


def _make(path: Path) -> None:
    """Make a file with empty tables, which appears whole: one without them could not be read later."""
    with whole_file(path) as draft, closing(sqlite3.connect(draft, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=OFF")  # a draft needs none, and it would stay after a kill
        for table in _TABLES:
            db.execute(table)


def _opened(path: Path) -> sqlite3.Connection:
    if not path.exists():
        _make(path)
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
    try:
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("PRAGMA synchronous=EXTRA")  # FULL, and the folder after the log of a transaction is gone
        for table in _TABLES:
            db.execute(table)
        for table, columns in _ADDED.items():
            for name in columns.keys() - _names(db, table):
                db.execute(f"ALTER TABLE {table} ADD COLUMN {name} DEFAULT {columns[name]}")
    except BaseException:
        db.close()
        raise
    return db
