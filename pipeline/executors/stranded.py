"""Batch jobs of emulators that have ended: nobody has them any more, so their rows are free at once."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pipeline.batch import ASKING, Batch, Stage, Vain, moved
from pipeline.progress import many
from pipeline.store.batches import Paths, Table

LOST: Final = tuple(stage for stage in ASKING if stage is not Stage.FETCHED)  # that lies on this disk
ENDED = "batch {number} ended with the emulator of an earlier run (`--offline`): its {rows} asked again"


def take_back(table: Table, paths: Paths, kept: Callable[[bytes], bool]) -> list[Batch]:
    """Close what an emulator of before had, and return it; its rows may be asked anew.

    To be called before this run's own emulator has any. `kept` tells which requests the journal has answered.
    Raises StoreError.
    """
    lost = [batch for batch in table.open() if batch.stage in LOST]
    for batch in lost:
        close(batch, table, paths, kept)
    for cache in table.caches():
        table.forget(cache.name)
    return lost


def close(batch: Batch, table: Table, paths: Paths, kept: Callable[[bytes], bool]) -> None:
    """Close one such batch; `kept` as above. Raises StoreError."""
    over = replace(moved(batch, Stage.CLOSED, time.time()), spilled=False, withdrawn=False)
    table.finish(over, kept, Vain())
    for path in (paths.lines(batch.number), paths.results(batch.number)):
        path.unlink(missing_ok=True)


def told(lost: Batch) -> str:
    """Say what became of such a batch."""
    rows = f"{many(lost.rows, 'row')} {'is' if lost.rows == 1 else 'are'}"
    return ENDED.format(number=lost.number, rows=rows)
