"""Pydantic → Arrow: the columns of a checkpoint part and of the final table, and outcomes as rows of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from decimal import Context, Decimal, InvalidOperation
from enum import Enum
from operator import index
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from pipeline.errors import OutputError
from pipeline.flow import Failure, FailureKind, Outcome
from pipeline.schema import one_line
from pipeline.shape import Choice, Group, Kind, Many, Named, Shape, Single, shape_of

Convert: TypeAlias = Callable[[Any], object]  # a value of the model → what Arrow takes

DIGITS = 38  # of a decimal128
CATEGORY = pa.dictionary(pa.int32(), pa.string())
KEYS = pa.schema([("_key", pa.binary(16)), ("_digest", pa.binary(16)), ("_round", pa.int32())])
BOOKKEEPING = pa.schema(
    [
        ("_status", pa.string()),
        ("_error_kind", pa.string()),
        ("_error", pa.string()),
        ("_prompt_tokens", pa.int64()),
        ("_cached_tokens", pa.int64()),
        ("_thought_tokens", pa.int64()),
        ("_output_tokens", pa.int64()),
        ("_total_tokens", pa.int64()),
        ("_cost_usd", pa.float64()),
        ("_model", pa.string()),
        ("_attempts", pa.int32()),
        ("_latency_ms", pa.int64()),
        ("_source", pa.string()),
        ("_pack", pa.int32()),
    ]
)
TYPES = {
    Kind.TEXT: pa.string(),
    Kind.WRITTEN: pa.string(),
    Kind.INTEGER: pa.int64(),
    Kind.NUMBER: pa.float64(),
    Kind.BOOLEAN: pa.bool_(),
    Kind.DATE: pa.date32(),
    Kind.MOMENT: pa.timestamp("us"),
    Kind.INSTANT: pa.timestamp("us", "UTC"),
    Kind.TIME: pa.time64("us"),
    Kind.SPAN: pa.duration("us"),  # DuckDB reads it from Parquet as microseconds
}
# what Arrow refuses a value with, and what the conversions below raise
MISFIT = (pa.ArrowException, ValueError, TypeError, ArithmeticError, AttributeError)


class Layout:
    """The columns that the answers of one model take; pure and reusable for a whole run.

    In a part all fields stand in one nullable struct `answer`, with texts as plain strings. In the final
    table each is a column of its own, its name behind `prefix`, and a choice of texts is a dictionary of
    all its values. The bookkeeping columns keep their names (`_status` ...); only where the input has
    one of these already, as when it is the output of an earlier run, all of them take the prefix in place of
    the underscore (`ai_status` ...). Every column may be null. Raises JobError as `shape_of` does.
    """

    def __init__(self, model: type[BaseModel], prefix: str = "") -> None:
        self._prefix = prefix
        self._columns = [_Column.of(name, shape) for name, shape in shape_of(model).fields]
        self._answer = pa.struct([(column.name, column.type) for column in self._columns])
        self.part: pa.Schema = pa.schema([*KEYS, *BOOKKEEPING, pa.field("answer", self._answer)])

    def table(self, outcomes: Sequence[Outcome]) -> pa.Table:
        """Return the outcomes as rows of a part, in their order.

        An answer with a value that Arrow cannot hold becomes a failed row of kind `invalid`; what it
        took stays with it.
        """
        misfits: dict[int, Failure] = {}
        fields = []
        for column in self._columns:
            found = column.array(outcomes)
            fields.append(found)
            if isinstance(found, dict):
                misfits = found | misfits
        if misfits:
            answers = (misfits.get(number, row.answer) for number, row in enumerate(outcomes))
            return self.table(
                [replace(row, answer=answer) for row, answer in zip(outcomes, answers, strict=True)]
            )
        failed = [isinstance(row.answer, Failure) for row in outcomes]
        answer = pa.StructArray.from_arrays(
            fields, fields=list(self._answer), mask=pa.array(failed, pa.bool_())
        )
        names = _arrays([(row.key, row.digest, row.round) for row in outcomes], KEYS)
        bookkeeping = _arrays([_bookkeeping(row) for row in outcomes], BOOKKEEPING)
        return pa.Table.from_arrays([*names, *bookkeeping, answer], schema=self.part)

    @property
    def answers(self) -> list[str]:
        """The names of the answer's columns in the final table."""
        return [self._prefix + column.name for column in self._columns]

    def output(self, columns: pa.Schema) -> pa.Schema:
        """Return the final table's schema: the input's columns, the model's fields, the bookkeeping.

        Raises OutputError where two columns would have one name.
        """
        fields = [pa.field(self._prefix + column.name, column.final) for column in self._columns]
        taken = set(columns.names)
        for field in [*fields, *(own := self._bookkeeping(taken))]:
            if field.name in taken:
                raise OutputError(
                    f"the output would have two columns `{field.name}`",
                    "rename the schema's field, or set another prefix under [output]"
                    if self._prefix
                    else 'set prefix = "ai_" under [output]',
                )
            taken.add(field.name)
        return pa.schema([*columns, *fields, *own])

    def finish(self, columns: pa.Table, parts: pa.Table) -> pa.Table:
        """Return the final table from input rows and their part rows, of equal length and order."""
        answer = parts["answer"]
        fields = [
            column.flat(pc.struct_field(answer, [number])) for number, column in enumerate(self._columns)
        ]
        bookkeeping = [parts[field.name].cast(field.type) for field in BOOKKEEPING]
        return pa.Table.from_arrays(
            [*columns.columns, *fields, *bookkeeping], schema=self.output(columns.schema)
        )

    def _bookkeeping(self, taken: set[str]) -> list[pa.Field]:
        if self._prefix and not taken.isdisjoint(BOOKKEEPING.names):
            return [field.with_name(self._prefix + field.name.removeprefix("_")) for field in BOOKKEEPING]
        return list(BOOKKEEPING)


