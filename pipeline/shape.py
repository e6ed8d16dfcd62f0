"""What a response model is made of, reduced to the few shapes that an answer and a column can both have."""

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any, ForwardRef, Literal, NewType, TypeAlias, Union, get_args, get_origin
from uuid import UUID

from pydantic import (
    AnyUrl,
    AwareDatetime,
    BaseModel,
    EmailStr,
    FutureDate,
    FutureDatetime,
    NaiveDatetime,
    PastDate,
    PastDatetime,
    RootModel,
)
from pydantic.fields import FieldInfo
from pydantic_core import Url

from pipeline.errors import JobError

DECIMAL_PLACES = 9  # of a Decimal whose Field says nothing
MOST_PLACES = 38  # all digits of a column of decimals


class Kind(StrEnum):
    """What a single value is."""

    TEXT = "text"
    WRITTEN = "written"  # kept as its text: URL, UUID, e-mail address, path
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    MOMENT = "moment"  # date and time, without a zone
    INSTANT = "instant"  # date and time in UTC
    TIME = "time"
    SPAN = "span"
    DECIMAL = "decimal"


@dataclass(frozen=True, slots=True)
class Single:
    """One value; `places` counts only for a decimal."""

    kind: Kind
    places: int = DECIMAL_PLACES


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these values, all of one kind (text, integer, number or boolean)."""

    kind: Kind
    values: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Many:
    """Values of one shape; a set (`ordered` is false) has no order of its own."""

    each: "Shape"
    ordered: bool = True


@dataclass(frozen=True, slots=True)
class Named:
    """Values of one shape under names that the answer chooses."""

    each: "Shape"


@dataclass(frozen=True, slots=True)
class Group:
    """The fields of a model, in its order."""

    fields: tuple[tuple[str, "Shape"], ...]


Shape: TypeAlias = Single | Choice | Many | Named | Group

KINDS: dict[object, Kind] = {
    str: Kind.TEXT,
    int: Kind.INTEGER,
    float: Kind.NUMBER,
    bool: Kind.BOOLEAN,
    date: Kind.DATE,
    PastDate: Kind.DATE,
    FutureDate: Kind.DATE,
    datetime: Kind.MOMENT,
    NaiveDatetime: Kind.MOMENT,
    PastDatetime: Kind.MOMENT,
    FutureDatetime: Kind.MOMENT,
    AwareDatetime: Kind.INSTANT,
    time: Kind.TIME,
    timedelta: Kind.SPAN,
    Decimal: Kind.DECIMAL,
    UUID: Kind.WRITTEN,
    EmailStr: Kind.WRITTEN,
}
NUMBERS = {Single(Kind.INTEGER), Single(Kind.NUMBER)}
LISTS = {list, tuple, Sequence}
SETS = {set, frozenset}
MAPS = {dict, Mapping}
USABLE = (
    "use str, int, float, bool, Decimal, a Literal or Enum, a date, time or UUID, "
    "a list or dict[str, ...] of these, or another model"
)


def shape_of(model: type[BaseModel]) -> Group:
    """Return the shape of a model's answers.

    Raises JobError, naming the field, for what no table column can hold or no JSON schema can say:
    recursion, Any, bare containers, unions of different things, and foreign types.
    """
    return _model(model, "", ())


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the model a type stands: the field's path, what encloses it, and what its Field says."""

    path: str
    within: tuple[object, ...]
    metadata: tuple[object, ...] = ()

    def refuse(self, problem: str, hint: str = USABLE) -> JobError:
        return JobError(f"the schema's field `{self.path}` {problem}", hint)

    def inside(self, step: str) -> "_Place":
        return _Place(self.path + step, self.within)


def _model(model: type[BaseModel], path: str, within: tuple[object, ...]) -> Group:
    where = f"the schema's field `{path}`: `{model.__name__}`" if path else f"the schema `{model.__name__}`"
    if issubclass(model, RootModel):
        raise JobError(f"{where} is a RootModel", "write a BaseModel with a field for the value")
    if model in within:
        raise JobError(
            f"{where} contains itself", "write out as many levels as you need as models of their own"
        )
    model.model_rebuild(raise_errors=False)  # types that were named before they were defined
    if not model.model_fields:
        raise JobError(f"{where} has no fields", "give it at least one field, such as `label: str`")
    if model.model_config.get("extra") == "allow":
        raise JobError(
            f"{where} allows extra fields", 'name the fields, or use `dict[str, ...]`, not extra="allow"'
        )
    return Group(
        tuple(_field(name, field, path, (*within, model)) for name, field in model.model_fields.items())
    )


def _field(name: str, field: FieldInfo, path: str, within: tuple[object, ...]) -> tuple[str, Shape]:
    place = _Place(f"{path}.{name}" if path else name, within, tuple(field.metadata))
    return name, _shape(field.annotation, place)


def _shape(kind: object, place: _Place) -> Shape:
    """Look at what the type is a special form of, then at the type itself."""
    origin = get_origin(kind)
    if isinstance(kind, NewType):
        return _shape(kind.__supertype__, place)
    if origin is None and isinstance(kind, type):
        return _class(kind, place)
    # a `type` statement's alias, with or without arguments; typing_extensions has a class of its own
    alias = kind if origin is None else origin
    if hasattr(alias, "__value__"):
        return _alias(alias, get_args(kind), place)
    if form := FORMS.get(origin):
        return form(get_args(kind), place)
    return _container(origin, get_args(kind), kind, place)


