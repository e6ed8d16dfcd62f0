"""Records of a text file that are left out of it: where they lie, and what is told of them.

Where they lie is kept in temporary files, so that memory stays flat.
"""

import heapq
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from pipeline.errors import BadRowError, InputError
from pipeline.input.bad import BadRows, mostly
from pipeline.scratch import Column

AT_ONCE = 10_000  # records that are put in order in memory
HOPELESS = 1_000  # records at the beginning of a file of which none can be read


class Where(NamedTuple):
    """The bytes of a record, its first line, and how many records stand before it, bad ones included."""

    start: int
    stop: int
    line: int
    row: int


KIND = np.dtype([(name, "<i8") for name in Where._fields])


class Faults:
    """The bad records of one file, in order, and the error for which it is refused where most are bad."""

    def __init__(self, error: InputError, bad: BadRows, named: Callable[[str], str]) -> None:
        self.found = Column(KIND)
        self._error = error
        self._bad = bad
        self._named = named  # puts the file's own name into what is said of it

    def __len__(self) -> int:
        return len(self.found)

    def add(self, error: InputError, where: Where, content: bytes) -> None:
        """Leave a record out; raises the error where none of very many can be read."""
        self.found.add(np.array([where], KIND))
        self.tell(error, content)
        if len(self) == where.row + 1 == HOPELESS:
            self.refuse_most(0)

    def tell(self, error: InputError, content: bytes) -> None:
        """Tell of a record that is left out."""
        self._bad.add(self._named(error.message), content)

    def refuse_most(self, records: int) -> None:
        """Raise the error where most records of the file are bad; so many are not."""
        bad, rows = len(self), len(self) + records
        if not mostly(bad, rows):
            return
        if not isinstance(self._error, BadRowError):
            raise self._error
        said = f"{self._error.message}; {bad:,} of the first {rows:,} rows are bad, too many to leave out"
        raise InputError(said, self._error.hint)


def in_order(*found: Column) -> Column:
    """Return the records (KIND) of several columns, each in order, as one."""
    merged, rows = Column(KIND), heapq.merge(*map(_each, found))
    while some := list(islice(rows, AT_ONCE)):
        merged.add(np.array(some, KIND))
    return merged


def _each(found: Column) -> Iterator[Where]:
    for _, some in found.slices():
        yield from map(Where._make, some.tolist())
