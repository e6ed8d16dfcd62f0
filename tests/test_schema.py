"""The schema that is sent, the models that are refused, and texts as validated answers."""

import json
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NewType, Optional, TypeVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline.errors import JobError
from pipeline.flow import Failure, FailureKind
from pipeline.schema import json_schema, validate
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    PlainValidator,
    RootModel,
    create_model,
    field_validator,
)
from typing_extensions import TypeAliasType

LISTED = {"type", "description", "enum", "items", "properties", "additionalProperties", "required", "anyOf"}
Score = NewType("Score", int)
Tags = TypeAliasType("Tags", list[str])
T = TypeVar("T")
Pair = TypeAliasType("Pair", tuple[T, T], type_params=(T,))
Endless = TypeAliasType("Endless", "list[Endless]")  # type: ignore[misc]  # refused, that is the point


class Mood(StrEnum):
    """How it sounds."""

    GOOD = "good"
    BAD = "bad"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Place(BaseModel):
    """Where it happened."""

    city: str = Field(max_length=20, title="City name")
    title: str | None = None


class Zoo(BaseModel):
    """Everything that a field may be."""

    model_config = ConfigDict(extra="forbid")

    evidence: str = Field(min_length=1, pattern="^[a-z]+$", examples=["abc"])
    mood: Mood
    mood_again: Mood = Field(description="the mood once more")
    maybe_mood: Mood | None = None
    only: Literal["yes"]
    some: Literal["a", "b", None] = None
    level: Level
    rank: Literal[1, 2, 3] = 1
    sure: Literal[True]
    count: int = Field(ge=0, le=10)
    positive: Annotated[int, Field(gt=0, multiple_of=5)] | None
    either: int | float
    price: Decimal = Field(ge=0, decimal_places=2)
    day: date
    at: datetime
    seen: AwareDatetime
    clock: time
    took: timedelta
    place: Place
    maybe_place: Optional[Place] = Field(None, description="a second place")  # noqa: UP045 - the older spelling too
    places: list[Place] = Field(min_length=1, max_length=3)
    words: set[str]
    pair: tuple[int, int]
    tags: Tags
    points: Pair[float]
    prices: dict[str, Decimal]
    score: Score
    link: HttpUrl
    id: UUID
    file: Path


class Tree(BaseModel):
    children: list["Tree"]


class Number(RootModel[int]):
    pass


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class Empty(BaseModel):
    pass


class Box(BaseModel, Generic[T]):
    inside: T


class Mixed(Enum):
    ONE = 1
    TWO = "two"


def field_schema(kind: object, **extra: Any) -> dict[str, Any]:
    """Return the sent schema of a single field of type `kind`."""
    model = create_model("Answer", x=(kind, Field(**extra)))  # type: ignore[call-overload]  # any type goes
    schema: Any = json_schema(model)
    return dict(schema["properties"]["x"])


def sub_schemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Walk a schema and all in it."""
    yield schema
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    inner += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    for one in inner:
        yield from sub_schemas(one)


@pytest.mark.parametrize("model", [Zoo, Place, Cat, Box[int], Box[Zoo], Box[list[Zoo]]])
def test_only_listed_keywords_are_sent(model: type[BaseModel]) -> None:
    """No sub-schema has a keyword that the API does not document, and each says its type."""
    for schema in sub_schemas(json_schema(model)):
        assert schema.keys() <= LISTED
        assert "type" in schema or "anyOf" in schema


def test_the_schema_is_json() -> None:
    """The schema survives the way over the wire, and is the same each time."""
    assert json.loads(json.dumps(json_schema(Zoo))) == json_schema(Zoo)


def test_keys_and_required_stand_in_field_order() -> None:
    """Evidence that is declared first is asked for first; a default makes a field optional."""
    schema: Any = json_schema(Zoo)
    assert list(schema["properties"]) == list(Zoo.model_fields)
    assert schema["required"] == [name for name, field in Zoo.model_fields.items() if field.is_required()]
    assert "rank" not in schema["required"]


def test_a_field_named_title_stays() -> None:
    """Pydantic's titles go, a property of that name does not."""
    schema: Any = json_schema(Place)
    assert schema["properties"] == {
        "city": {"type": "string", "description": "at most 20 characters"},
        "title": {"type": ["string", "null"]},
    }


