"""How many rows may share a request, as a calibration has found it: a file in the run folder."""

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from pipeline.disk import whole_file
from pipeline.errors import StoreError
from pipeline.store.folder import Folder

FILE = "calibration.json"
TRIALS = "calibration"  # the folder of the runs that it was found with
HINT = "check the disk and the permissions of the run folder, then run the same command again"


class Advice(BaseModel):
    """The recommended rows of a request for one identity, why, and when (UTC); `found` is all of it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    fingerprint: str
    rows: int
    reason: str
    at: datetime
    found: dict[str, JsonValue]


def advice(folder: Folder, fingerprint: str) -> Advice | None:
    """Return what was found for just this identity, or None where nothing was, or it cannot be read."""
    try:
        found = Advice.model_validate_json((folder.path / FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    return found if found.fingerprint == fingerprint and found.rows >= 1 else None


def trials(folder: Folder) -> Path:
    """Return the folder for the runs of calibrations of one identity."""
    return folder.path / TRIALS


def keep_advice(folder: Folder, found: Advice) -> None:
    """Write down what was found; the folder must exist. Raises StoreError."""
    path = folder.path / FILE
    try:
        with whole_file(path) as draft:
            draft.write_text(found.model_dump_json(indent=2))
    except OSError as exc:
        raise StoreError(f"`{path}` cannot be written: {exc.strerror}", HINT) from exc
