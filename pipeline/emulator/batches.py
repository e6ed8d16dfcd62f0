"""Batch jobs as the API keeps them: their states, and the operations that tell of them.

    PENDING ──▶ RUNNING ──▶ SUCCEEDED | FAILED
       └───────────┴──────▶ CANCELLED | EXPIRED

Creation is not idempotent: the same request twice makes two jobs. A job that expires has no results. What a
cancelled one has answered until then is kept, unless the settings say otherwise; the API promises neither.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic_core import from_json

from pipeline.emulator import bodies
from pipeline.emulator.files import new_id
from pipeline.emulator.settings import Settings
from pipeline.emulator.times import stamp
from pipeline.emulator.wire import Refused, Route

State = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"]
OPEN: frozenset[State] = frozenset({"PENDING", "RUNNING"})

_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch"


@dataclass(frozen=True, slots=True)
class Input:
    """The lines of a job: where they lie and begin, how many input tokens they have, what they came as.

    `file` is the name of the input file; empty for requests that came inline. Tokens are counted only where
    they are limited.
    """

    path: Path
    starts: "array[int]"
    file: str
    tokens: int = 0


@dataclass(slots=True)
class Batch:
    """One job. Times are Unix time; `output` is the file of its results."""

    name: str
    display: str
    where: Route
    input: Input
    created: float
    state: State = "PENDING"
    updated: float = 0.0
    succeeded: int = 0
    failed: int = 0
    cancelling: bool = False
    output: str = ""
    inlined: Path | None = None
    error: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The last part of its name."""
        return self.name.removeprefix("batches/")

    def move(self, state: State, now: float) -> None:
        """Go to another state; a job that is over stays as it is."""
        if self.state in OPEN:
            self.state, self.updated = state, now

    def as_json(self) -> dict[str, Any]:
        """Return the operation that stands for it."""
        told: dict[str, Any] = {"name": self.name, "metadata": self._metadata()}
        if self.state in OPEN:
            return told
        told["done"] = True
        results = self._results()
        if results:
            told["response"] = {"@type": f"{_TYPE}Output"} | results
        elif self.error:
            told["error"] = self.error
        return told

    def _metadata(self) -> dict[str, Any]:
        told: dict[str, Any] = {"@type": _TYPE, "model": self.where.name}
        if self.display:
            told["displayName"] = self.display
        if self.input.file:
            told["inputConfig"] = {"fileName": self.input.file}
        results = self._results()
        if results:
            told["output"] = results
        told["createTime"] = stamp(self.created)
        if self.state not in OPEN:
            told["endTime"] = stamp(self.updated)
        told |= {"updateTime": stamp(self.updated), "batchStats": self._stats()}
        return told | {"state": f"BATCH_STATE_{self.state}", "name": self.name}

    def _stats(self) -> dict[str, str]:
        """Return the counts as texts, those of zero left out; while it runs all are still pending."""
        total = len(self.input.starts)
        over = self.state not in OPEN
        counts = {
            "requestCount": total,
            "pendingRequestCount": total - self.succeeded - self.failed if over else total,
            "successfulRequestCount": self.succeeded if over else 0,
            "failedRequestCount": self.failed if over else 0,
        }
        return {name: str(count) for name, count in counts.items() if count}

    def _results(self) -> dict[str, Any]:
        if self.inlined is not None:
            lines = [from_json(line) for line in self.inlined.read_bytes().splitlines()]
            return {"inlinedResponses": {"inlinedResponses": lines}}
        return {"responsesFile": self.output} if self.output else {}


class Batches:
    """All jobs of one emulator. Every refusal is raised as Refused."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._jobs: dict[str, Batch] = {}

    def check(self, told: Settings, model: str, tokens: int = 0) -> None:
        """See that another job of so many input tokens may come; only the free tier has no batches at all."""
        running = [job for job in self._jobs.values() if job.state in OPEN]
        queued = sum(job.input.tokens for job in running if job.where.model == model)
        crowded = told.batch_jobs is not None and len(running) >= told.batch_jobs
        full = told.batch_tokens is not None and queued + tokens > told.batch_tokens
        if told.tier == "free" or crowded or full:
            raise Refused(bodies.exhausted_with_help())

    def create(self, where: Route, display: str, lines: Input) -> Batch:
        """Add a job."""
        now = self._wall()
        job = Batch(f"batches/{new_id(36)}", display, where, lines, now, updated=now)
        self._jobs[job.name] = job
        return job

    def get(self, name: str) -> Batch:
        """Return a job."""
        if name not in self._jobs:
            raise Refused(bodies.not_there())
        return self._jobs[name]

    def cancel(self, name: str) -> None:
        """Ask a job to end; one that waits ends at once, one that is over stays as it is."""
        job = self.get(name)
        job.cancelling = True
        if job.state == "PENDING":
            self.end(job, "CANCELLED")

    def delete(self, name: str) -> Batch:
        """Forget a job; what it has under way is cancelled."""
        self.cancel(name)
        return self._jobs.pop(name)

    def end(self, job: Batch, state: State) -> None:
        """Bring a job to its end."""
        job.move(state, self._wall())
        if state in _ERRORS and not (job.output or job.inlined):
            job.error = _ERRORS[state]

    def all(self) -> list[Batch]:
        """Return all jobs, newest first."""
        return list(reversed(self._jobs.values()))

    def listed(self, lag: float) -> list[Batch]:
        """Return those that the list has: it lags so many seconds behind creation."""
        known = self._wall() - lag
        return [job for job in self.all() if job.created <= known]


_ERRORS: dict[State, dict[str, Any]] = {
    "CANCELLED": {"code": 1, "message": "The operation was cancelled."},
    "EXPIRED": {"code": 4, "message": "The batch expired before it was completed."},
    "FAILED": {
        "code": 13,
        "message": "An internal error has occurred. Please retry or report in"
        " https://developers.generativeai.google/guide/troubleshooting",
    },
}
