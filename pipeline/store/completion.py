"""The mark of a finished run: a small file in its folder, from the end of one run to the begin of the next.

It says that every row of the input had an answer and that the table was written, so that this can be known
without the input.
"""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.disk import sync_folder, whole_file
from pipeline.errors import StoreError
from pipeline.store.folder import Folder

FINISHED = "finished.json"
HINT = "check the disk and the permissions of the run folder, then run the same command again"


class Completion(BaseModel):
    """What a finished run has written: rows by status, whether only the first rows, where, and when (UTC)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ok: int
    failed: int
    limited: bool
    output: Path
    at: datetime


def completion(folder: Folder) -> Completion | None:
    """Return what the last run of a folder has finished, or None when it has not or runs still."""
    try:
        return Completion.model_validate_json((folder.path / FINISHED).read_bytes())
    except (OSError, ValidationError):
        return None


def mark(folder: Folder, *, ok: int, failed: int, limited: bool, output: Path) -> None:
    """Mark the folder as finished. Raises StoreError."""
    done = Completion(ok=ok, failed=failed, limited=limited, output=output, at=datetime.now(UTC))
    try:
        with whole_file(folder.path / FINISHED) as draft:
            draft.write_text(done.model_dump_json(indent=2))
    except OSError as exc:
        raise _broken(folder, exc) from exc


def unmark(folder: Folder) -> None:
    """Take the mark away, durably, before anything is asked. Raises StoreError."""
    try:
        (folder.path / FINISHED).unlink()
        sync_folder(folder.path)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise _broken(folder, exc) from exc


def _broken(folder: Folder, exc: OSError) -> StoreError:
    return StoreError(f"`{folder.path / FINISHED}` cannot be written or removed: {exc.strerror}", HINT)
