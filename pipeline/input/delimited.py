"""Checks of CSV and TSV files that name the line at fault, and the types of their columns.

Polars fills short records with nulls, takes a quote inside a bare cell for the start of a quoted one and says
little about where a file is broken. So a text file is first read once: block by block where `input.plain`
can show that nothing is wrong, elsewhere by the standard library, which streams and knows line numbers. What
passes here, Polars reads with the same cells.
"""

import codecs
import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import polars as pl

from pipeline.columns import separator_hint
from pipeline.errors import BadRowError, InputError
from pipeline.input.encoding import RESAVE, START, not_utf8, web_page, wide_text
from pipeline.input.plain import Plain

SEPARATORS = {"csv": ",", "tsv": "\t"}
QUOTING = (
    "a cell that holds the separator, a quote or a line break must stand in double quotes, and a quote in it "
    "must be doubled"
)
BLOCK = 1 << 18  # bytes; small enough for a processor's cache
CELL_END = "at the end of a cell without quotes"
MOST_CHARACTERS = 2**31 - 1  # of a cell; the most that every platform takes

INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?$"
DIGITS = 16  # of a cell that a float still holds exactly enough

BARE_RETURN = re.compile(r"\r(?!\n|\Z)")
QUOTED = re.compile(r'"(?:[^"]++|"")*+"')


@dataclass(frozen=True, slots=True)
class Delimited:
    """What the check of a CSV or TSV file found.

    `records` counts those below the header without the blank lines, which stand in `blank` as positions
    among records and blank lines; a blank line of a table with one column is a record. `quoted` says whether
    any cell stands in quotes; `stray` is the first line that can only be read if none does.
    """

    header: tuple[str, ...]
    records: int
    blank: tuple[int, ...]
    quoted: bool
    stray: int | None


def check(path: Path, separator: str, block: int = BLOCK) -> Delimited:
    """Read a whole CSV or TSV file once; raises InputError with the line where it is broken.

    `block` is how many bytes are looked at at a time; 0 has every record read by the standard library.
    """
    csv.field_size_limit(MOST_CHARACTERS)
    with path.open("rb") as file:
        one = Check(path, file, separator)
        with one.named():
            return one.found(block)