def _class(kind: type, place: _Place) -> Shape:
    if kind in KINDS:
        return _single(KINDS[kind], place)
    if issubclass(kind, BaseModel):
        return _model(kind, place.path, place.within)
    if issubclass(kind, Enum):
        return _choice([member.value for member in kind], place)
    if issubclass(kind, AnyUrl | Url | Path):
        return Single(Kind.WRITTEN)
    raise _foreign(kind, kind, place)


def _single(kind: Kind, place: _Place) -> Single:
    places = _places(place.metadata)
    if places > MOST_PLACES:
        raise place.refuse(
            f"has {places} decimal places, but a table column has {MOST_PLACES} digits",
            f"set `decimal_places` to {MOST_PLACES} or fewer, or use `str`",
        )
    return Single(kind, places)


def _alias(alias: object, arguments: tuple[object, ...], place: _Place) -> Shape:
    if alias in place.within:
        raise place.refuse("contains itself", "write out as many levels as you need")
    value = alias.__value__  # type: ignore[attr-defined]  # the caller has looked
    inner = _Place(place.path, (*place.within, alias), place.metadata)
    return _shape(value[arguments] if arguments else value, inner)


def _annotated(arguments: tuple[object, ...], place: _Place) -> Shape:
    return _shape(arguments[0], _Place(place.path, place.within, (*arguments[1:], *place.metadata)))


def _literal(values: tuple[object, ...], place: _Place) -> Shape:
    return _choice([value.value if isinstance(value, Enum) else value for value in values], place)


def _union(members: tuple[object, ...], place: _Place) -> Shape:
    present = [member for member in members if member is not types.NoneType]
    if len(present) == 1:
        return _shape(present[0], place)
    if all(member in (int, float) for member in present):
        return Single(Kind.NUMBER)
    shapes = [_shape(member, place) for member in present]
    if NUMBERS.issuperset(shapes):
        return Single(Kind.NUMBER)
    raise place.refuse(
        "may be one of several types, but a table column has one",
        "keep one type and `None`, or write one model with a field for each case",
    )


def _choice(values: Iterable[object], place: _Place) -> Shape:
    present = [value for value in values if value is not None]
    kinds = {type(value) for value in present}
    if len(kinds) == 1 and kinds <= {str, int, float, bool}:
        return Choice(KINDS[kinds.pop()], tuple(present))
    raise place.refuse("chooses between values that are not all text or all numbers", "make all of them text")


def _container(origin: object, arguments: tuple[object, ...], kind: object, place: _Place) -> Shape:
    if not arguments:
        raise _foreign(kind, origin, place)
    if origin in MAPS:
        return _named(arguments, place)
    if origin in SETS:
        return _set(arguments, place)
    if origin in LISTS:
        return _many(arguments, place)
    raise _foreign(kind, origin, place)


def _foreign(kind: object, origin: object, place: _Place) -> JobError:
    if isinstance(kind, ForwardRef):
        return place.refuse(
            f"has the type `{kind.__forward_arg__}`, which is not defined",
            "define it in the schema's file, outside of functions, or import it there",
        )
    name = getattr(kind, "__name__", None) or str(kind)
    if kind is Any or kind is object:
        return place.refuse(f"has the type `{name}`, which may be anything")
    if origin in LISTS | SETS | MAPS:
        return place.refuse(
            f"has the type `{name}`, which does not say of what", "write `list[str]`, `dict[str, int]`"
        )
    return place.refuse(f"has the type `{name}`, which a table column cannot hold")


def _many(arguments: tuple[object, ...], place: _Place) -> Many:
    each = [argument for argument in arguments if argument is not Ellipsis]
    if any(argument != each[0] for argument in each):
        raise place.refuse(
            "is a tuple of different types", "write a model, whose fields have names, or a list of one type"
        )
    return Many(_shape(each[0], place.inside("[]")))


def _named(arguments: tuple[object, ...], place: _Place) -> Shape:
    key, value = arguments
    if _shape(key, place.inside(".*")) != Single(Kind.TEXT):
        raise place.refuse(
            "is a dict whose keys are not `str`", "use `dict[str, ...]`, or a model with those fields"
        )
    return Named(_shape(value, place.inside(".*")))


def _set(arguments: tuple[object, ...], place: _Place) -> Shape:
    each = _shape(arguments[0], place.inside("[]"))
    if not isinstance(each, Single | Choice):
        raise place.refuse("is a set of models or of lists", "use a list")
    return Many(each, ordered=False)


def _places(metadata: Sequence[object]) -> int:
    """Return the decimal places that a Field or a constraint sets, the last one winning."""
    for entry in reversed(metadata):
        if isinstance(entry, FieldInfo):
            return _places(entry.metadata)
        places = getattr(entry, "decimal_places", None)
        if isinstance(places, int):
            return places
    return DECIMAL_PLACES


FORMS: dict[object, Callable[[tuple[object, ...], _Place], Shape]] = {
    Annotated: _annotated,
    Literal: _literal,
    Union: _union,
    types.UnionType: _union,
}
