"""A sample of a job's rows asked at several pack sizes and in two orders, and what is to be learned from it.

Each trial is a run of its own, in a folder below the run folder of the job's identity, so that quota,
journal, costs and resume are those of any run: the same command goes on where it stopped, and finished trials
cost nothing.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from math import ceil, lcm
from typing import Any, Final

import numpy as np
import polars as pl

from pipeline.asking import Service, Watch
from pipeline.auto import kept_words
from pipeline.calibration import Calibration, Column, Field, calibrated, fields
from pipeline.errors import InputError, JobError, UsageError
from pipeline.gemini.lines import TIER as BATCH
from pipeline.gold import form, is_known, is_possible
from pipeline.input.source import Source
from pipeline.intervals import Share
from pipeline.plan import Plan
from pipeline.progress import many, span
from pipeline.prompts import first_rows, rows_at
from pipeline.report import Stop
from pipeline.run import run_job
from pipeline.schema import one_line
from pipeline.schema_file import nearest
from pipeline.sections import MOST_ROWS
from pipeline.shape import shape_of
from pipeline.store.advice import Advice, keep_advice
from pipeline.store.folder import owned
from pipeline.tiers import STANDARD
from pipeline.trial import Arm, arms, full_packs, trial

FREE: Final = "free"
SIZES = (1, 5, 10, 20, 50)
LONGEST = 40  # letters of a cell that a message shows
SHORT = 0.05  # by which a last request that is not full may raise what a row takes, without a word
LAST = (
    "with {rows} the last request of {size} has only {rest}, so a row seems to take more there than it will"
)
ODD = (
    "{count} of {known} known values of the column `{column}` can be no answer of `{field}` and count as "
    "wrong, such as {shown}"
)
FEWER = "the sample was to have {wanted} rows, but the input has only {prompts}, each of which counts once"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Told:
    """What a calibration is to do: rows of the sample, sizes besides one row, the seed of its draws.

    `chosen` names the fields that decide, or none; `tolerance` is the share by which agreement may fall.
    `replace` takes the result although a better one is there.
    """

    sample: int = 200
    sizes: tuple[int, ...] = SIZES
    seed: int = 0
    chosen: tuple[str, ...] = ()
    tolerance: float = 0.05
    replace: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """How a calibration ended: with what it found, or at a stop; requests, USD, seconds are of this command.

    `price` names what all sizes are compared at: a service tier, `batch`, or `free` where nothing costs.
    `done` names the finished trials of all, in order, `to_go` counts the requests of the others. `better`
    says why an earlier result is kept instead of this one.
    """

    job: str
    sample: int
    price: str
    trials: int
    calibration: Calibration | None = None
    stop: Stop | None = None
    requests: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    done: list[str] = field(default_factory=list)
    to_go: int = 0
    better: str = ""
    notes: list[str] = field(default_factory=list)


def calibrate(plan: Plan, service: Service, told: Told, *, watch: Watch, say: Say) -> Ended:
    """Ask for a sample in every way that is wanted, and keep what is found for `packing.rows = "auto"`.

    `say` is told beforehand how many requests it takes. Raises as `run_job` does, JobError or UsageError for
    fields and columns that there are not, and InputError for an input without rows.
    """
    compared = fields(shape_of(plan.checked.loaded.schema))
    _check(plan, told, compared)
    today, (frame, there) = datetime.now(UTC).date(), _sample(plan.source, told)
    gold = {name: frame[column].to_list() for name, column in plan.checked.loaded.job.gold.items()}
    odd = _odd(plan, compared, gold)
    with owned(plan.folder, plan.identity):
        sizes = tried(told, frame.height)
        planned = list(arms(plan, frame, sizes, told.seed))
        short = _short(frame.height, sizes, there)
        say(_announced(frame.height, sizes, planned, plan))
        if frame.height < told.sample:
            say(FEWER.format(wanted=f"{told.sample:,}", prompts=many(there, "different prompt")))
        for note in [*([short] if short else []), *odd] if _to_go(planned) else []:
            say(note)
        price = _priced_as(plan, today, free=service.free)
        ended = _run(
            planned,
            plan,
            service,
            Ended(plan.checked.loaded.job.name, frame.height, price, len(planned)),
            watch=watch,
            say=say,
        )
        if ended.stop is not None:
            return ended
        each = None if service.free else plan.checked.model.price(today, price)
        found = calibrated(
            [trial(arm, compared, each) for arm in planned],
            compared,
            gold=gold,
            chosen=told.chosen,
            tolerance=told.tolerance,
        )
        result = _advice(plan, found, ended, told)
        better = "" if told.replace or plan.advice is None else _better(plan.advice, result)
        if not better:
            keep_advice(plan.folder, result)
    words = kept_words(plan.advice, better) if better and plan.advice is not None else ""
    notes = [*ended.notes, *([short] if short else []), *odd]
    return replace(ended, calibration=found, better=words, notes=notes)


def tried(told: Told, rows: int) -> list[int]:
    """Return the sizes at which so many rows are asked: those wanted that they fill, and one row."""
    return sorted({1, *(size for size in told.sizes if size <= rows)})


def _advice(plan: Plan, found: Calibration, ended: Ended, told: Told) -> Advice:
    return Advice(
        fingerprint=plan.fingerprint,
        rows=found.rows,
        reason=found.reason,
        at=datetime.now(UTC),
        sample=ended.sample,
        sizes=tuple(size.rows for size in found.sizes),
        found=as_json(found) | {"seed": told.seed, "tolerance": told.tolerance, "price": ended.price},
    )


def _better(kept: Advice, new: Advice) -> str:
    """Say what makes an earlier result better than a new one; empty where the new one may replace it."""
    if kept.sample > new.sample:
        return "it has the larger sample"
    if kept.rows not in new.sizes or (max(kept.sizes, default=1) > 1 and max(new.sizes) == 1):
        return "it tried sizes that this one did not"
    return ""


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


def _odd(plan: Plan, compared: Sequence[Field], gold: Mapping[str, Column]) -> list[str]:
    """Say which columns of [gold] hold values that no answer can be; JobError for one with nothing else."""
    notes = []
    for one in compared:
        known = [right for right in gold.get(one.name, ()) if is_known(one.shape, right)]
        odd = [right for right in known if not is_possible(one.shape, right)]
        if not odd:
            continue
        column, shown = plan.checked.loaded.job.gold[one.name], f"`{one_line(str(odd[0]))[:LONGEST]}`"
        if len(odd) == len(known):
            raise JobError(
                f"no value of the column `{column}`, which [gold] names, can be an answer of the field "
                f"`{one.name}`: there is {shown}",
                f"write {form(one.shape)} there, name another column, or leave `{one.name}` out of [gold]",
            )
        notes.append(ODD.format(count=len(odd), known=len(known), column=column, field=one.name, shown=shown))
    return notes


def _sample(source: Source, told: Told) -> tuple[pl.DataFrame, int]:
    """Return rows drawn at random, the same ones for the same input and seed, and how many there are.

    Of rows with equal prompts, which share one answer, only the first counts: the others would add to the
    certainty without telling anything. Raises InputError where there are no rows.
    """
    firsts = first_rows(source.survey())
    count = int(firsts.sum())
    if not count:
        raise InputError("the input has no rows, so nothing can be tried", "name one that has with `--input`")
    drawn = random.Random(told.seed).sample(range(count), min(count, told.sample))  # noqa: S311 - no secret
    return source.sample(rows_at(firsts, np.sort(np.asarray(drawn, np.int64))).tolist()), count


def _short(rows: int, sizes: Sequence[int], there: int) -> str:
    """Say at which size a last request that is not full raises what rows take, and which sample has none."""
    size = max(sizes, key=lambda one: full_packs(rows, one) * one)
    if full_packs(rows, size) * size <= rows * (1 + SHORT):
        return ""
    words = LAST.format(rows=many(rows, "row"), size=size, rest=many(rows % size, "row"))
    whole = lcm(*sizes) if lcm(*sizes) <= 2 * rows else size
    full = full_packs(rows, whole) * whole
    full = full if full <= there else there // whole * whole
    return words + (f": `--sample {full}` has full ones" if full else "")


def _announced(rows: int, sizes: Sequence[int], planned: Sequence[Arm], plan: Plan) -> str:
    packs = ", ".join(str(size) for size in sizes if size > 1)
    words = f"{many(rows, 'row')}, each alone twice"
    words += f" and with {packs} in a request, in two orders" if packs else ""
    requests, limits = _to_go(planned), plan.checked.limits
    words += f": about {many(requests, 'request')} to go"
    words += "" if limits.rpd is None else f", of {limits.rpd:,} a day"
    least = requests / limits.rpm * 60 if limits.rpm else 0.0
    return f"{words}, {span(least)} at least with {limits.rpm:,} a minute" if least > 1 else words


def _run(
    planned: Sequence[Arm], plan: Plan, service: Service, ended: Ended, *, watch: Watch, say: Say
) -> Ended:
    """Run the trials one after the other until one stops; all together may spend `max_cost`."""
    heard: dict[str, list[str]] = {}
    for number, arm in enumerate(planned, 1):
        if not arm.done:
            say(f"{number} of {len(planned)}: {arm.name}{_left(planned, plan, ended)}")
        report = run_job(arm.plan, replace(service, spent=ended.cost_usd), watch=watch)
        for note in report.notes:
            heard.setdefault(note, []).append(arm.name)
        ended = replace(
            ended,
            stop=report.stop,
            requests=ended.requests + report.requests,
            cost_usd=ended.cost_usd + report.cost_usd,
            seconds=ended.seconds + report.seconds,
            done=ended.done if report.stop else [*ended.done, arm.name],
            to_go=ceil(report.pending / arm.size),
            notes=by_trial(heard, number),
        )
        if report.stop is not None:
            later = planned[number:]
            return replace(
                ended,
                done=[*ended.done, *(one.name for one in later if one.done)],
                to_go=ended.to_go + _to_go(later),
            )
    return ended


def _to_go(planned: Sequence[Arm]) -> int:
    return sum(arm.requests for arm in planned if not arm.done)


def _left(planned: Sequence[Arm], plan: Plan, ended: Ended) -> str:
    """Say how long all trials that are left will take, by those that this command has run."""
    if not ended.requests or plan.checked.loaded.job.mode == "batch":  # whose wait says nothing of the next
        return ""
    seconds = ended.seconds / ended.requests * _to_go(planned)
    rpm = plan.checked.limits.rpm
    least = _to_go(planned) / rpm * 60 if rpm else 0.0
    return f"; about {span(max(1.0, seconds, least))} to go for all trials left"


def by_trial(heard: Mapping[str, Sequence[str]], trials: int) -> list[str]:
    """Return each note once, behind the names of its trials where not all of so many have said it."""
    return [
        note if len(names) >= trials else f"{' and '.join(names)}: {note}" for note, names in heard.items()
    ]


def _priced_as(plan: Plan, today: date, *, free: bool) -> str:
    """Return the service whose price holds for the job as it is asked now; standard where none is known."""
    if free:
        return FREE
    job = plan.checked.loaded.job
    asked = BATCH if job.mode == "batch" else job.model.service_tier
    return STANDARD if plan.checked.model.price(today, asked) is None else asked
