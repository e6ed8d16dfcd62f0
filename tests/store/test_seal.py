"""No byte of a part can be damaged so that the part is read as something else."""

from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.seal import ENDING, is_intact, seal

TABLE = pa.table({"number": [1, 2, 3], "cost": [0.1, 0.2, None], "name": ["one", "two", "three"]})


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sealed file."""
    path = tmp_path_factory.mktemp("seal") / "sealed.parquet"
    pq.write_table(TABLE, path, compression="zstd", write_page_checksum=True)
    seal(path)
    return path


def test_others_read_a_sealed_file(sealed: Path) -> None:
    """The checksum is in nobody's way."""
    assert pq.read_table(sealed).equals(TABLE)
    assert pl.read_parquet(sealed).to_dicts() == TABLE.to_pylist()
    assert duckdb.read_parquet(str(sealed)).fetchall() == [tuple(row.values()) for row in TABLE.to_pylist()]


@given(st.data())
def test_a_changed_footer_is_found(sealed: Path, data: st.DataObject) -> None:
    """Whichever byte of footer, length or magic is changed, and to whatever."""
    raw = bytearray(sealed.read_bytes())
    footer = int.from_bytes(raw[-8:-4], "little") + ENDING
    at = data.draw(st.integers(len(raw) - footer, len(raw) - 5))
    raw[at] ^= data.draw(st.integers(1, 255))
    bad = sealed.with_name("bad.parquet")
    bad.write_bytes(raw)
    if at < len(raw) - ENDING:
        assert not is_intact(bad)
    else:  # its length: the seal is not found, but neither is the footer
        assert not is_intact(bad) or not _readable(bad)


@given(st.integers(0, 2_000))
def test_a_cut_file_is_found(sealed: Path, size: int) -> None:
    """Whatever is left of it."""
    raw = sealed.read_bytes()
    bad = sealed.with_name("cut.parquet")
    bad.write_bytes(raw[: min(size, len(raw) - 1)])
    assert not (is_intact(bad) and _readable(bad))


def test_a_file_without_a_seal_is_taken_on_trust(tmp_path: Path) -> None:
    """Parts of earlier versions stay valid."""
    pq.write_table(TABLE, tmp_path / "old.parquet")
    assert is_intact(tmp_path / "old.parquet")


def _readable(path: Path) -> bool:
    try:
        pq.read_table(path)
    except (OSError, pa.ArrowException):
        return False
    return True
