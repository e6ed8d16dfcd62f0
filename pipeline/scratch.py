"""What there is by the million, in files that vanish with the process, so that memory does not grow with it.

They lie in the system's folder for temporary files (`TMPDIR`), under no name; few of them stay in memory.
What is read is copied, never mapped: mapped files would count as memory of the process. One thread at a time.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import StoreError

SLICE = 1 << 18  # records that are in memory at a time
FOLDER = "rowmill-verify-"  # begins the names of folders that a killed process may leave
IN_MEMORY = 1 << 22  # bytes of a file that is not written to disk yet

Records = npt.NDArray[np.void]
Numbers = npt.NDArray[np.integer]


class _File:
    """Bytes that are added at the end and read anywhere. Raises StoreError."""

    def __init__(self) -> None:
        self.size = 0
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed with its owner

    def __del__(self) -> None:
        self._file.close()

    def add(self, content: bytes | memoryview) -> None:
        try:
            self._file.seek(self.size)
            self._file.write(content)
            self._file.flush()
        except OSError as exc:
            raise failed("written", exc) from exc
        self.size += len(content)

    def read(self, start: int, size: int) -> bytes:
        try:
            self._file.seek(start)
            return self._file.read(size)
        except OSError as exc:
            raise failed("read", exc) from exc


class Column:
    """Records of one kind in the order in which they were added."""

    def __init__(self, kind: npt.DTypeLike) -> None:
        self.kind = np.dtype(kind)
        self._file = _File()

    def __len__(self) -> int:
        return self._file.size // self.kind.itemsize

    def add(self, records: Records) -> None:
        """Put records behind those that are there."""
        self._file.add(_bytes(np.ascontiguousarray(records, self.kind)))

    def read(self, start: int = 0, stop: int | None = None) -> Records:
        """Return a copy of some records, or of all; less where fewer are there."""
        stop = len(self) if stop is None else min(stop, len(self))
        size = self.kind.itemsize
        return np.frombuffer(self._file.read(start * size, max(0, stop - start) * size), self.kind)

    def head(self, count: int) -> "Column":
        """Return a copy of the first records."""
        first = Column(self.kind)
        for start, records in self.slices():
            first.add(records[: max(0, count - start)])
        return first

    def slices(self) -> Iterator[tuple[int, Records]]:
        """Yield all records in order, with the position of the first of each slice."""
        for start in range(0, len(self), SLICE):
            yield start, self.read(start, start + SLICE)


class Buckets:
    """Records sorted into so many buckets, each of which is read at once."""

    def __init__(self, kind: npt.DTypeLike, count: int) -> None:
        self.kind = np.dtype(kind)
        self.count = count
        self._file = _File()
        self._runs: list[list[tuple[int, int]]] = [[] for _ in range(count)]  # where each bucket's bytes lie
        self._waiting: list[tuple[Records, Numbers]] = []

    def add(self, records: Records, numbers: Numbers) -> None:
        """Put each record into the bucket of its number, behind those that are there."""
        self._waiting.append((_whole(records), numbers))
        if sum(len(waiting) for waiting, _ in self._waiting) >= SLICE:
            self._write()

    def read(self, number: int) -> Records:
        """Return a copy of a bucket's records in the order in which they were added."""
        self._write()
        return np.frombuffer(b"".join(self._file.read(*run) for run in self._runs[number]), self.kind)

    def _write(self) -> None:
        """Sort what waits: much of it at once, or each bucket would lie in very many places."""
        if not self._waiting:
            return
        records, numbers = (np.concatenate(arrays) for arrays in zip(*self._waiting, strict=True))
        self._waiting.clear()
        numbers = numbers.astype(np.min_scalar_type(self.count))  # the smaller, the faster they are sorted
        order = np.argsort(numbers, kind="stable")
        bounds = pairwise([0, *np.cumsum(np.bincount(numbers, minlength=self.count)).tolist()])
        size, base = self.kind.itemsize, self._file.size
        self._file.add(_bytes(np.take(records, order)))
        for number, (start, stop) in enumerate(bounds):
            if stop > start:
                self._runs[number].append((base + start * size, (stop - start) * size))


class Pieces:
    """Bytes in so many buckets, each of which is read piece by piece."""

    def __init__(self, count: int) -> None:
        self._file = _File()
        self._runs: list[list[tuple[int, int]]] = [[] for _ in range(count)]  # where each bucket's bytes lie

    def add(self, number: int, content: memoryview) -> None:
        """Put a piece into a bucket, behind those that are there."""
        self._runs[number].append((self._file.size, len(content)))
        self._file.add(content)

    def read(self, number: int) -> Iterator[bytes]:
        """Yield a copy of each piece of a bucket, in the order in which they were added."""
        for run in self._runs[number]:
            yield self._file.read(*run)


def taken(records: Records, places: Numbers) -> Records:
    """Return the records at these places."""
    return np.take(_whole(records), places).view(records.dtype)


def _whole(records: Records) -> Records:
    """Return a view in which records have no fields: each is copied as a whole then, 20 times as fast."""
    return np.ascontiguousarray(records).view(np.dtype((np.void, records.dtype.itemsize)))


def _bytes(records: Records) -> memoryview:
    """Return the bytes of records that lie one behind the other, without copying them."""
    return records.view(np.uint8).data


@contextmanager
def temporary_file(name: str) -> Iterator[Path]:
    """Yield a path in a folder of its own that goes with the block; what a killed process left goes, too.

    Raises StoreError where there is no room.
    """
    try:
        _clear(Path(tempfile.gettempdir()))
        folder, lock = _locked()
    except OSError as exc:
        raise failed("written", exc) from exc
    try:
        yield folder / name
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked() -> tuple[Path, int]:
    """Make a folder that is locked for as long as this process lives."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=FOLDER))
        with suppress(FileNotFoundError):  # somebody cleared it before it was locked
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _clear(parent: Path) -> None:
    """Remove our folders that nobody holds; those of other users stay."""
    for folder in parent.glob(f"{FOLDER}*"):
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.getuid():
                    shutil.rmtree(folder)
            finally:
                os.close(lock)


def failed(verb: str, exc: OSError) -> StoreError:
    """Return the error for a temporary file that cannot be `written` or `read`."""
    return StoreError(
        f"a temporary file in `{tempfile.gettempdir()}` cannot be {verb}: {exc.strerror or exc}",
        "free some space there, or set TMPDIR to another folder, then run the same command again: it takes "
        "about 150 bytes for each row, as much as the answers take where the input has another order than "
        "they, and for `rowmill verify` as much as the output has",
    )
