"""Rows of the input that cannot be asked about, left out where the job says so, and told of.

What a person needs to mend them is written to a temporary file as they are found; a run copies it to where it
can be read. Memory holds the first few.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.disk import make_folder, whole_file
from pipeline.scratch import IN_MEMORY, Column, failed

LEAVE_OUT = 'or set `bad_rows = "skip"` in [input]: such rows are left out and named, all others asked'
FIRST = 5  # that a summary names
FEW = 10  # bad rows that are left out, however few rows there are


def mostly(bad: int, rows: int) -> bool:
    """Tell whether so many of all rows are bad that this is no matter of single rows."""
    return bad > 0 and (bad == rows or (bad > FEW and 2 * bad > rows))


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How many rows were left out, the `first` of them with place and reason, and the file that lists all.

    `source` is the file of the input where there is one alone.
    """

    rows: int = 0
    first: tuple[str, ...] = ()
    file: Path | None = None
    source: Path | None = None

    def as_json(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {"rows": self.rows, "first": self.first, "file": None if self.file is None else str(self.file)}

    def sentences(self) -> list[str]:
        """Return it for people, a line each; none where no row was left out."""
        if not self.rows:
            return []
        them = "it" if self.rows == 1 else "them"
        place = "the input" if self.source is None else f"`{self.source}`"
        where = "" if self.file is None else f", listed in {self.file}; mend {them} in {place}"
        more = [f"    and {self.rows - len(self.first):,} more"] if self.rows > len(self.first) else []
        said = f"  left out: {self.rows:,} bad row{'s' * (self.rows > 1)} of the input{where}"
        return [said, *(f"    {one}" for one in self.first), *more]


class BadRows:
    """The rows that are left out, in the order in which they are found."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed with its owner

    def __del__(self) -> None:
        self._file.close()

    def add(self, said: str, content: bytes) -> None:
        """Leave a row out: `said` is where it stands and why, `content` what stands there.

        Raises StoreError where there is no room.
        """
        self.count += 1
        if len(self.first) < FIRST:
            self.first.append(said)
        try:
            self._file.write(b"# %b\n%b\n" % (said.encode(errors="replace"), content.rstrip(b"\r\n")))
        except OSError as exc:
            raise failed("written", exc) from exc

    def copy_to(self, file: BinaryIO) -> None:
        """Write them to a file; raises OSError."""
        self._file.seek(0)
        shutil.copyfileobj(self._file, file)


def as_counted(kept: int, gone: Column) -> int:
    """Return the number that a row has among all, given that among the rows that are not `gone`."""
    before = 0
    for start, some in gone.slices():
        before += int(np.count_nonzero(some["row"] - np.arange(start, start + len(some)) <= kept))
    return kept + before


def together(bad: Sequence[BadRows]) -> LeftOut:
    """Return what was left out until now."""
    first = [said for one in bad for said in one.first]
    return LeftOut(sum(one.count for one in bad), tuple(first[:FIRST]))


def write(path: Path, bad: Sequence[BadRows], files: Sequence[Path]) -> LeftOut:
    """Write down what was left out of these files, or remove the list where nothing was; raises OSError."""
    found = together(bad)
    if not found.rows:
        path.unlink(missing_ok=True)
        return found
    make_folder(path.parent)
    with whole_file(path) as draft, draft.open("wb") as file:
        for one in bad:
            one.copy_to(file)
    return replace(found, file=path, source=files[0] if len(files) == 1 else None)
