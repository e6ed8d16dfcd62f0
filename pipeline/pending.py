"""Which rows are still to be asked, and which of them have a reply in the journal, paid for already."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.flow import Reply, Usage
from pipeline.heads import names
from pipeline.input.survey import Survey
from pipeline.rates import PICO
from pipeline.store.folder import Folder
from pipeline.store.recent import latest, latest_replies
from pipeline.store.standing import Standing


@dataclass(frozen=True, slots=True)
class Paid:
    """What replies took that are in no part yet: their tokens, and their cost in USD."""

    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0


def pending_rows(standing: Standing, turn: int | None = None) -> NDArray[np.bool_]:
    """Return which rows of the input are to be asked: of equal rows the first, unless it is answered.

    In round `turn` of `--retry-failed`, rows that failed in an earlier round are to be asked too.
    """
    pending = waiting_rows(standing, turn)
    for start, rows in standing.rows.slices():
        pending[start : start + len(rows)] &= rows["first"]
    return pending


def waiting_rows(standing: Standing, turn: int | None = None) -> NDArray[np.bool_]:
    """Return which rows of the input have no answer: those to be asked, and those that are equal to them."""
    waiting = np.zeros(len(standing.rows), np.bool_)
    for start, rows in standing.rows.slices():
        answered = rows["place"] >= 0
        if turn is not None:
            answered &= rows["ok"] | (rows["round"] >= turn)
        waiting[start : start + len(rows)] = ~answered
    return waiting


def different(standing: Standing) -> int:
    """Return how many rows of the input have no equal one before them."""
    return sum(int(rows["first"].sum()) for _, rows in standing.rows.slices())


def replied(survey: Survey, pending: NDArray[np.bool_], folder: Folder) -> int:
    """Return how many of these rows have a reply in the journal, which the next run takes first."""
    if not pending.any():
        return 0
    known, found = names(*latest(folder.journal)), 0
    for start, rows in survey.names.slices():
        wanted = rows[pending[start : start + len(rows)]]
        found += int(np.isin(names(wanted["key"], wanted["digest"]), known).sum())
    return found


def paid(survey: Survey, pending: NDArray[np.bool_], folder: Folder, price: Callable[[Reply], float]) -> Paid:
    """Return what the replies took that the journal has for these rows, those that were no use included."""
    if not pending.any():
        return Paid()
    known = names(*latest(folder.journal))
    wanted = np.zeros(len(known), np.bool_)
    for start, rows in survey.names.slices():
        some = rows[pending[start : start + len(rows)]]
        wanted |= np.isin(known, names(some["key"], some["digest"]))
    usage, pico = Usage(), 0
    for reply in latest_replies(folder.journal, known[wanted]) if wanted.any() else ():
        usage += reply.usage
        pico += round(price(reply) * PICO)
    return Paid(usage, pico / PICO)
