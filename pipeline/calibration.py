"""Is packing safe for a job? The answers to one sample, asked in several ways, compared; the size to take.

What packing changes is told from what changes anyhow: one-row answers are asked for twice, with two seeds,
and their agreement with each other is the floor that answers out of packs are held against. A size is safe
when, with 95 % confidence, no field that decides agrees less than that by more than a tolerance.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pipeline.gold import is_known, is_right
from pipeline.intervals import Loss, Paired, Share, loss, rows_needed
from pipeline.shape import Choice, Group, Kind, Many, Named, Shape, Single

STABLE = 0.8  # a field that agrees less with itself, asked twice alone, cannot tell anything
STABLE_TEXT = 0.95  # free text counts from here on
NEAR = 0.05  # numbers agree within this share of the range that one-row answers have
SLACK = 0.05  # a smaller size is taken where it costs at most so much more a row
UNANSWERED = (
    "no row of the sample has an answer alone, so there is nothing to hold packs against: `rowmill run` with "
    "`--limit 10` shows why"
)
CHEAPEST = f"no safe pack costs less than a row alone by more than {SLACK:.0%}"
DEARER = "a row costs more in each safe pack than alone"

Column: TypeAlias = Sequence[object]  # a value for each row of the sample; None also where it has no answer


@dataclass(frozen=True, slots=True)
class Field:
    """What is compared: a field by its dotted path, and what its values are."""

    name: str
    shape: Shape

    @property
    def text(self) -> bool:
        """Whether its values hold free text."""
        return _has_text(self.shape)

    @property
    def number(self) -> bool:
        """Whether they are floating numbers."""
        return isinstance(self.shape, Single) and self.shape.kind is Kind.NUMBER


@dataclass(frozen=True, slots=True)
class Trial:
    """The sample as it was asked once: so many rows a request, in one of two orders.

    `answers` has for each field a value for each row of the sample, `ok` which rows have an answer. Tokens
    and USD are of all rows together.
    """

    size: int
    order: int
    ok: Sequence[bool]
    answers: Mapping[str, Column]
    requests: float
    prompt_tokens: int
    output_tokens: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One field: whether it decides, its floor, and by size the agreement with one-row answers and with gold.

    `gold` has size 1, too, and is empty where no gold is named. `losses` is the most that each size may
    have lost of either. `fallen` has the sizes at which right answers of a field were lost for sure, although
    it does not decide.
    """

    field: Field
    decides: bool
    floor: Share
    agreement: Mapping[int, Share]
    gold: Mapping[int, Share]
    losses: Mapping[int, float]
    fallen: Mapping[int, Loss]


