"""Checks of CSV and TSV files: encoding, header, and that every record has as many fields as the header.

Polars fills short records with nulls and says little about where a file is broken, so the file is first
read once by the standard library's reader, which streams and knows line numbers.
"""

import codecs
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError

BLOCK = 2**20
SEPARATORS = {"csv": ",", "tsv": "\t"}
RESAVE = "save the file as UTF-8 (in a spreadsheet: `CSV UTF-8`), then run the same command again"


@dataclass(frozen=True, slots=True)
class Delimited:
    """What the check found: the header, the records below it, and how many lines are blank."""

    header: tuple[str, ...]
    records: int
    blank: int


def check(path: Path, separator: str) -> Delimited:
    """Read the whole file once; raises InputError with the line where it is broken."""
    _check_encoding(path)
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            header = tuple(next(reader, ()))
            _check_header(path, header)
            records, blank = _count(path, reader, header)
        except csv.Error as exc:
            raise _malformed(path, reader.line_num, exc) from exc
    return Delimited(header, records, blank)


def _count(path: Path, reader: "Iterator[list[str]]", header: Sequence[str]) -> tuple[int, int]:
    records, blank, width = 0, 0, len(header)
    for record in reader:
        if len(record) == width:
            records += 1
        elif record:
            line = getattr(reader, "line_num", 0)
            raise InputError(
                f"`{path}`, line {line}: {len(record)} cells where the header has {width}",
                "a cell that holds the separator, a quote or a line break must stand in double quotes, and "
                "a quote in it must be doubled",
            )
        else:
            blank += 1
    return (records + blank, 0) if width == 1 else (records, blank)


def _check_header(path: Path, header: Sequence[str]) -> None:
    if not header:
        raise InputError(f"`{path}` has no header", "the first line must name the columns")
    double = next((name for name in header if header.count(name) > 1), None)
    if double is not None:
        raise InputError(f"`{path}` has two columns `{double}`", "rename one of them in the header")


def _malformed(path: Path, line: int, exc: csv.Error) -> InputError:
    if "unexpected end" in str(exc):
        return InputError(
            f"`{path}` ends inside a quoted cell, at line {line}",
            'a `"` that opens a cell is never closed: look for it further up, or get the whole file again',
        )
    return InputError(
        f"`{path}`, line {line}: {str(exc).lower()}",
        "a cell that holds a quote must stand in double quotes, and the quote in it must be doubled",
    )


def _check_encoding(path: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines, read = 1, 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            try:
                decoder.decode(block)
            except UnicodeDecodeError as exc:
                raise _not_utf8(path, block, exc, lines) from exc
            lines += block.count(b"\n")
            read += len(block)
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as exc:
            raise InputError(f"`{path}` ends in the middle of a letter", "get the file again") from exc


def _not_utf8(path: Path, block: bytes, exc: UnicodeDecodeError, lines: int) -> InputError:
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return InputError(f"`{path}` is UTF-16 text", RESAVE)
    line = lines + block[: exc.start].count(b"\n")
    return InputError(
        f"`{path}`, line {line}: byte 0x{exc.object[exc.start]:02x} is not UTF-8; it may be Windows-1252",
        RESAVE,
    )
