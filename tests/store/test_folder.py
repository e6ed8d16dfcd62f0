"""The run folder: one owner, one identity."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import Exit, StoreError
from pipeline.store.folder import begin_round, changes, claimed, end_round, owned, owner, run_folder
from tests.conftest import NOBODY, as_nobody, open_to_all

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from pipeline.store.folder import owned, run_folder
with owned(run_folder(Path(sys.argv[1]), "job", "f" * 32), {"row": "x"}):
    print("mine", flush=True)
    sys.stdin.read()
"""


def holder(runs: Path) -> "subprocess.Popen[str]":
    """Start a process that owns the folder until its input is closed."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, runs], stdin=-1, stdout=-1, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def test_a_second_owner_is_refused_with_the_first_ones_name(tmp_path: Path) -> None:
    """The error names the process that runs and since when, with exit code 4."""
    folder = run_folder(tmp_path, "job", "f" * 32)
    with holder(tmp_path) as process:
        with pytest.raises(StoreError, match=f"process {process.pid} ") as caught, owned(folder, {}):
            pass
        assert owner(folder) is not None
        process.communicate("")
    assert caught.value.exit_code is Exit.STORE


@pytest.mark.parametrize("name", ["parts", "batches", "replies.sqlite", "."])
def test_what_may_not_be_written_is_found_at_once(tmp_path: Path, name: str) -> None:
    """As after a run of another user; and not when the first answers are there, which are paid for."""
    folder = run_folder(tmp_path, "job", "f" * 32)
    with owned(folder, {}):
        (folder.path / "batches").mkdir()
        folder.journal.touch()
    open_to_all(tmp_path)
    for path in (folder.path, *folder.path.iterdir()) if os.geteuid() == 0 else ():
        os.chown(path, NOBODY, -1)
    (folder.path / name).chmod(0o555)
    try:
        with (
            pytest.raises(StoreError, match="may not be written to") as caught,
            as_nobody(),
            owned(folder, {}),
        ):
            pass
    finally:
        (folder.path / name).chmod(0o755)
    assert f"`{folder.path / name}`" in caught.value.message
    assert "give yourself the right" in caught.value.hint


def test_a_killed_owner_does_not_block(tmp_path: Path) -> None:
    """After SIGKILL the folder can be owned at once."""
    folder = run_folder(tmp_path, "job", "f" * 32)
    with holder(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with owned(folder, {"row": "x"}):
            assert (folder.path / "identity.json").exists()
    assert owner(folder) is None


def test_a_deleted_lock_file_lets_nobody_in(tmp_path: Path) -> None:
    """Who takes the lock file for a left-over and deletes it has still only one run at a time."""
    folder = run_folder(tmp_path, "job", "f" * 32)
    with holder(tmp_path) as process:
        (folder.path / "lock").unlink()
        with pytest.raises(StoreError, match="already running"), owned(folder, {}):
            pass
        assert str(owner(folder)).startswith("another process")
        process.communicate("")


def test_what_changed_is_named(tmp_path: Path) -> None:
    """A new identity of the same job tells what differs from the last run; a known one tells nothing."""
    first = run_folder(tmp_path, "job", "a" * 32)
    before = {"row": "old", "model": "m", "seed": 0}
    with owned(first, before):
        pass
    second = run_folder(tmp_path, "job", "b" * 32)
    assert changes(second, {"row": "new", "model": "m", "seed": 1}) == ["row", "seed"]
    assert changes(first, before) == []


def test_the_first_run_of_a_job_has_nothing_to_tell(tmp_path: Path) -> None:
    """Without an earlier run nothing has changed."""
    assert changes(run_folder(tmp_path, "job", "a" * 32), {"row": "x"}) == []


def test_a_folder_that_cannot_be_made_is_an_error_with_a_hint(tmp_path: Path) -> None:
    """A runs folder that is a file is refused, with the flag that names another."""
    (tmp_path / "runs").write_text("")
    folder = run_folder(tmp_path / "runs", "job", "a" * 32)
    with pytest.raises(StoreError) as caught, owned(folder, {}):
        pass
    assert "--runs-dir" in caught.value.hint


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    """Where no lock can be trusted nothing is begun, and the hint names the flag that helps."""
    table = tmp_path / "mountinfo"
    table.write_text(f"21 1 0:40 / / rw - {kind} server rw\n")
    folder = run_folder(tmp_path / "runs", "job", "a" * 32)
    with pytest.raises(StoreError, match=kind) as caught, owned(folder, {}, table):
        pass
    assert "--runs-dir" in caught.value.hint
    assert not folder.path.exists()


def test_children_of_a_killed_owner_hold_nothing(tmp_path: Path) -> None:
    """A process that the owner had started lives on, and does not have its lock."""
    code = HOLD.replace('print("mine"', 'subprocess.Popen(["sleep", "30"]); print("mine"', 1)
    command = [sys.executable, "-c", f"import subprocess{code}", str(tmp_path)]
    with subprocess.Popen(
        command, stdin=-1, stdout=-1, text=True, cwd=ROOT, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        process.kill()
        process.wait()
        with owned(run_folder(tmp_path, "job", "f" * 32), {}):
            pass
        os.killpg(process.pid, signal.SIGKILL)  # the child is still there, or this is an error


@pytest.mark.parametrize("content", ["", "[]", '{"pid": 1}', "\0" * 40])
def test_a_lock_that_says_nothing_still_holds(tmp_path: Path, content: str) -> None:
    """What a lost disk left in the lock file is no error; the system may still know who owns it."""
    folder = run_folder(tmp_path, "job", "f" * 32)
    with holder(tmp_path) as process:
        (folder.path / "lock").write_text(content)
        with pytest.raises(StoreError, match="another process"), owned(folder, {}):
            pass
        process.communicate("")


@pytest.mark.parametrize("known", [True, False])
def test_a_lock_that_is_gone_leads_to_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    """By the number that the system gives, or by a command that finds it."""
    folder = run_folder(tmp_path, "job", "f" * 32)
    with holder(tmp_path) as process:
        found = folder.path.stat()
        place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        locks = tmp_path / "locks"
        locks.write_text(
            "1: POSIX  ADVISORY  WRITE 77 00:01:2 0 EOF\n"
            + f"2: FLOCK  ADVISORY  WRITE {process.pid} {place} 0 EOF\n" * known
        )
        monkeypatch.setattr("pipeline.store.folder.LOCKS", locks)
        (folder.path / "lock").unlink()
        with pytest.raises(StoreError, match="already running") as caught, owned(folder, {}):
            pass
        process.communicate("")
    assert (f"another process ({process.pid})" in caught.value.message) is known
    assert (f"`fuser -v {folder.path}`" in caught.value.hint) is not known


@pytest.mark.parametrize("content", ["", "[]", "{", '{"row": "other"}'])
def test_a_wrong_identity_is_set_aside_and_written_anew(tmp_path: Path, content: str) -> None:
    """It only tells what has changed: one that is damaged or another's stops nothing, and is named."""
    folder = run_folder(tmp_path, "job", "f" * 32)
    folder.path.mkdir(parents=True)
    (folder.path / "identity.json").write_text(content)
    if content != '{"row": "other"}':
        assert changes(run_folder(tmp_path, "job", "a" * 32), {"row": "x"}) == ["its settings"]
    with owned(folder, {"row": "x"}) as notes:
        assert "`identity.damaged`" in notes[0]
        assert changes(run_folder(tmp_path, "job", "a" * 32), {"row": "y"}) == ["row"]
    assert (folder.path / "identity.damaged").read_text() == content
    with owned(folder, {"row": "x"}) as notes:
        assert notes == []