@dataclass(frozen=True, slots=True)
class Size:
    """One size: what a row takes, and the share of rows that agree in every field that decides.

    `agreement` is with the one-row answers (at size 1: of these with each other), `orders` that of the two
    orders. `failed` is the share of rows without an answer, `loss` the most that any field may have lost.
    """

    rows: int
    requests: float
    prompt_tokens: float
    output_tokens: float
    cost_usd: float
    failed: float
    agreement: Share
    orders: Share
    loss: float
    safe: bool


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was found, and how many rows a request should have."""

    findings: Sequence[Finding]
    sizes: Sequence[Size]
    rows: int
    reason: str


def fields(shape: Group, path: str = "") -> list[Field]:
    """Return what of an answer can be compared, in its order; fields of inner models by dotted paths."""
    found: list[Field] = []
    for name, inner in shape.fields:
        if isinstance(inner, Group):
            found += fields(inner, f"{path}{name}.")
        else:
            found.append(Field(path + name, inner))
    return found


def calibrated(
    trials: Sequence[Trial],
    compared: Sequence[Field],
    *,
    gold: Mapping[str, Column],
    chosen: Sequence[str],
    tolerance: float,
) -> Calibration:
    """Compare trials, of which there are two with one row a request, and two of each other size.

    `gold` has the right values of some fields, `chosen` names the fields that decide (empty: those that are
    stable), `tolerance` is the share by which a field's agreement may fall.
    """
    findings = [_finding(one, trials, gold.get(one.name), chosen) for one in compared]
    sizes = [_size(rows, trials, findings, tolerance) for rows in sorted({one.size for one in trials})]
    rows, reason = _recommended(sizes, findings, tolerance) if any(trials[0].ok) else (1, UNANSWERED)
    return Calibration(findings, sizes, rows, reason)


def _has_text(shape: Shape) -> bool:
    match shape:
        case Single(kind=kind):
            return kind is Kind.TEXT
        case Choice():
            return False
        case Many(each=each) | Named(each=each):
            return _has_text(each)
        case Group(fields=inner):
            return any(_has_text(one) for _, one in inner)


def _finding(one: Field, trials: Sequence[Trial], gold: Column | None, chosen: Sequence[str]) -> Finding:
    first, again = _of_size(trials, 1)
    near = _nearness(one, first)
    asked = [row for row, ok in enumerate(first.ok) if ok]

    def alike(trial: Trial) -> list[bool]:
        said, now = first.answers[one.name], trial.answers[one.name]
        return [trial.ok[row] and _same(said[row], now[row], near) for row in asked]

    packed = _packed(trials)
    floor = alike(again)
    share = Share(sum(floor), len(floor))
    decides = one.name in chosen if chosen else share.value >= (STABLE_TEXT if one.text else STABLE)
    losses = {
        size: loss(_paired([(floor, alike(trial)) for trial in mine])).most for size, mine in packed.items()
    }
    right = _right(one, trials, gold)
    missed = {size: loss(_paired([(right[1][0], said) for said in right[size]])) for size in packed if right}
    return Finding(
        field=one,
        decides=decides,
        floor=share,
        agreement={size: _mean([alike(trial) for trial in mine]) for size, mine in packed.items()},
        gold={size: _mean(said) for size, said in right.items()},
        losses={size: max(most, missed[size].most if missed else most) for size, most in losses.items()},
        fallen={size: lost for size, lost in missed.items() if lost.least > 0 and not decides},
    )


def _right(one: Field, trials: Sequence[Trial], gold: Column | None) -> dict[int, list[list[bool]]]:
    """Tell by size, for each trial of it, which rows have the right answer, of those whose gold is known.

    At size 1 these are the answers with the seed of the packs, or the others where it has none: gold that was
    made of the first ones would else call worse what only another seed has changed. Empty without gold.
    """
    known = [(row, right) for row, right in enumerate(gold or ()) if is_known(one.shape, right)]
    if not known:
        return {}
    first, again = _of_size(trials, 1)

    def right(trial: Trial, else_: Trial | None = None) -> list[bool]:
        from_ = [trial if else_ is None or trial.ok[row] else else_ for row, _ in known]
        return [
            said.ok[row] and is_right(one.shape, said.answers[one.name][row], value)
            for said, (row, value) in zip(from_, known, strict=True)
        ]

    packed = {size: [right(trial) for trial in mine] for size, mine in _packed(trials).items()}
    return {1: [right(again, first)]} | packed


def _size(rows: int, trials: Sequence[Trial], findings: Sequence[Finding], tolerance: float) -> Size:
    mine, base = _of_size(trials, rows), _of_size(trials, 1)
    count = len(base[0].ok)
    names = {one.field.name: _nearness(one.field, base[0]) for one in findings if one.decides}
    lost = 0.0 if rows == 1 else _lost(rows, findings)
    return Size(
        rows=rows,
        requests=sum(one.requests for one in mine) / len(mine) / max(1, count),
        prompt_tokens=sum(one.prompt_tokens for one in mine) / len(mine) / max(1, count),
        output_tokens=sum(one.output_tokens for one in mine) / len(mine) / max(1, count),
        cost_usd=sum(one.cost_usd for one in mine) / len(mine) / max(1, count),
        failed=sum(not ok for one in mine for ok in one.ok) / len(mine) / max(1, count),
        agreement=_mean([_all_agree(base[0], one, names) for one in (mine[1:] if rows == 1 else mine)]),
        orders=_mean([_all_agree(mine[0], mine[1], names)]),
        loss=lost,
        safe=rows == 1 or lost <= tolerance,
    )


def _lost(rows: int, findings: Sequence[Finding]) -> float:
    """Return the most that a size may have lost in a field that decides, or in one that gold calls worse."""
    deciding = [one.losses[rows] for one in findings if one.decides]
    fallen = [one.fallen[rows].most for one in findings if rows in one.fallen]
    return max(deciding + fallen) if deciding else 1.0


def _recommended(sizes: Sequence[Size], findings: Sequence[Finding], tolerance: float) -> tuple[int, str]:
    """Return the cheapest size up to which all are safe, or a smaller one that costs hardly more."""
    deciding = [one for one in findings if one.decides]
    if not deciding:
        return 1, (
            f"no field agrees with itself in {STABLE:.0%} of the rows when it is asked twice alone, so there "
            "is nothing to hold packs against: name fields with `--fields`"
        )
    if len(sizes) == 1:
        return (
            1,
            "no larger size was tried: the sample has too few prompts, or `--sizes` names none",
        )
    safe: list[Size] = []
    unsafe = None
    for size in sizes:
        if not size.safe:
            unsafe = size
            break
        safe.append(size)
    cheapest = min(one.cost_usd for one in safe)
    fitting = [one for one in safe if one.cost_usd <= cheapest * (1 + SLACK)]
    best = fitting[0] if cheapest else fitting[-1]  # where tokens cost nothing, requests are what is scarce
    limit = "" if unsafe is None else _limit(unsafe, findings, _few(deciding, tolerance))
    return best.rows, _reason(best, safe, limit)


def _few(deciding: Sequence[Finding], tolerance: float) -> int:
    """Return how many rows are needed at least, where the sample has fewer; 0 where it has enough."""
    needed = rows_needed(tolerance)
    return needed if min(one.floor.rows for one in deciding) < needed else 0


def _limit(unsafe: Size, findings: Sequence[Finding], needed: int) -> str:
    """Say why a size is not safe; `needed` rows would show more, where it is not 0."""
    rows = unsafe.rows
    for one in findings:
        if rows in one.fallen and one.fallen[rows].most == unsafe.loss:
            least, most = one.fallen[rows].least, one.fallen[rows].most
            lost = f"between {least:.1%} and {most:.1%} of its right answers"
            return f"at {rows} `{one.field.name}`, which does not decide, has lost {lost}, as [gold] has them"
    words = f"at {rows} a field may have lost {unsafe.loss:.1%} of its agreement"
    return words + (
        f" (the sample is small: {needed} rows are the least that can show less)" if needed else ""
    )


def _reason(best: Size, safe: Sequence[Size], limit: str) -> str:
    alone, *packed = safe
    if best.rows == 1:
        dear = DEARER if all(one.cost_usd > alone.cost_usd for one in packed) else CHEAPEST
        return "; ".join(([dear] if packed else []) + ([limit] if limit else []))
    saved = (
        f"; a row costs {best.cost_usd / alone.cost_usd:.0%} of what it costs alone" if alone.cost_usd else ""
    )
    lost = f"no field that decides has lost more than {max(0.0, best.loss):.1%} (95 % confidence){saved}"
    return f"{lost}; {limit}" if limit else lost


def _of_size(trials: Sequence[Trial], size: int) -> list[Trial]:
    return sorted((one for one in trials if one.size == size), key=lambda one: one.order)


def _packed(trials: Sequence[Trial]) -> dict[int, list[Trial]]:
    """Return the trials of each size above one row."""
    return {size: _of_size(trials, size) for size in sorted({one.size for one in trials}) if size > 1}


def _mean(trials: Sequence[Sequence[bool]]) -> Share:
    """Return the mean over trials of the same rows, each of which counts once."""
    return Share(sum(map(sum, trials)) / len(trials), len(trials[0]))


def _paired(trials: Sequence[tuple[Sequence[bool], Sequence[bool]]]) -> Paired:
    """Count pairs of the same rows before and after, as a mean over trials."""
    pairs = [pair for before, after in trials for pair in zip(before, after, strict=True)]
    share = 1 / len(trials)
    return Paired(
        *(share * pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False)))
    )


def _nearness(one: Field, base: Trial) -> float:
    """Return by how much two numbers of a field may differ and still agree; 0 for what is no number."""
    numbers = [value for value in base.answers[one.name] if isinstance(value, float) and math.isfinite(value)]
    return NEAR * (max(numbers) - min(numbers)) if one.number and numbers else 0.0


def _all_agree(base: Trial, other: Trial, names: Mapping[str, float]) -> list[bool]:
    """Tell for each row that the base has an answer for whether all of these fields agree."""
    return [
        other.ok[row]
        and all(
            _same(base.answers[name][row], other.answers[name][row], near) for name, near in names.items()
        )
        for row, had in enumerate(base.ok)
        if had
    ]


def _same(mine: object, theirs: object, near: float) -> bool:
    if mine == theirs:
        return True
    if near and isinstance(mine, float) and isinstance(theirs, float):
        return abs(mine - theirs) <= near
    return False
