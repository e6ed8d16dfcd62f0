"""The run folder: one owner, one identity."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import Exit, StoreError
from pipeline.store import changes, owned, owner, run_folder

ROOT = Path(__file__).parent.parent
HOLD = """
import sys, time
from pathlib import Path
from pipeline.store import owned, run_folder
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


def test_a_killed_owner_does_not_block(tmp_path: Path) -> None:
    """After SIGKILL the folder can be owned at once."""
    folder = run_folder(tmp_path, "job", "f" * 32)
    with holder(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with owned(folder, {"row": "x"}):
            assert (folder.path / "identity.json").exists()
    assert owner(folder) is None


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
