"""The parts of a run folder: immutable Parquet files, and an index of which rows they answer.

The parts are the truth: a row is done when a part holds its key with the digest of its present text. A
later part wins over an earlier one, so a row that is asked again simply stands in a newer part.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.ahead import ahead
from pipeline.disk import DAMAGED, clear_drafts, set_aside, whole_file
from pipeline.errors import DamagedError, StoreError
from pipeline.heads import BUCKETS, Heads, bucket_of
from pipeline.scratch import Buckets, Records
from pipeline.store.reading import (
    NAMES,
    UNREADABLE,
    column_heads,
    is_refusal,
    opened,
    owned_by,
    part_files,
    read_part,
    row_ids,
)
from pipeline.store.seal import seal

Places: TypeAlias = NDArray[np.int64]

ENTRY = np.dtype([("key", "<u8"), ("digest", "<u8"), ("place", "<i8"), ("round", "<i4"), ("ok", "?")])
INDEXED = ["_key", "_digest", "_status", "_round"]
MOST_NEW = 1 << 19  # rows of new parts that are added to an index; for more, all are read again
OPEN_PARTS = 8  # tables kept in memory while the output is written
OPEN_BYTES = 16 * 2**20  # of these, where they are more than two


@dataclass(frozen=True, slots=True)
class Index:
    """All rows of the parts, numbered through: a row's place is its number in its part + `starts` of that.

    `entries` are in buckets by key and in the order of their places, without those of the first `known`
    parts; `starts` has one element more than there are parts, which is the number of all rows; `last_round`
    is the highest round of `--retry-failed`.
    """

    entries: Buckets  # of ENTRY
    starts: Places
    last_round: int
    files: tuple[Path, ...] = ()
    known: int = 0


class Parts:
    """The folder of parts. One task writes; reading needs no lock since parts never change.

    `fingerprint` names the identity that parts are written under; those of another one count as damaged.
    """

    def __init__(self, folder: Path, schema: pa.Schema, fingerprint: str | None = None) -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._schema = self._like = schema  # a schema that can be cast to ours
        self._repeating = _leaves(schema, without={"_key", "_digest"})
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()
        self.set_aside: list[str] = []
        self._mine = self._passing = False
        self._numbered = 0  # parts whose places in the list an index uses
        self._rows: dict[Path, int] = {}
        self._paths = part_files(folder)
        used = [
            int(path.stem.removeprefix("part-")) for path in [*self._paths, *folder.glob(f"part-*{DAMAGED}")]
        ]
        self._next = 1 + max(used, default=0)  # no name twice: what was set aside is never overwritten

    def clean(self) -> None:
        """Remove what a killed process left half written; damaged parts are set aside from now on.

        For the owner only.
        """
        self._mine = True
        try:
            clear_drafts(self._folder)
        except OSError as exc:
            raise StoreError(
                f"`{self._folder}` cannot be tidied: {exc.strerror}", "check its permissions, then run again"
            ) from exc

    def pass_over(self) -> None:
        """Leave damaged parts out from now on, where they are: for who only looks on, while nobody runs."""
        self._passing = True

    def _put_away(self, path: Path) -> None:
        if self._mine:
            set_aside(path)
        self._paths.remove(path)
        self._tables.clear()  # they go by the place in the list
        self.set_aside.append(path.name)

    def _indexed(self, path: Path) -> pa.Table | None:
        """Read what the index needs of a part; None where it is damaged or not of our schema."""
        try:
            with opened(path, self._fingerprint) as file:
                if not file.schema_arrow.equals(self._like):
                    file.schema_arrow.empty_table().cast(self._schema)
                    self._like = file.schema_arrow
                rows = file.read(INDEXED, use_threads=False)
        except UNREADABLE as exc:
            if is_refusal(exc):
                raise self._unread(exc) from exc
            return None
        same = all(rows.schema.field(name).type == self._schema.field(name).type for name in INDEXED)
        return rows if same and not any(rows[name].null_count for name in INDEXED) else None

    def write(self, table: pa.Table) -> None:
        """Add a part; when this returns it is durable. Raises StoreError."""
        path = self._folder / f"part-{self._next:07d}.parquet"
        try:
            with whole_file(path) as draft:
                pq.write_table(
                    owned_by(table, self._fingerprint),
                    draft,
                    compression="zstd",
                    use_dictionary=self._repeating,
                    write_page_checksum=True,
                )
                seal(draft)
        except (OSError, pa.ArrowException) as exc:
            raise StoreError(
                f"the part `{path}` cannot be written: {exc}",
                "free some space if the disk is full, then run the same command again: "
                "answers that had arrived are in the journal and are not paid for twice",
            ) from exc
        self._next += 1
        self._paths.append(path)
        self._rows[path] = len(table)
        pa.default_memory_pool().release_unused()  # or the heap grows with the number of parts

    @property
    def paths(self) -> tuple[Path, ...]:
        """All parts, oldest first."""
        return tuple(self._paths)

    @property
    def unnumbered(self) -> list[Path]:
        """The parts that no index numbers yet, oldest first: only these may be replaced."""
        return self._paths[self._numbered :]

    def rows(self, path: Path) -> int:
        """Return how many rows a part has. Raises what Arrow does where it cannot be read."""
        if path not in self._rows:
            self._rows[path] = int(pq.read_metadata(path).num_rows)
        return self._rows[path]

    def read(self, path: Path) -> pa.Table:
        """Return a whole part. Raises one of UNREADABLE where it is damaged or not of our schema."""
        return read_part(path, None, self._fingerprint).cast(self._schema)

    def ids(self, path: Path) -> Heads:
        """Return a number for each row of a part, as `row_ids`. Raises one of UNREADABLE."""
        return row_ids(read_part(path, NAMES, self._fingerprint))

    def replace(self, old: Sequence[Path], table: pa.Table) -> None:
        """Add a part for `old`, which are unnumbered, then remove them. Raises StoreError and OSError."""
        if len(table):
            self.write(table)
        self._paths = [path for path in self._paths if path not in old]  # in one step: others read it
        for path in old:
            path.unlink()

    def index(self, earlier: Index | None = None) -> Index:
        """Read which rows the parts answer, one part at a time; the owner sets damaged ones aside.

        Of an `earlier` index to which `adds_little` holds, only the parts behind its own are read.
        """
        entries, starts, last_round, known = Buckets(ENTRY, BUCKETS), [0], 0, 0
        if earlier is not None:
            starts, last_round, known = earlier.starts.tolist(), earlier.last_round, len(earlier.files)
        paths = self._paths[known:]
        for path, rows in zip(paths, ahead(self._indexed, paths), strict=True):
            if rows is None:
                self._damaged(path)
                continue
            found = _entries(rows, starts[-1])
            entries.add(found, bucket_of(found["key"]))
            starts.append(starts[-1] + len(found))
            last_round = max(last_round, int(found["round"].max(initial=0)))
        self._numbered = len(self._paths)
        return Index(entries, np.array(starts, np.int64), last_round, tuple(self._paths), known)

    def adds_little(self, earlier: Index) -> bool:
        """Tell whether there are only some rows more than in an earlier index, behind its own parts."""
        new = self.since(earlier.files)
        return new is not None and new <= MOST_NEW

    def since(self, files: Sequence[Path]) -> int | None:
        """Return how many rows are in parts behind these, which are the first; None where that is not so."""
        if self._paths[: len(files)] != list(files):
            return None
        try:
            return sum(map(self.rows, self._paths[len(files) :]))
        except UNREADABLE:
            return None

    def _damaged(self, path: Path) -> None:
        """Set a damaged part aside; who does not own the folder may not."""
        if not (self._mine or self._passing):
            raise self._unread(DamagedError(f"`{path.name}` is damaged", ""))
        try:
            self._put_away(path)
        except OSError as exc:
            raise self._unread(exc) from exc

    def _unread(self, exc: Exception) -> StoreError:
        return StoreError(
            f"a part in `{self._folder}` cannot be read: {str(exc).splitlines()[0]}",
            "check its permissions and the disk, then run again; `rowmill run` sets damaged parts aside and "
            "asks for what they held",
        )

    def take(self, index: Index, places: Places) -> pa.Table:
        """Return the part rows at these places, in that order."""
        parts = np.searchsorted(index.starts, places, side="right") - 1
        pieces, order = [], []
        # those that are open first, or reading the others would close them
        for number in sorted(np.unique(parts).tolist(), key=lambda number: number not in self._tables):
            where = np.flatnonzero(parts == number)
            pieces.append(self.table(number).take(pa.array(places[where] - index.starts[number])))
            order.append(where)
        if not pieces:
            return self._schema.empty_table()
        joined = pa.concat_tables(pieces).combine_chunks()
        pieces.clear()  # or they would stay beside it while its rows are put in order
        return joined.take(pa.array(np.argsort(np.concatenate(order), kind="stable")))

    def table(self, number: int) -> pa.Table:
        """Return all rows of the part with this number in an index; the last few stay in memory.

        Raises StoreError as `take` does.
        """
        if number not in self._tables:
            self._tables[number] = self._read(self._paths[number])
            self._close_some()
        self._tables.move_to_end(number)
        return self._tables[number]

    def columns(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """Yield some columns of each part, in order. Raises StoreError as `take` does."""
        for path in list(self._paths):
            yield self._read(path, names)

    def _read(self, path: Path, names: Sequence[str] | None = None) -> pa.Table:
        """Read a part with its checksums verified.

        Raises DamagedError; the owner has set the part aside then, and every index is out of date.
        """
        try:
            return read_part(path, names, self._fingerprint).cast(
                self._schema if names is None else pa.schema([self._schema.field(name) for name in names])
            )
        except UNREADABLE as exc:
            if is_refusal(exc):
                raise self._unread(exc) from exc
            error = DamagedError(
                f"the part `{path}` is damaged",
                "`rowmill run` sets damaged parts aside; the journal has what they held, or it is asked",
            )
            if self._mine or self._passing:
                self._put_away(path)
            raise error from exc

    def _close_some(self) -> None:
        """Forget the tables that were not used for longest, down to two where they are large."""
        while len(self._tables) > OPEN_PARTS or (
            len(self._tables) > 2 and sum(table.nbytes for table in self._tables.values()) > OPEN_BYTES
        ):
            self._tables.popitem(last=False)


def _leaves(schema: pa.Schema, without: Collection[str]) -> list[str]:
    """Return the paths of all columns as Parquet has them, those inside of others too."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    found = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [found.column(n).path for n in range(len(found)) if found.column(n).path not in without]


def _entries(table: pa.Table, start: int) -> Records:
    """Return the entries of a part's rows, whose places begin at `start`."""
    entries = np.empty(len(table), ENTRY)
    entries["key"], entries["digest"] = column_heads(table["_key"]), column_heads(table["_digest"])
    entries["place"] = np.arange(start, start + len(table))
    entries["round"] = table["_round"].to_numpy()
    entries["ok"] = pc.equal(table["_status"], "ok").to_numpy()
    return entries
