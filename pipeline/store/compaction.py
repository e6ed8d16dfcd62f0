"""Compaction: small parts become larger ones, so that their number is bounded by the number of rows.

Of the parts in question only those rows are taken over that no later part answers again. A merged part may
therefore stand behind all others, although "later wins": none of its rows has a newer answer anywhere. It is
on disk, durably, before the first of the parts that it stands for goes. A kill in between leaves rows twice,
with the same answer, and the next compaction removes them.

After it fewer than `MANY` small parts are left, besides those whose rows fill parts of `LARGE` rows or of
`HEAVY` bytes. Memory does not grow with the rows: parts are read one at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.store.parts import Parts
from pipeline.store.reading import UNREADABLE, row_ids

LARGE = 5_000  # rows of a part that is left as it is: as many as a fast run writes at once
HEAVY = 32 * 2**20  # bytes of one, whatever its rows
MANY = 32  # small parts that are worth a compaction
REACH = 128  # of the latest parts, which are looked at while a run goes on
AT_ONCE = 1_000_000  # rows of small parts that are compared with all later ones in one pass
PLACE = 32  # bits of a row's number behind that of its part

Ids = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class _Newest:
    """Where the newest answer to each of some rows lies: `ids` sorted, `places` as `_places` makes them."""

    ids: Ids
    places: NDArray[np.int64]

    def won(self, ids: Ids, part: int) -> NDArray[np.bool_]:
        """Tell which rows of part `part` have no newer answer."""
        won: NDArray[np.bool_] = self.places[np.searchsorted(self.ids, ids)] == _places(part, len(ids))
        return won


def compact(parts: Parts, reach: int | None = None) -> None:
    """Merge small parts where there are many; for the owner of the run folder only.

    Takes only parts that no index has numbered yet, so every index stays right; of these the latest `reach`,
    or all. Does nothing where a part cannot be read: who needs what it holds will say so. Raises StoreError
    when the disk fails.
    """
    paths = parts.unnumbered[-reach:] if reach else parts.unnumbered
    small = [number for number, path in enumerate(paths) if _is_small(parts, path)]
    if len(small) < MANY:
        return
    for some in _passes(parts, paths, small):
        try:
            newest = _newest(parts, paths, some)
        except UNREADABLE:
            return
        _merge(parts, paths, some, newest)


def _is_small(parts: Parts, path: Path) -> bool:
    try:
        return parts.rows(path) < LARGE and path.stat().st_size < HEAVY
    except UNREADABLE:
        return False


def _passes(parts: Parts, paths: Sequence[Path], small: Sequence[int]) -> Iterator[list[int]]:
    """Divide the small parts, so that the names of some fit into memory."""
    some, rows = list[int](), 0
    for number in small:
        some.append(number)
        rows += parts.rows(paths[number])
        if rows >= AT_ONCE:
            yield some
            some, rows = [], 0
    if len(some) > 1:
        yield some


def _newest(parts: Parts, paths: Sequence[Path], some: Sequence[int]) -> _Newest:
    """Look in all later parts for newer answers to the rows of the parts `some`."""
    ids = np.unique(np.concatenate([parts.ids(paths[number]) for number in some]))
    if not len(ids):
        return _Newest(ids, np.empty(0, np.int64))
    places = np.full(len(ids), -1, np.int64)
    for number in range(some[0], len(paths)):
        found = parts.ids(paths[number])
        at = np.minimum(np.searchsorted(ids, found), len(ids) - 1)
        known = ids[at] == found
        places[at[known]] = _places(number, len(found))[known]  # of equal rows the last one stays
    return _Newest(ids, places)


def _merge(parts: Parts, paths: Sequence[Path], some: Sequence[int], newest: _Newest) -> None:
    """Write what is left of the parts `some`, as many together as fill a part, and remove them."""
    gone, tables, size = list[Path](), list[pa.Table](), 0
    for number in some:
        try:
            table = parts.read(paths[number])
        except UNREADABLE:
            continue
        gone.append(paths[number])
        tables.append(table.filter(pa.array(newest.won(row_ids(table), number))))
        size += paths[number].stat().st_size
        if sum(map(len, tables)) >= LARGE or size >= HEAVY:
            _replace(parts, gone, tables)
            gone, tables, size = [], [], 0
    if len(gone) > 1:
        _replace(parts, gone, tables)


def _replace(parts: Parts, gone: Sequence[Path], tables: Sequence[pa.Table]) -> None:
    try:
        parts.replace(gone, pa.concat_tables(tables).combine_chunks())
    except OSError as exc:
        raise StoreError(
            f"the part `{exc.filename}` cannot be removed: {exc.strerror}",
            "check its permissions, then run again; its rows stand in a newer part, too",
        ) from exc


def _places(part: int, rows: int) -> NDArray[np.int64]:
    """Return a number for each row of a part: later rows of later parts have higher ones."""
    return (np.int64(part) << PLACE) + np.arange(rows, dtype=np.int64)
