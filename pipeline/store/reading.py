"""Reading parts: the one place that knows what makes a part whole, and whose it is.

The footer must be as it was sealed, every page must match its checksum, and where the part says under which
identity it was written, that must be the wanted one.
"""

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.heads import Heads, names
from pipeline.store.seal import is_intact

PART_NAME = re.compile(r"part-(\d{7,})\.parquet")
OWNER = b"rowmill.fingerprint"  # in the footer: the identity that a part was written under
UNREADABLE = (OSError, pa.ArrowException, ValueError)  # ValueError: also names in the footer that are no text
NAMES = ["_key", "_digest"]


def part_files(folder: Path) -> list[Path]:
    """Return the parts in a folder, oldest first."""
    return sorted(path for path in folder.glob("part-*") if PART_NAME.fullmatch(path.name))


@contextmanager
def opened(path: Path, fingerprint: str | None = None) -> Iterator[pq.ParquetFile]:
    """Open a part of the identity `fingerprint`, or of any, for the time of the block.

    Raises one of UNREADABLE, there and while it is read; parts that do not say whose they are count as ours.
    """
    if not is_intact(path):
        raise ValueError("the footer does not match its checksum")
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        owner = (file.metadata.metadata or {}).get(OWNER)
        if None not in (fingerprint, owner) and owner != str(fingerprint).encode():
            raise ValueError("the part was written under another identity")
        yield file


def read_part(path: Path, columns: Sequence[str] | None = None, fingerprint: str | None = None) -> pa.Table:
    """Return some columns of a part, or all. Raises what `opened` does."""
    with opened(path, fingerprint) as file:
        return file.read(None if columns is None else list(columns), use_threads=False)


def owned_by(table: pa.Table, fingerprint: str | None) -> pa.Table:
    """Return the table of a part with the identity that it is written under."""
    return table.replace_schema_metadata(None if fingerprint is None else {OWNER: fingerprint})


def is_refusal(exc: Exception) -> bool:
    """Tell whether the system would not read the file, so that nothing is known of what it holds."""
    return isinstance(exc, OSError) and exc.errno not in (None, errno.EIO)


def column_heads(column: pa.ChunkedArray) -> Heads:
    """Return the first 8 bytes of a column of digests, without making Python objects of it."""
    chunks = [
        np.frombuffer(c.buffers()[1], dtype="<u8")[2 * c.offset :][: 2 * len(c) : 2] for c in column.chunks
    ]
    return np.concatenate(chunks).astype(np.uint64) if chunks else np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True)
class Answers:
    """How many rows the parts of a folder answer, and those whose last answer is a failure.

    `unread` parts cannot be read and do not count.
    """

    rows: int
    failed: int
    unread: int


def answers_in(folder: Path) -> Answers:
    """Count the answers in a folder of parts."""
    ids, failed, unread = [np.empty(0, np.uint64)], [np.empty(0, np.bool_)], 0
    for path in part_files(folder):
        try:
            table = read_part(path, [*NAMES, "_status"])
        except FileNotFoundError:  # a run has just merged it
            continue
        except UNREADABLE:
            unread += 1
            continue
        ids.append(row_ids(table))
        failed.append(pc.not_equal(table["_status"], "ok").to_numpy())
    _, last = np.unique(np.concatenate(ids)[::-1], return_index=True)
    return Answers(len(last), int(np.concatenate(failed)[::-1][last].sum()), unread)


def row_ids(table: pa.Table) -> Heads:
    """Return a number for each row of a part, made of its key and digest, from the columns `NAMES`."""
    return names(*(column_heads(table[name]) for name in NAMES))
