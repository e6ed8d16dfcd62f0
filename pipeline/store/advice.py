"""How many rows may share a request, as a calibration has found it: a file in the run folder."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from pipeline.disk import whole_file
from pipeline.errors import StoreError
from pipeline.store.folder import IDENTITY, Folder

FILE = "calibration.json"
TRIALS = "calibration"  # the folder of the runs that it was found with
HINT = "check the disk and the permissions of the run folder, then run the same command again"


class Advice(BaseModel):
    """The recommended rows of a request for one identity, why, and when (UTC); `found` is all of it.

    `sample` is how many rows it was found with, `sizes` how many a request had in turn.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    fingerprint: str
    rows: int
    reason: str
    at: datetime
    sample: int = 0
    sizes: tuple[int, ...] = ()
    found: dict[str, JsonValue]


def advice(folder: Folder, fingerprint: str) -> Advice | None:
    """Return what was found for just this identity, or None where nothing was, or it cannot be read.

    Where this job has nothing of its own, jobs of another name beside it count, too: what changes the answers
    is in the identity, and the name is not. Of these the largest sample is taken, then the newest.
    """
    if (own := _read(folder.path / FILE, fingerprint)) is not None:
        return own
    beside = folder.path.parent.parent.glob(f"*/{folder.path.name}/{FILE}")
    found = [one for path in beside if (one := _read(path, fingerprint)) is not None]
    return max(found, key=lambda one: (one.sample, one.at), default=None)


def differences(folder: Folder, identity: Mapping[str, object]) -> list[str]:
    """Return what differs from the nearest identity among those that were calibrated, by the keys of both.

    Empty where none was.
    """
    told = [
        sorted(key for key in {*other, *identity} if other.get(key) != identity.get(key))
        for other in _calibrated(folder.path.parent.parent)
    ]
    return min(told, key=len, default=[])


def _calibrated(runs: Path) -> Iterator[Mapping[str, object]]:
    """Yield the identities below a folder of run folders for which something was found."""
    for path in sorted(runs.glob(f"*/*/{FILE}")):
        try:
            found = json.loads((path.parent / IDENTITY).read_text())
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            yield found


def _read(path: Path, fingerprint: str) -> Advice | None:
    try:
        found = Advice.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return found if found.fingerprint == fingerprint and found.rows >= 1 else None


def trials(folder: Folder) -> Path:
    """Return the folder for the runs of calibrations of one identity."""
    return folder.path / TRIALS


def trial_name(size: int, order: int) -> str:
    """Return what a trial is called below the folder of its sample, which is the folder of its runs, too."""
    return f"pack-{size}-order-{order}"


def trial_runs(folder: Folder, size: int, order: int) -> list[Path]:
    """Return the run folders of a trial of one identity, one for each sample that there is."""
    return sorted(trials(folder).glob(f"*/{trial_name(size, order)}/*/*/"))


def keep_advice(folder: Folder, found: Advice) -> None:
    """Write down what was found; the folder must exist. Raises StoreError."""
    path = folder.path / FILE
    try:
        with whole_file(path) as draft:
            draft.write_text(found.model_dump_json(indent=2))
    except OSError as exc:
        raise StoreError(f"`{path}` cannot be written: {exc.strerror}", HINT) from exc