def test_a_round_that_cannot_be_read_is_a_new_one(tmp_path: Path) -> None:
    """An interrupted round goes on under its number, a damaged number is set aside."""
    folder = run_folder(tmp_path, "job", "f" * 32)
    with owned(folder, {}):
        assert (begin_round(folder, 0), begin_round(folder, 1)) == ((1, []), (1, []))
        (folder.path / "round").write_bytes(b"\0\0")
        turn, notes = begin_round(folder, 1)
        assert turn == 2
        assert "`round.damaged`" in notes[0]
        end_round(folder)
        assert not (folder.path / "round").exists()


def test_left_overs_of_a_killed_owner_are_cleared(tmp_path: Path) -> None:
    """Half-written files of the folder itself go with the next run."""
    folder = run_folder(tmp_path, "job", "f" * 32)
    folder.path.mkdir(parents=True)
    (folder.path / "identity.json.77.tmp").write_text("{")
    with owned(folder, {}):
        assert sorted(path.name for path in folder.path.iterdir()) == ["identity.json", "lock", "parts"]


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Whatever the system says instead of locking, it is told with a way out, and looking on does no harm."""

    def flock(_handle: int, _how: int) -> None:
        raise OSError(error, os.strerror(error))

    folder = run_folder(tmp_path, "job", "f" * 32)
    folder.path.mkdir(parents=True)
    (folder.path / "lock").touch()
    monkeypatch.setattr("pipeline.store.folder.fcntl.flock", flock)
    with pytest.raises(StoreError, match="cannot be locked") as caught, claimed(folder):
        pass
    assert "--runs-dir" in caught.value.hint
    assert owner(folder) is None


@pytest.mark.parametrize("text", ["0", "2", "9", "3000000000", "two", ""])
def test_a_round_that_cannot_be_is_set_aside(tmp_path: Path, text: str) -> None:
    """Only the round after the last, or the last itself, can be under way."""
    folder = run_folder(tmp_path, "job", "f" * 32)
    folder.path.mkdir(parents=True)
    (folder.path / "round").write_text(text)
    assert begin_round(folder, 3)[0] == 4
    assert (folder.path / "round").read_text() == "4"
    assert begin_round(folder, 4) == (4, [])
