"""How each row of an input stands with the parts: which of their rows answers it, if any.

The two are joined bucket by bucket of their keys, on disk, so that memory does not grow with the rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.ahead import ahead
from pipeline.heads import Heads, names
from pipeline.input.survey import Survey
from pipeline.scratch import SLICE, Buckets, Column, Records, taken
from pipeline.store.parts import Index, Parts

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


def stand(survey: Survey, parts: Parts, earlier: Standing | None = None) -> Standing:
    """Find for each row the last answer to its present text.

    `earlier` is how the same survey once stood with these parts; what still holds of it is not read again.
    """
    if earlier is None or not parts.adds_little(earlier.index):
        return _whole(survey, parts.index())
    return _grown(survey, parts.index(earlier.index), earlier)


def _grown(survey: Survey, index: Index, earlier: Standing) -> Standing:
    """Add the rows of new parts, which are few."""
    new = np.concatenate([index.entries.read(number) for number in range(index.entries.count)])
    if not len(new):
        return Standing(earlier.rows, index)
    entries, ids = _lasts(new)
    column = Column(STAND)
    for start, rows in survey.names.slices():
        stands = earlier.rows.read(start, start + len(rows)).copy()
        _answer(stands, rows, entries, ids)
        column.add(stands)
    return Standing(column, index)


def _whole(survey: Survey, index: Index) -> Standing:
    own = survey.by_key()
    joined = Buckets(_NUMBERED, -(-survey.rows // SLICE))
    pairs = ((own.read(number), index.entries.read(number)) for number in range(own.count))
    for rows in ahead(lambda pair: _joined(*pair), pairs):
        joined.add(rows, rows["row"] // SLICE)
    column = Column(STAND)
    for number in range(joined.count):
        column.add(_in_order(joined.read(number), number * SLICE))
    return Standing(column, index)


def _joined(rows: Records, entries: Records) -> Records:
    """Join rows and entries of one bucket; of entries to one text the last counts."""
    found = np.zeros(len(rows), _NUMBERED)
    found["row"], found["place"] = rows["row"], -1
    found["first"] = _firsts(rows["key"])
    if not len(entries):
        return found
    _answer(found, rows, *_lasts(entries))
    return found


def _lasts(entries: Records) -> tuple[Records, Heads]:
    """Return the entries without those to whose text there is a later one, by rising ids, and the ids."""
    ids = names(entries["key"], entries["digest"])
    order = np.argsort(ids, kind="stable") if _repeats(ids) else np.argsort(ids)
    last = np.ones(len(order), np.bool_)
    last[:-1] = ids[order][1:] != ids[order][:-1]
    return taken(entries, order[last]), ids[order[last]]


def _answer(stands: Records, rows: Records, entries: Records, ids: Heads) -> None:
    """Write down for each row which of the entries answers it, if one does; there are some."""
    nearest = np.minimum(np.searchsorted(ids, names(rows["key"], rows["digest"])), len(ids) - 1)
    answers = taken(entries, nearest)
    known = (answers["key"] == rows["key"]) & (answers["digest"] == rows["digest"])
    for name in ("place", "round", "ok"):
        stands[name][known] = answers[name][known]


def _firsts(keys: Heads) -> NDArray[np.bool_]:
    """Tell which rows have a key that no earlier one has."""
    firsts = np.ones(len(keys), np.bool_)
    if _repeats(keys):
        firsts[:] = False
        firsts[np.unique(keys, return_index=True)[1]] = True
    return firsts


def _repeats(numbers: Heads) -> bool:
    """Tell whether any number occurs twice; this takes a quarter of the time of sorting with places."""
    ordered = np.sort(numbers)
    return bool((ordered[1:] == ordered[:-1]).any())


def _in_order(rows: Records, start: int) -> Records:
    ordered = np.empty(len(rows), STAND)
    at = rows["row"] - start
    for name in STAND.fields or ():
        ordered[name][at] = rows[name]
    return ordered