def test_a_reference_is_inlined_with_its_own_description() -> None:
    """The words at the field win over the docstring of the type."""
    assert field_schema(Mood, description="once more") == {
        "type": "string",
        "description": "once more",
        "enum": ["good", "bad"],
    }
    assert field_schema(Mood)["description"] == "How it sounds."


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (Literal["yes"], {"type": "string", "enum": ["yes"]}),
        (Literal[1, 2], {"type": "integer", "enum": [1, 2]}),
        (Level, {"type": "integer", "enum": [1, 2]}),
        (int | None, {"type": ["integer", "null"]}),
        (int | float, {"type": "number"}),
        (int | float | None, {"type": ["number", "null"]}),
        (Literal["a"] | None, {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]}),
        (Literal["a", None], {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]}),
        (list[int] | None, {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (Score, {"type": "integer"}),
        (Tags, {"type": "array", "items": {"type": "string"}}),
    ],
)
def test_each_type_has_its_form(kind: object, schema: dict[str, object]) -> None:
    """Constants are choices, null is in the type where that is simple, and aliases are seen through."""
    assert field_schema(kind) == schema


@pytest.mark.parametrize(
    ("kind", "extra", "description"),
    [
        (Decimal, {}, "decimal number as text; at most 9 decimal places"),
        (
            Decimal,
            {"decimal_places": 2, "ge": 0},
            "decimal number as text; at least 0; at most 2 decimal places",
        ),
        (date, {}, "ISO 8601 date"),
        (date, {"description": "the day"}, "the day (ISO 8601 date)"),
        (date, {"description": "the day in ISO 8601"}, "the day in ISO 8601"),
        (int, {"ge": 1, "le": 5, "description": "stars"}, "stars (at least 1; at most 5)"),
        (float, {"gt": 0.5, "lt": 1}, "more than 0.5; less than 1"),
        (tuple[int, int], {}, "at least 2 items; at most 2 items"),
        (set[str], {}, "each only once"),
        (str, {"pattern": "^a$"}, 'matching the pattern "^a$"'),
    ],
)
def test_what_the_grammar_cannot_say_stands_in_the_description(
    kind: object, extra: dict[str, Any], description: str
) -> None:
    """Bounds, patterns and formats are words, and words that are there already are not repeated."""
    assert field_schema(kind, **extra)["description"] == description


def test_a_decimal_is_asked_for_as_text_and_taken_as_a_number_too() -> None:
    """Text keeps the model out of number loops; a number is still a valid answer."""
    answer = create_model("Answer", x=(Decimal, ...))
    assert field_schema(Decimal)["type"] == "string"
    assert validate(answer, '{"x": "1.50"}') == validate(answer, '{"x": 1.5}') == answer(x=Decimal("1.5"))


def test_the_alias_is_what_the_model_answers() -> None:
    """An alias names the JSON key in the schema and in the answer."""
    answer = create_model("Answer", x=(int, Field(alias="theX")))
    schema: Any = json_schema(answer)
    assert list(schema["properties"]) == schema["required"] == ["theX"]
    assert validate(answer, '{"theX": 1}') == answer(theX=1)


def test_a_validator_may_name_what_is_answered() -> None:
    """A replaced type is fine when its JSON type is known."""
    loose = Annotated[int, BeforeValidator(lambda text: len(text), json_schema_input_type=str)]
    assert field_schema(loose) == {"type": "string"}


def test_a_default_that_json_cannot_write_is_no_matter() -> None:
    """Defaults are not sent, so nothing warns about them."""
    assert field_schema(float, default=float("nan")) == {"type": "number"}


@pytest.mark.parametrize(
    ("kind", "path", "problem"),
    [
        (Any, "x", "may be anything"),
        (object, "x", "may be anything"),
        (list[Any], "x[]", "may be anything"),
        (dict, "x", "does not say of what"),
        (list, "x", "does not say of what"),
        (dict[str, list], "x.*", "does not say of what"),
        (dict[int, str], "x", "keys are not `str`"),
        (Callable[[], int], "x", "cannot hold"),
        (bytes, "x", "cannot hold"),
        (complex, "x", "cannot hold"),
        (None, "x", "cannot hold"),
        (T, "x", "cannot hold"),
        (str | int, "x", "one of several types"),
        (list[str | int], "x[]", "one of several types"),
        (Cat | Dog | None, "x", "one of several types"),
        (Annotated[Cat | Dog, Field(discriminator="kind")], "x", "one of several types"),
        (tuple[int, str], "x", "tuple of different types"),
        (tuple[Annotated[int, Field(gt=0)], str], "x", "tuple of different types"),
        (set[tuple[int, ...]], "x", "set of models or of lists"),
        (Literal["a", 1], "x", "chooses between values"),
        (Mixed, "x", "chooses between values"),
        (Number, "x", "RootModel"),
        (Open, "x", "extra fields"),
        (Empty, "x", "no fields"),
        (list[Box[Empty]], "x[].inside", "no fields"),
        (Tree, "x.children[]", "contains itself"),
        (Endless, "x[]", "contains itself"),
        (Annotated[str, PlainValidator(str)], "x", "no JSON type"),
    ],
)
def test_what_cannot_be_a_column_is_refused(kind: object, path: str, problem: str) -> None:
    """The error names the field and the problem, and its hint is not empty."""
    with pytest.raises(JobError) as refused:
        field_schema(kind, **({"default": None} if kind is None else {}))
    assert f"`{path}`" in refused.value.message
    assert problem in refused.value.message
    assert refused.value.hint
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("model", [Tree, Number, Empty, Open, Box])
def test_a_whole_model_is_refused(model: type[BaseModel]) -> None:
    """A model that is itself no record of known fields is refused by its name or its field."""
    with pytest.raises(JobError, match=f"`{model.__name__}`|`inside`"):
        json_schema(model)


