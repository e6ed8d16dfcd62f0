"""The latest replies of a journal, read beside the process that may be writing it.

Nothing is changed, and a journal that is not there or cannot be read has none: it is for the run that owns
the folder to say so.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import compress
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from pipeline.flow import Reply
from pipeline.heads import Heads, heads, names
from pipeline.keys import SIZE
from pipeline.store.entries import REPLY
from pipeline.store.salvage import open_to_read

LATEST = 50_000  # replies among which those are whose rows are in no part yet
AT_ONCE = 2_000  # of them that are looked at together
RECENT = 5_000  # replies among which one has borne storage where a cache is still in use
NAMED = " AND ".join(f"typeof({one}) = 'blob' AND length({one}) = {SIZE}" for one in ("key", "digest"))


def latest(path: Path) -> tuple[Heads, Heads]:
    """Return the heads of key and digest of the rows that paid for a journal's latest replies.

    Among them are all that are in no part yet. Another process may write it meanwhile; empty where there is
    no journal that can be read.
    """
    query = f"SELECT key, digest FROM reply WHERE {NAMED} ORDER BY rowid DESC LIMIT ?"  # noqa: S608
    try:
        with closing(open_to_read(path)) as db:
            found = db.execute(query, (LATEST,)).fetchall()
    except (sqlite3.Error, OSError):
        found = []
    return heads([key for key, _ in found]), heads([digest for _, digest in found])


def latest_replies(path: Path, rows: Heads) -> Iterator[Reply]:
    """Yield those of a journal's latest replies that rows of these names (`heads.names`) have paid for.

    As in `latest`, none where there is no journal that can be read.
    """
    query = (
        f"SELECT key, digest, body FROM reply WHERE NOT failed AND {NAMED} "  # noqa: S608
        "ORDER BY rowid DESC LIMIT ?"
    )
    with suppress(sqlite3.Error, OSError), closing(open_to_read(path)) as db:
        found = db.execute(query, (LATEST,))
        while some := found.fetchmany(AT_ONCE):
            keys, digests, bodies = zip(*some, strict=True)
            known = np.isin(names(heads(keys), heads(digests)), rows)
            for body in compress(bodies, known):
                with suppress(ValidationError):
                    yield REPLY.validate_json(body)


def stored_until(path: Path) -> float:
    """Return the Unix time of the last reply that bore storage of a cache; 0 where none of the latest did."""
    return max((reply.at for reply in _last(path, RECENT) if reply.stored), default=0.0)


def answered_at(path: Path) -> float:
    """Return the Unix time of the last reply; 0 where there is none that can be read."""
    return max((reply.at for reply in _last(path, 1)), default=0.0)


def _last(path: Path, most: int) -> Iterator[Reply]:
    query = "SELECT body FROM reply WHERE NOT failed ORDER BY rowid DESC LIMIT ?"
    try:
        with closing(open_to_read(path)) as db:
            bodies = [body for (body,) in db.execute(query, (most,))]
    except (sqlite3.Error, OSError):
        return
    for body in bodies:
        with suppress(ValidationError):
            yield REPLY.validate_json(body)
