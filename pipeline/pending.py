"""Which rows of an input are still to be asked, and which of them have a reply in the journal already."""

import numpy as np
from numpy.typing import NDArray

from pipeline.cache import latest
from pipeline.parts import Index, names
from pipeline.source import Survey
from pipeline.store import Folder


def pending_rows(survey: Survey, index: Index, turn: int | None = None) -> NDArray[np.bool_]:
    """Return which rows of the input are to be asked: of equal rows the first, unless it is answered.

    In round `turn` of `--retry-failed`, rows that failed in an earlier round are to be asked too.
    """
    positions = index.find(survey.keys, survey.digests)
    answered = positions >= 0
    if turn is not None:
        known = positions[answered]
        answered[answered] = index.ok[known] | (index.rounds[known] >= turn)
    first = np.zeros(survey.rows, dtype=np.bool_)
    first[np.unique(survey.keys, return_index=True)[1]] = True
    return first & ~answered


def replied(survey: Survey, pending: NDArray[np.bool_], folder: Folder) -> int:
    """Return how many of the pending rows have a reply in the journal, which the next run takes first."""
    if not pending.any():
        return 0
    rows = names(survey.keys[pending], survey.digests[pending])
    return int(np.isin(rows, names(*latest(folder.journal))).sum())
