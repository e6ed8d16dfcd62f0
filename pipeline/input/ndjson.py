"""Checks of NDJSON files that name the line at fault, and their bad lines where these are left out."""

import codecs
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from pipeline.errors import BadRowError, InputError
from pipeline.input.encoding import RESAVE, not_utf8, web_page, wide_text
from pipeline.input.faults import Faults, Where

BLANKS = b" \t\r\n"  # of JSON; Polars takes a line of others for a broken one
LARGEST = 2**128  # an integer that Polars cannot hold; of negative ones it holds half as many
DIGITS = 40  # of the largest integers, and a sign
SHOWN = 30  # digits of a number in a message
LISTED = "[]"  # names what is in a list

Name: TypeAlias = tuple[str, ...]  # of a column, or of values within its cells
Kinds: TypeAlias = dict[Name, tuple[str, int]]  # what a column holds, and a line in which it does

_HALF_LETTER = re.compile(rb"\\u[dD][89a-fA-F]")  # what may be half of a surrogate pair

_ARRAY = re.compile(rb"\[\s*(?:\{|$)")  # the first line of one, also of one that goes on below it


def check_ndjson(path: Path) -> int:
    """Read a whole NDJSON file once and count its rows; raises InputError where Polars would misread it."""
    if whole := web_page(path) or _array(path):
        raise whole
    records = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith(codecs.BOM_UTF8):
                raise InputError(f"`{path}` begins with a byte order mark", "save it as UTF-8 without BOM")
            try:
                line.decode()
            except UnicodeDecodeError as exc:
                raise not_utf8(path) from exc
            if number == 1 and b"\0" in line and (fault := wide_text(path)):
                raise fault
            records += not _is_blank(line)
            if _HALF_LETTER.search(line):
                try:
                    _check_letters(path, number, line)
                except InputError as fault:
                    raise _earlier_fault(path, number) or fault from fault.__cause__
    return records


def _array(path: Path) -> InputError | None:
    """Return the error for a file that is a whole array of JSON; a single line may be one by mistake."""
    with path.open("rb") as file:
        lines = (line.strip(BLANKS) for line in file if not _is_blank(line))
        first = next(lines, b"")
        if not _ARRAY.match(first) or (first.endswith(b"]") and next(lines, b"")):
            return None
    return InputError(
        f"`{path}` is a JSON array, not NDJSON",
        "write each of its objects on a line of its own, as `jq -c '.[]' FILE.json > FILE.ndjson` does",
    )


def _is_blank(line: bytes) -> bool:
    """Tell whether a line holds nothing, and so is no row."""
    return not line.strip(BLANKS)


def _earlier_fault(path: Path, line: int) -> InputError | None:
    """Return what is wrong with the first line above `line` that is no object, if there is one."""
    with path.open("rb") as file:
        for number, above in enumerate(islice(file, line - 1), 1):
            try:
                _cells(path, number, b"{}" if _is_blank(above) else above)
            except InputError as fault:
                return fault
    return None


