"""What earlier rounds took of rows that have failed and are asked again."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.executors.online import Pending
from pipeline.flow import Row, Spent, Usage
from pipeline.output import TOKENS
from pipeline.scratch import Column
from pipeline.store.parts import Parts
from pipeline.store.standing import STAND, Standing
from pipeline.store.window import Window


class Earlier:
    """The part rows of the pending rows that have one, read many at once where they lie far apart."""

    def __init__(self, parts: Parts, standing: Standing, pending: NDArray[np.bool_]) -> None:
        self._standing = standing
        self._taken = 0
        failed = Column(STAND)
        for start, rows in standing.rows.slices():
            failed.add(rows[pending[start : start + len(rows)] & (rows["place"] >= 0)])
        self._window = Window(parts, Standing(failed, standing.index))

    def add(self, rows: Sequence[Row], turn: int) -> list[Pending]:
        """Return the next pending rows for round `turn`; all of them come here, in order.

        Raises what `Parts.take` does.
        """
        start = rows[0].index
        places = self._standing.rows.read(start, rows[-1].index + 1)["place"]
        known = np.flatnonzero(places[[row.index - start for row in rows]] >= 0).tolist()
        found = self._window.take(self._taken, len(known)).to_pylist()
        self._taken += len(known)
        earlier = {n: row for n, row in zip(known, found, strict=True) if row["_key"] == rows[n].key}
        return [
            Pending(row, turn, _spent(earlier[n])) if n in earlier else Pending(row)
            for n, row in enumerate(rows)
        ]


def _spent(part_row: Mapping[str, object]) -> Spent:
    """Read back what a failed row took."""
    row = {name: value for name, value in part_row.items() if isinstance(value, int | float | str)}
    return Spent(
        usage=Usage(*(int(row.get(name, 0)) for name in TOKENS)),
        cost_usd=float(row.get("_cost_usd", 0.0)),
        attempts=int(row.get("_attempts", 0)),
    )
