"""What goes into scratch files comes out again, in order, and their faults are StoreErrors."""

import errno
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import scratch
from pipeline.errors import StoreError
from pipeline.scratch import Buckets, Column, temporary_file

KIND = np.dtype([("a", "<u8"), ("b", "<i4")])
NUMBERS = st.lists(st.lists(st.integers(0, 2**63), max_size=20), max_size=5)


def records(numbers: list[int]) -> scratch.Records:
    """Return records that hold these numbers."""
    found = np.zeros(len(numbers), KIND)
    found["a"], found["b"] = numbers, np.arange(len(numbers))
    return found


@given(NUMBERS, st.integers(0, 120), st.integers(0, 120))
def test_a_column_is_read_as_it_was_added(added: list[list[int]], start: int, stop: int) -> None:
    """Any part of it, also beyond its end."""
    column = Column(KIND)
    for numbers in added:
        column.add(records(numbers))
    whole = [number for numbers in added for number in numbers]
    assert len(column) == len(whole)
    assert column.read()["a"].tolist() == whole
    assert column.read(start, stop)["a"].tolist() == whole[start:stop]


def test_slices_are_the_whole_column() -> None:
    """Also where it is longer than what is kept in memory."""
    column, rows = Column("<u8"), scratch.SLICE * 2 + 3
    column.add(np.arange(rows, dtype="<u8"))
    assert rows * 8 > scratch.IN_MEMORY
    starts, slices = zip(*column.slices(), strict=True)
    assert starts == (0, scratch.SLICE, scratch.SLICE * 2)
    assert (np.concatenate(slices) == np.arange(rows)).all()


@given(NUMBERS)
def test_buckets_keep_the_order_in_which_records_came(added: list[list[int]]) -> None:
    """Each record is in its bucket, once."""
    buckets = Buckets(KIND, 3)
    for numbers in added:
        buckets.add(records(numbers), np.array([number % 3 for number in numbers], np.int64))
    whole = [number for numbers in added for number in numbers]
    for bucket in range(3):
        assert buckets.read(bucket)["a"].tolist() == [one for one in whole if one % 3 == bucket]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file of this process become larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_store_error() -> None:
    """The message names the folder, the hint the way to another one."""
    column = Column("<u8")
    with pytest.raises(StoreError) as caught, files_of_at_most(scratch.IN_MEMORY):
        column.add(np.zeros(scratch.IN_MEMORY // 4, "<u8"))
    assert caught.value.message.startswith(
        f"a temporary file in `{tempfile.gettempdir()}` cannot be written: "
    )
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert "TMPDIR" in caught.value.hint


def test_a_temporary_file_goes_with_its_block_and_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody holds any more goes with the next one; what another process holds stays."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f"{scratch.FOLDER}left"
    left.mkdir()
    (left / "table").write_text("half")
    (tmp_path / "other").mkdir()
    with temporary_file("one") as one, temporary_file("two") as two:
        assert not left.exists()
        one.write_text("1")
        two.write_text("2")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