class Check:
    """One pass over a file: block by block where nothing is doubtful, else record by record.

    `kept` are the lines of the record at hand, `place` is the byte behind it, `lines` how many end there.
    """

    def __init__(self, path: Path, file: BinaryIO, separator: str) -> None:
        self.path = path
        self.file = file
        self.opening = f'{separator}"'
        self.returning = f"\r{separator}"  # Polars drops a carriage return there
        self.plain = Plain(separator)
        self.kept: list[str] = []
        self.header: tuple[str, ...] = ()
        self.below = False  # the header
        self.place = 0
        self.lines = 0
        self.reader = csv.reader(self._lines(), delimiter=separator, strict=True)
        self.records = 0
        self.blank: list[int] = []
        self.quoted = False
        self.stray: int | None = None
        self.clean = clean(separator)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Turn what is wrong into an InputError with the line at which it is read."""
        try:
            yield
        except UnicodeDecodeError as exc:
            raise not_utf8(self.path) from exc
        except csv.Error as exc:
            error: InputError = malformed(self.path, self.line, self.lines, exc)
            if not self.below:
                error = InputError(error.message, error.hint)
            raise error from exc

    @property
    def line(self) -> int:
        """Where the record at hand begins."""
        return self.lines - len(self.kept) + 1

    def found(self, block: int) -> Delimited:
        """Read all records."""
        start = self.file.read(START)
        codecs.getincrementaldecoder("utf-8")().decode(start)  # what is no text at all is told so first
        header = self.begin()
        self._read(len(header), block)
        return Delimited(header, self.records, tuple(self.blank), self.quoted, self.stray)

    def begin(self) -> tuple[str, ...]:
        """Read the header."""
        if (page := web_page(self.path)) is not None:
            raise page
        self.file.seek(0)
        start = self.file.read(len(codecs.BOM_UTF8))
        self.place = len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0
        self.file.seek(self.place)
        header = self.header = _checked_header(self.path, next(self.reader, None))
        if self.kept[-1].endswith(("\r\r\n", "\r\r")):
            raise bare_return(self.path, 1, "in the header that does not end it")
        self._check_quotes()
        self.below = True
        self.kept.clear()
        return header

    def _read(self, width: int, block: int) -> None:
        """Read what stands below the header."""
        while piece := self.file.read(block):
            seen = self.plain.records(piece, width)
            if seen is None:
                self.file.seek(self.place)
                self._read_exactly(width, self.place + len(piece))
            else:
                self.records += seen.records
                self.lines += seen.lines
                self.quoted = self.quoted or seen.quoted
                self.place += seen.size
                self.file.seek(self.place)
        if not block:
            self._read_exactly(width, None)

    def _read_exactly(self, width: int, stop: int | None) -> None:
        """Read records until one of them ends at byte `stop` or behind it, or to the end of the file."""
        kept = self.kept
        while (stop is None or self.place < stop) and (cells := next(self.reader, None)) is not None:
            if len(cells) == width:
                self.records += 1
            elif cells:
                raise ragged(self.path, self.line, len(cells), self.header)
            elif width == 1:
                self.records += 1
            else:
                self.blank.append(self.records + len(self.blank))
            if '"' in kept[0] or "\r" in kept[0]:
                self._check_quotes()
            kept.clear()

    def _lines(self) -> Iterator[str]:
        while raw := self.file.readline():
            line = raw.decode()
            self.place += len(raw)
            self.lines += 1
            self.kept.append(line)
            # to Polars a carriage return within a line is a letter, to the csv module an error
            yield BARE_RETURN.sub(" ", line) if self.below and "\r" in line else line

    def _check_quotes(self) -> None:
        """Look at the quotes of the record at hand."""
        raw = self.kept[0] if len(self.kept) == 1 else "".join(self.kept)
        if self.returning in raw and self.returning in QUOTED.sub("", raw):
            raise bare_return(self.path, self.line, CELL_END)
        self.quoted = self.quoted or raw.startswith('"') or self.opening in raw
        paired = raw.count('"') % 2 == 0 and (len(self.kept) == 1 or self.clean.fullmatch(raw))
        if not paired and self.stray is None:
            self.stray = self.line


def clean(separator: str) -> re.Pattern[str]:
    """Return what a record looks like in which each quote encloses a cell or is doubled in one."""
    separator = re.escape(separator)
    cell = rf'(?:{QUOTED.pattern}|[^"\n{separator}]*+)'
    return re.compile(rf"{cell}(?:{separator}{cell})*+\r?\n?")


def _checked_header(path: Path, header: Sequence[str] | None) -> tuple[str, ...]:
    if header is None:
        raise empty(path)
    if not header:
        raise InputError(f"`{path}` has no header: line 1 is blank", "the first line must name the columns")
    if any("\0" in name for name in header):
        raise wide_text(path) or InputError(f"the header of `{path}` holds NUL characters", RESAVE)
    double = next((name for name in header if header.count(name) > 1), None)
    if double is not None:
        raise InputError(f"`{path}` has two columns `{double}`", "rename one of them in the header")
    return tuple(header)


def empty(path: Path) -> InputError:
    """Return the error for a file without a byte, or without anything but a byte order mark."""
    return InputError(f"`{path}` is empty", "get the file again, or take it away from the input")


def ragged(path: Path, line: int, cells: int, header: Sequence[str]) -> InputError:
    """Return the error for a record with too few or too many cells."""
    said = f"`{path}`, line {line}: {cells} cell{'s' * (cells > 1)} where the header has {len(header)}"
    if hint := separator_hint(header):  # then it is no matter of single rows
        return InputError(said, hint)
    return BadRowError(said, QUOTING)


def malformed(path: Path, start: int, line: int, exc: csv.Error) -> BadRowError:
    """Return the error for a record from line `start` on that the csv module gave up at another."""
    said = str(exc)
    if "unexpected end" in said:
        return BadRowError(
            f"`{path}` ends inside a quoted cell of the row that begins at line {start}",
            'a `"` that opens a cell is never closed: look for it there, or get the whole file again',
        )
    if "new-line character" in said:
        return bare_return(path, line, "in the header that does not end it")
    if "expected after" in said:
        where = f"line {line}" if line == start else f"line {line} (the row begins at line {start})"
        return BadRowError(f"`{path}`, {where}: text after the closing quote of a cell", QUOTING)
    return BadRowError(f"`{path}`, line {line}: {said.lower()}", QUOTING)


def stray(path: Path, line: int) -> BadRowError:
    """Return the error for a quote that encloses nothing in a file in which others do."""
    return BadRowError(f"`{path}`, line {line}: a quote in a cell without quotes around it", QUOTING)


def bare_return(path: Path, line: int, where: str) -> BadRowError:
    """Return the error for a carriage return that ends no line."""
    return BadRowError(
        f"`{path}`, line {line}: a carriage return {where}",
        "save the file with line feeds at the ends of lines, and cells with line breaks in double quotes",
    )


def text_types(tables: Iterable[pl.LazyFrame | pl.DataFrame], names: Sequence[str]) -> dict[str, pl.DataType]:
    """Find the type that every cell of a column of text has; reads each of the tables once."""
    tests = []
    for number, name in enumerate(names):
        cell = pl.col(name)
        tests += [
            cell.str.contains(INTEGER).all().alias(f"{number} int"),
            (cell.str.contains(NUMBER) & (cell.str.len_bytes() <= DIGITS)).all().alias(f"{number} float"),
            cell.is_in(["true", "false"]).all().alias(f"{number} true"),
            cell.is_in(["True", "False"]).all().alias(f"{number} True"),
            cell.is_in(["TRUE", "FALSE"]).all().alias(f"{number} TRUE"),
            cell.is_not_null().any().alias(f"{number} any"),
        ]
    seen = [table.lazy().select(tests).collect(engine="streaming") for table in tables]
    found = pl.concat(seen).select(pl.col("^.* any$").any(), pl.exclude("^.* any$").all())
    return {name: _text_type(number, found.row(0, named=True)) for number, name in enumerate(names)}


def _text_type(number: int, found: dict[str, bool]) -> pl.DataType:
    kinds = [
        ("int", pl.Int64()),
        ("float", pl.Float64()),
        *((word, pl.Boolean()) for word in ("true", "True", "TRUE")),
    ]
    if found[f"{number} any"]:
        for word, kind in kinds:
            if found[f"{number} {word}"]:
                return kind
    return pl.String()


def typed(name: str, kind: pl.DataType) -> pl.Expr:
    """Return a column of text in the type that `text_types` found for it."""
    if kind == pl.Boolean:
        cell = pl.col(name).str.to_lowercase()
        return pl.when(cell.is_not_null()).then(cell == "true").alias(name)
    return pl.col(name).cast(kind)
