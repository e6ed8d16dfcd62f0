"""Files that appear whole or not at all: temp file beside the target, fsync, rename, fsync of the folder.

A failed fsync is fatal: the system may have dropped what it could not write, and a second fsync of the same
file would say that all is well. So it raises, and nothing here tries again.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

TEMPORARY = ".tmp"
DAMAGED = ".damaged"
_DRAFT = re.compile(rf"(.+)\.\d+{re.escape(TEMPORARY)}", re.DOTALL)


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Yield a path to write to; when the block ends well, that file becomes `target`, durably.

    When the block fails, the temporary file is removed and `target` is as it was. Raises OSError.
    """
    with draft_of(target) as (draft, handle):
        yield draft
        os.fsync(handle)
        draft.rename(target)
    sync_folder(target.parent)


def obstacle(path: Path) -> str | None:
    """Say why no file or folder can be made at `path`, with the folders above it, if that can be known.

    Nothing is written to find out, so a full disk or a strange file system is not noticed.
    """
    above = next(folder for folder in path.parents if os.path.lexists(folder))
    if not above.is_symlink() and not above.is_dir():
        return f"`{above}` is no folder"
    if not os.path.isdir(above):
        return f"`{above}` is a link that leads to no folder"
    if not may_write(above):
        return f"the folder `{above}` may not be written to"
    longest = os.pathconf(above, "PC_NAME_MAX")
    names = [len(os.fsencode(name)) for name in path.relative_to(above).parts]
    names[-1] += len(f".{os.getpid()}{TEMPORARY}")
    return "its name is too long" if max(names) > longest else None


def closed(path: Path) -> Path | None:
    """Return a folder above `path` that may not be entered, or `path` where it may not be read.

    Nothing is known of what lies there then, not even whether it exists.
    """
    for one in (*reversed(path.parents), path):
        mode = os.R_OK | os.X_OK if one == path else os.X_OK
        if os.path.isdir(one) and not os.access(
            one, mode, effective_ids=os.access in os.supports_effective_ids
        ):
            return one
    return None


def may_write(path: Path) -> bool:
    """Tell whether a file may be changed, or files in a folder be made and removed."""
    mode = os.W_OK | os.X_OK if path.is_dir() else os.W_OK
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def may_read(path: Path) -> bool:
    """Tell whether a file may be read."""
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)


@contextmanager
def draft_of(target: Path) -> Iterator[tuple[Path, int]]:
    """Yield the path of an empty file beside `target`, and a handle to sync it by. Raises OSError.

    For what takes more than a rename to get in its place. Nobody clears it meanwhile; with the block it goes,
    unless it has another name by then.
    """
    draft, handle = _begun(target)  # opened first, it hears of all failed writes
    try:
        os.ftruncate(handle, 0)
        yield draft, handle
    finally:
        with suppress(FileNotFoundError):
            if os.path.samestat(draft.stat(), os.fstat(handle)):  # else it is somebody else's by now
                draft.unlink()
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make `folder` and the missing ones above it, durably. Raises OSError."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Make names that were added to or removed from `folder` durable. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def set_aside(path: Path) -> Path:
    """Rename a damaged file so that it is out of the way and kept; return its new name. Raises OSError."""
    place = free_name(path.with_suffix(DAMAGED))
    path.rename(place)
    sync_folder(path.parent)
    return place


def is_draft(path: Path) -> bool:
    """Tell whether a file has the name of one that is not whole yet."""
    return path.name.endswith(TEMPORARY)


def is_set_aside(path: Path) -> bool:
    """Tell whether a file has a name as `set_aside` gives it, or was kept beside a database that has."""
    return re.search(rf"{re.escape(DAMAGED)}(-\d+)?(-wal|-shm)?$", path.name) is not None


def free_name(path: Path) -> Path:
    """Return `path`, or it with the first number behind it that no file has."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def clear_drafts(folder: Path, stem: str = "") -> None:
    """Remove what a killed process left half written in `folder`, of the file `stem` or of any.

    What another process is writing just now stays. Raises OSError.
    """
    for draft in folder.glob(f"*{TEMPORARY}"):
        found = _DRAFT.fullmatch(draft.name)
        if found is not None and stem in ("", found[1]) and not _is_alive(draft):
            draft.unlink(missing_ok=True)


def _begun(target: Path) -> tuple[Path, int]:
    """Open a draft that nobody else writes: two processes in containers may have one number."""
    for number in count(os.getpid()):
        draft = target.with_name(f"{target.name}.{number}{TEMPORARY}")
        handle = os.open(draft, os.O_RDWR | os.O_CREAT, 0o666)
        if _claim(handle):
            return draft, handle
        os.close(handle)
    raise AssertionError


def _claim(handle: int) -> bool:
    """Show that the draft is being written, where the file system has locks; tell whether it is ours."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return os.fstat(handle).st_nlink > 0  # it may just have been cleared


def _is_alive(draft: Path) -> bool:
    """Tell whether somebody writes the draft, or may: where there are no locks, it stays."""
    with suppress(FileNotFoundError):
        handle = os.open(draft, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
    return False
