"""Removing run folders: which may go, and how, so that nothing else ever does."""

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pipeline.disk import is_set_aside, sync_folder
from pipeline.errors import StoreError, UsageError
from pipeline.runs import Run
from pipeline.store.completion import completion
from pipeline.store.folder import BAD_ROWS, IDENTITY, ROUND, SHORT, claimed

REMOVED = ".removed"  # behind the name of a folder that is being removed
OURS = (
    "identity",
    "finished",
    ROUND,
    "lock",
    "replies",
    "parts",
    "standing",
    "survey",
    "calibration",
    "emulated",
    "batches",
    BAD_ROWS,
)  # how names there begin
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True)
class Choice:
    """A run that may be removed; `named` when the user has named just this one."""

    run: Run
    named: bool

    def may_go(self, before: datetime | None, *, unfinished: bool) -> bool:
        """Tell whether it may be removed: not while it runs, unfinished or damaged ones only if told.

        `before` keeps what has changed since. Raises StoreError for a named one that runs.
        """
        if self.run.running is not None:
            if self.named:
                raise StoreError(
                    f"`{self.run.name}` is running: {self.run.running}", "wait until it ends or stop it"
                )
            return False
        if self.run.batches != 0 and not unfinished:
            if self.named:
                raise StoreError(
                    f"`{self.run.name}` has open jobs of the Batch API, which cost money",
                    "run its job again to take in what they answer; `--all` removes it all the same",
                )
            return False
        if self.run.state != "finished" and not (self.named or unfinished):
            return False
        return before is None or self.run.changed < before


def age(text: str) -> timedelta:
    """Read an age such as `30d`, `12h`, `90m` or `2w`. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,5})([mhdw])", text)
    if found is None:
        raise UsageError(
            f"`{text}` is no age: it takes a whole number and one of the units `m`, `h`, `d` and `w`",
            "write minutes, hours, days or weeks, such as `90m`, `12h`, `30d` or `2w`",
        )
    return timedelta(**{UNITS[found[2]]: int(found[1])})


def remove_run(run: Run, *, unfinished: bool) -> None:
    """Remove a run folder; one that is not finished only where `unfinished` says so.

    What is removed is out of the way at once, under another name, so that a kill leaves nothing that could be
    taken for a run. Raises StoreError where the folder is in use, has come to be unfinished, or holds what is
    not ours.
    """
    path = run.folder.path
    _check_ours(path)
    with claimed(run.folder):
        if not unfinished and completion(run.folder) is None:
            raise StoreError(f"`{run.name}` is not finished any more", "look again with `rowmill runs`")
        doomed = path.with_name(path.name + REMOVED)
        try:
            path.rename(doomed)
            sync_folder(doomed.parent)
            _remove(doomed)
        except OSError as exc:
            raise StoreError(
                f"`{doomed}` cannot be removed: {exc.strerror}",
                "check its permissions; the next `rowmill clean` goes on",
            ) from exc


def damaged(run: Run, before: datetime | None) -> list[Path]:
    """Return what was set aside in a run folder, of that only what has not changed since `before`."""
    found = sorted(path for path in run.folder.path.rglob("*") if is_set_aside(path) and path.is_file())
    return [path for path in found if before is None or path.stat().st_mtime < before.timestamp()]


def remove_damaged(run: Run, files: Sequence[Path]) -> None:
    """Remove files that were set aside. Raises StoreError where the folder is in use or the disk fails."""
    with claimed(run.folder):
        for path in files:
            try:
                path.unlink(missing_ok=True)
            except OSError as exc:
                raise StoreError(
                    f"`{path}` cannot be removed: {exc.strerror}", "check its permissions"
                ) from exc


def sweep(runs: Path) -> None:
    """Remove what a killed `rowmill clean` has left. Raises StoreError."""
    for doomed in runs.glob(f"*/*{REMOVED}"):
        if len(doomed.name) == SHORT + len(REMOVED) and not doomed.is_symlink():
            try:
                _remove(doomed)
            except FileNotFoundError:  # somebody else removes it
                continue
            except OSError as exc:
                raise StoreError(
                    f"`{doomed}` cannot be removed: {exc.strerror}", "check its permissions"
                ) from exc


def _check_ours(path: Path) -> None:
    strange = sorted(one.name for one in path.iterdir() if not one.name.startswith(OURS))
    parts = path / "parts"
    if parts.is_dir():
        strange += sorted(f"parts/{one.name}" for one in parts.iterdir() if not one.name.startswith("part-"))
    if strange:
        raise StoreError(
            f"`{path}` holds what is not Rowmill's: {', '.join(f'`{name}`' for name in strange)}",
            "move it elsewhere, then clean again",
        )


def _remove(doomed: Path) -> None:
    """Remove a folder, its identity last."""
    for one in sorted(doomed.iterdir(), key=lambda one: one.name == IDENTITY):
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one)
        else:
            one.unlink()
    doomed.rmdir()
    with suppress(OSError):  # other runs of the job stand there
        doomed.parent.rmdir()
