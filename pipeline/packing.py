"""Many rows in one request: which go together, what is sent for them, and whose answer is whose.

A pack's text holds each row's prompt between tags with a short id of its own, and each answer echoes that
id. What comes back is trusted by id only, never by position: an id that is missing, foreign, or answered
twice in different words leaves its row without an answer, and the others keep theirs.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from typing import Any
from zlib import crc32

from pydantic_core import PydanticSerializationError, to_json

from pipeline.fence import without
from pipeline.flow import Usage

INSTRUCTIONS = (
    "Each <r> holds one row. Answer each by itself, as if it were the only one: "
    "one element each, with its id in {name}."
)

TAG = "r"  # short, since it is paid for with each row
_LETTERS = "abcdefghjkmnpqrstuvwxyz"  # without those taken for each other, and digits, each a token
_ID_LENGTH = 3
_IDS = len(_LETTERS) ** _ID_LENGTH

_BETWEEN = re.compile(r"[\s,]*")


_TORN = object()  # which no JSON text holds, and none can be written of


def _object(pairs: list[tuple[str, Any]]) -> object:
    """Return an object; `_TORN` for one that names a key twice, since it may be two rows' answers in one."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else _TORN


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a pack may hold: rows, and the tokens of their prompts and of their answers."""

    rows: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Pack:
    """The text that is sent for several rows, and the id of each, in their order."""

    text: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What a pack's answer holds: for each row the JSON text of its answer, or None.

    `foreign` counts elements that no row was asked for, `doubled` rows that were answered twice in different
    words; `whole` says that the text was JSON to its end.
    """

    answers: tuple[str | None, ...]
    foreign: int
    doubled: int
    whole: bool


def packs(prompt_tokens: Sequence[int], output_tokens: int, budget: Budget) -> Iterator[range]:
    """Yield runs of consecutive rows that fit into one request each; what fits nowhere stands alone.

    `prompt_tokens` has one element for each row, `output_tokens` is that of one answer.
    """
    most = max(1, min(budget.rows, budget.output_tokens // max(1, output_tokens)))
    start, held = 0, 0
    for row, tokens in enumerate(prompt_tokens):
        if row > start and (row - start == most or held + tokens > budget.prompt_tokens):
            yield range(start, row)
            start, held = row, 0
        held += tokens
    if start < len(prompt_tokens):
        yield range(start, len(prompt_tokens))


def packed(texts: Sequence[str]) -> Pack:
    """Return the text of a pack; what looks like one of its tags inside a prompt is made harmless."""
    ids = tuple(_ids(texts))
    rows = [f'<{TAG} id="{id_}">{without(text, TAG)}</{TAG}>' for id_, text in zip(ids, texts, strict=True)]
    return Pack("".join(rows), ids)


def id_name(schema: Mapping[str, Any]) -> str:
    """Return a name for the echoed id that no field of the answer has."""
    taken = schema.get("properties", {})
    return next(name for name in ("id", "row_id", "key", "row", "rowId") if name not in taken)


def packed_schema(schema: Mapping[str, Any]) -> dict[str, object]:
    """Return the JSON schema of a pack's answer: an array of the row's schema with the id in front.

    It has no bounds on the number of elements, which the API's grammar would refuse as too many states.
    """
    name = id_name(schema)
    item = {
        **schema,
        "properties": {name: {"type": "string"}, **schema.get("properties", {})},
        "required": [name, *schema.get("required", [])],
    }
    return {"type": "array", "items": item}


def packed_system(system: str, schema: Mapping[str, Any]) -> str:
    """Return the system instruction of a pack: the job's own, and what is to be done with several rows."""
    return f"{system}\n\n{INSTRUCTIONS.format(name=id_name(schema))}".strip()


def unpacked(text: str, ids: Sequence[str], name: str) -> Unpacked:
    """Return the answer of each row of a pack; of a text that is cut, all elements before the cut.

    Where a text that is cut repeats itself, the element before the first repetition is not certain either: it
    may have begun as one row's and gone on as another's.
    """
    found: dict[str, str | None] = {}
    last, torn = "", None
    foreign = doubled = 0
    asked = set(ids)
    elements, whole = _elements(text)
    for element in elements:
        id_ = element.pop(name, None) if isinstance(element, dict) else None
        if not isinstance(id_, str) or id_ not in asked:
            foreign += 1
            continue
        if id_ in found and torn is None:
            torn = last
        last = id_
        answer = _written(element)
        if id_ in found and found[id_] != answer:
            doubled += found[id_] is not None
            found[id_] = None
        else:
            found[id_] = answer
    if torn is not None and not whole:
        found[torn] = None
    return Unpacked(tuple(found.get(id_) for id_ in ids), foreign, doubled, whole)


def shares(usage: Usage, prompts: Sequence[int], answers: Sequence[int]) -> list[Usage]:
    """Share out what a request took over its rows, by the lengths of their prompts and answers.

    The shares of each field add up to it exactly, and no row has more tokens of a kind than of what that
    kind is part of: so what the rows cost adds up to what the request did.
    """
    text, cached_text, audio, cached_audio = (split(kind, prompts) for kind in usage.kinds)
    output = split(usage.output, answers)
    thoughts = split(usage.thoughts, answers)
    cached = _sums(cached_text, cached_audio)
    prompt = _sums(text, audio, cached)
    total = split(usage.total, _sums(prompt, output, thoughts))
    sound = _sums(audio, cached_audio)
    return [
        Usage(*row) for row in zip(prompt, cached, thoughts, output, total, sound, cached_audio, strict=True)
    ]


def split(total: int, weights: Sequence[int]) -> list[int]:
    """Split a whole number by weights into numbers that add up to it; where all of them are 0, evenly."""
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    ends = [total * part // whole for part in accumulate(weights, initial=0)]
    return [end - start for start, end in pairwise(ends)]


def _ids(texts: Sequence[str]) -> Iterator[str]:
    """Yield ids that differ within the pack and say nothing of the order."""
    used: set[str] = set()
    for text in texts:
        number = crc32(text.encode("utf-8", "surrogatepass"))
        while (id_ := _letters(number % _IDS)) in used:
            number += 1
        used.add(id_)
        yield id_


@cache
def _letters(number: int) -> str:
    letters = []
    for _ in range(_ID_LENGTH):
        number, letter = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[letter])
    return "".join(letters)


def _elements(text: str) -> tuple[list[Any], bool]:
    """Return the elements of a JSON array up to where it is broken, and whether it is whole."""
    at = text.find("[") + 1
    found: list[Any] = []
    if not at:
        return found, False
    while (at := _BETWEEN.match(text, at).end()) < len(text):  # type: ignore[union-attr]  # it matches nothing, too
        if text[at] == "]":
            return found, True
        try:
            element, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):  # also integers of too many digits
            return found, False
        found.append(element)
    return found, False


def _written(element: dict[str, Any]) -> str | None:
    """Return the JSON text of an answer, short where it can be; half a surrogate pair stays an escape.

    None where it is nested so deeply that it could be read and cannot be written, or torn inside.
    """
    try:
        return to_json(element, inf_nan_mode="constants").decode()
    except PydanticSerializationError:
        with suppress(RecursionError, TypeError):
            return json.dumps(element)
    return None


def _sums(*columns: Sequence[int]) -> list[int]:
    return [sum(row) for row in zip(*columns, strict=True)]
