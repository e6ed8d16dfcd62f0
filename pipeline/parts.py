"""The parts of a run folder: immutable Parquet files, and an index of which rows they answer.

The parts are the truth: a row is done when a part holds its key with the digest of its present text. A
later part wins over an earlier one, so a row that is asked again simply stands in a newer part.
"""

import errno
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.disk import clear_drafts, set_aside, whole_file
from pipeline.errors import DamagedError, StoreError
from pipeline.seal import is_intact, seal

Positions: TypeAlias = NDArray[np.int64]
Heads: TypeAlias = NDArray[np.uint64]  # the first 8 bytes of keys or digests
Scalar = TypeVar("Scalar", bound=np.generic)

MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no key is lost in the product
PART_NAME = re.compile(r"part-(\d{7,})\.parquet")
UNREADABLE = (OSError, pa.ArrowException, ValueError)  # ValueError: names in the footer that are no text
INDEXED = ["_key", "_digest", "_status", "_round"]
OPEN_PARTS = 2  # tables kept in memory while the output is written


@dataclass(frozen=True, slots=True)
class Index:
    """Where the last answer to each text of each key lies; arrays of equal length, sorted by `ids`.

    `keys` and `digests` are the first 8 bytes of the real ones, little-endian, `ids` are made of both; `part`
    and `row` say where.
    """

    ids: NDArray[np.uint64]
    keys: NDArray[np.uint64]
    digests: NDArray[np.uint64]
    ok: NDArray[np.bool_]
    rounds: NDArray[np.int32]
    part: NDArray[np.int32]
    row: NDArray[np.int32]

    def find(self, keys: NDArray[np.uint64], digests: NDArray[np.uint64]) -> Positions:
        """Return for each row its position in the index, or -1 where it has no answer to its present text."""
        if not len(self.ids):
            return np.full(len(keys), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.ids, names(keys, digests)), len(self.ids) - 1)
        known = (self.keys[at] == keys) & (self.digests[at] == digests)
        return np.where(known, at, -1).astype(np.int64)


