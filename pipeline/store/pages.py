"""The rows on the pages of a SQLite file, without the tree that leads to them: for a file that has lost it.

Rows of all tables come, deleted ones among them where their page was not used again; whoever reads them has
to know his own by a checksum. https://www.sqlite.org/fileformat2.html#b_tree_pages
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

_PAGE = 4_096  # bytes, where the head of the file does not say it
_HEAD = 100  # bytes of the first page
_LEAF = 13  # a page with rows of a table
_LENGTHS = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)  # of what is neither text nor a blob, by its type
_BROKEN = (IndexError, ValueError, OverflowError)

Value: TypeAlias = int | bytes | None


def rows(path: Path) -> Iterator[list[Value]]:
    """Yield the values of each row that can be made out; text comes as bytes, floats as None."""
    with path.open("rb") as file:
        book = _Book(file.fileno())
        for number in range(1, book.pages + 1):
            yield from book.rows(number)


class _Book:
    """A file as pages."""

    def __init__(self, file: int) -> None:
        self._file = file
        head = os.pread(file, _HEAD, 0)
        size = int.from_bytes(head[16:18])
        size = 65_536 if size == 1 else size
        self._size = size if size >= 512 and not size & (size - 1) else _PAGE
        self._usable = self._size - (head[20] if size == self._size else 0)
        self.pages = -(-os.fstat(file).st_size // self._size)

    def _page(self, number: int) -> bytes:
        return os.pread(self._file, self._size, (number - 1) * self._size).ljust(self._size, b"\0")

    def rows(self, number: int) -> Iterator[list[Value]]:
        page, start = self._page(number), _HEAD if number == 1 else 0
        if page[start] != _LEAF:
            return
        for cell in range(int.from_bytes(page[start + 3 : start + 5])):
            at = start + 8 + 2 * cell
            with suppress(*_BROKEN):
                yield _values(self._content(page, int.from_bytes(page[at : at + 2])))

    def _content(self, page: bytes, at: int) -> bytes:
        """Return what is written of a row; the rest of a long one stands on pages of its own."""
        size, at = _number(page, at)
        _, at = _number(page, at)  # the rowid
        here = self._here(size)
        content = page[at : at + here]
        if size == here:
            return content
        pieces, rest = [content], size - here
        following = int.from_bytes(page[at + here : at + here + 4])
        while rest > 0:
            if not 0 < following <= self.pages:
                raise ValueError
            more = self._page(following)
            pieces.append(more[4 : min(4 + rest, self._usable)])
            rest, following = rest - len(pieces[-1]), int.from_bytes(more[:4])
        return b"".join(pieces)

    def _here(self, size: int) -> int:
        """Return how many bytes of a row stand on its own page."""
        if size <= self._usable - 35:
            return size
        if size > self.pages * self._size:
            raise ValueError
        least = (self._usable - 12) * 32 // 255 - 23
        here = least + (size - least) % (self._usable - 4)
        return here if here <= self._usable - 35 else least


def _values(content: bytes) -> list[Value]:
    end, at = _number(content, 0)
    types = []
    while at < end:
        kind, at = _number(content, at)
        types.append(kind)
    values, at = list[Value](), end
    for kind in types:
        length = (kind - 12) // 2 if kind >= 12 else _LENGTHS[kind]
        values.append(_value(kind, content[at : at + length]))
        at += length
    return values


def _value(kind: int, content: bytes) -> Value:
    if kind >= 12:
        return content
    if kind in (8, 9):
        return kind - 8
    return None if kind in (0, 7) else int.from_bytes(content, signed=True)


def _number(content: bytes, at: int) -> tuple[int, int]:
    """Read a number of up to nine bytes; return it, and where it ends."""
    number = 0
    for byte in content[at : at + 8]:
        number, at = number << 7 | byte & 127, at + 1
        if byte < 128:
            return number, at
    return number << 8 | content[at], at + 1
