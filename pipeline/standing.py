"""How each row of an input stands with the parts: which of their rows answers it, if any.

The two are joined bucket by bucket of their keys, on disk, so that memory does not grow with the rows.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.heads import names
from pipeline.parts import Index
from pipeline.scratch import SLICE, Buckets, Column, Records
from pipeline.source import Survey

STAND = np.dtype([("place", "<i8"), ("round", "<i4"), ("ok", "?"), ("first", "?")])
_NUMBERED = np.dtype([*STAND.descr, ("row", "<i8")])


@dataclass(frozen=True, slots=True)
class Standing:
    """A record for each row of the survey, in order.

    `place` is the row of the parts in `index` that answers the present text, -1 for none; `ok` and `round`
    are that answer's; `first` says that no earlier row of the input has the same key.
    """

    rows: Column
    index: Index


def stand(survey: Survey, index: Index) -> Standing:
    """Find for each row the last answer to its present text."""
    own = survey.by_key()
    joined = Buckets(_NUMBERED, -(-survey.rows // SLICE))
    for number in range(own.count):
        rows = _joined(own.read(number), index.entries.read(number))
        joined.add(rows, rows["row"] // SLICE)
    column = Column(STAND)
    for number in range(joined.count):
        column.add(_in_order(joined.read(number), number * SLICE))
    return Standing(column, index)


def _joined(rows: Records, entries: Records) -> Records:
    """Join rows and entries of one bucket; of entries to one text the last counts."""
    found = np.zeros(len(rows), _NUMBERED)
    found["row"], found["place"] = rows["row"], -1
    found["first"][np.unique(rows["key"], return_index=True)[1]] = True
    if not len(entries):
        return found
    ids = names(entries["key"], entries["digest"])
    order = np.argsort(ids, kind="stable")
    last = np.ones(len(order), np.bool_)
    last[:-1] = ids[order][1:] != ids[order][:-1]
    kept, ids = entries[order[last]], ids[order[last]]
    answers = kept[np.minimum(np.searchsorted(ids, names(rows["key"], rows["digest"])), len(ids) - 1)]
    known = (answers["key"] == rows["key"]) & (answers["digest"] == rows["digest"])
    for name in ("place", "round", "ok"):
        found[name][known] = answers[name][known]
    return found


def _in_order(rows: Records, start: int) -> Records:
    ordered = np.empty(len(rows), STAND)
    at = rows["row"] - start
    for name in STAND.fields or ():
        ordered[name][at] = rows[name]
    return ordered
