"""The journal."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.disk import draft_of
from pipeline.errors import StoreError
from pipeline.flow import Failure, FailureKind, Reply, Row, Usage
from pipeline.store.entries import FAILURE, REPLY, Entry
from pipeline.store.journal import OFTEN, Journal

ROOT = Path(__file__).parents[2]
REPLIED = Reply("{}", "STOP", "", Usage(1, 0, 0, 2, 3), "gemini-3.1-flash-lite", "standard", 0.5, "api")
ROW = Row(0, b"k" * 16, b"d" * 16, {})
FRAME = 4_120  # bytes of a page in the log, with what stands before it
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
from pipeline.store.journal import Journal
from tests.store.test_journal import REPLIED, ROW
journal = Journal(Path(sys.argv[1]))
for n in range(200):
    journal.keep(bytes([n]) * 16, ROW, REPLIED)
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "replies.sqlite"
    killed = subprocess.run([sys.executable, "-c", code, path], check=False, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    with closing(Journal(path)) as journal:
        assert all(journal.find(bytes([n]) * 16, b"k" * 16) for n in range(200))


@pytest.mark.parametrize("content", [b"", b"\x07" * 8_192, b"SQLite format 3\0" + b"\0" * 8_000])
def test_a_file_that_is_no_journal_is_set_aside(tmp_path: Path, content: bytes) -> None:
    """The run goes on with a new one, the old file is kept and named."""
    path = tmp_path / "replies.sqlite"
    path.write_bytes(content)
    with closing(Journal(path)) as journal:
        journal.keep(b"i" * 16, ROW, REPLIED)
        assert "`replies.sqlite.damaged`" in journal.notes[0]
    assert (tmp_path / "replies.sqlite.damaged").read_bytes() == content
    with closing(Journal(path)) as journal:
        assert (journal.find(b"i" * 16, b"k" * 16), journal.notes) == (Entry(b"k" * 16, REPLIED), [])


def test_a_new_journal_appears_whole(tmp_path: Path) -> None:
    """A kill while it is made leaves no file of 0 bytes, which is what an emptied one looks like."""
    code = """
import os, signal, sys
from pathlib import Path
from pipeline.store.journal import Journal

