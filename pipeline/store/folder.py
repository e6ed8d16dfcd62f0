"""The run folder: one for each job and identity, owned by one process at a time.

    <runs-dir>/<job name>/<fingerprint>/
        identity.json   what changes the answers; for people and for telling what was changed
        lock            says which process runs; what that holds with flock is the folder itself
        replies.sqlite  the journal (`journal`)
        standing        how its rows stood with the parts then (`memo`)
        batches.sqlite  which jobs of the Batch API are open, and what they ask (`batches`)
        batches/        their lines and results while they are open
        survey          what a large input held when it was last read (`census`)
        parts/          the truth (`parts`)
        finished.json   the mark of a finished run (`completion`)
        bad-rows/       the rows that the last run of each input left out, and why
        round           the round of --retry-failed that is under way

Nothing in it is ever changed by a run with another identity, so an old answer cannot be passed off as
a new one.
"""

import errno
import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.disk import clear_drafts, closed, make_folder, may_write, set_aside, sync_folder, whole_file
from pipeline.errors import StoreError
from pipeline.keys import digest, fingerprint
from pipeline.mounts import TABLE, network

IDENTITY = "identity.json"
OFFLINE = "emulator"  # the endpoint of a run that asks an emulator of its own
SIGN = "lock"  # names the owner; what is locked is the folder itself, so that deleting this frees nothing
BAD_ROWS = "bad-rows"
ROUND = "round"  # of --retry-failed, while one is under way
LOCKS = Path("/proc/locks")
GLANCES = 3
NAME = 40  # letters of an input's name, which may be as long as a file name can be
SHORT = 12  # letters of the fingerprint in a folder's name
WRITABLE = "see that you may write there, and free some space if the disk is full"
CONTINUE = (
    f"{WRITABLE}, or choose another folder with "
    "`--runs-dir`; then run the same command again: what was answered is kept"
)
REPAIRED = "`identity.json` was damaged: it was set aside as `{place}`, and written anew"
WRITTEN = "`identity.json` was missing, and was written anew; the answers beside it were kept"
ANEW = (
    "`round` was damaged or did not fit the parts: it was set aside as `{place}`, and a new round of "
    "`--retry-failed` was begun, which also asks rows again that had failed in the last one"
)
BUSY = (
    "wait until it ends or stop it (it keeps what it has); a job with another name or prompt can run at the "
    "same time"
)
UNSIGNED = "another process{number}, of which the file `lock` says nothing"
SEEK = "; `fuser -v {folder}` says which process it is"
READABLE = (
    "give yourself the right to read it (has another user run this job?), or choose another folder with "
    "`--runs-dir`"
)
LOCAL = "choose a folder on a local disk with `--runs-dir`; input and output may stay where they are"


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

    def bad_rows(self, path: str) -> Path:
        """Return the file of the rows that were left out of the input with this path.

        Inputs have one each, since nothing of the last one need be mended when the next is asked.
        """
        name = re.sub(r"[^\w.-]", "_", os.path.basename(path))[:NAME]
        return self.path / BAD_ROWS / f"{name}-{digest([os.fsencode(path)]).hex()[:8]}.txt"


def run_folder(runs: Path, name: str, print_: str) -> Folder:
    """Return the folder of a job with this identity; it need not exist."""
    return Folder(runs / name / print_[:SHORT])


def changes(folder: Folder, identity: Mapping[str, object]) -> list[str]:
    """Return what differs from the latest run of the same job, if this identity was never run before.

    The names are those of `identity`, such as `model` or `row`; empty when the folder exists already or
    there is no other.
    """
    if (folder.path / IDENTITY).exists() or is_used(folder):
        return []
    others = sorted(folder.path.parent.glob(f"*/{IDENTITY}"), key=lambda path: path.stat().st_mtime)
    if not others:
        return []
    return differences(others[-1], identity)


def check_readable(path: Path) -> None:
    """Refuse a folder of which nobody can say what is in it. Raises StoreError."""
    if (shut := closed(path)) is not None:
        raise StoreError(f"the folder `{shut}` cannot be read: {os.strerror(errno.EACCES)}", READABLE)


