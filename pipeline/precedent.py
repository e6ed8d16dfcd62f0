"""What finished rows of a job took, to tell what the others will take."""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import StoreError
from pipeline.plan import Plan
from pipeline.store.folder import IDENTITY, Folder
from pipeline.store.parts import Parts

PARTS = 40  # that are read, 5,000 rows each where a run was not slow
COLUMNS = ["_status", "_source", "_pack", "_output_tokens", "_thought_tokens", "_latency_ms"]


@dataclass(frozen=True, slots=True)
class Took:
    """Output tokens (thoughts included) of an answer, their standard deviation, and seconds of a call."""

    rows: int
    output: float
    spread: float
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Precedent:
    """What answers took, alone and in packs, None where there is none; `own` says that they are this job's.

    Otherwise they were given to the same job with another prompt, schema or model.
    """

    alone: Took | None
    packed: Took | None
    own: bool


def precedent(plan: Plan) -> Precedent | None:
    """Read what the job's answers took so far, or those of its other identities, the newest first.

    None where there are none, or none that can be read: only an estimate depends on it.
    """
    others = [folder for folder in _others(plan.folder.path) if folder != plan.folder.path]
    for path in [plan.folder.path, *others]:
        with suppress(StoreError):  # a damaged part; a run sets it aside and says so
            rows = _rows(Parts(Folder(path).parts, plan.checked.layout.part))
            found = Precedent(_took(rows, alone=True), _took(rows, alone=False), path == plan.folder.path)
            if found.alone or found.packed:
                return found
    return None


def _others(path: Path) -> list[Path]:
    marks = sorted(path.parent.glob(f"*/{IDENTITY}"), key=lambda mark: mark.stat().st_mtime)
    return [mark.parent for mark in reversed(marks)]


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
