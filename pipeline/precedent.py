"""What finished rows of a job took, to tell what the others will take."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import StoreError
from pipeline.estimate import NEVER, Again
from pipeline.flow import Reply
from pipeline.heads import names
from pipeline.plan import Plan
from pipeline.store.advice import trial_runs
from pipeline.store.folder import IDENTITY, Folder
from pipeline.store.parts import Parts
from pipeline.store.recent import latest, latest_replies

FEW = 20  # answers below which another source is looked at, too
REPLIES = 2_000  # of a journal that are read
MINE, OTHER = "to this job", "to this job with other settings"
CALIBRATED = "of its calibration"
CACHED, TWIN = "to its prompts in the response cache", "to another job with the same question"
PARTS = 40  # that are read, 5,000 rows each where a run was not slow
COLUMNS = ["_status", "_source", "_pack", "_output_tokens", "_thought_tokens", "_latency_ms"]


FAILED = ["_status", "_round", "_attempts", "_prompt_tokens", "_output_tokens", "_thought_tokens"]


@dataclass(frozen=True, slots=True)
class Took:
    """Output tokens (thoughts included) of an answer, their standard deviation, and seconds of a call."""

    rows: int
    output: float
    spread: float
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Precedent:
    """What answers took, alone and in packs, None where there is none.

    `whose` says in words to what they were given.
    """

    alone: Took | None
    packed: Took | None
    whose: str

    @property
    def own(self) -> bool:
        """Whether they answer the very question of the job, and not one with another prompt or model."""
        return self.whose != OTHER

    @property
    def rows(self) -> int:
        """How many answers these are."""
        return sum(took.rows for took in (self.alone, self.packed) if took is not None)


def precedent(plan: Plan, cached: Sequence[Reply]) -> Precedent | None:
    """Read what the job's answers took so far, or those of its other identities, the newest first.

    `cached` are answers that the response cache has to its prompts. Of answers to its own question those are
    taken that are enough, else most. None where there are none, or none that can be read: only an estimate
    depends on it.
    """
    most: Precedent | None = None
    for found in _own(plan, cached):
        most = found if most is None or found.rows > most.rows else most
        if most.rows >= FEW:
            return most
    if most is not None and most.rows:
        return most
    others = (_of(_answers(path, plan), OTHER) for path in _others(plan.folder.path))
    return next((found for found in others if found.rows), None)


def repeated(plan: Plan, usual: float) -> Again:
    """Return what a row that has failed took beyond `usual` output tokens and one request, in a round.

    What never was answered, be it for the network, is taken to be answered at once.
    """
    failed, more = 0, NEVER
    with suppress(StoreError):  # as in _answers
        for table in islice(Parts(plan.folder.parts, plan.checked.layout.part).columns(FAILED), PARTS):
            rows = table.filter(pc.equal(table["_status"], "failed")).to_pydict()
            failed += len(rows["_round"])
            for turn, attempts, prompt, output, thoughts in zip(
                *(rows[name] for name in FAILED[1:]), strict=True
            ):
                if prompt:
                    rounds, took = turn + 1, output + thoughts
                    more += Again(max(0.0, attempts / rounds - 1), max(0.0, took / rounds - usual))
    return more * (1 / failed) if failed else more


def _own(plan: Plan, cached: Sequence[Reply]) -> Iterator[Precedent]:
    """Yield what answers to the job's own question took, by where they lie."""
    mine = plan.folder.path
    twins = [path for path in sorted(mine.parent.parent.glob(f"*/{mine.name}")) if path != mine]
    yield _of(_answers(mine, plan), MINE)
    for path in (mine, *twins):
        yield _calibrated(Folder(path), plan)
    yield _of(_table(cached), CACHED)
    for path in twins:
        yield _of(_answers(path, plan), TWIN)


def _calibrated(folder: Folder, plan: Plan) -> Precedent:
    """Return what the largest sample of a calibration took, alone and with about as many rows as are wanted.

    Of each one trial: the others hold the same rows again, which would make it look surer than it is.
    """

    def took(size: int, *, alone: bool) -> Took | None:
        found = [_took(_answers(path, plan), alone=alone) for path in trial_runs(folder, size, 0)]
        return max((one for one in found if one is not None), key=lambda one: one.rows, default=None)

    tried = (plan.advice.rows, *plan.advice.sizes) if plan.advice is not None else ()
    sizes = [size for size in (plan.pack, *tried) if size > 1]
    packed = (took(size, alone=False) for size in sorted(sizes, key=lambda size: abs(size - sizes[0])))
    return Precedent(took(1, alone=True), next((one for one in packed if one is not None), None), CALIBRATED)


def _others(mine: Path) -> list[Path]:
    marks = sorted(mine.parent.glob(f"*/{IDENTITY}"), key=lambda mark: mark.stat().st_mtime)
    return [mark.parent for mark in reversed(marks) if mark.parent != mine]


def _answers(path: Path, plan: Plan) -> pa.Table | None:
    """Return what the answers of a run folder took: those in parts, or of the journal where few are there.

    A run that was killed before its first part has all of them there.
    """
    rows = None
    with suppress(StoreError):  # a damaged part; a run sets it aside and says so
        rows = _rows(Parts(Folder(path).parts, plan.checked.layout.part))
    if rows is not None and len(rows) >= FEW:
        return rows
    journal = Folder(path).journal
    kept = _table(list(islice(latest_replies(journal, names(*latest(journal))), REPLIES)))
    return kept if rows is None or len(kept) > len(rows) else rows


def _table(replies: Sequence[Reply]) -> pa.Table:
    """Return replies that came to their end as a part would show them."""
    whole = [reply for reply in replies if reply.finish == "STOP"]
    return pa.table(
        {
            "_pack": pa.array([reply.rows for reply in whole], pa.int64()),
            "_output_tokens": pa.array([reply.usage.output for reply in whole], pa.int64()),
            "_thought_tokens": pa.array([reply.usage.thoughts for reply in whole], pa.int64()),
            "_latency_ms": pa.array([reply.seconds * 1_000 or None for reply in whole], pa.float64()),
        }
    )


def _of(rows: pa.Table | None, whose: str) -> Precedent:
    return Precedent(_took(rows, alone=True), _took(rows, alone=False), whose)


def _rows(parts: Parts) -> pa.Table:
    """Return what is needed of the rows that were asked for and answered."""
    tables = list(islice(_tables(parts), PARTS))
    return pa.concat_tables(tables) if tables else None


def _tables(parts: Parts) -> Iterator[pa.Table]:
    for table in parts.columns(COLUMNS):
        asked = pc.and_(pc.equal(table["_status"], "ok"), pc.not_equal(table["_source"], "cache"))
        yield table.filter(asked)


def _took(rows: pa.Table | None, *, alone: bool) -> Took | None:
    if rows is None:
        return None
    mine = rows.filter(pc.equal(rows["_pack"], 1) if alone else pc.greater(rows["_pack"], 1))
    if not len(mine):
        return None
    output = pc.add(mine["_output_tokens"], mine["_thought_tokens"])
    numbers: Mapping[str, float | None] = {
        "output": pc.mean(output).as_py(),
        "spread": pc.stddev(output).as_py(),
        "ms": pc.mean(mine["_latency_ms"]).as_py(),
    }
    ms, spread = numbers["ms"], numbers["spread"]
    return Took(
        rows=len(mine),
        output=numbers["output"] or 0.0,
        spread=0.0 if spread is None or math.isnan(spread) else spread,
        seconds=None if ms is None else ms / 1000,
    )