def check_run(folder: Folder) -> None:
    """Refuse a run folder of which nobody can say what was answered. Raises StoreError."""
    for path in (folder.path, folder.parts):
        check_readable(path)


def is_used(folder: Folder) -> bool:
    """Tell whether a run has left parts or replies there."""
    return folder.journal.exists() or any(folder.parts.glob("part-*.parquet"))


def identity_fault(folder: Folder) -> str | None:
    """Say what is wrong with the identity that stands in a run folder, which is named by its fingerprint."""
    path = folder.path / IDENTITY
    if not path.exists():
        return "is missing"
    if (found := _identity(path)) is None:
        return "cannot be read"
    return None if fingerprint(found)[:SHORT] == folder.path.name else "is not the identity of this folder"


def differences(path: Path, identity: Mapping[str, object]) -> list[str]:
    """Return in what an identity differs from that of another run, which stands in the file `path`."""
    before = _identity(path)
    if before is None:
        return ["its settings"]
    return sorted(key for key in {*before, *identity} if before.get(key) != identity.get(key))


def is_offline(folder: Folder) -> bool:
    """Tell whether each run in a folder asks an emulator of its own, which ends with it (`--offline`)."""
    found = _identity(folder.path / IDENTITY)
    return found is not None and found.get("endpoint") == OFFLINE


def in_words(names: Iterable[str]) -> list[str]:
    """Return what people call the keys of an identity."""
    return ["address" if name == "endpoint" else name for name in names]


@contextmanager
def owned(folder: Folder, identity: Mapping[str, object], mounts: Path = TABLE) -> Iterator[list[str]]:
    """Create the folder where it is missing and own it for the time of the block.

    Yields a note for what was found damaged and set aside.
    Raises StoreError when another process owns it, when it lies on a network file system, where no lock can
    be trusted, or when it cannot be written. A lock ends with the process that holds it, however that ends.
    """
    if (kind := network(folder.path, mounts)) is not None:
        raise StoreError(
            f"the run folder `{folder.path}` lies on a network file system ({kind}), where a run cannot be "
            "safe: neither its lock nor its journal would hold",
            LOCAL,
        )
    try:
        make_folder(folder.parts)
        lock = os.open(folder.path, os.O_RDONLY)
    except OSError as exc:
        raise StoreError(f"the run folder `{folder.path}` cannot be made: {exc.strerror}", CONTINUE) from exc
    try:
        _lock(lock, folder)
        _check_rights(folder)
        yield _tidy(folder, identity)
    finally:
        os.close(lock)


@contextmanager
def claimed(folder: Folder) -> Iterator[None]:
    """Own a folder that exists for the time of the block, without making or signing anything.

    Raises StoreError when another process owns it or when it cannot be locked.
    """
    try:
        lock = os.open(folder.path, os.O_RDONLY)
    except OSError as exc:
        raise StoreError(
            f"the run folder `{folder.path}` cannot be opened: {exc.strerror}", WRITABLE
        ) from exc
    try:
        _lock(lock, folder, WRITABLE)
        yield
    finally:
        os.close(lock)


def owner(folder: Folder) -> str | None:
    """Say who runs in the folder now, or None."""
    try:
        lock = os.open(folder.path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(folder)
    except OSError:  # no locks there, so no run either
        return None
    finally:
        os.close(lock)
    return None


def _lock(lock: int, folder: Folder, hint: str = CONTINUE) -> None:
    try:
        for _ in range(GLANCES):  # `owner` may look at the lock for a moment
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.02)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        who = _read(folder)
        raise StoreError(f"this job is already running: {who}", BUSY + _which(folder, who)) from exc
    except OSError as exc:
        raise StoreError(f"the run folder `{folder.path}` cannot be locked: {exc.strerror}", LOCAL) from exc
    try:
        if not os.path.samestat(os.fstat(lock), os.stat(folder.path)):
            raise FileNotFoundError(errno.ENOENT, "it was removed just now")
        _sign(folder)
    except OSError as exc:
        raise StoreError(f"the run folder `{folder.path}` cannot be written: {exc.strerror}", hint) from exc


