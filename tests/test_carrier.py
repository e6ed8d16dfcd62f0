"""A batch that is dropped while rows are asked beside it."""

import threading
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.batch import Batch, Stage
from pipeline.executors.batch import BESIDE
from pipeline.executors.carrier import Carrier, Means, Policy
from pipeline.executors.halt import Halt
from pipeline.models import Limits
from pipeline.store.batches import Member, Paths, Table
from pipeline.usage import Tally
from tests.conftest import QUICK


class Journal:
    """A journal that tells who reads it."""

    def __init__(self) -> None:
        self.readers: set[int] = set()

    def find(self, _id: bytes, _key: bytes) -> None:
        """Know nothing."""
        self.readers.add(threading.get_ident())


@pytest.fixture
def anyio_backend() -> str:
    """Return the backend of a run."""
    return "asyncio"


@pytest.mark.anyio
async def test_the_journal_is_read_where_rows_write_to_it(tmp_path: Path) -> None:
    """A batch whose lines are gone is finished on the thread of the rows that are asked beside it."""
    journal = Journal()
    paths, none = Paths(tmp_path), cast("Any", None)
    table = Table(paths.table)
    with table.planning() as number:
        batch = Batch(number, "a batch", stage=Stage.PLANNED)
        table.add(number, 0, [Member(b"id", b"key", b"digest", 1, "")])
        table.put(batch)
    means = Means(
        api=none,
        table=table,
        paths=paths,
        journal=cast("Any", journal),
        intake=none,
        keeping=none,
        sync=lambda: None,
        prove=none,
        tally=Tally(1, 0.0),
        halt=Halt(),
        notes=[],
    )
    policy = Policy(Limits(), QUICK, 10, None, submits=True, leaves=False, scope="", tier="standard")
    await Carrier(means, policy, lambda _number: None).advance(batch, BESIDE)
    assert journal.readers == {threading.get_ident()}
    table.close()
