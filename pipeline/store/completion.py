"""The mark of a finished run: a small file in its folder, from the end of one run to the begin of the next.

It says that every row of the input had an answer and that the table was written, so that this can be known
without the input.
"""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.disk import sync_folder, whole_file
from pipeline.errors import StoreError
from pipeline.store.folder import Folder

FINISHED = "finished.json"
HINT = "check the disk and the permissions of the run folder, then run the same command again"


class Completion(BaseModel):
    """What a finished run has written: rows by status, whether only the first rows, where, and when (UTC).

    `answers` are those behind the rows, of which equal ones share one; `input` names the state of its files,
    `input_path` where they lie. These are None in marks of before there were these.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    ok: int
    failed: int
    limited: bool
    output: Path
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    answers: int | None = None
    input: str | None = None
    input_path: str | None = None

    def is_of(self, state: str | None) -> bool:
        """Tell whether the input was in this state then; an unknown one counts as the same."""
        return self.input is None or self.input == state

    def gone(self, state: str | None, *, rows: int, waiting: int, answers: int) -> int:
        """Return how many of the finished rows have no answer any more; at least, for another input.

        `waiting` of the `rows` of the input have none now; `answers` are in the parts.
        """
        finished = self.ok + self.failed
        if self.input is not None and self.input == state and rows <= finished:
            return waiting
        if self.answers is None:
            return 0 if answers else finished
        return max(0, self.answers - answers)


def completion(folder: Folder) -> Completion | None:
    """Return what the last run of a folder has finished, or None when it has not or runs still."""
    try:
        return Completion.model_validate_json((folder.path / FINISHED).read_bytes())
    except (OSError, ValidationError):
        return None


def is_spoilt(folder: Folder) -> bool:
    """Tell whether there is a mark that cannot be read; the next run that finishes makes a new one."""
    return completion(folder) is None and (folder.path / FINISHED).exists()


def mark(folder: Folder, done: Completion) -> None:
    """Mark the folder as finished. Raises StoreError."""
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
