"""Typed columns: what answers become in a part and in the final table, and what other readers make of it."""

import io
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field, HttpUrl, create_model, field_validator

from pipeline.arrow import BOOKKEEPING, CATEGORY, KEYS, Layout
from pipeline.errors import OutputError
from pipeline.flow import Failure, FailureKind, Outcome, Spent, Usage
from pipeline.schema import validate

SPENT = Spent(Usage(100, 40, 7, 20, 127), 0.25, "gemini-3.1-flash-lite", 2, 450, "api")
NO = Failure(FailureKind.SAFETY, "the answer was\nwithheld")
LARGE = 2**60


class Colour(StrEnum):
    """An enum of text."""

    RED = "red"
    BLUE = "blue"


class Rank(IntEnum):
    """An enum of integers."""

    ONE = 1
    TWO = 2


class Part(BaseModel):
    """A model to nest."""

    size: int | None
    price: Annotated[Decimal, Field(decimal_places=2)]
    colour: Colour


class Label(BaseModel):
    """A small answer."""

    reason: str
    label: Literal["good", "bad"]
    score: float


GOOD = Label(reason="because", label="good", score=0.5)
PART = {"size": None, "price": Decimal("1.50"), "colour": "red"}
PART_TEXT = '{"size": null, "price": "1.5", "colour": "red"}'


def outcome(answer: BaseModel | Failure, spent: Spent = SPENT, number: int = 0) -> Outcome:
    """Return the end of a row."""
    return Outcome(bytes([number]) * 16, b"d" * 16, answer, spent)


def stored(table: pa.Table) -> pa.Table:
    """Return a table as Parquet gives it back."""
    file = io.BytesIO()
    pq.write_table(table, file)
    return pq.read_table(file)


def final(
    layout: Layout, answers: Sequence[BaseModel | Failure], columns: pa.Table | None = None
) -> pa.Table:
    """Return the final table of answers that went through a part."""
    part = stored(layout.table([outcome(answer) for answer in answers]))
    rows = pa.table({"id": list(range(len(answers)))}) if columns is None else columns
    return layout.finish(rows, part)


def one_field(kind: Any) -> type[BaseModel]:
    """Return a model with one field `x` of a type."""
    return create_model("Answer", x=(kind, ...))


def misfit(kind: Any, value: object) -> dict[str, Any]:
    """Return the part row of an answer with a value that no validator would let through."""
    model = one_field(kind)
    table = Layout(model).table([outcome(model.model_construct(x=value))])
    row: dict[str, Any] = table.to_pylist()[0]
    return row


def plain(cell: Any) -> object:
    """Return what pandas has as Python values; NaN and NaT are its nulls."""
    if isinstance(cell, pd.Series | np.ndarray):
        return [plain(one) for one in cell]
    if pd.api.types.is_scalar(cell) and pd.isna(cell):
        return None
    if isinstance(cell, pd.Timestamp):
        return cell.to_pydatetime()
    return cell.to_pytimedelta() if isinstance(cell, pd.Timedelta) else cell


TYPES = [
    (str, '"naïve\\n\\"“x”\\", 🙂"', pa.string(), 'naïve\n"“x”", 🙂'),
    (int, str(LARGE), pa.int64(), LARGE),
    (float, "0.1", pa.float64(), 0.1),
    (int | float, "3", pa.float64(), 3.0),
    (bool, "true", pa.bool_(), True),
    (Literal["x", "y"], '"y"', CATEGORY, "y"),
    (Colour, '"blue"', CATEGORY, "blue"),
    (Rank, "2", pa.int64(), 2),
    (date, '"2026-02-28"', pa.date32(), date(2026, 2, 28)),
    (datetime, '"2026-02-28T10:11:12.123456"', pa.timestamp("us"), datetime(2026, 2, 28, 10, 11, 12, 123456)),
    (datetime, '"2026-02-28T10:11:12+02:00"', pa.timestamp("us"), datetime(2026, 2, 28, 8, 11, 12)),
    (
        AwareDatetime,
        '"2026-02-28T10:11:12+02:00"',
        pa.timestamp("us", "UTC"),
        datetime(2026, 2, 28, 8, 11, 12, tzinfo=UTC),
    ),
    (time, '"10:11:12.5"', pa.time64("us"), time(10, 11, 12, 500_000)),
    (timedelta, '"P1DT2.5S"', pa.duration("us"), timedelta(days=1, seconds=2.5)),
    (Annotated[Decimal, Field(decimal_places=2)], '"1234.5"', pa.decimal128(38, 2), Decimal("1234.50")),
    (Decimal, '"0.1"', pa.decimal128(38, 9), Decimal("0.100000000")),
    (UUID, f'"{UUID(int=7)}"', pa.string(), str(UUID(int=7))),
    (HttpUrl, '"https://a.example/b"', pa.string(), "https://a.example/b"),
    (Path, '"a/b"', pa.string(), "a/b"),
    (list[int | None], "[1, null]", pa.list_(pa.int64()), [1, None]),
    (list[list[str] | None], '[["a"], [], null]', pa.list_(pa.list_(pa.string())), [["a"], [], None]),
    (list[Colour], '["red"]', pa.list_(pa.string()), ["red"]),
    (tuple[date, ...], '["2026-02-28"]', pa.list_(pa.date32()), [date(2026, 2, 28)]),
    (set[str], '["b", "a"]', pa.list_(pa.string()), ["a", "b"]),
    (
        dict[str, float | None],
        '{"b": 1, "a": null}',
        pa.map_(pa.string(), pa.float64()),
        {"b": 1.0, "a": None},
    ),
    (Part, PART_TEXT, None, PART),
    (list[Part], f"[{PART_TEXT}]", None, [PART]),
    (dict[str, Part], f'{{"k": {PART_TEXT}}}', None, {"k": PART}),
]