@dataclass(frozen=True, slots=True)
class _Column:
    """A field of the model: its types in a part and in the final table, and the way of its values there."""

    name: str
    type: pa.DataType
    convert: Convert | None
    values: pa.Array | None  # of a choice of texts

    @classmethod
    def of(cls, name: str, shape: Shape) -> "_Column":
        kind, convert = _arrow(shape)
        if isinstance(shape, Choice) and shape.kind is Kind.TEXT:
            return cls(name, kind, convert, pa.array(shape.values, pa.string()))
        return cls(name, kind, convert, None)

    @property
    def final(self) -> pa.DataType:
        return self.type if self.values is None else CATEGORY

    def array(self, rows: Sequence[Outcome]) -> "pa.Array | dict[int, Failure]":
        """Return the values of all rows, or a Failure for each row whose value does not fit."""
        answers = [row.answer for row in rows]
        found = [None if isinstance(answer, Failure) else getattr(answer, self.name) for answer in answers]
        try:
            return self._fit(found)
        except MISFIT:
            faults = {number: fault for number, one in enumerate(found) if (fault := self._fault(one))}
            if not faults:
                raise
            return faults

    def flat(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return the column as the final table has it; a choice knows all its values in every table."""
        plain = column.cast(self.type)
        if self.values is None:
            return plain
        codes = pc.index_in(plain, value_set=self.values)
        if codes.null_count != plain.null_count:  # a validator of the user made a text of its own
            return plain.cast(CATEGORY)
        arrays = [pa.DictionaryArray.from_arrays(chunk, self.values) for chunk in codes.chunks]
        return pa.chunked_array(arrays, CATEGORY)

    def _fit(self, values: Sequence[object]) -> pa.Array:
        if self.convert is None:
            return pa.array(values, self.type)
        convert = self.convert
        return pa.array([None if value is None else convert(value) for value in values], self.type)

    def _fault(self, value: object) -> Failure | None:
        try:
            self._fit([value])
        except MISFIT as exc:
            text = f"{self.name}: does not fit a column of {self.type}: {exc}"
            return Failure(FailureKind.INVALID, one_line(text))
        return None


def _arrays(rows: Sequence[tuple[object, ...]], schema: pa.Schema) -> list[pa.Array]:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]


def _bookkeeping(row: Outcome) -> tuple[object, ...]:
    spent, answer = row.total, row.answer
    usage = spent.usage
    failure = answer if isinstance(answer, Failure) else None
    return (
        "failed" if failure else "ok",
        failure.kind.value if failure else None,
        one_line(failure.message) if failure else None,
        usage.prompt,
        usage.cached,
        usage.thoughts,
        usage.output,
        usage.total,
        spent.cost_usd,
        spent.model,
        spent.attempts,
        spent.latency_ms,
        spent.source,
        spent.rows,
    )


def _arrow(shape: Shape) -> tuple[pa.DataType, Convert | None]:
    """Return the Arrow type of a shape, and how its values get there where Arrow does not know the way."""
    match shape:
        case Single(Kind.DECIMAL, places):
            return pa.decimal128(DIGITS, places), _decimal(places)
        case Single(kind):
            return TYPES[kind], CONVERSIONS.get(kind)
        case Choice(kind):
            return TYPES[kind], _value
        case Many(each, ordered):
            kind, convert = _arrow(each)
            return pa.list_(kind), _many(convert, ordered=ordered)
        case Named(each):
            kind, convert = _arrow(each)
            return pa.map_(pa.string(), kind), _named(convert or _same)
        case Group(fields):
            inner = [(name, *_arrow(field)) for name, field in fields]
            kind = pa.struct([(name, kind) for name, kind, _ in inner])
            return kind, _group([(name, convert or _same) for name, _, convert in inner])


def _same(value: object) -> object:
    return value


def _value(value: object) -> object:
    return value.value if isinstance(value, Enum) else value


def _moment(value: datetime) -> datetime:
    """Drop the zone, after going to UTC where there is one."""
    return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)


def _instant(value: datetime) -> datetime:
    if value.tzinfo is None:  # a validator of the user dropped it
        raise ValueError(f"`{value}` has no time zone")
    return value.astimezone(UTC)  # at the ends of the calendar there is no such day


def _clock(value: time) -> time:
    return value.replace(tzinfo=None)  # a time of day without a day has no instant in UTC


def _decimal(places: int) -> Convert:
    unit, context = Decimal(1).scaleb(-places), Context(prec=DIGITS)

    def convert(value: Decimal) -> Decimal:
        try:
            exact = value.quantize(unit, context=context)
        except InvalidOperation:
            raise ValueError(f"`{value}` has more than {DIGITS - places} digits before the point") from None
        if exact != value:
            raise ValueError(f"`{value}` has more than {places} decimal places")
        return exact

    return convert


def _many(convert: Convert | None, *, ordered: bool) -> Convert:
    def each(values: Sequence[Any]) -> list[object]:
        return [None if value is None else convert(value) for value in values] if convert else list(values)

    def in_order(values: Sequence[Any]) -> list[object]:
        # a set's order changes from process to process; equal answers shall be equal tables
        return sorted(each(values), key=lambda value: (value is None, value))

    return each if ordered else in_order


def _named(convert: Convert) -> Convert:
    return lambda values: [
        (name, None if value is None else convert(value)) for name, value in values.items()
    ]


def _group(fields: Sequence[tuple[str, Convert]]) -> Convert:
    def convert(model: BaseModel) -> dict[str, object]:
        values = ((name, getattr(model, name), to) for name, to in fields)
        return {name: None if value is None else to(value) for name, value, to in values}

    return convert


CONVERSIONS: dict[Kind, Convert] = {
    Kind.INTEGER: index,  # pyarrow would cut 1.5 to 1
    Kind.NUMBER: float,  # pyarrow refuses a large integer, which `int | float` may give
    Kind.WRITTEN: str,
    Kind.MOMENT: _moment,
    Kind.INSTANT: _instant,
    Kind.TIME: _clock,
}
