"""A sample of a job's rows asked at several pack sizes and in two orders, and what is to be learned from it.

Each trial is a run of its own, in a folder below the run folder of the job's identity, so that quota,
journal, costs and resume are those of any run: the same command goes on where it stopped, and finished trials
cost nothing.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.arrow import BOOKKEEPING
from pipeline.asking import Service, Watch
from pipeline.calibration import Calibration, Field, Share, Trial, calibrated, fields
from pipeline.disk import make_folder, whole_file
from pipeline.errors import InputError, JobError, StoreError, UsageError
from pipeline.input.source import Source
from pipeline.keys import SIZE, digest, digests
from pipeline.plan import Plan, make_plan
from pipeline.progress import many
from pipeline.prompts import first_rows, rows_at
from pipeline.report import RunReport, Stop
from pipeline.run import run_job
from pipeline.schema_file import nearest
from pipeline.sections import MOST_ROWS, InputSection, Job, OutputSection
from pipeline.shape import shape_of
from pipeline.store.advice import HINT, Advice, keep_advice, trials
from pipeline.store.completion import completion
from pipeline.store.folder import owned

SIZES = (1, 5, 10, 20, 50)
ORDERS = (0, 1)  # as in the input, and shuffled

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Told:
    """What a calibration is to do: rows of the sample, sizes besides one row, the seed of its draws.

    `chosen` names the fields that decide, or none; `tolerance` is the share by which agreement may fall.
    """

    sample: int = 200
    sizes: tuple[int, ...] = SIZES
    seed: int = 0
    chosen: tuple[str, ...] = ()
    tolerance: float = 0.05


@dataclass(frozen=True, slots=True)
class Ended:
    """How a calibration ended: with what it found, or at a stop. Requests and USD are of this command."""

    job: str
    sample: int
    calibration: Calibration | None
    stop: Stop | None
    requests: int
    cost_usd: float
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Way:
    """One trial before it is run: its plan, and which row of the sample stands at which place."""

    size: int
    order: int
    plan: Plan
    places: Sequence[int]


def calibrate(plan: Plan, service: Service, told: Told, *, watch: Watch, say: Say) -> Ended:
    """Ask for a sample in every way that is wanted, and keep what is found for `packing.rows = "auto"`.

    `say` is told beforehand how many requests it takes. Raises as `run_job` does, JobError or UsageError for
    fields and columns that there are not, and InputError for an input without rows.
    """
    compared = fields(shape_of(plan.checked.loaded.schema))
    _check(plan, told, compared)
    frame = _sample(plan.source, told)
    with owned(plan.folder, plan.identity):
        sizes = sorted({1, *(size for size in told.sizes if size <= frame.height)})
        ways = list(_ways(plan, told, frame, sizes))
        todo = sum(ceil(frame.height / way.size) for way in ways if completion(way.plan.folder) is None)
        say(_announced(frame.height, sizes, todo, plan))
        ended = _run(ways, plan, service, watch, say)
        if ended.stop is not None:
            return ended
        found = calibrated(
            [_trial(way, compared) for way in ways],
            compared,
            gold={name: frame[column].to_list() for name, column in plan.checked.loaded.job.gold.items()},
            chosen=told.chosen,
            tolerance=told.tolerance,
        )
        keep_advice(
            plan.folder,
            Advice(
                fingerprint=plan.fingerprint,
                rows=found.rows,
                reason=found.reason,
                at=datetime.now(UTC),
                found=as_json(found) | {"sample": frame.height, "seed": told.seed},
            ),
        )
    return replace(ended, calibration=found)


def as_json(found: Calibration) -> dict[str, Any]:
    """Return what was found as JSON values; `docs/reference.md` names the keys."""
    return {
        "rows": found.rows,
        "reason": found.reason,
        "sizes": [
            asdict(size)
            | {"cost_usd": round(size.cost_usd, 12)}
            | {"agreement": _share(size.agreement), "orders": _share(size.orders)}
            for size in found.sizes
        ],
        "fields": [
            {
                "field": one.field.name,
                "decides": one.decides,
                "floor": _share(one.floor),
                "agreement": {str(size): _share(share) for size, share in one.agreement.items()},
                "gold": {str(size): _share(share) for size, share in one.gold.items()},
            }
            for one in found.findings
        ],
    }


def _share(share: Share) -> dict[str, float]:
    low, high = share.interval
    return {"share": share.value, "low": low, "high": high, "rows": share.rows}


def _check(plan: Plan, told: Told, compared: Sequence[Field]) -> None:
    names = [field.name for field in compared]
    gold = plan.checked.loaded.job.gold
    for name in told.chosen:
        if name not in names:
            known = nearest(name, names) or "fields: " + ", ".join(f"`{one}`" for one in names)
            raise UsageError(f"the answer has no field `{name}`", known)
    for column in gold.values():
        if plan.checked.template.columns is not None and column in plan.checked.template.columns:
            raise JobError(
                f"the prompt shows the column `{column}`, which [gold] says is the right answer",
                "leave it out of the prompt, or out of [gold]",
            )
    if bad := [size for size in told.sizes if not 1 <= size <= MOST_ROWS]:
        raise UsageError(f"{bad[0]} rows cannot share a request", f"name sizes from 1 to {MOST_ROWS}")


def _sample(source: Source, told: Told) -> pl.DataFrame:
    """Return rows drawn at random, the same ones for the same input and seed.

    Of rows with equal prompts, which share one answer, only the first counts: the others would add to the
    certainty without telling anything. Raises InputError where there are no rows.
    """
    firsts = first_rows(source.survey())
    count = int(firsts.sum())
    if not count:
        raise InputError("the input has no rows, so nothing can be tried", "name one that has with `--input`")
    drawn = random.Random(told.seed).sample(range(count), min(count, told.sample))  # noqa: S311 - no secret
    return source.sample(rows_at(firsts, np.sort(np.asarray(drawn, np.int64))).tolist())


def _ways(plan: Plan, told: Told, frame: pl.DataFrame, sizes: Sequence[int]) -> Iterator[_Way]:
    """Write the sample in both orders and yield every trial of it; the same sample has the same folder."""
    content = digest(
        [told.seed, *frame.columns, b"".join(digests([frame[name].to_list() for name in frame.columns]))]
    )
    folder = trials(plan.folder) / f"{frame.height}-{content.hex()[:SIZE]}"
    shuffled = list(range(frame.height))
    random.Random(told.seed).shuffle(shuffled)  # noqa: S311
    orders = [list(range(frame.height)), shuffled]
    for order in ORDERS:
        _write(frame[orders[order]], folder / f"order-{order}.parquet")
    for size in sizes:
        for order in ORDERS:
            yield _Way(size, order, _plan(plan, folder, size, order), orders[order])


def _write(frame: pl.DataFrame, path: Path) -> None:
    if path.exists():
        return
    try:
        make_folder(path.parent)
        with whole_file(path) as draft:
            frame.write_parquet(draft)
    except OSError as exc:
        raise StoreError(f"`{path}` cannot be written: {exc.strerror}", HINT) from exc


def _plan(plan: Plan, folder: Path, size: int, order: int) -> Plan:
    """Return the plan of a trial: the job as it is, but for its rows and how many share a request.

    The second time that rows are asked alone another seed is sent, so that the floor is not too high.
    """
    checked, name = plan.checked, f"pack-{size}-order-{order}"
    job, settings = checked.loaded.job, checked.settings
    if size == 1 and order:
        settings = replace(settings, seed=settings.seed + 1)
    changed = {
        "input": InputSection(path=str(folder / f"order-{order}.parquet"), key=job.input.key),
        "packing": job.packing.model_copy(update={"rows": size}),
        "cache": job.cache.model_copy(update={"enabled": False}),  # each trial is to be answered anew
        "model": job.model.model_copy(update={"seed": settings.seed}),
        "output": OutputSection(path=str(folder / f"{name}.parquet"), prefix=job.output.prefix),
    }
    loaded = replace(checked.loaded, job=job.model_copy(update=changed))
    told = replace(checked, loaded=loaded, settings=settings)
    return make_plan(told, endpoint=str(plan.identity["endpoint"]), runs=folder / name, limit=None)


def _announced(rows: int, sizes: Sequence[int], requests: int, plan: Plan) -> str:
    each = ", ".join(map(str, sizes))
    limit = plan.checked.limits.rpd
    words = f"{many(rows, 'row')} at {each} in a request, each in two orders: "
    words += f"about {many(requests, 'request')} to go"
    return words if limit is None else f"{words}, of {limit:,} a day"


def _run(ways: Sequence[_Way], plan: Plan, service: Service, watch: Watch, say: Say) -> Ended:
    """Run the trials one after the other until one stops; each may spend what those before it have left."""
    most = plan.checked.loaded.job.limits.max_cost
    ended = Ended(plan.checked.loaded.job.name, len(ways[0].places), None, None, 0, 0.0, [])
    for number, way in enumerate(ways, 1):
        if completion(way.plan.folder) is None:
            say(
                f"{number} of {len(ways)}: {way.size} in a request, {'shuffled' if way.order else 'in order'}"
            )
        left = None if most is None else max(1e-12, most - ended.cost_usd)
        report = run_job(_limited(way.plan, left), service, watch=watch)
        ended = replace(
            ended,
            stop=report.stop,
            requests=ended.requests + report.requests,
            cost_usd=ended.cost_usd + report.cost_usd,
            notes=[*ended.notes, *_new(report, ended.notes)],
        )
        if report.stop is not None:
            break
    return ended


def _new(report: RunReport, known: Sequence[str]) -> list[str]:
    return [note for note in report.notes if note not in known]


def _limited(plan: Plan, max_cost: float | None) -> Plan:
    loaded = plan.checked.loaded
    job: Job = loaded.job.model_copy(
        update={"limits": loaded.job.limits.model_copy(update={"max_cost": max_cost})}
    )
    return replace(plan, checked=replace(plan.checked, loaded=replace(loaded, job=job)))


def _trial(way: _Way, compared: Sequence[Field]) -> Trial:
    """Read a trial's table back, in the order of the sample."""
    frame = pl.read_parquet(way.plan.output)
    took = frame[frame.columns[-len(BOOKKEEPING.names) :]]
    took.columns = BOOKKEEPING.names
    prefix = way.plan.checked.loaded.job.output.prefix
    order = np.argsort(np.asarray(way.places, np.int64))
    return Trial(
        size=way.size,
        order=way.order,
        ok=(took["_status"] == "ok")[order].to_list(),
        answers={one.name: _values(frame, prefix, one.name, order) for one in compared},
        requests=_requests(took, way.size),
        prompt_tokens=int(took["_prompt_tokens"].sum()),
        output_tokens=int((took["_output_tokens"] + took["_thought_tokens"]).sum()),
        cost_usd=float(took["_cost_usd"].sum()),
    )


def _values(frame: pl.DataFrame, prefix: str, path: str, order: Any) -> list[object]:
    name, *inner = path.split(".")
    column: list[object] = frame[prefix + name][order].to_list()
    for step in inner:
        column = [cell[step] if isinstance(cell, Mapping) else None for cell in column]
    return column


def _requests(took: pl.DataFrame, size: int) -> float:
    """Return how many requests the rows took: of each attempt the share of a row in its pack.

    Packs are halved with each attempt; the size of the last one is known.
    """
    total = 0.0
    for attempts, pack in took.select("_attempts", "_pack").iter_rows():
        before = sum(2**n / size for n in range(attempts - 1))
        total += (1 / pack if attempts else 0.0) + min(before, float(max(0, attempts - 1)))
    return total
