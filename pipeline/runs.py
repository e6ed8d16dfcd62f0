"""The run folders of a project: found and described, without their inputs."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from pipeline.errors import StoreError, UsageError
from pipeline.progress import many
from pipeline.store.batches import open_batches_of
from pipeline.store.completion import Completion, completion
from pipeline.store.folder import (
    IDENTITY,
    SHORT,
    Folder,
    check_readable,
    check_run,
    identity_fault,
    in_words,
    is_used,
    owner,
)
from pipeline.store.inspection import count_replies
from pipeline.store.reading import answers_in

NAME = re.compile(rf"[0-9a-f]{{{SHORT}}}")  # of a run folder
Closed: TypeAlias = dict[Path, StoreError]  # folders of runs or jobs, and why they cannot be read
ENDINGS = ["B", "kB", "MB", "GB", "TB"]


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder: whose answers it holds, how many, its size in bytes, and its state.

    `answered` and `failed` are rows of all inputs that were ever asked, without those in parts that are
    `unread`, since they cannot be; `replies` is None where the journal cannot. `running` says which process
    runs. `differs` names what is not as in the newest run folder of the same job, `changed` is the last
    change, in UTC. `batches` are open jobs of the Batch API, None where their table cannot be read. `fault`
    says what is wrong with its identity.
    """

    folder: Folder
    model: str
    answered: int
    failed: int
    unread: int
    replies: int | None
    size: int
    changed: datetime
    running: str | None
    finished: Completion | None
    differs: tuple[str, ...]
    batches: int | None
    fault: str | None = None

    @property
    def job(self) -> str:
        """The name of the job."""
        return self.folder.path.parent.name

    @property
    def name(self) -> str:
        """What names the run on the command line: the job and the beginning of the fingerprint."""
        return f"{self.job}/{self.folder.path.name}"

    @property
    def state(self) -> str:
        """`running`, `finished`, `unfinished`, or `damaged`: answers are gone since, or the identity."""
        if self.running is not None:
            return "running"
        if self.fault is not None:
            return "damaged"
        if self.finished is None:
            return "unfinished"
        lost = self.finished.gone(None, rows=0, waiting=0, answers=self.answered)
        return "damaged" if lost or self.unread else "finished"

    @property
    def shown_state(self) -> str:
        """The state for people, with what else is to be known before it is removed."""
        shown, done = self.state, self.finished
        if shown == "finished" and done is not None and done.limited:
            shown += f" (first {many(done.ok + done.failed, 'row')})"
        if self.fault is not None and shown == "damaged":
            shown += f", `{IDENTITY}` {self.fault}"
        if self.unread:
            shown += f", {many(self.unread, 'part')} cannot be read"
        if self.replies is None:
            shown += ", the journal cannot be read"
        if self.batches == 0:
            return shown
        open_ = "unknown batch jobs" if self.batches is None else many(self.batches, "batch job")
        return f"{shown}, {open_} open"

    def cells(self) -> dict[str, object]:
        """Return what a table shows of the run."""
        return {
            "run": self.name,
            "state": self.shown_state,
            "answered": self.answered,
            "failed": self.failed,
            "replies": self.replies,
            "size": size(self.size),
            "changed": f"{self.changed.astimezone():%F %H:%M}",
            "model": self.model,
            "differs in": ", ".join(in_words(self.differs)),
        }

    def as_json(self) -> dict[str, object]:
        """Return the run as JSON values; `docs/reference.md` names the keys."""
        done = self.finished
        return {
            "run": self.name,
            "job": self.job,
            "fingerprint": self.folder.path.name,
            "run_folder": str(self.folder.path),
            "model": self.model,
            "state": self.state,
            "running": self.running,
            "finished": None if done is None else done.model_dump(mode="json"),
            "answered": self.answered,
            "failed": self.failed,
            "unread_parts": self.unread,
            "replies": self.replies,
            "bytes": self.size,
            "changed": self.changed.isoformat(),
            "differs": list(self.differs),
            "batch_jobs": self.batches,
        }