def test_a_type_that_is_not_defined_is_refused() -> None:
    """A name that nobody defined is an error of the job, not of Python."""

    class Unready(BaseModel):
        x: "Nowhere"  # type: ignore[name-defined]  # noqa: F821 - refused, that is the point

    with pytest.raises(JobError, match="`x`"):
        json_schema(Unready)


@pytest.mark.parametrize(
    "text",
    ['{"kind": "cat"}', ' {"kind": "cat"}\n', '```json\n{"kind": "cat"}\n```', '```\n{"kind":"cat"}\n```\n']
    + ['```JSON{"kind": "cat"}```'],
)
def test_a_fence_is_no_obstacle(text: str) -> None:
    """The answer counts with and without a code fence."""
    assert validate(Cat, text) == Cat(kind="cat")


def message(model: type[BaseModel], text: str) -> str:
    """Return the message of the Failure that `text` gives."""
    failure = validate(model, text)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.INVALID
    return failure.message


def test_the_message_names_each_field_and_its_problem() -> None:
    """The message is a list of paths and problems, without the input."""
    assert message(Box[Place], '{"inside": {"title": 3}}') == (
        "inside.city: Field required; inside.title: Input should be a valid string"
    )


def test_the_message_is_short_for_a_long_input() -> None:
    """However much is wrong, the message has one line of at most 300 characters."""
    text = json.dumps({f"key {number}\n" * 9: "x" for number in range(500)})
    short = message(Box[dict[str, int]], '{"inside": ' + text + "}")
    assert len(short) <= 300
    assert len(short.splitlines()) == 1


class Fragile(BaseModel):
    x: int

    @field_validator("x")
    @classmethod
    def raise_something(cls, x: int) -> int:
        """Raise what `x` says."""
        if x in (0, 1):
            raise [KeyError("gone"), ZeroDivisionError("by zero")][x]
        if x == 2:
            raise ValueError("two\nlines \ud800")
        assert x != 3, "not three"
        return x


@pytest.mark.parametrize(
    ("x", "said"),
    [(0, "KeyError"), (1, "ZeroDivisionError: by zero"), (2, "x: Value error"), (3, "not three")],
)
def test_whatever_a_validator_raises_is_a_failure(x: int, said: str) -> None:
    """User code may raise anything; it never stops the run."""
    text = message(Fragile, json.dumps({"x": x}))
    assert said in text
    assert len(text.splitlines()) == 1
    text.encode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '{"x": 1e999}',
        '{"x": ' + "9" * 5000 + "}",
        '{"x": NaN}',
        "[" * 100_000,
        '{"x": "\\ud800"}',
    ]
    + ["\ud800", '{"x": "\ud800"}', "```", "``````", "```json", "\x00", '{"x": 5'],
)
def test_odd_texts_are_failures(text: str) -> None:
    """No text raises."""
    message(Fragile, text)


@given(
    st.text(alphabet=st.characters(exclude_categories=[])) | st.from_regex(r'\A```(json)?\s*\{"x": .*\}?`*\Z')
)
def test_any_text_is_a_model_or_a_failure(text: str) -> None:
    """Law: validate never raises, and its message is one short line that can be written."""
    answer = validate(Fragile, text)
    assert isinstance(answer, Fragile | Failure)
    if isinstance(answer, Failure):
        assert 0 < len(answer.message.encode()) <= 1200
        assert len(answer.message.splitlines()) == 1


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner)
    )
)
def test_any_json_is_a_model_or_a_failure(value: object) -> None:
    """Law: the same for every JSON value in the field."""
    assert isinstance(validate(Fragile, json.dumps({"x": value})), Fragile | Failure)


def test_a_type_that_a_validator_changes_is_still_valid() -> None:
    """The original model judges, with all its validators."""
    answer = create_model("Answer", x=(Annotated[str, AfterValidator(str.upper)], ...))
    assert validate(answer, '{"x": "a"}') == answer.model_construct(x="A")