@pytest.mark.parametrize(("kind", "text", "type_", "expected"), TYPES, ids=str)
def test_a_type_is_read_by_everyone(
    kind: Any, text: str, type_: pa.DataType | None, expected: object, tmp_path: Path
) -> None:
    """The value, a null and a failed row come out of Parquet alike in pyarrow, Polars, DuckDB and pandas."""
    model = one_field(kind | None)
    answers = [validate(model, f'{{"x": {cell}}}') for cell in (text, "null")]
    path = tmp_path / "out.parquet"
    pq.write_table(final(Layout(model), [*answers, NO]), path)
    whole = [expected, None, None]
    pairs = [list(expected.items()), None, None] if isinstance(expected, dict) and kind is not Part else whole
    read = pq.read_table(path)
    assert type_ is None or read.schema.field("x").type == type_
    assert read["x"].to_pylist() == pairs
    assert pl.read_parquet(path)["x"].to_list() == whole
    found = duckdb.sql(f"SELECT x FROM '{path}' ORDER BY id").to_arrow_table()["x"].to_pylist()
    if kind is timedelta:  # a span is its microseconds there
        assert found == [86_402_500_000, None, None]
    else:
        assert found == pairs
    assert plain(pd.read_parquet(path)["x"]) == pairs


def test_a_part_has_keys_bookkeeping_and_one_struct() -> None:
    """A part is the same after Parquet, and its answers are null where there is none."""
    layout = Layout(Label, prefix="ai_")
    part = stored(layout.table([outcome(GOOD), outcome(NO)]))
    assert part.schema == layout.part
    assert part.schema.names == [*KEYS.names, *BOOKKEEPING.names, "answer"]
    assert part["answer"].to_pylist() == [{"reason": "because", "label": "good", "score": 0.5}, None]


def test_bookkeeping_is_of_all_rounds() -> None:
    """A row that was asked again in a later round has cost what both rounds did."""
    earlier = Spent(Usage(1, 2, 3, 4, 5), 0.5, "gemini-2.5-flash-lite", 3, 9, "emulator")
    row = Outcome(b"k" * 16, b"d" * 16, NO, SPENT, round=1, earlier=earlier)
    assert Layout(Label).table([row]).drop_columns("answer").to_pylist() == [
        {
            "_key": b"k" * 16,
            "_digest": b"d" * 16,
            "_round": 1,
            "_status": "failed",
            "_error_kind": "safety",
            "_error": "the answer was withheld",
            "_prompt_tokens": 101,
            "_cached_tokens": 42,
            "_thought_tokens": 10,
            "_output_tokens": 24,
            "_total_tokens": 132,
            "_cost_usd": 0.75,
            "_model": "gemini-3.1-flash-lite",
            "_attempts": 5,
            "_latency_ms": 450,
            "_source": "api",
            "_pack": 1,
        }
    ]


