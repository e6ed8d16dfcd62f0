"""The survey of an input: what names its rows, in order."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.heads import BUCKETS, bucket_of
from pipeline.scratch import Buckets, Column

NAMES = np.dtype([("key", "<u8"), ("digest", "<u8")])
NUMBERED = np.dtype([*NAMES.descr, ("row", "<i8")])
NO_KEY = 0  # stands for the key of a row in which a key column is empty
PAIRS = 100  # of rows whose keys begin alike; more than one pair of different keys is next to impossible


@dataclass(frozen=True, slots=True)
class Survey:
    """One pass over the input: the first 8 bytes (little-endian) of each row's key and digest, in order.

    `whole` has the rows that were left out, too, with NO_KEY where there is none; None where none was.
    """

    names: Column  # of NAMES
    whole: Column | None = None

    @property
    def rows(self) -> int:
        """How many rows the input has."""
        return len(self.names)

    @property
    def read(self) -> Column:
        """The names of all rows that were read."""
        return self.names if self.whole is None else self.whole

    def by_key(self) -> Buckets:
        """Return all rows with their numbers (NUMBERED), in buckets by key."""
        buckets = Buckets(NUMBERED, BUCKETS)
        for start, names in self.names.slices():
            rows = np.empty(len(names), NUMBERED)
            rows["key"], rows["digest"] = names["key"], names["digest"]
            rows["row"] = np.arange(start, start + len(names))
            buckets.add(rows, bucket_of(names["key"]))
        return buckets


def first_alike(survey: Survey) -> list[tuple[int, int]]:
    """Return the first pairs (later, earlier) of rows whose keys begin alike."""
    found: list[tuple[int, int]] = []
    keys = survey.by_key()
    for number in range(keys.count):
        rows, alike = _sorted(keys.read(number))
        at = rows["row"]
        nearest = alike[np.argsort(at[alike + 1], kind="stable")[:PAIRS]]
        found += zip(at[nearest + 1].tolist(), at[nearest].tolist(), strict=True)
    return sorted(found)[:PAIRS]


def doubtful(survey: Survey) -> NDArray[np.bool_]:
    """Say of each row whether it may have no key of its own."""
    found, keys = np.zeros(survey.rows, np.bool_), survey.by_key()
    for number in range(keys.count):
        rows, alike = _sorted(keys.read(number))
        found[rows["row"][alike]] = found[rows["row"][alike + 1]] = True
        found[rows["row"][rows["key"] == NO_KEY]] = True
    return found


def _sorted(rows: NDArray[np.void]) -> tuple[NDArray[np.void], NDArray[np.intp]]:
    """Return rows in the order of their keys, and the places of those that are like the next."""
    rows = rows[np.argsort(rows["key"], kind="stable")]
    return rows, np.flatnonzero(rows["key"][1:] == rows["key"][:-1])
