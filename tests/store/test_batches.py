"""The table of batches appears whole or not at all."""

import resource
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.store.batches import Paths, Table, check_batches, open_batches_of

SMALL = 1_000  # bytes, in which not one page of a table has room


def test_a_table_that_cannot_be_made_is_not_there(tmp_path: Path) -> None:
    """What a full disk or a kill has left of one does not keep later runs from reading it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, hard))
    try:
        with pytest.raises(StoreError):
            Table(Paths(tmp_path).table)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert open_batches_of(tmp_path) == []
    assert [*check_batches(tmp_path)] == [] == [*tmp_path.iterdir()]
    Table(Paths(tmp_path).table).close()
    assert open_batches_of(tmp_path) == []


def test_a_file_without_a_byte_is_no_table(tmp_path: Path) -> None:
    """A full disk leaves one: nothing was asked by batches yet, and a run goes on."""
    paths = Paths(tmp_path)
    paths.table.touch()
    assert open_batches_of(tmp_path) == [] == [*check_batches(tmp_path)]
    Table(paths.table).close()
    assert open_batches_of(tmp_path) == []


def test_an_empty_table_beside_lines_of_jobs_was_lost(tmp_path: Path) -> None:
    """Jobs may be open that only it knew: whoever goes on without it is told what that costs."""
    paths = Paths(tmp_path)
    paths.table.touch()
    paths.lines(1).parent.mkdir()
    paths.lines(1).touch()
    with pytest.raises(StoreError, match="is empty") as lost:
        open_batches_of(tmp_path)
    assert "put a copy" in lost.value.hint
    assert "paid for again" in lost.value.hint
    assert next(check_batches(tmp_path)).place == paths.table
