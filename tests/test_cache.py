"""The journal."""

import os
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cache import FAILURE, OFTEN, REPLY, Entry, Journal
from pipeline.errors import StoreError
from pipeline.flow import Failure, FailureKind, Reply, Row, Usage

REPLIED = Reply("{}", "STOP", "", Usage(1, 0, 0, 2, 3), "gemini-3.1-flash-lite", "standard", 0.5, "api")
ROW = Row(0, b"k" * 16, b"d" * 16, {})
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def row_of(key: bytes) -> Row:
    """Return a row with this key."""
    return replace(ROW, key=key)


def test_a_reply_is_found_again(tmp_path: Path) -> None:
    """What was kept is found by another journal on the same file, also without a clean end."""
    first = Journal(tmp_path / "replies.sqlite")
    first.keep(b"i" * 16, ROW, REPLIED)
    with closing(Journal(tmp_path / "replies.sqlite")) as second:
        assert second.find(b"i" * 16, b"k" * 16) == Entry(b"k" * 16, REPLIED)
        assert second.find(b"j" * 16, b"k" * 16) is None
    first.close()


def test_the_own_answer_comes_first(tmp_path: Path) -> None:
    """Of two rows that paid for one request each finds its own, a third finds either."""
    with closing(Journal(tmp_path / "replies.sqlite")) as journal:
        for key in (b"a" * 16, b"b" * 16):
            journal.keep(b"i" * 16, row_of(key), REPLIED)
        found = [journal.find(b"i" * 16, key) for key in (b"a" * 16, b"b" * 16, b"c" * 16)]
    assert [entry.key[:1] for entry in found if entry] == [b"a", b"b", b"a"]


def test_a_failure_is_kept_as_a_failure(tmp_path: Path) -> None:
    """Final failures come back as what they were."""
    failure = Failure(FailureKind.TOO_LONG, "too long")
    with closing(Journal(tmp_path / "replies.sqlite")) as journal:
        journal.keep(b"i" * 16, ROW, failure)
        assert journal.find(b"i" * 16, b"k" * 16) == Entry(b"k" * 16, failure)


def test_the_log_stays_small_and_nothing_is_lost(tmp_path: Path) -> None:
    """Checkpoints keep the log from growing with the number of replies."""
    path = tmp_path / "replies.sqlite"
    with closing(Journal(path)) as journal:
        for turn in range(40):
            for n in range(50):
                journal.keep(bytes([turn, n]) + bytes(14), ROW, REPLIED)
            journal.sync()
            journal.checkpoint()
        assert Path(f"{path}-wal").stat().st_size < 2_000_000
        assert all(journal.find(bytes([turn, 7]) + bytes(14), b"k" * 16) for turn in range(40))


def test_many_replies_are_moved_without_a_part(tmp_path: Path) -> None:
    """Between two parts the log does not hold more than some thousand replies either."""
    path = tmp_path / "replies.sqlite"
    with closing(Journal(path)) as journal:
        for n in range(5 * OFTEN):
            journal.keep(n.to_bytes(16, "little"), ROW, REPLIED)
            if n % 250 == 249:
                journal.sync()
        assert Path(f"{path}-wal").stat().st_size < 30_000_000


def test_sigkill_loses_no_reply(tmp_path: Path) -> None:
    """A reply whose `keep` has returned survives a SIGKILL right after it."""
    code = """
import os, signal, sys
from pathlib import Path
from pipeline.cache import Journal
from tests.test_cache import REPLIED, ROW
journal = Journal(Path(sys.argv[1]))
for n in range(200):
    journal.keep(bytes([n]) * 16, ROW, REPLIED)
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "replies.sqlite"
    killed = subprocess.run([sys.executable, "-c", code, path], check=False, cwd=Path(__file__).parent.parent)
    assert killed.returncode == -signal.SIGKILL
    with closing(Journal(path)) as journal:
        assert all(journal.find(bytes([n]) * 16, b"k" * 16) for n in range(200))


def test_a_file_that_is_no_journal_is_an_error_with_a_hint(tmp_path: Path) -> None:
    """A damaged journal stops the run and says that it may be deleted."""
    path = tmp_path / "replies.sqlite"
    path.write_bytes(os.urandom(8_192))
    with pytest.raises(StoreError, match="journal") as caught:
        Journal(path)
    assert "delete it" in caught.value.hint


@given(text=TEXT, finish=TEXT, seconds=st.floats(0, 1e6), tokens=st.integers(0, 10**9))
def test_replies_come_back_as_they_were(text: str, finish: str, seconds: float, tokens: int) -> None:
    """Any reply survives the way to disk and back."""
    reply = Reply(text, finish, "", Usage(prompt=tokens), "m", "standard", seconds, "api")
    assert REPLY.validate_json(REPLY.dump_json(reply)) == reply
    failure = Failure(FailureKind.SERVER, text, retry_after=seconds)
    assert FAILURE.validate_json(FAILURE.dump_json(failure)) == failure