def test_a_good_row_has_no_error() -> None:
    """Its status is `ok`, its error null."""
    row = Layout(Label).table([outcome(GOOD)]).to_pylist()[0]
    assert (row["_status"], row["_error_kind"], row["_error"]) == ("ok", None, None)


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (int, 2**63, "x: does not fit a column of int64"),
        (int, 1.5, "x: does not fit a column of int64"),
        (float, "much", "x: does not fit a column of double"),
        (str, "\ud800", "x: does not fit a column of string"),
        (
            Annotated[Decimal, Field(decimal_places=2)],
            Decimal("0.001"),
            "`0.001` has more than 2 decimal places",
        ),
        (Decimal, Decimal("1e30"), "`1E+30` has more than 29 digits before the point"),
        (Decimal, Decimal("NaN"), "does not fit a column of decimal128(38, 9)"),
        (Decimal, Decimal("Infinity"), "does not fit a column of decimal128(38, 9)"),
        (datetime, datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), "timestamp[us]"),
        (AwareDatetime, datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), "timestamp[us, tz=UTC]"),
        (AwareDatetime, datetime(2026, 1, 1), "has no time zone"),
        (timedelta, timedelta.max, "x: does not fit a column of duration[us]"),
        (list[int], [1, 2**63], "x: does not fit a column of list<item: int64>"),
        (set[int], {1, "a"}, "x: does not fit a column of list<item: int64>"),
        (Part, {"size": 1}, "x: does not fit a column of struct<"),
    ],
    ids=str,
)
def test_a_value_that_does_not_fit_fails_its_row(kind: Any, value: object, words: str) -> None:
    """Such a row is `invalid`; what it took stays with it."""
    row = misfit(kind, value)
    assert (row["_status"], row["_error_kind"], row["answer"]) == ("failed", "invalid", None)
    assert words in row["_error"]
    assert (row["_prompt_tokens"], row["_cost_usd"], row["_attempts"]) == (100, 0.25, 2)


def test_only_the_rows_that_do_not_fit_fail() -> None:
    """The rows around them stay, in order, and the first field that does not fit is named."""
    model = create_model("Two", a=(int, ...), b=(int, ...))
    values = [(1, 1), (2**63, 1), (3, 2**63), (2**63, 2**63), (5, 5)]
    rows = [outcome(model.model_construct(a=a, b=b), number=n) for n, (a, b) in enumerate(values)]
    rows.insert(1, outcome(NO, number=9))
    table = Layout(model).table(rows)
    assert [key[0] for key in table["_key"].to_pylist()] == [0, 9, 1, 2, 3, 4]
    assert [text and text[:2] for text in table["_error"].to_pylist()] == [None, "th", "a:", "b:", "a:", None]
    assert [row and row["a"] for row in table["answer"].to_pylist()] == [1, None, None, None, None, 5]


def test_a_choice_knows_all_its_values_in_every_table() -> None:
    """The dictionary does not depend on the rows, so that row groups and runs agree."""
    for answers in ([GOOD], [NO], []):
        column = final(Layout(Label), answers)["label"]
        assert column.type == CATEGORY
        assert all(chunk.dictionary.to_pylist() == ["good", "bad"] for chunk in column.chunks)


def test_a_choice_that_a_validator_changed_is_kept() -> None:
    """A text that is none of the choices is the user's own, and not lost."""

    class Shout(BaseModel):
        label: Literal["good", "bad"]

        @field_validator("label")
        @classmethod
        def _loud(cls, label: str) -> str:
            return label.upper()

    answer = validate(Shout, '{"label": "good"}')
    assert final(Layout(Shout), [answer, NO])["label"].to_pylist() == ["GOOD", None]


def test_the_output_s_columns_are_the_table_s() -> None:
    """`output` tells without rows what `finish` returns: input, answers, bookkeeping."""
    layout = Layout(Label)
    columns = pa.table({"id": ["a", "b"], "text": pa.array(["x", None], pa.large_string())})
    table = final(layout, [GOOD, NO], columns)
    assert table.schema == layout.output(columns.schema)
    assert table.schema.names == ["id", "text", "reason", "label", "score", *BOOKKEEPING.names]
    assert table["reason"].to_pylist() == ["because", None]
    table.validate(full=True)


def test_a_prefix_is_for_answers() -> None:
    """It keeps answers apart from input columns; the bookkeeping keeps its names."""
    columns = pa.schema([("label", pa.string())])
    assert Layout(Label, "ai_").output(columns).names == [
        *["label", "ai_reason", "ai_label", "ai_score"],
        *BOOKKEEPING.names,
    ]


def test_a_prefix_is_for_bookkeeping_where_the_input_has_some() -> None:
    """An earlier run's output can be asked again: all bookkeeping takes the prefix."""
    layout = Layout(Label, "ai_")
    columns = pa.table({"id": [1], "_status": ["ok"]})
    table = final(layout, [GOOD], columns)
    own = ["ai_" + name.removeprefix("_") for name in BOOKKEEPING.names]
    assert table.schema.names == ["id", "_status", "ai_reason", "ai_label", "ai_score", *own]
    assert table["ai_cost_usd"].to_pylist() == [0.25]


@pytest.mark.parametrize(
    ("names", "prefix", "clash", "hint"),
    [
        (["label"], "", "label", 'prefix = "ai_"'),
        (["_status"], "", "_status", 'prefix = "ai_"'),
        (["ai_label"], "ai_", "ai_label", "another prefix"),
        (["_status", "ai_cost_usd"], "ai_", "ai_cost_usd", "another prefix"),
    ],
)
def test_two_columns_of_one_name_are_refused(names: list[str], prefix: str, clash: str, hint: str) -> None:
    """The message names the column, the hint the prefix."""
    with pytest.raises(OutputError, match=f"two columns `{clash}`") as raised:
        Layout(Label, prefix).output(pa.schema([(name, pa.string()) for name in names]))
    assert hint in raised.value.hint