def _check_rights(folder: Folder) -> None:
    """Find what may not be written, as after a run of another user, before anything is asked for it."""
    for path in (folder.path, *sorted(folder.path.iterdir())):
        if (path.is_dir() or ".sqlite" in path.name) and not may_write(path):
            raise StoreError(
                f"`{path}` may not be written to",
                "give yourself the right to write there (has another user run this job?), or choose another "
                "folder with `--runs-dir`; then run the same command again: what was answered is kept",
            )


def _sign(folder: Folder) -> None:
    me = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now(UTC):%F %T} UTC"}
    (folder.path / SIGN).write_text(json.dumps(me))


def begin_round(folder: Folder, rounds: int) -> tuple[int, list[str]]:
    """Return the number of the round in which failed rows are asked again, `rounds` + 1 for a new one.

    A round that was interrupted goes on under its number, so that rows it has asked are not asked again.
    With it goes a note where that number was damaged and set aside.
    """
    path, notes = folder.path / ROUND, list[str]()
    try:
        if (under_way := round_under_way(folder, rounds)) is not None:
            return under_way, notes
        if path.exists():
            notes.append(ANEW.format(place=set_aside(path).name))
        with whole_file(path) as draft:
            draft.write_text(str(rounds + 1))
    except OSError as exc:
        raise StoreError(f"`{path}` cannot be used: {exc.strerror}", CONTINUE) from exc
    return rounds + 1, notes


def round_under_way(folder: Folder, rounds: int) -> int | None:
    """Return the number of the round that was interrupted, if one was; raises OSError."""
    path = folder.path / ROUND
    said = path.read_bytes() if path.exists() else b""
    return int(said) if said in (b"%d" % rounds, b"%d" % (rounds + 1)) else None


def end_round(folder: Folder) -> None:
    """Forget the round, because all of its rows have been asked."""
    path = folder.path / ROUND
    try:
        path.unlink(missing_ok=True)
        sync_folder(folder.path)
    except OSError as exc:
        raise StoreError(f"`{path}` cannot be removed: {exc.strerror}", CONTINUE) from exc


def _read(folder: Folder) -> str:
    try:
        who = json.loads((folder.path / SIGN).read_text())
        return f"process {who['pid']} on {who['host']}, started {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or its disk was full
        return UNSIGNED.format(number=_holder(folder))


def _which(folder: Folder, who: str) -> str:
    """Say how to find the owner, where not even its number is known."""
    return SEEK.format(folder=folder.path) if who == UNSIGNED.format(number="") else ""


def _holder(folder: Folder) -> str:
    """Return the number of the process that has locked the folder, where the system tells it."""
    try:
        found = folder.path.stat()
        locks = LOCKS.read_text().splitlines()
    except OSError:
        return ""
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    held = [words for words in map(str.split, locks) if {"FLOCK", "WRITE", place} <= {*words}]
    return f" ({held[0][4]})" if held and held[0][4].isdecimal() else ""


def _identity(path: Path) -> dict[str, object] | None:
    """Return what a run wrote down of its identity, or None where that cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _tidy(folder: Folder, identity: Mapping[str, object]) -> list[str]:
    """Remove half-written files of a killed owner, and see that the identity is there; return notes."""
    path, notes = folder.path / IDENTITY, list[str]()
    text = json.dumps(identity, indent=2, ensure_ascii=False, default=str)
    try:
        clear_drafts(folder.path)
        clear_drafts(folder.path / BAD_ROWS)
        if path.exists():
            if _identity(path) == json.loads(text):
                return notes
            notes.append(REPAIRED.format(place=set_aside(path).name))
        elif is_used(folder):
            notes.append(WRITTEN)
        with whole_file(path) as draft:
            draft.write_text(text)
    except OSError as exc:
        raise StoreError(f"`{path}` cannot be written: {exc.strerror}", CONTINUE) from exc
    return notes