class Parts:
    """The folder of parts. One task writes; reading needs no lock since parts never change."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder = folder
        self._schema = schema
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()
        self.set_aside: list[str] = []
        self._mine = False
        self._paths = sorted(path for path in folder.glob("part-*") if PART_NAME.fullmatch(path.name))
        used = [
            int(path.stem.removeprefix("part-")) for path in [*self._paths, *folder.glob("part-*.damaged")]
        ]
        self._next = 1 + max(used, default=0)  # no name twice: what was set aside is never overwritten

    def clean(self) -> None:
        """Remove what a killed process left half written, and set damaged parts aside. For the owner only."""
        self._mine = True
        try:
            clear_drafts(self._folder)
            for path in [path for path in self._paths if not self._is_whole(path)]:
                self._put_away(path)
        except OSError as exc:
            raise StoreError(
                f"`{self._folder}` cannot be tidied: {exc.strerror}", "check its permissions, then run again"
            ) from exc

    def _put_away(self, path: Path) -> None:
        set_aside(path)
        self._paths.remove(path)
        self._tables.clear()  # they go by the place in the list
        self.set_aside.append(path.name)

    def _is_whole(self, path: Path) -> bool:
        """Tell whether the part is of our schema, and what the index needs of it undamaged."""
        try:
            if not is_intact(path):
                return False
            found = pq.read_schema(path)
            found.empty_table().cast(self._schema)
            rows = pq.read_table(path, columns=INDEXED, partitioning=None, page_checksum_verification=True)
        except UNREADABLE as exc:
            if _is_refusal(exc):
                raise
            return False
        same = all(rows.schema.field(name).type == self._schema.field(name).type for name in INDEXED)
        return same and not any(rows[name].null_count for name in INDEXED)

    def write(self, table: pa.Table) -> None:
        """Add a part; when this returns it is durable. Raises StoreError."""
        path = self._folder / f"part-{self._next:07d}.parquet"
        try:
            with whole_file(path) as draft:
                pq.write_table(table, draft, compression="zstd", write_page_checksum=True)
                seal(draft)
        except (OSError, pa.ArrowException) as exc:
            raise StoreError(
                f"the part `{path}` cannot be written: {exc}",
                "free some space if the disk is full, then run the same command again: "
                "answers that had arrived are in the journal and are not paid for twice",
            ) from exc
        self._next += 1
        self._paths.append(path)
        pa.default_memory_pool().release_unused()  # or the heap grows with the number of parts

    def index(self) -> Index:
        """Read which rows the parts answer."""
        try:
            return _merge([pq.read_table(path, columns=INDEXED, partitioning=None) for path in self._paths])
        except UNREADABLE as exc:
            raise self._unread(exc) from exc

    def _unread(self, exc: Exception) -> StoreError:
        return StoreError(
            f"a part in `{self._folder}` cannot be read: {str(exc).splitlines()[0]}",
            "check its permissions and the disk, then run again; `rowmill run` sets damaged parts aside and "
            "asks for what they held",
        )

    def take(self, index: Index, positions: Positions) -> pa.Table:
        """Return the part rows at `positions` of the index, in that order."""
        parts = index.part[positions]
        pieces, order = [], []
        for number in np.unique(parts):
            where = np.flatnonzero(parts == number)
            pieces.append(self._table(int(number)).take(pa.array(index.row[positions[where]])))
            order.append(where)
        if not pieces:
            return self._schema.empty_table()
        back = np.argsort(np.concatenate(order), kind="stable")
        return pa.concat_tables(pieces).take(pa.array(back))

    def _read(self, path: Path) -> pa.Table:
        """Read a part with its checksums verified.

        Raises DamagedError; the owner has set the part aside then, and every index is out of date.
        """
        try:
            return pq.read_table(path, partitioning=None, page_checksum_verification=True).cast(self._schema)
        except UNREADABLE as exc:
            if _is_refusal(exc):
                raise self._unread(exc) from exc
            error = DamagedError(
                f"the part `{path}` is damaged",
                "`rowmill run` sets damaged parts aside; the journal has what they held, or it is asked",
            )
            if self._mine:
                self._put_away(path)
            raise error from exc

    def _table(self, number: int) -> pa.Table:
        if number not in self._tables:
            self._tables[number] = self._read(self._paths[number])
            if len(self._tables) > OPEN_PARTS:
                self._tables.popitem(last=False)
        self._tables.move_to_end(number)
        return self._tables[number]


def _is_refusal(exc: Exception) -> bool:
    """Tell whether the system would not read the file, so that nothing is known of what it holds."""
    return isinstance(exc, OSError) and exc.errno not in (None, errno.EIO)


def heads(digests: Sequence[bytes]) -> Heads:
    """Return the first 8 bytes of 16-byte digests as little-endian numbers."""
    return np.frombuffer(b"".join(digests), dtype="<u8")[::2].astype(np.uint64)


def _column_heads(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Do the same for a column of a part, without making Python objects of it."""
    chunks = [
        np.frombuffer(c.buffers()[1], dtype="<u8")[2 * c.offset :][: 2 * len(c) : 2] for c in column.chunks
    ]
    return _join(chunks, np.uint64)


def _merge(tables: Sequence[pa.Table]) -> Index:
    """Join the columns of all parts and keep the last answer to each text of each key."""
    sizes = [len(table) for table in tables]
    keys = _join([_column_heads(table["_key"]) for table in tables], np.uint64)
    digests = _join([_column_heads(table["_digest"]) for table in tables], np.uint64)
    ok = _join([pc.equal(table["_status"], "ok").to_numpy() for table in tables], np.bool_)
    rounds = _join([table["_round"].to_numpy() for table in tables], np.int32)
    part = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    row = _join([np.arange(size, dtype=np.int32) for size in sizes], np.int32)
    ids = names(keys, digests)
    order = np.argsort(ids, kind="stable")
    last = np.ones(len(order), dtype=np.bool_)
    last[:-1] = ids[order][1:] != ids[order][:-1]
    kept = order[last]
    return Index(ids[kept], keys[kept], digests[kept], ok[kept], rounds[kept], part[kept], row[kept])


def names(keys: Heads, digests: Heads) -> NDArray[np.uint64]:
    """Mix key and digest of each row into one number; wrapping around is meant."""
    return keys * MIX + digests


def _join(arrays: Sequence[NDArray[Scalar]], kind: type[Scalar]) -> NDArray[Scalar]:
    return np.concatenate(arrays).astype(kind) if arrays else np.empty(0, dtype=kind)
