"""Shapes of response models: what a column can hold, and what is refused with the field's path."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, TypeVar
from uuid import UUID

import pytest
from pydantic import AnyUrl, AwareDatetime, BaseModel, Field, HttpUrl, PastDate, RootModel, create_model
from typing_extensions import TypeAliasType, TypedDict

from pipeline.errors import JobError
from pipeline.shape import DECIMAL_PLACES, Choice, Group, Kind, Many, Named, Shape, Single, shape_of

T = TypeVar("T")


class Colour(StrEnum):
    """An enum of text."""

    RED = "red"
    BLUE = "blue"


class Rank(IntEnum):
    """An enum of integers."""

    ONE = 1
    TWO = 2


class Mixed(Enum):
    """An enum that no column can hold."""

    TEXT = "a"
    NUMBER = 1


class Nothing(Enum):
    """An enum without members."""


class Inner(BaseModel):
    """A model to nest."""

    size: int


class Boxed(BaseModel, Generic[T]):
    """A generic model."""

    content: T


class Tree(BaseModel):
    """A model that contains itself."""

    children: list["Tree"] = []


class Ping(BaseModel):
    """A model that contains itself by way of another."""

    pong: "Pong | None"


class Pong(BaseModel):
    """The other one."""

    ping: dict[str, Ping]


class Open(BaseModel, extra="allow"):
    """A model that takes any further field."""

    name: str


class Wrapped(RootModel[list[int]]):
    """A model that is a list."""


class Blank(BaseModel):
    """A model without fields."""


class Typed(TypedDict):
    """A dict with known keys."""

    size: int


class Pair(NamedTuple):
    """A tuple with names."""

    size: int


@dataclass
class Plain:
    """A class that is no model."""

    size: int


UserId = NewType("UserId", int)
Words = TypeAliasType("Words", list[str])
Row = TypeAliasType("Row", dict[str, T], type_params=(T,))

CHOICE = Choice(Kind.TEXT, ("red", "blue"))
INNER = Group((("size", Single(Kind.INTEGER)),))


def model(kind: Any) -> type[BaseModel]:
    """Return a model with one field `x` of a type, inside a field `outer`."""
    inside: type[BaseModel] = create_model("Inside", x=(kind, ...))
    return create_model("Outside", outer=(inside, ...))


def shape(kind: Any) -> Shape:
    """Return the shape of one type."""
    found: type[BaseModel] = create_model("Answer", x=(kind, ...))
    return dict(shape_of(found).fields)["x"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (str, Single(Kind.TEXT)),
        (int, Single(Kind.INTEGER)),
        (float, Single(Kind.NUMBER)),
        (bool, Single(Kind.BOOLEAN)),
        (date, Single(Kind.DATE)),
        (PastDate, Single(Kind.DATE)),
        (datetime, Single(Kind.MOMENT)),
        (AwareDatetime, Single(Kind.INSTANT)),
        (time, Single(Kind.TIME)),
        (timedelta, Single(Kind.SPAN)),
        (UUID, Single(Kind.WRITTEN)),
        (HttpUrl, Single(Kind.WRITTEN)),
        (AnyUrl, Single(Kind.WRITTEN)),
        (Path, Single(Kind.WRITTEN)),
        (Decimal, Single(Kind.DECIMAL, DECIMAL_PLACES)),
        (Annotated[Decimal, Field(decimal_places=2)], Single(Kind.DECIMAL, 2)),
        (Annotated[Decimal | None, Field(decimal_places=3)], Single(Kind.DECIMAL, 3)),
        (list[Annotated[Decimal, Field(decimal_places=4)]], Many(Single(Kind.DECIMAL, 4))),
        (Literal["red", "blue"], CHOICE),
        (Literal["red", "blue", None], CHOICE),
        (Literal[Colour.RED, Colour.BLUE], CHOICE),
        (Colour, CHOICE),
        (Rank, Choice(Kind.INTEGER, (1, 2))),
        (Literal[True], Choice(Kind.BOOLEAN, (True,))),
        (Optional[str], Single(Kind.TEXT)),  # noqa: UP045 - the old spelling is what is tested
        (int | None, Single(Kind.INTEGER)),
        (int | float | None, Single(Kind.NUMBER)),
        (Annotated[int, Field(ge=0)] | float, Single(Kind.NUMBER)),
        (list[str], Many(Single(Kind.TEXT))),
        (Sequence[str], Many(Single(Kind.TEXT))),
        (tuple[int, ...], Many(Single(Kind.INTEGER))),
        (tuple[int, int], Many(Single(Kind.INTEGER))),
        (set[Colour], Many(CHOICE, ordered=False)),
        (frozenset[int], Many(Single(Kind.INTEGER), ordered=False)),
        (dict[str, int], Named(Single(Kind.INTEGER))),
        (Mapping[str, list[int]], Named(Many(Single(Kind.INTEGER)))),
        (Inner, INNER),
        (list[Inner | None], Many(INNER)),
        (Boxed[int], Group((("content", Single(Kind.INTEGER)),))),
        (UserId, Single(Kind.INTEGER)),
        (Words, Many(Single(Kind.TEXT))),
        (Row[int], Named(Single(Kind.INTEGER))),
    ],
)
def test_a_type_has_its_shape(kind: object, expected: Shape) -> None:
    """Each type that a column can hold is reduced to its shape."""
    assert shape(kind) == expected


@pytest.mark.parametrize(
    ("kind", "path", "problem"),
    [
        (Any, "outer.x", "may be anything"),
        (object, "outer.x", "may be anything"),
        (bytes, "outer.x", "cannot hold"),
        (complex, "outer.x", "cannot hold"),
        (Callable[[int], int], "outer.x", "cannot hold"),
        (type[int], "outer.x", "cannot hold"),
        (Typed, "outer.x", "cannot hold"),
        (Pair, "outer.x", "cannot hold"),
        (Plain, "outer.x", "cannot hold"),
        (None, "outer.x", "cannot hold"),
        (list, "outer.x", "does not say of what"),
        (dict, "outer.x", "does not say of what"),
        (set, "outer.x", "does not say of what"),
        (tuple, "outer.x", "does not say of what"),
        (list[Any], "outer.x[]", "may be anything"),
        (dict[str, Any], "outer.x.*", "may be anything"),
        (list[dict[str, bytes]], "outer.x[].*", "cannot hold"),
        (dict[int, str], "outer.x", "keys are not `str`"),
        (dict[Colour, str], "outer.x", "keys are not `str`"),
        (int | str, "outer.x", "one of several types"),
        (int | bool, "outer.x", "one of several types"),
        (Inner | Boxed[int], "outer.x", "one of several types"),
        (list[int] | int | None, "outer.x", "one of several types"),
        (tuple[int, str], "outer.x", "different types"),
        (set[tuple[int, ...]], "outer.x", "a set of models or of lists"),
        (Mixed, "outer.x", "not all text or all numbers"),
        (Nothing, "outer.x", "not all text or all numbers"),
        (Literal["a", 1], "outer.x", "not all text or all numbers"),
        (Literal[None], "outer.x", "not all text or all numbers"),
        (Annotated[Decimal, Field(decimal_places=39)], "outer.x", "39 decimal places"),
        ("Nowhere", "outer.x", "`Nowhere`, which is not defined"),
        (Tree, "outer.x.children[]", "contains itself"),
        (Ping, "outer.x.pong.ping.*", "contains itself"),
        (list[Blank], "outer.x[]", "has no fields"),
        (Wrapped, "outer.x", "is a RootModel"),
        (Open, "outer.x", "allows extra fields"),
    ],
)
def test_what_no_column_can_hold_is_refused(kind: object, path: str, problem: str) -> None:
    """The message names the field by its path and says what is wrong, the hint what to write."""
    with pytest.raises(JobError) as raised:
        shape_of(model(kind))
    assert f"the schema's field `{path}`" in raised.value.message
    assert problem in raised.value.message
    assert raised.value.hint
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Blank, "the schema `Blank` has no fields"),
        (Wrapped, "the schema `Wrapped` is a RootModel"),
        (Open, "the schema `Open` allows extra fields"),
    ],
)
def test_a_model_itself_is_refused_by_its_name(kind: type[BaseModel], problem: str) -> None:
    """Where no field is to blame the message names the model."""
    with pytest.raises(JobError, match=problem):
        shape_of(kind)


def test_one_model_may_stand_in_two_places() -> None:
    """Only a model inside itself is recursion; beside itself it is not."""
    twice: type[BaseModel] = create_model("Twice", first=(Inner, ...), second=(list[Inner], ...))
    assert shape_of(twice).fields == (("first", INNER), ("second", Many(INNER)))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the `type` statement came with 3.12")
def test_a_recursive_alias_is_refused() -> None:
    """An alias that contains itself would be a column without end."""
    space: dict[str, Any] = {}
    exec("type Loop = list[Loop]", space)
    with pytest.raises(JobError, match=r"`outer\.x\[\]` contains itself"):
        shape_of(model(space["Loop"]))


def test_fields_keep_their_order() -> None:
    """The order of the fields is the order of the columns, those of a parent first."""
    child: type[BaseModel] = create_model("Child", __base__=Inner, b=(str, ...), a=(str, ...))
    assert [name for name, _ in shape_of(child).fields] == ["size", "b", "a"]
