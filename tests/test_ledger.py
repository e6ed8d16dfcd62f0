"""The count of the day's requests."""

from datetime import date
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.ledger import FileLedger, Ledger, MemoryLedger

DAY = date(2026, 11, 22)


def ledgers(folder: Path) -> list[Ledger]:
    """Return one of each kind."""
    return [MemoryLedger(), FileLedger(folder / "state" / "ledger.sqlite", "project/model")]


def test_the_limit_of_a_day_holds(tmp_path: Path) -> None:
    """Exactly as many requests may leave as the limit says."""
    for ledger in ledgers(tmp_path):
        assert [ledger.take(DAY, 2) for _ in range(3)] == [True, True, False]
        assert ledger.count(DAY) == 2


def test_the_next_day_starts_anew(tmp_path: Path) -> None:
    """A used-up day does not hold back the next."""
    for ledger in ledgers(tmp_path):
        ledger.take(DAY, 1)
        assert ledger.take(date(2026, 11, 23), 1)


def test_two_processes_share_one_count(tmp_path: Path) -> None:
    """Two ledgers on one file and scope count together, another scope counts for itself."""
    path = tmp_path / "ledger.sqlite"
    one, other, foreign = (FileLedger(path, scope) for scope in ("p/m", "p/m", "p/other"))
    assert one.take(DAY, 1)
    assert not other.take(DAY, 1)
    assert foreign.take(DAY, 1)


def test_the_count_survives_the_process(tmp_path: Path) -> None:
    """A new ledger on the same file goes on counting, and old days are forgotten."""
    path = tmp_path / "ledger.sqlite"
    first = FileLedger(path, "p/m")
    first.take(date(2026, 1, 1), None)
    first.take(DAY, None)
    first.close()
    second = FileLedger(path, "p/m")
    assert (second.count(DAY), second.count(date(2026, 1, 1))) == (1, 0)


def test_a_folder_that_is_a_file_is_an_error_with_a_hint(tmp_path: Path) -> None:
    """A state folder that cannot be used is named, with the way out."""
    (tmp_path / "state").write_text("")
    with pytest.raises(StoreError, match="today's requests") as caught:
        FileLedger(tmp_path / "state" / "ledger.sqlite", "p/m")
    assert "ROWMILL_STATE_DIR" in caught.value.hint
