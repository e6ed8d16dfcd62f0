"""Bad records of a CSV or TSV file, found so that the others can be read without them.

A record of several lines whose quotes are not as they should be is left out with its first line only: a quote
that is never closed would take the rows after it along. Reading goes on with the next line, and up to where
the first attempt had come a record counts only where each quote encloses a cell or is doubled in one.
"""

import codecs
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.input.delimited import (
    BARE_RETURN,
    BLOCK,
    CELL_END,
    MOST_CHARACTERS,
    QUOTED,
    QUOTING,
    Check,
    bare_return,
    malformed,
    ragged,
    stray,
)
from pipeline.input.encoding import RESAVE, START, no_text
from pipeline.input.faults import KIND, Faults, Where, in_order
from pipeline.scratch import Column

SMALL = 1 << 12  # bytes that are read record by record where one of these is doubtful
MOST_BYTES = 1 << 24  # of a record in quotes; what goes on for longer was never closed


class Sifted:
    """What is left of a file without its bad records: so many, and whether any cell stands in quotes.

    `doubtful` are those of them with a quote in a bare cell, which are bad where others stand in quotes.
    """

    def __init__(self) -> None:
        self.records = 0
        self.quoted = False
        self.doubtful = Column(KIND)


def sift(path: Path, separator: str, faults: Faults, block: int = BLOCK) -> Sifted:
    """Find the bad records of a file; raises InputError where it has no header, or most of it is bad."""
    csv.field_size_limit(MOST_CHARACTERS)
    _check_text(path)
    with path.open("rb") as file:
        head = Check(path, file, separator)
        with head.named():
            head.begin()
        one = _Sift(head, separator, faults)
        one.read(block)
    return one.left


def add_doubtful(path: Path, faults: Faults, left: Sifted) -> None:
    """Count the doubtful records to the bad ones."""
    with path.open("rb") as file:
        for _, some in left.doubtful.slices():
            for where in map(Where._make, some.tolist()):
                file.seek(where.start)
                faults.tell(stray(path, where.line), file.read(where.stop - where.start))
    faults.found = in_order(faults.found, left.doubtful)
    left.records -= len(left.doubtful)


class _Sift:
    """One pass over what stands below a header that was checked."""

    def __init__(self, head: Check, separator: str, faults: Faults) -> None:
        self.head = head
        self.separator = separator
        self.faults = faults
        self.left = Sifted()
        self.file = head.file
        self.place = head.place
        self.lines = head.lines
        self.kept: list[bytes] = []  # the lines of the record at hand
        self.spoilt = False  # they are not UTF-8
        self.sure = 0  # up to this byte every quote must enclose a cell or be doubled in one
        self.reader = self._reader()

    def read(self, block: int) -> None:
        """Read to the end of the file, so many bytes at a time where nothing is doubtful."""
        width, size = len(self.head.header), block
        self.file.seek(self.place)
        while piece := self.file.read(size):
            seen = self.head.plain.records(piece, width)
            if seen is None and size > SMALL:
                size //= 8
                self.file.seek(self.place)
            elif seen is None:
                self.file.seek(self.place)
                self._read_exactly(self.place + len(piece))
            else:
                size = min(2 * size, block)
                self.left.records += seen.records
                self.left.quoted = self.left.quoted or seen.quoted
                self.lines += seen.lines
                self.place += seen.size
                self.file.seek(self.place)

    def _read_exactly(self, stop: int) -> None:
        """Read records until one of them ends at byte `stop` or behind it."""
        while self.place < stop:
            began, line = self.place, self.lines + 1
            row = self.left.records + len(self.faults)
            error = self._record(began, line, row)
            if error is not None:
                self.file.seek(began)
                content = self.file.read(self.place - began)
                self.faults.add(error, Where(began, self.place, line, row), content)
            self.kept.clear()
            self.spoilt = False

    def _record(self, began: int, line: int, row: int) -> InputError | None:
        """Read a record that begins at a byte and a line; return what is wrong with it."""
        try:
            cells = next(self.reader, None)
        except csv.Error as exc:
            error = self._malformed(line, exc)
            self._back(began, line, doubt="expected after" in str(exc))
            return error
        if cells is None:
            raise InputError(
                f"`{self.head.path}` was changed while it was read", "run the same command again"
            )
        raw = b"".join(self.kept).decode(errors="replace")
        clean = self.head.clean.fullmatch(raw) is not None
        fault = self._fault(cells, raw, line, clean=clean)
        if fault is not None:
            if not clean and len(self.kept) > 1:
                self._back(began, line, doubt=True)
            return fault
        self._take(cells, raw, Where(began, self.place, line, row), clean=clean)
        return None

    def _fault(self, cells: list[str], raw: str, line: int, *, clean: bool) -> InputError | None:
        """Return what is wrong with a record, if that can be told without the others."""
        path, width = self.head.path, len(self.head.header)
        if self.spoilt:
            return InputError(f"`{path}`, line {line}: bytes that are not UTF-8", RESAVE)
        if cells and len(cells) != width:
            return ragged(path, line, len(cells), self.head.header)
        if self.head.returning in raw and self.head.returning in QUOTED.sub("", raw):
            return bare_return(path, line, CELL_END)
        bare = self._opens(raw) and not self._paired(raw, clean=clean)
        return stray(path, line) if bare or (not clean and self.place <= self.sure) else None

    def _malformed(self, line: int, exc: csv.Error) -> InputError:
        """Return the error for a record that the csv module gave up."""
        if self.lines == line and "expected after" in str(exc):
            return malformed(self.head.path, line, line, exc)
        by = "" if "unexpected end" in str(exc) else f" by line {self.lines}"
        said = f"a quote opens a cell and is not closed{by}"
        return InputError(f"`{self.head.path}`, line {line}: {said}", QUOTING)

    def _take(self, cells: list[str], raw: str, where: Where, *, clean: bool) -> None:
        """Count a record that stays; blank lines of a table with several columns are none."""
        if cells or len(self.head.header) == 1:
            self.left.records += 1
        if not self._paired(raw, clean=clean):
            self.left.doubtful.add(np.array([where], KIND))
        self.left.quoted = self.left.quoted or self._opens(raw)

    def _opens(self, raw: str) -> bool:
        return raw.startswith('"') or self.head.opening in raw

    def _paired(self, raw: str, *, clean: bool) -> bool:
        return clean or (raw.count('"') % 2 == 0 and len(self.kept) == 1)

    def _back(self, began: int, line: int, *, doubt: bool) -> None:
        """Go back to the end of the first line of the record at hand."""
        if doubt:
            self.sure = max(self.sure, self.place)
        self.place, self.lines = began + len(self.kept[0]), line
        self.file.seek(self.place)
        self.reader = self._reader()

    def _reader(self) -> Iterator[list[str]]:
        return csv.reader(self._lines(), delimiter=self.separator, strict=True)

    def _lines(self) -> Iterator[str]:
        size = 0
        while raw := self.file.readline():
            size = size + len(raw) if self.kept else len(raw)
            self.place += len(raw)
            self.lines += 1
            self.kept.append(raw)
            if size > MOST_BYTES and len(self.kept) > 1:
                raise csv.Error("too long")
            yield BARE_RETURN.sub(" ", self._decoded(raw))

    def _decoded(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self.spoilt = True
            return raw.decode(errors="replace")


def _check_text(path: Path) -> None:
    """Raise InputError for what is no text at all; of UTF-16 the header is not read either."""
    with path.open("rb") as file:
        start = file.read(START)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        if (fault := no_text(path)) is not None:
            raise fault from None
