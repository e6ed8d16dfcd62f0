"""Which prompts of an input will be sent: of rows with the same prompt the first, and a sample of them.

Works on any number of rows: what is kept of each is a byte, the rest lies in temporary files.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.executors.packed import REACH
from pipeline.heads import BUCKETS, Heads, bucket_of
from pipeline.input.source import Source
from pipeline.input.survey import Survey
from pipeline.scratch import SLICE, Buckets
from pipeline.store.standing import Standing
from pipeline.template import Template

SEED = 20_261_128  # of the sample, so that the same state gives the same estimate
_PLACED = np.dtype([("digest", "<u8"), ("row", "<i8")])

Mask = NDArray[np.bool_]


def asked_rows(survey: Survey, standing: Standing, pending: Mask, known: Heads, *, again: bool) -> Mask:
    """Return which rows will be sent: of pending ones with equal prompts the first, unless it is answered.

    `known` are the heads of digests that have a reply already. A row that has an answer in the parts lends it
    to its equals, unless rows are asked `again` in a round of `--retry-failed`.
    """
    open_, done = _by_digest(survey, pending), Buckets(np.dtype([("digest", "<u8")]), BUCKETS)
    for start, names in survey.names.slices() if not again else ():
        stand = standing.rows.read(start, start + len(names))
        wanted = pending[start : start + len(names)]
        lent = names[["digest"]][(stand["place"] >= 0) & stand["ok"] & ~wanted].astype(done.kind)
        done.add(lent, bucket_of(lent["digest"]))
    asked = np.zeros(len(pending), np.bool_)
    for number in range(BUCKETS):
        rows = open_.read(number)
        digests, first = np.unique(rows["digest"], return_index=True)
        lent = done.read(number)["digest"]
        asked[rows["row"][first[~(np.isin(digests, lent) | np.isin(digests, known))]]] = True
    return asked


def first_rows(survey: Survey) -> Mask:
    """Return which rows will be sent where nothing is known: of rows with equal prompts the first."""
    placed, firsts = _by_digest(survey, np.ones(survey.rows, np.bool_)), np.zeros(survey.rows, np.bool_)
    for number in range(BUCKETS):
        rows = placed.read(number)
        firsts[rows["row"][np.unique(rows["digest"], return_index=True)[1]]] = True
    return firsts


def _by_digest(survey: Survey, wanted: Mask) -> Buckets:
    """Return the rows in a mask by the digests of their prompts' cells, in their order."""
    found = Buckets(_PLACED, BUCKETS)
    for start, names in survey.names.slices():
        here = wanted[start : start + len(names)]
        rows = np.empty(int(here.sum()), _PLACED)
        rows["digest"], rows["row"] = names["digest"][here], start + np.flatnonzero(here)
        found.add(rows, bucket_of(rows["digest"]))
    return found


def group_sizes(pending: Mask, asked: Mask, group: int) -> Counter[int]:
    """Count the requests that share `group` prompts at most, by how many prompts each has.

    As a run makes them online: it goes through the pending rows in their order, past those of which nothing
    is to be asked, as far as a pack reaches.
    """
    sizes: Counter[int] = Counter()
    if group == 1:
        return +Counter({1: int((asked & pending).sum())})
    rest, passed = np.zeros(0, np.int64), 0
    for start in range(0, len(pending), SLICE):
        sent = asked[start : start + SLICE][pending[start : start + SLICE]]
        places = np.concatenate([rest, passed + np.flatnonzero(sent)])
        passed += len(sent)
        rest = _counted(sizes, places, group, passed - REACH * group)
    _counted(sizes, rest, group, passed)
    return sizes


def _counted(sizes: Counter[int], places: NDArray[np.int64], group: int, until: int) -> NDArray[np.int64]:
    """Count the packs that begin before `until`, by the places of their prompts; return what is left."""
    ends = np.minimum(np.searchsorted(places, places + REACH * group), np.arange(len(places)) + group)
    at = 0
    while at < len(places) and places[at] < until:
        sizes[int(ends[at] - at)] += 1
        at = int(ends[at])
    return places[at:]


def groups_of(prompts: int, group: int) -> Counter[int]:
    """Count groups as a run makes them in batches, where only the last one may be smaller."""
    whole, rest = divmod(prompts, group)
    sizes = Counter({group: whole})
    sizes[rest] += rest > 0
    return +sizes


def sampled(mask: Mask, size: int, seed: int = SEED) -> Mask:
    """Return `size` of the rows in a mask, drawn at random, or all where there are no more."""
    count = int(mask.sum())
    if count <= size:
        return mask
    drawn = np.sort(np.random.default_rng(seed).choice(count, size, replace=False, shuffle=False))
    chosen = np.zeros(len(mask), np.bool_)
    chosen[rows_at(mask, drawn)] = True
    return chosen


def rows_at(mask: Mask, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of those rows in a mask that stand at these places among them, both in order."""
    found, passed = [np.empty(0, np.int64)], 0
    for start in range(0, len(mask), SLICE):
        here = np.flatnonzero(mask[start : start + SLICE])
        low, high = np.searchsorted(places, [passed, passed + len(here)])
        found.append(start + here[places[low:high] - passed])
        passed += len(here)
    return np.concatenate(found)


def thinned(mask: Mask, count: int) -> Mask:
    """Return the mask without `count` of its rows, drawn at random."""
    return mask & ~sampled(mask, count, SEED + 1)


def texts_of(source: Source, template: Template, chosen: Mask) -> list[str]:
    """Render the chosen rows, in an order of chance; rows that cannot be rendered are left out."""
    texts = [text for text in _rendered(source, template, chosen) if text.strip()]
    order: Sequence[int] = np.random.default_rng(SEED).permutation(len(texts)).tolist()
    return [texts[place] for place in order]


def _rendered(source: Source, template: Template, chosen: Mask) -> Iterator[str]:
    for rows in source.rows(chosen):
        for row in rows:
            text = template.render(row.values)
            if isinstance(text, str):
                yield text
