"""A checksum for the footer of a Parquet file; the format itself has them for pages only.

The footer says what the pages mean: a bit that flips in it can turn numbers into others without any error.
Readers find the footer from the end of the file and pages by their offsets, so eight bytes between the two
belong to nobody: a mark of four, and the CRC-32 of all that follows.
"""

import os
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

MARK = b"RMF1"
SEAL = 8  # bytes: the mark and the checksum
ENDING = 8  # bytes after the footer: its length, and `PAR1`


def seal(path: Path) -> None:
    """Add the checksum to a Parquet file that was just written. Raises OSError."""
    with path.open("r+b") as file:
        start = _footer(file)
        file.seek(start)
        tail = file.read()
        file.seek(start)
        file.write(MARK + crc32(tail).to_bytes(4, "little") + tail)


def is_intact(path: Path) -> bool:
    """Tell whether the footer is as it was sealed; one without a seal is taken on trust. Raises OSError."""
    with path.open("rb") as file:
        start = _footer(file)
        if start < SEAL:
            return False
        file.seek(start - SEAL)
        mark, checksum, tail = file.read(4), file.read(4), file.read()
    return mark != MARK or int.from_bytes(checksum, "little") == crc32(tail)


def _footer(file: BinaryIO) -> int:
    """Return where the footer begins, as the file says; below 0 where that cannot be true."""
    size = file.seek(0, os.SEEK_END)
    if size < ENDING:
        return -1
    file.seek(-ENDING, os.SEEK_END)
    return size - ENDING - int.from_bytes(file.read(4), "little")
