"""One trial of a calibration: its plan, a run below the job's run folder, and its table read back."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.arrow import BOOKKEEPING
from pipeline.calibration import Field, Trial
from pipeline.disk import make_folder, whole_file
from pipeline.errors import StoreError
from pipeline.flow import Usage
from pipeline.keys import SIZE, digest, digests
from pipeline.models import Price
from pipeline.plan import Plan, make_plan
from pipeline.rates import cost_usd
from pipeline.sections import InputSection, OutputSection
from pipeline.store.advice import HINT, trial_name, trials
from pipeline.store.completion import completion

ORDERS = (0, 1)  # as in the input, and shuffled


@dataclass(frozen=True, slots=True)
class Arm:
    """One trial before it is run: its plan, and which row of the sample stands at which place."""

    size: int
    order: int
    plan: Plan
    places: Sequence[int]

    @property
    def done(self) -> bool:
        """Whether it was run to its end, by this command or an earlier one."""
        return completion(self.plan.folder) is not None

    @property
    def requests(self) -> int:
        """How many requests it takes at least, were it asked from the start."""
        return full_packs(len(self.places), self.size)

    @property
    def name(self) -> str:
        """What people call it."""
        if self.size == 1:
            return "each row alone again, with another seed" if self.order else "each row alone"
        return f"{self.size} in a request, {'shuffled' if self.order else 'in order'}"


def full_packs(rows: int, size: int) -> int:
    """Return how many requests rows take of which each has so many, but for the last one."""
    return ceil(rows / size)


def arms(plan: Plan, frame: pl.DataFrame, sizes: Sequence[int], seed: int) -> Iterator[Arm]:
    """Write the sample in both orders and yield every trial of it; the same sample has the same folder."""
    content = digest(
        [seed, *frame.columns, b"".join(digests([frame[name].to_list() for name in frame.columns]))]
    )
    folder = trials(plan.folder) / f"{frame.height}-{content.hex()[:SIZE]}"
    shuffled = list(range(frame.height))
    random.Random(seed).shuffle(shuffled)  # noqa: S311
    orders = [list(range(frame.height)), shuffled]
    for order in ORDERS:
        _write(frame[orders[order]], folder / f"order-{order}.parquet")
    for size in sizes:
        for order in ORDERS:
            yield Arm(size, order, _plan(plan, folder, size, order), orders[order])


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

    All but the first are sent another seed than the job's: so what packs are held against the first one-row
    answers for differs from these by no less than the second ones do, where a seed alone changes answers.
    """
    checked, name = plan.checked, trial_name(size, order)
    job, settings = checked.loaded.job, checked.settings
    if size > 1 or order:
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


def trial(arm: Arm, compared: Sequence[Field], price: Price | None) -> Trial:
    """Read a trial's table back, in the order of the sample, at this price whatever it was billed."""
    frame = pl.read_parquet(arm.plan.output)
    took = frame[frame.columns[-len(BOOKKEEPING.names) :]]
    took.columns = BOOKKEEPING.names
    prefix = arm.plan.checked.loaded.job.output.prefix
    order = np.argsort(np.asarray(arm.places, np.int64))
    usage = _usage(took)
    return Trial(
        size=arm.size,
        order=arm.order,
        ok=(took["_status"] == "ok")[order].to_list(),
        answers={one.name: _values(frame, prefix, one.name, order) for one in compared},
        requests=_requests(took, arm.size),
        prompt_tokens=usage.prompt,
        output_tokens=usage.output + usage.thoughts,
        cost_usd=0.0 if price is None else cost_usd(usage, price),
    )


def _usage(took: pl.DataFrame) -> Usage:
    """Return the tokens of all rows together."""
    names = ("prompt", "cached", "thoughts", "output", "total")
    columns = ("_prompt_tokens", "_cached_tokens", "_thought_tokens", "_output_tokens", "_total_tokens")
    return Usage(**{name: int(took[column].sum()) for name, column in zip(names, columns, strict=True)})


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
