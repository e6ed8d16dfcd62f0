"""The survey of a large input, kept in the run folder so that an unchanged input is not read again.

It counts only for the very files that it was made of: their paths, sizes, inodes and times, among these the
time of the last change of any kind, which no program can set back. It may be deleted at any time.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from pipeline.disk import whole_file
from pipeline.errors import StoreError
from pipeline.input.source import Source
from pipeline.input.survey import NAMES, Survey
from pipeline.keys import digest
from pipeline.scratch import SLICE, Column
from pipeline.store.folder import CONTINUE, Folder

FILE = "survey"
WORTH = 100_000  # rows of an input whose survey is kept; fewer are read again in less than half a second
SETTLED = 2.0  # seconds since the last change; in less, one more could leave the times as they are
_VERSION = b"rowmill survey 1"
_CRC = 4  # bytes of a checksum at the end


@dataclass(frozen=True, slots=True)
class Census:
    """A survey, and the name of what it was made of: None where that cannot be told from other states."""

    survey: Survey
    name: bytes | None
    kept: bool  # it came out of the run folder


def census(source: Source, folder: Folder) -> Census:
    """Return the survey that is kept for the input as it is now, or make it as `Source.survey` does."""
    name = _name(source, time.time())
    known = None if name is None else _read(_path(folder), name)
    survey = source.survey() if known is None else source.sifted(known)
    return Census(survey, name, known is not None)


def state_of(source: Source) -> str | None:
    """Name the state of the input's files, to tell whether they have changed; None where that fails.

    Other than the name of a survey it holds for a copy of the project that keeps the times, too.
    """
    try:
        stats = [os.stat(path) for path in source.files]
    except OSError:
        return None
    files = zip(source.files, stats, strict=True)
    return digest([(path.name, stat.st_size, stat.st_mtime_ns) for path, stat in files]).hex()


def keep(taken: Census, folder: Folder) -> None:
    """Write a survey down where that is worth it. For the owner of the folder only; raises StoreError."""
    if taken.kept or taken.name is None or len(taken.survey.read) < WORTH:
        return
    path = _path(folder)
    try:
        with whole_file(path) as draft, draft.open("wb") as file:
            crc = 0
            for piece in _pieces(taken.survey, taken.name):
                crc = crc32(piece, crc)
                file.write(piece)
            file.write(crc.to_bytes(_CRC, "little"))
    except OSError as exc:
        raise StoreError(f"`{path}` cannot be written: {exc.strerror}", CONTINUE) from exc


def misleads(survey: Survey, source: Source, folder: Folder) -> bool:
    """Tell whether another survey than this one is kept for the input as it is now."""
    name = _name(source, time.time())
    kept = None if name is None else _read(_path(folder), name)
    if kept is None:
        return False
    pairs = zip(kept.slices(), survey.read.slices(), strict=False)
    return len(kept) != len(survey.read) or any((one != other).any() for (_, one), (_, other) in pairs)


def _path(folder: Folder) -> Path:
    return folder.path / FILE


def _pieces(survey: Survey, name: bytes) -> Iterator[bytes]:
    yield _VERSION + name
    for _, rows in survey.read.slices():
        yield rows.tobytes()


def _name(source: Source, now: float) -> bytes | None:
    """Name everything that a survey depends on; the input is as it stands at the Unix time `now`."""
    try:
        stats = [os.stat(path) for path in source.files]
    except OSError:
        return None
    if any(now - max(stat.st_mtime, stat.st_ctime) < SETTLED for stat in stats):
        return None
    files = [
        (str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev)
        for path, stat in zip(source.files, stats, strict=True)
    ]
    return digest((files, *source.reading))


def _read(path: Path, name: bytes) -> Column | None:
    """Read the names of all rows; None where there is none of this name, or not a whole one."""
    head, names = _VERSION + name, Column(NAMES)
    try:
        with path.open("rb") as file:
            rest = os.fstat(file.fileno()).st_size - len(head) - _CRC
            if file.read(len(head)) != head or rest < 0 or rest % NAMES.itemsize:
                return None
            crc = crc32(head)
            while rest:
                piece = file.read(min(rest, SLICE * NAMES.itemsize))
                crc, rest = crc32(piece, crc), rest - len(piece)
                if not piece:
                    return None
                names.add(np.frombuffer(piece, NAMES))
            return names if file.read(_CRC) == crc.to_bytes(_CRC, "little") else None
    except OSError:
        return None