def find_runs(runs: Path, job: str | None = None, closed: Closed | None = None) -> list[Run]:
    """Return all run folders below `runs`, of one job or of all, by job and the newest first.

    Those that cannot be read are added to `closed`. Changes nothing. Raises StoreError where `runs` cannot be
    read, and for each of its folders that cannot be where `closed` is not given.
    """
    found = []
    for folder in _folders(runs, job, closed):
        with _noted(folder.path, closed):
            check_run(folder)
            if (folder.path / IDENTITY).exists() or is_used(folder):
                found.append(_describe(folder))
    newest: dict[str, Mapping[str, object]] = {}
    described = []
    for run, identity in sorted(found, key=lambda pair: (pair[0].job, -pair[0].changed.timestamp())):
        latest = newest.setdefault(run.job, identity)
        names = {*latest, *identity}
        differs = tuple(sorted(name for name in names if latest.get(name) != identity.get(name)))
        described.append(replace(run, differs=differs))
    return described


def size(number: int) -> str:
    """Return bytes for people: `999 B`, `1.2 MB`."""
    if number < 1_000:
        return f"{number} B"
    power = min(len(str(number)) - 1, 14) // 3
    return f"{number / 1_000**power:.1f} {ENDINGS[power]}"


def select(found: Sequence[Run], name: str, closed: Iterable[Path] = ()) -> list[Run]:
    """Return the one run that is named: `job/fingerprint`, of which the beginning is enough.

    The whole name of a job, and no beginning of it, stands for all of its runs. Raises UsageError for a name
    that fits none, not even a folder that is `closed`, or for a beginning that fits more than one.
    """
    if of_job := [run for run in found if run.job == name]:
        return of_job
    fitting = [run for run in found if "/" in name and run.name.startswith(name)]
    if not fitting and any(is_meant(path, name) for path in closed):
        return []
    if len(fitting) != 1:
        raise UsageError(
            f"`{name}` names {'more than one run' if fitting else 'no run'}",
            "`rowmill runs` lists the names, such as `sentiment/3fa9c1d20b7e`; `sentiment` stands for all "
            "runs of that job, and a job file ends in `.toml`",
        )
    return fitting


def is_meant(path: Path, name: str) -> bool:
    """Tell whether a name as `select` takes it may mean a run folder, or one in this folder of a job."""
    job, _, print_ = name.partition("/")
    return path.name == job or (path.parent.name == job and path.name.startswith(print_))


def _folders(runs: Path, job: str | None, closed: Closed | None) -> Iterator[Folder]:
    """Find the folders that may be ours: in place, and named as we do."""
    check_readable(runs)
    for of_job in sorted(runs.glob("*/")):
        if of_job.is_symlink() or job not in (None, of_job.name):
            continue
        with _noted(of_job, closed):
            check_readable(of_job)
            for path in sorted(of_job.iterdir()):
                if NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                    yield Folder(path)


@contextmanager
def _noted(path: Path, closed: Closed | None) -> Iterator[None]:
    """Have a folder that cannot be read hold up no other one."""
    try:
        try:
            yield
        except OSError as exc:
            raise StoreError(f"`{path}` cannot be read: {exc.strerror}", "check its permissions") from exc
    except StoreError as error:
        if closed is None:
            raise
        closed[path] = error


def _stats(folder: Path) -> Iterator[os.stat_result]:
    """Yield what the system knows of each file; a run may remove some meanwhile."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                yield path.stat()


def _describe(folder: Folder) -> tuple[Run, Mapping[str, object]]:
    identity = _identity(folder)
    stats = list(_stats(folder.path))
    answers = answers_in(folder.parts)
    run = Run(
        folder=folder,
        model=str(identity.get("model", "?")),
        answered=answers.rows,
        failed=answers.failed,
        unread=answers.unread,
        replies=count_replies(folder.journal),
        size=sum(stat.st_size for stat in stats),
        changed=datetime.fromtimestamp(max((stat.st_mtime for stat in stats), default=0.0), UTC),
        running=owner(folder),
        finished=completion(folder),
        differs=(),
        batches=_open_batches(folder),
        fault=identity_fault(folder),
    )
    return run, identity


def _open_batches(folder: Folder) -> int | None:
    try:
        return len(open_batches_of(folder.path))
    except StoreError:
        return None


def _identity(folder: Folder) -> Mapping[str, object]:
    try:
        found = json.loads((folder.path / IDENTITY).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