sys.addaudithook(lambda event, _: event == "os.rename" and os.kill(os.getpid(), signal.SIGKILL))
Journal(Path(sys.argv[1]))
"""
    path = tmp_path / "replies.sqlite"
    killed = subprocess.run([sys.executable, "-c", code, path], check=False, cwd=ROOT)
    assert (killed.returncode, path.exists()) == (-signal.SIGKILL, False)
    with closing(Journal(path)) as journal:
        assert journal.notes == []


def test_a_draft_of_another_process_is_left_alone(tmp_path: Path) -> None:
    """A damaged journal is replaced through a draft of its own, which is gone afterwards."""
    path = tmp_path / "replies.sqlite"
    path.write_bytes(b"\x07" * 8_192)
    with draft_of(path) as (draft, _):
        draft.write_text("of another")
        with closing(Journal(path)) as journal:
            journal.keep(b"i" * 16, ROW, REPLIED)
        assert draft.read_text() == "of another"
    assert not list(tmp_path.glob("*.tmp"))


def test_a_database_of_somebody_else_is_set_aside(tmp_path: Path) -> None:
    """A table of the same name with other columns is no journal."""
    path = tmp_path / "replies.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE reply (x)")
    with closing(Journal(path)) as journal:
        journal.keep(b"i" * 16, ROW, REPLIED)
        assert len(journal.notes) == 1


def filled(path: Path, count: int) -> None:
    """Make a journal with so many replies."""
    with closing(Journal(path)) as journal:
        for n in range(count):
            journal.keep(n.to_bytes(16, "little"), ROW, REPLIED)


def found(journal: Journal, count: int) -> int:
    """Return how many of so many replies a journal finds."""
    entries = [journal.find(n.to_bytes(16, "little"), b"k" * 16) for n in range(count)]
    assert all(entry is None or entry.answer == REPLIED for entry in entries)
    return sum(entry is not None for entry in entries)


def test_a_changed_byte_is_found_by_its_checksum(tmp_path: Path) -> None:
    """An entry that is not what was written is as good as not there, counted, and kept elsewhere."""
    path = tmp_path / "replies.sqlite"
    filled(path, 100)
    raw = path.read_bytes()
    at = raw.rindex(b"gemini-3.1-flash-lite")
    path.write_bytes(raw[:at] + b"x" + raw[at + 1 :])
    with closing(Journal(path)) as journal:
        assert found(journal, 100) == 99
        assert len(journal.notes) == 1
        assert "1 reply " in journal.notes[0]
        assert found(journal, 100) == 99
        assert len(journal.notes) == 1
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM damaged").fetchone() == (1,)


@pytest.mark.parametrize("page", [2, 5, 20, 40])
def test_a_lost_page_costs_what_it_held(tmp_path: Path, page: int) -> None:
    """When a page in the middle of the file is gone, all that can be read goes on in a new file."""
    path = tmp_path / "replies.sqlite"
    filled(path, 1_000)
    raw = bytearray(path.read_bytes())
    raw[page * 4_096 : (page + 1) * 4_096] = b"\xff" * 4_096
    path.write_bytes(raw)
    with closing(Journal(path)) as journal:
        journal.keep(b"new" + bytes(13), ROW, REPLIED)
        kept = found(journal, 1_000)
        journal.keep(b"end" + bytes(13), ROW, REPLIED)
        assert len(journal.notes) == 1
        journal.sync()
        journal.checkpoint()
    assert kept >= 980
    assert bytes(raw) in [one.read_bytes() for one in tmp_path.glob("*.damaged")]
    with closing(Journal(path)) as journal:
        assert found(journal, 1_000) == kept
        assert journal.find(b"new" + bytes(13), b"k" * 16) is not None
        assert journal.find(b"end" + bytes(13), b"k" * 16) is not None
        assert journal.notes == []


def numbered(n: int) -> Reply:
    """Return a reply that can be told from others."""
    return replace(REPLIED, text=f"<{n:04d}>" + "x" * 300)


@pytest.mark.parametrize("left", [0.15, 0.4, 0.6, 0.9, 0.999])
def test_a_file_cut_short_keeps_what_is_left_of_it(tmp_path: Path, left: float) -> None:
    """Every reply on a whole page of what is left goes on in a new file; a torn page may give more."""
    path = tmp_path / "replies.sqlite"
    with closing(Journal(path)) as journal:
        journal.keep_all([(n.to_bytes(16, "little"), ROW, numbered(n)) for n in range(4_000)])
    raw = path.read_bytes()
    cut = int(left * len(raw))
    os.truncate(path, cut)
    there, torn = (
        {int(n) for n in re.findall(rb"<(\d{4})>x{300}", raw[:end])} for end in (cut - cut % 4_096, cut)
    )
    assert there
    with closing(Journal(path)) as journal:
        kept = {n for n in range(4_000) if journal.find(n.to_bytes(16, "little"), ROW.key) is not None}
        assert journal.notes[0].count(f" {len(kept):,} of its replies were taken over") == 1
    assert there <= kept <= torn


def test_a_long_reply_is_read_from_its_pages(tmp_path: Path) -> None:
    """What stands on several pages is put together again where the tree is gone; half of it is nothing."""
    path = tmp_path / "replies.sqlite"
    lengths = [3_500, 4_060, 9_000, 40_000, 200_000]
    with closing(Journal(path)) as journal:
        for n, length in enumerate(lengths):
            journal.keep(n.to_bytes(16, "little"), ROW, replace(REPLIED, text="é" * length))
    raw = bytearray(path.read_bytes())
    raw[:8_192] = bytes(8_192)  # the head and the root of the table
    path.write_bytes(raw[:-50_000])
    with closing(Journal(path)) as journal:
        kept = [journal.find(n.to_bytes(16, "little"), ROW.key) for n in range(len(lengths))]
    assert [len(one.answer.text) for one in kept if one and isinstance(one.answer, Reply)] == lengths[:-1]


def killed(path: Path, count: int) -> None:
    """Make a journal whose replies are all in its log, as a killed process leaves it."""
    journal = Journal(path.with_name("other"))
    for n in range(count):
        journal.keep(n.to_bytes(16, "little"), ROW, REPLIED)
    for ending in ("", "-wal"):
        shutil.copyfile(f"{path.with_name('other')}{ending}", f"{path}{ending}")
    journal.close()


@pytest.mark.parametrize("cut", ["zeros", "changed", "head"])
def test_a_torn_log_is_kept_and_named(tmp_path: Path, cut: str) -> None:
    """What SQLite would drop without a word is copied before anything is written over it."""
    path, log = tmp_path / "replies.sqlite", tmp_path / "replies.sqlite-wal"
    killed(path, 50)
    raw = bytearray(log.read_bytes())
    half = 32 + (len(raw) - 32) // FRAME // 2 * FRAME
    if cut == "head":
        raw[:32] = bytes(32)
    else:
        raw[half + 24 : half + FRAME] = (b"\0" if cut == "zeros" else b"x") * 4_096
    log.write_bytes(raw)
    with closing(Journal(path)) as journal:
        kept = found(journal, 50)
        assert "`replies.sqlite-wal.damaged`" in journal.notes[0]
        journal.keep(b"new" + bytes(13), ROW, REPLIED)
    assert (tmp_path / "replies.sqlite-wal.damaged").read_bytes() == raw
    assert (kept == 0) if cut == "head" else (10 < kept < 40)


@pytest.mark.parametrize("tail", ["half a page", "half of the last", "whole pages", "mixed up"])
def test_an_unfinished_transaction_is_no_damage(tmp_path: Path, tail: str) -> None:
    """Its reply was kept for nobody: what a kill or a power cut has left of it is dropped without a word."""
    path, log = tmp_path / "replies.sqlite", tmp_path / "replies.sqlite-wal"
    killed(path, 50)
    raw = bytearray(log.read_bytes())
    ends = [at for at in range(32, len(raw), FRAME) if any(raw[at + 4 : at + 8])]  # of transactions
    before, last = ends[-2] + FRAME, ends[-1]
    assert last >= before + FRAME
    if tail == "mixed up":
        raw[before + 24 : before + FRAME] = bytes(FRAME - 24)
    log.write_bytes(raw[: {"half a page": before + 100, "half of the last": last + 2_000}.get(tail, last)])
    with closing(Journal(path)) as journal:
        assert (found(journal, 50), journal.notes) == (49, [])
    assert not list(tmp_path.glob("*.damaged"))


def test_a_log_without_its_database_is_kept(tmp_path: Path) -> None:
    """SQLite removes the log of an empty database; here a copy stays."""
    path = tmp_path / "replies.sqlite"
    killed(path, 50)
    path.write_bytes(b"")
    with closing(Journal(path)) as journal:
        assert "kept as `replies.sqlite-wal.damaged`" in journal.notes[0]


def test_a_whole_log_of_a_killed_process_is_no_damage(tmp_path: Path) -> None:
    """Nothing is said where nothing is lost."""
    path = tmp_path / "replies.sqlite"
    killed(path, 50)
    with closing(Journal(path)) as journal:
        assert (found(journal, 50), journal.notes) == (50, [])


def test_a_journal_from_before_checksums_gets_them(tmp_path: Path) -> None:
    """Its replies are found, and nothing is asked again."""
    path = tmp_path / "replies.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TABLE reply (id BLOB, key BLOB, digest BLOB, failed INTEGER, body BLOB)")
        db.execute(
            "INSERT INTO reply VALUES (?, ?, ?, 0, ?)",
            (b"i" * 16, b"k" * 16, b"d" * 16, REPLY.dump_json(REPLIED)),
        )
    with closing(Journal(path)) as journal:
        assert journal.find(b"i" * 16, b"k" * 16) == Entry(b"k" * 16, REPLIED)
        assert journal.notes == []


def test_a_disk_that_is_full_is_an_error_with_a_hint(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk; what was kept before is there afterwards."""
    code = """
import resource, sys
from pathlib import Path
from pipeline.store.journal import Journal
from pipeline.errors import StoreError
from tests.store.test_journal import REPLIED, ROW
journal = Journal(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    for n in range(200):
        journal.keep(n.to_bytes(16, "little"), ROW, REPLIED)
except StoreError as error:
    journal.close()
    print(n, error.hint)
"""
    path = tmp_path / "replies.sqlite"
    ran = subprocess.run([sys.executable, "-c", code, path], check=True, cwd=ROOT, stdout=-1, text=True)
    kept, hint = ran.stdout.split(maxsplit=1)
    assert "free some space" in hint
    with closing(Journal(path)) as journal:
        assert found(journal, 200) == int(kept)


def test_a_disk_that_is_gone_does_not_keep_a_journal_from_closing(tmp_path: Path) -> None:
    """After a sync that failed there is nothing more to say, even where the file cannot be opened again."""
    path = tmp_path / "replies.sqlite"
    journal = Journal(path)
    journal.keep(b"i" * 16, ROW, REPLIED)
    ends = os.pipe()
    os.dup2(ends[0], journal._log)  # nothing that can be synced
    with pytest.raises(StoreError, match="cannot be synced"):
        journal.sync()
    path.unlink()
    journal.close()
    for end in ends:
        os.close(end)


@given(text=TEXT, finish=TEXT, seconds=st.floats(0, 1e6), tokens=st.integers(0, 10**9))
def test_replies_come_back_as_they_were(text: str, finish: str, seconds: float, tokens: int) -> None:
    """Any reply survives the way to disk and back."""
    reply = Reply(text, finish, "", Usage(prompt=tokens), "m", "standard", seconds, "api")
    assert REPLY.validate_json(REPLY.dump_json(reply)) == reply
    failure = Failure(FailureKind.SERVER, text, retry_after=seconds)
    assert FAILURE.validate_json(FAILURE.dump_json(failure)) == failure
