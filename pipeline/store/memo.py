"""How a large input stood with the parts, kept in the run folder so that they are not read again.

It counts only for the very input and the very parts that it was made of, by their sizes, inodes and times;
parts that have come since are added to it. While a run writes parts, it follows them, so that whoever comes
after a kill has few to read. It may be deleted at any time. Damage inside of a part is found
all the same, when its rows are read.
"""

import json
import os
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from zlib import crc32

import numpy as np

from pipeline.disk import whole_file
from pipeline.errors import StoreError
from pipeline.heads import BUCKETS
from pipeline.scratch import SLICE, Buckets, Column
from pipeline.store import census
from pipeline.store.census import Census
from pipeline.store.folder import CONTINUE, Folder
from pipeline.store.parts import ENTRY, MOST_NEW, Index, Parts
from pipeline.store.standing import STAND, Standing, stand

FILE = "standing"
OFTEN = MOST_NEW // 2  # rows of new parts after which it is written anew: a run may be killed meanwhile
_VERSION = b"rowmill standing 1\n"
_CRC = 4  # bytes of a checksum at the end
_LENGTH = 8  # bytes of the length of the head


def recall(taken: Census, parts: Parts, folder: Folder) -> Standing | None:
    """Return how the input once stood with the first of these parts, None where that is not known."""
    if taken.name is None or not parts.paths:
        return None
    try:
        with (folder.path / FILE).open("rb") as file:
            return _read(file, taken, parts.paths)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(standing: Standing, taken: Census, folder: Folder) -> None:
    """Write down how the input stands, where that is worth it. For the owner only; raises StoreError."""
    if not _is_worth(taken) or not standing.index.files:
        return
    path = folder.path / FILE
    try:
        head = json.dumps(_head(standing.index, taken.name or b"")).encode()
        with whole_file(path) as draft, draft.open("wb") as file:
            pieces = [_VERSION, len(head).to_bytes(_LENGTH, "little"), head]
            crc = crc32(b"".join(pieces))
            file.writelines(pieces)
            for _, rows in standing.rows.slices():
                piece = rows.tobytes()
                crc = crc32(piece, crc)
                file.write(piece)
            file.write(crc.to_bytes(_CRC, "little"))
    except OSError as exc:
        raise StoreError(f"`{path}` cannot be written: {exc.strerror}", CONTINUE) from exc


class Follower:
    """Keeps up with the parts of a run. Only one thread at a time may read `standing` or the survey."""

    def __init__(self, standing: Standing, taken: Census, parts: Parts, folder: Folder) -> None:
        self.standing = standing
        self._taken, self._parts, self._folder = taken, parts, folder
        self._kept = standing.index.files[: standing.index.known or None]  # parts that the file counts

    def follow(self) -> None:
        """Add the parts that have come and write all down, where these have many rows. Raises StoreError."""
        if _is_worth(self._taken) and (self._parts.since(self._kept) or 0) >= OFTEN:
            self.standing = stand(self._taken.survey, self._parts, self.standing)
            self._kept = self.standing.index.files
            remember(self.standing, self._taken, self._folder)


def _is_worth(taken: Census) -> bool:
    return taken.name is not None and taken.survey.rows >= census.WORTH


def _head(index: Index, name: bytes) -> dict[str, object]:
    return {
        "input": name.hex(),
        "parts": [_stamp(path) for path in index.files],
        "starts": index.starts.tolist(),
        "last_round": index.last_round,
    }


def _stamp(path: Path) -> list[object]:
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _read(file: BufferedReader, taken: Census, paths: Sequence[Path]) -> Standing | None:
    start = file.read(len(_VERSION) + _LENGTH)
    size = int.from_bytes(start[len(_VERSION) :], "little")
    rest = os.fstat(file.fileno()).st_size - len(start) - size - _CRC
    if start[: len(_VERSION)] != _VERSION or rest != taken.survey.rows * STAND.itemsize:
        return None
    raw = file.read(size)
    head = json.loads(raw)
    files = paths[: len(head["parts"])]
    if head["input"] != (taken.name or b"").hex() or [_stamp(path) for path in files] != head["parts"]:
        return None
    rows = _rows(file, rest, crc32(raw, crc32(start)))
    starts = np.array(head["starts"], np.int64)
    index = Index(Buckets(ENTRY, BUCKETS), starts, head["last_round"], tuple(files), len(files))
    return None if rows is None else Standing(rows, index)


def _rows(file: BufferedReader, rest: int, crc: int) -> Column | None:
    """Read records of so many bytes; None where the checksum behind them is not that of all before it."""
    rows = Column(STAND)
    while rest:
        piece = file.read(min(rest, SLICE * STAND.itemsize))
        if not piece:
            return None
        crc, rest = crc32(piece, crc), rest - len(piece)
        rows.add(np.frombuffer(piece, STAND))
    return rows if file.read(_CRC) == crc.to_bytes(_CRC, "little") else None
