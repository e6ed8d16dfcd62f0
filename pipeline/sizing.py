"""How many input tokens a job's requests have, by a sample of its prompts.

The API counts some of them; how it counts is learned from these and applied to all of the sample. Where
nobody counts, tokens are estimated from the characters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from statistics import fmean, pstdev
from typing import Any, TypeAlias

from pipeline.answer import example
from pipeline.estimate import Sizes
from pipeline.flow import Failure
from pipeline.gemini.counting import Counted
from pipeline.packing import packed, packed_system
from pipeline.tokens import DOUBT, TokenEstimate

COUNTED = 100  # prompts that the API counts
TOGETHER = 20  # of them in a pack that it counts
TAGS, ECHO = 12.0, 8.0  # tokens around a prompt in a pack, and of an id in the answer: while uncounted
DEVIATIONS = 2.0  # standard errors: 19 of 20 estimates are nearer
LEAST_DOUBT = 0.01  # of what was counted

Count: TypeAlias = Callable[[Sequence[Sequence[str]]], Counted | Failure]
"""Return the tokens of each request, given as its texts, or why they cannot be counted."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Sizes of requests; output tokens of an answer made up by the schema, and what an id adds to it.

    `counted` prompts were counted by the API; `why` says what kept it from that where it is 0.
    """

    sizes: Sizes
    example: float
    echo: float
    counted: int
    why: str
    emulated: bool = False  # it was the emulator


def measured(
    texts: Sequence[str], system: str, schema: Mapping[str, Any], count: Count | str, *, complete: bool
) -> Measured:
    """Measure prompts, in an order of chance; `complete` says that there are no others.

    `count` counts tokens, or says why nobody does. `schema` is that of one answer.
    """
    if isinstance(count, str):
        return _guessed(texts, system, schema, count)
    drawn = list(texts[:COUNTED])
    packs = [drawn[start : start + TOGETHER] for start in range(0, len(drawn), TOGETHER)]
    told, made = packed_system(system, schema), example(schema)
    requests = [
        [system],
        [told],
        [made],
        [_echoed(made)],
        *([system, text] for text in drawn),
        *([told, packed(pack).text] for pack in packs),
    ]
    counts = count(requests)
    if isinstance(counts, Failure):
        return _guessed(texts, system, schema, counts.message)
    fixed, fixed_packed, answer, answers, *rest = counts.tokens
    rows = [max(1, whole - fixed) for whole in rest[: len(drawn)]]
    wrapped = sum(rest[len(drawn) :]) - len(packs) * fixed_packed
    sizes, error = _fitted(texts, drawn, rows, complete=complete)
    return Measured(
        Sizes(
            fixed=fixed,
            fixed_packed=fixed_packed,
            tags=max(0.0, (wrapped - sum(rows)) / len(rows)) if rows else TAGS,
            rows=sizes,
            error=error,
            doubt=LEAST_DOUBT,
        ),
        example=answer,
        echo=max(0.0, answers / TOGETHER - answer),
        counted=len(drawn),
        why="",
        emulated=counts.emulated,
    )


def _fitted(
    texts: Sequence[str], drawn: Sequence[str], counts: Sequence[int], *, complete: bool
) -> tuple[list[float], float]:
    """Return the sizes of all texts by those of the drawn ones, and by which share their mean may be off."""
    if not drawn:
        return [], 0.0
    rule = TokenEstimate("")
    for text, counted in zip(drawn, counts, strict=True):
        rule.learn(text, counted)
    fitted = [rule.tokens(text) for text in drawn]
    ratio = sum(counts) / sum(fitted)
    others = [rule.tokens(text) * ratio for text in texts[len(drawn) :]]
    sizes = [*map(float, counts), *others]
    misses = [counted - ratio * guess for counted, guess in zip(counts, fitted, strict=True)]
    mean = fmean(sizes)
    by_rule = pstdev(misses) / mean / sqrt(len(drawn)) if others else 0.0
    by_chance = 0.0 if complete else pstdev(sizes) / mean / sqrt(len(sizes))
    return sizes, DEVIATIONS * hypot(by_rule, by_chance)


def _guessed(texts: Sequence[str], system: str, schema: Mapping[str, Any], why: str) -> Measured:
    rule = TokenEstimate("")
    sizes = Sizes(
        fixed=rule.tokens(system) if system else 0.0,
        fixed_packed=rule.tokens(packed_system(system, schema)),
        tags=TAGS,
        rows=[float(rule.tokens(text)) for text in texts],
        error=0.0,
        doubt=DOUBT,
    )
    return Measured(sizes, example=rule.tokens(example(schema)), echo=ECHO, counted=0, why=why)


def _echoed(made: str) -> str:
    """Return the answer of a pack in which every row is answered alike."""
    element = made.replace("{", '{"id": "k3x", ', 1)
    return f"[{', '.join([element] * TOGETHER)}]"