def _check_letters(path: Path, number: int, line: bytes) -> None:
    """Refuse half a surrogate pair: Polars would put another character in its place."""
    try:
        json.dumps(json.loads(line), ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        half = f"\\u{ord(exc.object[exc.start]):04x}"
        raise BadRowError(
            f"`{path}`, line {number}: `{half}` is half a letter",
            "it was cut from a pair such as `\\ud83d\\ude00`: write the pair, or leave the half out",
        ) from exc
    except (ValueError, RecursionError):
        return  # no JSON: Polars says so, and `ndjson_fault` where


def ndjson_fault(path: Path) -> InputError | None:
    """Find the line for which Polars did not read an NDJSON file, if it can be told."""
    kinds: Kinds = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if _is_blank(line):
                continue
            try:
                cells = _cells(path, number, line)
                for name, kind in _kinds(cells):
                    kinds.setdefault(name, (kind, number))
                _check_kinds(path, number, cells, kinds)
            except InputError as fault:
                return fault
    return None


def sift_ndjson(path: Path, faults: Faults) -> int:
    """Find the bad lines of a file, and count the others; what most lines of a column hold is its kind."""
    kinds, records, start = _usual(path), 0, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = Where(start, start + len(line), number, records + len(faults))
            start += len(line)
            if _is_blank(line):
                continue
            try:
                cells = _sound(path, number, line)
                _check_kinds(path, number, cells, kinds)
                records += 1
            except InputError as fault:
                faults.add(fault, where, line)
    return records


def _usual(path: Path) -> Kinds:
    """Return the kind that most values of each column have, and the first line with it."""
    counts, first = dict[Name, Counter[str]](), dict[tuple[Name, str], int]()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                cells = _sound(path, number, line)
            except InputError:
                continue
            for name, kind in _kinds(cells):
                counts.setdefault(name, Counter())[kind] += 1
                first.setdefault((name, kind), number)
    usual = {
        name: "text" if "text" in kinds else kinds.most_common(1)[0][0] for name, kinds in counts.items()
    }
    texts = {name for name, kind in usual.items() if kind == "text"}  # with all that is within
    return {
        name: (kind, first[name, kind])
        for name, kind in usual.items()
        if not any(name[:depth] in texts for depth in range(1, len(name)))
    }


def _sound(path: Path, number: int, line: bytes) -> dict[str, object]:
    """Return the object that stands in a line of whole letters; raises InputError."""
    cells = _cells(path, number, line)
    if _HALF_LETTER.search(line):
        _check_letters(path, number, line)
    return cells


def _cells(path: Path, number: int, line: bytes) -> dict[str, object]:
    """Return the object that stands in a line; raises InputError."""
    try:
        text = line.decode().rstrip("\r\n")
        cells = json.loads(text, parse_constant=_no_number, parse_float=_float, parse_int=_integer)
    except UnicodeDecodeError as exc:
        raise BadRowError(f"`{path}`, line {number}: bytes that are not UTF-8", RESAVE) from exc
    except _TooLargeError as exc:
        raise BadRowError(f"`{path}`, line {number}: {exc}", "write the column as text") from exc
    except (ValueError, RecursionError) as exc:
        raise BadRowError(
            f"`{path}`, line {number}: no JSON: {_said(exc)}", "each line must be one object"
        ) from exc
    if not isinstance(cells, dict):
        raise BadRowError(
            f"`{path}`, line {number}: {_json_kind(cells)} where an object should be",
            'each line must be one object, such as `{"id": 1}`',
        )
    return cells


class _TooLargeError(ValueError):
    """A number that Polars cannot hold, for which it refuses a whole file without saying where."""

    def __init__(self, word: str) -> None:
        super().__init__(
            f"a number that is too large: `{word if len(word) <= SHOWN else word[:SHOWN] + '…'}`"
        )


def _said(exc: BaseException) -> str:
    """Return what is wrong with a line, and where in it."""
    said = str(exc)
    if isinstance(exc, json.JSONDecodeError):
        ended = exc.pos >= len(exc.doc.rstrip())
        where = "the end of the line" if ended else f"character {exc.pos + 1:,}"
        said = f"{exc.msg.rstrip(': ').removesuffix(' at')} at {where}"
    return said[:1].lower() + said[1:200]


def _no_number(word: str) -> float:
    raise ValueError(f"`{word}` is no JSON number")


def _float(word: str) -> float:
    number = float(word)
    if math.isinf(number):
        raise _TooLargeError(word)
    return number


def _integer(word: str) -> int:
    if len(word) > DIGITS or not -LARGEST // 2 <= int(word) < LARGEST:
        raise _TooLargeError(word)
    return int(word)


def _kinds(cells: Mapping[str, object]) -> Iterator[tuple[Name, str]]:
    """Yield the kind of each cell, and of each value within it."""
    rest: list[tuple[Name, object]] = [((name,), cell) for name, cell in cells.items()]
    rest.reverse()
    while rest:
        name, cell = rest.pop()
        if cell is None:
            continue
        yield name, _json_kind(cell)
        if isinstance(cell, dict):
            rest += [((*name, part), value) for part, value in cell.items()]
        elif isinstance(cell, list):
            rest += [((*name, LISTED), value) for value in cell]


def _check_kinds(path: Path, number: int, cells: Mapping[str, object], kinds: Kinds) -> None:
    """Raise InputError for a value of another kind than its column; `kinds` has that, and a line with it."""
    for name, kind in _kinds(cells):
        known, line = kinds.get(name, (kind, number))
        if known != kind and "text" not in {known, kind}:  # Polars writes anything as text where some is text
            said = f"`{'.'.join(name)}` is {kind}, but {known} in line {line}"
            raise BadRowError(f"`{path}`, line {number}: {said}", "give the column values of one kind")


def _json_kind(cell: object) -> str:
    words = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list"}
    return "null" if cell is None else words.get(type(cell), "an object")
