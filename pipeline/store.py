"""The run folder: one for each job and identity, owned by one process at a time.

    <runs-dir>/<job name>/<fingerprint>/
        identity.json   what changes the answers; for people and for telling what was changed
        lock            held with flock by the process that runs; says which one
        replies.sqlite  the journal (`cache`)
        parts/          the truth (`parts`)
        round           the round of --retry-failed that is under way

Nothing in it is ever changed by a run with another identity, so an old answer cannot be passed off as
a new one.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.disk import whole_file
from pipeline.errors import StoreError

IDENTITY = "identity.json"
ROUND = "round"  # of --retry-failed, while one is under way
GLANCES = 3
SHORT = 12  # letters of the fingerprint in a folder's name
CONTINUE = "check the path and its permissions, or choose another folder with `--runs-dir`"


@dataclass(frozen=True, slots=True)
class Folder:
    """The paths of one run folder."""

    path: Path

    @property
    def journal(self) -> Path:
        """The SQLite file of replies."""
        return self.path / "replies.sqlite"

    @property
    def parts(self) -> Path:
        """The folder of checkpoint parts."""
        return self.path / "parts"


def run_folder(runs: Path, name: str, fingerprint: str) -> Folder:
    """Return the folder of a job with this identity; it need not exist."""
    return Folder(runs / name / fingerprint[:SHORT])


def changes(folder: Folder, identity: Mapping[str, object]) -> list[str]:
    """Return what differs from the latest run of the same job, if this identity was never run before.

    The names are those of `identity`, such as `model` or `row`; empty when the folder exists already or
    there is no other.
    """
    if (folder.path / IDENTITY).exists():
        return []
    others = sorted(folder.path.parent.glob(f"*/{IDENTITY}"), key=lambda path: path.stat().st_mtime)
    if not others:
        return []
    try:
        before = json.loads(others[-1].read_text())
    except (OSError, ValueError):
        return ["its settings"]
    return sorted(key for key in {*before, *identity} if before.get(key) != identity.get(key))


@contextmanager
def owned(folder: Folder, identity: Mapping[str, object]) -> Iterator[None]:
    """Create the folder where it is missing and own it for the time of the block.

    Raises StoreError when another process owns it or when it cannot be written. A lock ends with the
    process that holds it, however that process ends.
    """
    try:
        folder.parts.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as exc:
        raise StoreError(f"the run folder `{folder.path}` cannot be made: {exc.strerror}", CONTINUE) from exc
    try:
        _lock(lock, folder)
        _write_identity(folder, identity)
        yield
    finally:
        os.close(lock)


def owner(folder: Folder) -> str | None:
    """Say who runs in the folder now, or None."""
    try:
        lock = os.open(folder.path / "lock", os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(lock)
    finally:
        os.close(lock)
    return None


def _lock(lock: int, folder: Folder) -> None:
    for _ in range(GLANCES):  # `owner` may look at the lock for a moment
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        time.sleep(0.02)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise StoreError(
            f"this job is already running: {_read(lock)}",
            "wait until it ends or stop it (it keeps what it has); a job with another name or prompt can "
            "run at the same time",
        ) from exc
    except OSError as exc:
        raise StoreError(
            f"the run folder `{folder.path}` cannot be locked: {exc.strerror}",
            "choose a folder on a local disk with `--runs-dir`",
        ) from exc
    try:
        _sign(lock)
    except OSError as exc:
        raise StoreError(
            f"the run folder `{folder.path}` cannot be written: {exc.strerror}", CONTINUE
        ) from exc


def _sign(lock: int) -> None:
    me = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now(UTC):%F %T} UTC"}
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(me).encode(), 0)


def begin_round(folder: Folder, rounds: int) -> int:
    """Return the number of the round in which failed rows are asked again, `rounds` + 1 for a new one.

    A round that was interrupted goes on under its number, so that rows it has asked are not asked again.
    """
    path = folder.path / ROUND
    try:
        if path.exists():
            return int(path.read_text())
        with whole_file(path) as draft:
            draft.write_text(str(rounds + 1))
    except (OSError, ValueError) as exc:
        raise StoreError(f"`{path}` cannot be used: {exc}", f"{CONTINUE}; or delete that file") from exc
    return rounds + 1


def end_round(folder: Folder) -> None:
    """Forget the round, because all of its rows have been asked."""
    (folder.path / ROUND).unlink(missing_ok=True)


def _read(lock: int) -> str:
    try:
        who = json.loads(os.pread(lock, 1000, 0))
    except ValueError:
        return "another process"
    return f"process {who['pid']} on {who['host']}, started {who['since']}"


def _write_identity(folder: Folder, identity: Mapping[str, object]) -> None:
    path = folder.path / IDENTITY
    if path.exists():
        return
    try:
        with whole_file(path) as draft:
            draft.write_text(json.dumps(identity, indent=2, ensure_ascii=False, default=str))
    except OSError as exc:
        raise StoreError(f"`{path}` cannot be written: {exc.strerror}", CONTINUE) from exc
