"""Keys: digests never change, never crash and never take two values for one."""

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.keys import digest, digests, encode, fingerprint, request_id

text = st.text(st.characters(codec=None))  # lone surrogates included
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    text,
    st.binary(),
    st.dates(),
    st.datetimes(),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
)
cells = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=6,
)


def written(value: object) -> object:
    """Return a value that differs wherever type or content differ, by other means than the encoding."""
    if isinstance(value, list):
        return [written(one) for one in value]
    if isinstance(value, dict):
        return {"names": sorted((repr(name), repr(written(cell))) for name, cell in value.items())}
    if isinstance(value, datetime | time):
        value = value.replace(fold=0)  # of no effect without a zone
    return (type(value).__name__, repr(value))


@given(st.lists(cells, max_size=3), st.lists(cells, max_size=3))
def test_encoding_is_injective(left: list[object], right: list[object]) -> None:
    """Two sequences have the same encoding exactly when they hold the same values of the same types."""
    assert (encode(left) == encode(right)) == (written(left) == written(right))


@given(st.lists(st.sampled_from(["", "a", "b", "ab", None, 0, False, b"a", [], ["a"]]), max_size=4))
def test_borders_between_values_count(values: list[object]) -> None:
    """Joining the first two values into a list changes the digest: no value bleeds into the next."""
    assert digest(values) != digest([values[:2], *values[2:]])
    assert digest(values) != digest([*values, None])


@given(
    st.lists(st.tuples(text, text | st.none(), st.integers(), cells), min_size=1, max_size=5),
    st.permutations(range(4)),
    st.integers(1, 4),
)
def test_a_table_has_the_digests_of_its_rows(
    rows: list[tuple[object, ...]], order: list[int], width: int
) -> None:
    """Column by column nothing comes out that row by row would not."""
    columns = [[row[n] for row in rows] for n in order[:width]]
    assert digests(columns) == [digest(row) for row in zip(*columns, strict=True)]


@given(st.lists(cells, max_size=3))
def test_digest_is_repeatable(values: list[object]) -> None:
    """The same values have the same 16 bytes each time."""
    assert digest(values) == digest(iter(values))
    assert len(digest(values)) == 16


def test_order_in_a_mapping_does_not_count() -> None:
    """A struct with its fields in another order is the same value."""
    assert digest([{"a": 1, "b": None}]) == digest([{"b": None, "a": 1}])


def test_all_nans_are_one_value() -> None:
    """Not-a-number equals itself here: a key must not depend on its bits."""
    assert digest([float("nan")]) == digest([-float("nan")])


def test_an_enum_of_strings_counts_as_text() -> None:
    """A subclass is encoded as the type it extends."""

    class Colour(StrEnum):
        RED = "red"

    assert digest([Colour.RED]) == digest(["red"])


def test_an_unknown_type_is_refused() -> None:
    """An object that cannot be in a table has no digest."""
    with pytest.raises(TypeError, match="object has no digest"):
        digest([object()])


GOLDEN: list[tuple[list[object], str]] = [
    ([], "cae66941d9efbd404e4d88758ea67670"),
    (["007", "caf\u00e9"], "5add8d71a0c28fa7c167b93ed8d6c809"),
    (["\ud800"], "0e23dcb38e0106e999be6cc40fb73890"),
    ([None, True, -1, 2**70, 1.5, b"\x00"], "d0d091d7e53ab77c9d6ef3da79750207"),
    (
        [date(2026, 11, 22), datetime(2026, 11, 22, 1, 2, 3), time(4, 5), timedelta(-1, 2, 3)],
        "a73696eb64b837ff5087456bf36177ba",
    ),
    (
        [datetime(2026, 11, 22, tzinfo=UTC), datetime(2026, 11, 22, tzinfo=timezone(timedelta(hours=1)))],
        "4e5867d4785af002d5dbbfb4e5b77a49",
    ),
    ([Decimal("1.10"), ["a", [None]], {"b": 1, "a": [2.0]}], "f2e9bf271c9234987adb2deda0bcd394"),
]


@pytest.mark.parametrize(("values", "expected"), GOLDEN)
def test_digests_never_change(values: list[object], expected: str) -> None:
    """Run folders of earlier versions stay valid: these digests are fixed for ever."""
    assert digest(values).hex() == expected


def test_fingerprint_never_changes() -> None:
    """A job's fingerprint is fixed for ever, whatever the order of its parts."""
    identity = {"model": "gemini-3.1-flash-lite", "schema": {"b": [1, None], "a": "\ud800é"}}
    expected = "2e1fa96f9d7e8b1e2a2022ed55f99315"
    assert fingerprint(identity) == expected
    assert fingerprint(dict(reversed(identity.items()))) == expected


@given(st.dictionaries(text, st.none() | st.booleans() | st.integers() | text, max_size=4))
def test_fingerprint_survives_json(identity: dict[str, object]) -> None:
    """An identity read back from JSON has the fingerprint that was written."""
    assert fingerprint(json.loads(json.dumps(identity))) == fingerprint(identity)


def test_request_ids_differ_in_every_part() -> None:
    """Each thing that changes the answer changes the id."""
    ids = {
        request_id("f", "text", None, 0),
        request_id("g", "text", None, 0),
        request_id("f", "texts", None, 0),
        request_id("f", "text", 0, 0),
        request_id("f", "text", None, 1),
        request_id("f", "text", None, 0, reply=1),
    }
    assert len(ids) == 6


def test_request_id_never_changes() -> None:
    """The journal of an earlier version is found again."""
    assert request_id("00ff", "Judge: \ud800", 100, 2, reply=1).hex() == "af5f0d197bedc35f85b4909805e6eba9"
