"""An entry of the journal: the tables that hold it, its values, and the checksum over them."""

import sqlite3
import zlib
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import TypeAdapter, ValidationError

from pipeline.flow import Failure, Reply, Row
from pipeline.store.salvage import ForeignError

COLUMNS = ["id", "key", "digest", "failed", "body", "crc"]
TABLE = (
    "CREATE TABLE IF NOT EXISTS {name} (id BLOB NOT NULL, key BLOB NOT NULL, digest BLOB NOT NULL, "
    "failed INTEGER NOT NULL, body BLOB NOT NULL, crc INTEGER NOT NULL{unique})"
)
REPLIES = TABLE.format(name="reply", unique=", UNIQUE (id, key)")
DAMAGED = TABLE.format(name="damaged", unique="")
ADD = "INSERT OR REPLACE INTO reply VALUES (?, ?, ?, ?, ?, ?)"
ADD_NEW = ADD.replace("REPLACE", "IGNORE")
REPLY = TypeAdapter(Reply)
FAILURE = TypeAdapter(Failure)

Values: TypeAlias = tuple[bytes, bytes, bytes, bool, bytes, int]  # of COLUMNS


@dataclass(frozen=True, slots=True)
class Entry:
    """What was answered, and the key of the row that paid for it."""

    key: bytes
    answer: Reply | Failure


def make_tables(db: sqlite3.Connection) -> None:
    """Make the tables where they are missing; a journal of before there were checksums gets them."""
    db.execute(REPLIES)
    db.execute(DAMAGED)
    columns = [name for _, name, *_ in db.execute("PRAGMA table_info(reply)")]
    if columns == COLUMNS[:-1]:
        db.create_function("checksum", 5, checksum, deterministic=True)
        db.execute("BEGIN")
        db.execute("ALTER TABLE reply ADD COLUMN crc INTEGER NOT NULL DEFAULT -1")
        db.execute("UPDATE reply SET crc = checksum(id, key, digest, failed, body)")
        db.execute("COMMIT")
    elif columns != COLUMNS:
        raise ForeignError(f"its columns are {', '.join(columns)}")


def values_of(request_id: bytes, row: Row, answer: Reply | Failure) -> Values:
    """Return what is written down of an answer that `row` has paid for."""
    failed = isinstance(answer, Failure)
    body = (FAILURE if failed else REPLY).serializer.to_json(answer)
    return (
        request_id,
        row.key,
        row.digest,
        failed,
        body,
        checksum(request_id, row.key, row.digest, failed, body),
    )


def checksum(request_id: object, key: object, digest: object, failed: object, body: object) -> int:
    """Return the CRC-32 of all that an entry holds; a value of another type has none that matches."""
    crc = int(bool(failed))
    for value in (request_id, key, digest, body):
        if not isinstance(value, bytes):
            return -1
        crc = zlib.crc32(value, crc)
    return crc


def is_whole(values: list[object]) -> bool:
    """Tell whether the values of an entry match its checksum."""
    *content, crc = values
    return checksum(*content) == crc


def entry_of(values: list[object]) -> Entry | None:
    """Return a whole entry, or None where it is of another version."""
    _, key, _, failed, body, _ = values
    assert isinstance(key, bytes)  # noqa: S101 - its checksum matched
    assert isinstance(body, bytes)  # noqa: S101
    try:
        return Entry(key, FAILURE.validate_json(body) if failed else REPLY.validate_json(body))
    except ValidationError:
        return None