def test_the_bookkeeping_may_clash_with_a_field() -> None:
    """A field `status` behind the prefix is refused when the bookkeeping takes it too."""
    layout = Layout(create_model("Answer", status=(str, ...)), "ai_")
    assert layout.output(pa.schema([("id", pa.int64())])).names[:2] == ["id", "ai_status"]
    with pytest.raises(OutputError, match="two columns `ai_status`"):
        layout.output(pa.schema([("_status", pa.string())]))


def test_no_rows_are_a_table_too() -> None:
    """Without outcomes all columns are there, with no rows."""
    layout = Layout(Part)
    part = stored(layout.table([]))
    assert (part.schema, len(part)) == (layout.part, 0)
    table = layout.finish(pa.table({"id": pa.array([], pa.int64())}), part)
    assert (table.schema, len(table)) == (layout.output(pa.schema([("id", pa.int64())])), 0)


def test_lengths_must_agree() -> None:
    """Input rows and part rows of unequal number are an error, never a table that is off by one."""
    layout = Layout(Label)
    with pytest.raises(pa.ArrowException):
        layout.finish(pa.table({"id": [1, 2]}), layout.table([outcome(GOOD)]))


def test_equal_answers_are_equal_tables() -> None:
    """A set has no order; its column has."""
    model = one_field(set[Annotated[str, BeforeValidator(str)] | None])
    values = {"x": [*map(str, range(20)), None]}
    table = final(Layout(model), [model.model_validate(values)])
    assert table["x"].to_pylist() == [[*sorted(map(str, range(20))), None]]


class Everything(BaseModel):
    """A field of each type."""

    text: str
    maybe: str | None
    whole: int
    number: float
    flag: bool
    choice: Literal["a", "b"] | None
    colour: Colour
    rank: Rank
    day: date
    moment: datetime
    instant: AwareDatetime
    clock: time
    span: timedelta
    money: Annotated[Decimal, Field(decimal_places=2)]
    words: list[str | None]
    tags: set[Colour]
    named: dict[str, list[int]]
    part: Part | None
    parts: list[Part]


TEXT = st.text(max_size=20)
WHOLE = st.integers(-(2**63), 2**63 - 1)
MONEY = st.decimals(-(10**30), 10**30, places=2)
PARTS = st.builds(Part, size=st.none() | WHOLE, price=MONEY, colour=st.sampled_from(Colour))
ANSWERS = st.builds(
    Everything,
    text=TEXT,
    maybe=st.none() | TEXT,
    whole=WHOLE,
    number=st.floats(allow_nan=False),
    moment=st.datetimes(),
    instant=st.datetimes(datetime(2, 1, 1), datetime(9999, 1, 1), timezones=st.timezones()),
    clock=st.times(),
    span=st.timedeltas(timedelta(days=-100_000), timedelta(days=100_000)),
    money=MONEY,
    words=st.lists(st.none() | TEXT, max_size=3),
    named=st.dictionaries(TEXT, st.lists(WHOLE, max_size=2), max_size=2),
    part=st.none() | PARTS,
    parts=st.lists(PARTS, max_size=2),
)


def expected(answer: BaseModel) -> dict[str, object]:
    """Return what the table must hold, written without the code that is tested."""
    values = dict(answer)
    for name, value in values.items():
        if isinstance(value, BaseModel):
            values[name] = expected(value)
        elif isinstance(value, dict):
            values[name] = list(value.items())
        elif isinstance(value, set):
            values[name] = sorted(value)
        elif isinstance(value, datetime) and value.tzinfo:
            values[name] = value.astimezone(UTC)  # times in a clock's gap equal none of another zone
        elif isinstance(value, list):
            values[name] = [expected(one) if isinstance(one, BaseModel) else one for one in value]
    return values


@settings(deadline=None)  # a busy machine writes Parquet slowly
@given(st.lists(ANSWERS | st.just(NO), max_size=5))
def test_what_goes_in_comes_out(answers: list[Everything | Failure]) -> None:
    """Any answers, through a part and a final table in Parquet, are equal to what they were."""
    table = stored(final(Layout(Everything), answers))
    fields = list(Everything.model_fields)
    nothing = dict.fromkeys(fields)
    found = table.select(fields).to_pylist()
    assert found == [nothing if isinstance(one, Failure) else expected(one) for one in answers]
    assert table["_status"].to_pylist() == ["failed" if one is NO else "ok" for one in answers]
