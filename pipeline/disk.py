"""Files that appear whole or not at all: temp file beside the target, fsync, rename, fsync of the folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp"


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Yield a path to write to; when the block ends well, that file becomes `target`, durably.

    When the block fails, the temporary file is removed and `target` is as it was. Raises OSError.
    """
    draft = target.with_name(f"{target.name}.{os.getpid()}{TEMPORARY}")
    try:
        yield draft
        _sync(draft)
        draft.rename(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make names that were added to or removed from `folder` durable. Raises OSError."""
    _sync(folder)


def clear_drafts(folder: Path, stem: str = "") -> None:
    """Remove what a killed process left half written in `folder`, of the file `stem` or of any."""
    for draft in folder.glob(f"{_plain(stem)}.[0-9]*{TEMPORARY}" if stem else f"*{TEMPORARY}"):
        draft.unlink(missing_ok=True)


def _plain(stem: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in stem)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
