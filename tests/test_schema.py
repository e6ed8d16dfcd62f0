"""JSON schemas that the API accepts, and answers that become models or failures."""

import json
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    HttpUrl,
    PlainValidator,
    WithJsonSchema,
    create_model,
    field_validator,
)

from pipeline.errors import JobError
from pipeline.flow import Failure, FailureKind
from pipeline.schema import LONGEST_MESSAGE, json_schema, one_line, validate

# Of the keywords that the SDK documents: those without bounds and formats, of which the API takes few.
LISTED = {"type", "description", "enum", "items", "anyOf", "properties", "additionalProperties", "required"}
TYPES = {"object", "array", "string", "integer", "number", "boolean", "null"}


class Colour(StrEnum):
    """Words for a colour."""

    RED = "red"
    BLUE = "blue"


class Rank(IntEnum):
    """A rank."""

    ONE = 1
    TWO = 2


class MaybeColour(Enum):
    """A colour that may be null."""

    RED = "red"
    NONE = None


class Part(BaseModel):
    """A part of a whole."""

    name: str = Field(description="What it is.")
    price: Annotated[Decimal, Field(decimal_places=2, ge=0)]


class Answer(BaseModel):
    """An answer."""

    label: Literal["good", "bad"]
    count: int = Field(ge=0, le=9)
    note: str | None = None


class Strict(BaseModel, extra="forbid"):
    """A model that takes nothing else."""

    part: Part


def schema_of(kind: Any, **field: Any) -> dict[str, Any]:
    """Return the schema of a model's one field `x` of a type."""
    model: type[BaseModel] = create_model("Answer", x=(kind, Field(**field)))
    properties: Any = json_schema(model)["properties"]
    found: dict[str, Any] = properties["x"]
    return found


def nodes(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return a schema and all schemas inside it; names of properties are no keywords."""
    yield schema
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    inner += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    for one in inner:
        yield from nodes(one)


ZOO = [
    str,
    Annotated[str, Field(min_length=1, max_length=9, pattern="^a+$", title="T", examples=["a"])],
    Annotated[int, Field(gt=0, lt=9, multiple_of=2)],
    Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)],
    int | float | None,
    bool,
    Literal[True],
    Literal["only"],
    Literal[1, 2] | None,
    Colour,
    MaybeColour,
    list[Rank],
    date | None,
    datetime,
    AwareDatetime,
    time,
    timedelta,
    UUID,
    HttpUrl,
    Path,
    Decimal | None,
    dict[str, Decimal],
    dict[Annotated[str, Field(pattern="^a")], Part | None],
    Annotated[list[Part | None], Field(min_length=1, max_length=5)],
    set[Colour],
    tuple[int, int],
    list[list[str | None] | None],
    Strict | None,
    Annotated[str, WithJsonSchema({"type": ["string", "null"], "const": "a", "not": {}})],
]


@pytest.mark.parametrize("kind", ZOO, ids=str)
def test_only_listed_keywords_are_sent(kind: Any) -> None:
    """Whatever Pydantic writes, the API gets keywords that it documents, and every node has a type."""
    model = create_model("Animal", x=(kind, ...), y=(kind, Field(description="Why.", title="Y")))
    for node in nodes(json_schema(model)):
        assert node.keys() <= LISTED
        assert ("type" in node) != ("anyOf" in node)
        names = node.get("type", [])
        assert set([names] if isinstance(names, str) else names) <= TYPES
        assert all(type(value) in (str, int, float) for value in node.get("enum", []))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (str, {"type": "string"}),
        (str | None, {"type": ["string", "null"]}),
        (int | float, {"type": "number"}),
        (Literal["only"], {"type": "string", "enum": ["only"]}),
        (Literal[1, 2], {"type": "integer", "enum": [1, 2]}),
        (Literal[True], {"type": "boolean", "description": "always true"}),
        (Literal["a", None], {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]}),
        (Colour, {"type": "string", "description": "Words for a colour.", "enum": ["red", "blue"]}),
        (date, {"type": "string", "description": "ISO 8601 date"}),
        (Annotated[int, Field(ge=0, le=9)], {"type": "integer", "description": "at least 0; at most 9"}),
        (list[str], {"type": "array", "items": {"type": "string"}}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (dict[str, int | None], {"type": "object", "additionalProperties": {"type": ["integer", "null"]}}),
        (
            dict[Annotated[str, Field(pattern="^a")], int],
            {"type": "object", "additionalProperties": {"type": "integer"}},
        ),
        (
            list[str] | None,
            {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        ),
        (
            Annotated[Decimal, Field(decimal_places=2, ge=0)],
            {
                "type": "string",
                "description": "decimal number as text; at least 0; at most 2 decimal places",
            },
        ),
        (Annotated[str, WithJsonSchema({"type": ["string", "null"]})] | None, {"type": ["string", "null"]}),
    ],
    ids=str,
)
def test_a_type_has_its_schema(kind: object, expected: object) -> None:
    """Each type is asked for in the plainest way that the API takes."""
    assert schema_of(kind) == expected


def test_references_are_inlined_and_keep_the_field_s_description() -> None:
    """A nested model stands where it is used, and what the field says of it wins over its docstring."""
    part = schema_of(Part, description="The main part.")
    assert part["description"] == "The main part."
    assert part["properties"]["name"] == {"type": "string", "description": "What it is."}
    assert schema_of(Part)["description"] == "A part of a whole."


def test_fields_keep_their_order_and_defaults_are_optional() -> None:
    """The model writes evidence before the verdict, and may leave out what has a default."""
    schema: dict[str, Any] = json_schema(Answer)
    assert list(schema["properties"]) == ["label", "count", "note"]
    assert schema["required"] == ["label", "count"]
    assert schema["description"] == "An answer."


def test_bounds_become_words_of_the_description() -> None:
    """The model reads them there; Pydantic checks them in the answer."""
    score = schema_of(float, ge=0, le=1, description="How sure.")
    assert score == {"type": "number", "description": "How sure. (at least 0; at most 1)"}
    day = schema_of(date, description="The day, as ISO 8601.")
    assert day["description"] == "The day, as ISO 8601."


def test_extra_fields_stay_forbidden() -> None:
    """`extra="forbid"` is said to the API too."""
    assert json_schema(Strict)["additionalProperties"] is False


def test_the_alias_is_what_the_answer_says() -> None:
    """The schema asks for the name that validation looks for."""
    model = create_model("Answer", x=(str, Field(alias="the-x")))
    assert json_schema(model)["required"] == ["the-x"]
    assert getattr(validate(model, '{"the-x": "a"}'), "x", None) == "a"


@pytest.mark.parametrize(
    ("kind", "path", "problem"),
    [
        (Any, "x", "may be anything"),
        (list[dict], "x[]", "does not say of what"),  # type: ignore[type-arg]  # as a user writes it
        (dict[str, int | str], "x.*", "one of several types"),
        (bytes, "x", "cannot hold"),
        (Annotated[str, PlainValidator(str)], "x", "has no JSON type"),
        (list[Annotated[str, PlainValidator(str)]], "x[]", "has no JSON type"),
        (Annotated[str, BeforeValidator(str, json_schema_input_type=int | str)], "x", "several types"),
        (Annotated[str, WithJsonSchema({"type": ["string", "integer"]})], "x", "several types"),
    ],
    ids=str,
)
def test_a_type_without_a_schema_is_refused(kind: object, path: str, problem: str) -> None:
    """The job is refused before anything is sent; the message names the field, the hint a way out."""
    with pytest.raises(JobError) as raised:
        schema_of(kind)
    assert f"`{path}`" in raised.value.message
    assert problem in raised.value.message
    assert raised.value.hint


def test_a_type_that_pydantic_cannot_describe_is_refused() -> None:
    """What Pydantic says of it is passed on in one line."""

    class Odd(str):
        @classmethod
        def __get_pydantic_core_schema__(cls, _kind: object, _handler: object) -> Any:
            from pydantic_core import core_schema  # noqa: PLC0415 - only here

            return core_schema.is_instance_schema(cls)

    kind = Annotated[date, BeforeValidator(str, json_schema_input_type=Odd)]
    with pytest.raises(JobError, match="the schema `Answer` has no JSON form"):
        schema_of(kind)


def test_a_good_answer_becomes_a_model() -> None:
    """Plain, pretty-printed, or in a code fence."""
    expected = Answer(label="good", count=3)
    for text in (
        '{"label":"good","count":3}',
        ' {\n  "label": "good",\n  "count": 3\n}\n',
        '```json\n{"label": "good", "count": 3}\n```',
        '```\n{"label": "good", "count": 3}\n```\n',
        '```JSON {"label": "good", "count": 3}```',
    ):
        assert validate(Answer, text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "answer: Invalid JSON"),
        ("I am sorry, Dave", "answer: Invalid JSON"),
        ('{"label": "good", "coun', "answer: Invalid JSON"),
        ("[" * 100_000, "recursion limit"),
        ('{"label": "good", "count": 1}\n{"label": "bad", "count": 2}', "answer: Invalid JSON"),
        ('["good", 3]', "answer: "),
        ("null", "answer: "),
        ("```", "answer: Invalid JSON"),
        ("\ud800", "answer: "),
        ('{"label": "fine", "count": 3}', "label: Input should be 'good' or 'bad'"),
        ('{"label": "good", "count": 99}', "count: Input should be less than or equal to 9"),
        ('{"count": 1}', "label: Field required"),
        ('{"label": "good", "count": ' + "9" * 10_000 + "}", "answer: Invalid JSON"),
    ],
)
def test_a_bad_answer_becomes_a_failure(text: str, words: str) -> None:
    """Its kind is `invalid`, and its message names the field and what is wrong, in one line."""
    found = validate(Answer, text)
    assert isinstance(found, Failure)
    assert found.kind is FailureKind.INVALID
    assert words in found.message
    assert len(found.message) <= LONGEST_MESSAGE


def test_many_problems_are_counted() -> None:
    """Four are shown, the rest is a number."""
    model = create_model("Wide", **dict.fromkeys("abcdef", (int, ...)))  # type: ignore[call-overload]
    found = validate(model, "{}")
    assert isinstance(found, Failure)
    assert found.message.count("Field required") == 4
    assert found.message.endswith("and 2 more")


def test_a_validator_may_raise_anything() -> None:
    """The user's own code fails the row, never the run, and the message says what it raised."""

    class Fragile(BaseModel):
        text: str

        @field_validator("text")
        @classmethod
        def _check(cls, value: str) -> str:
            return {"known": "word"}[value]

    found = validate(Fragile, '{"text": "a"}')
    assert isinstance(found, Failure)
    assert found.message == "a validator of `Fragile` raised KeyError: 'a'"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["label", "count", "note", "x"]), inner),
).map(json.dumps)


@given(st.text(st.characters()) | JSON | JSON.map(lambda text: f"```json\n{text}\n```"))
def test_any_text_is_judged(text: str) -> None:
    """`validate` returns a model or a failure with a writable message; it never raises."""
    found = validate(Answer, text)
    if isinstance(found, Failure):
        assert found.kind is FailureKind.INVALID
        assert found.message == one_line(found.message)
        found.message.encode()
    else:
        assert type(found) is Answer


@given(st.builds(Answer), st.sampled_from(["{}", "```json\n{}\n```", "\n{} "]))
def test_what_a_model_writes_is_read_again(answer: Answer, frame: str) -> None:
    """The JSON of any valid model validates to an equal model."""
    assert validate(Answer, frame.replace("{}", answer.model_dump_json())) == answer


@given(st.text(st.characters(), max_size=1_000))
def test_one_line_is_one_writable_line(text: str) -> None:
    """Whatever comes in: one line, at most 300 characters, UTF-8, and nothing that steers a terminal."""
    line = one_line(text)
    line.encode()
    assert len(line) <= LONGEST_MESSAGE
    assert len(line.splitlines()) <= 1
    assert not any(char < " " or "\x7f" <= char <= "\x9f" for char in line)
    assert one_line(line) == line


def test_one_line_joins_and_cuts() -> None:
    """White space becomes single spaces, what is too long ends in an ellipsis."""
    assert one_line("  a\r\n\tb\x1b[31m c ") == "a b [31m c"
    assert one_line("x" * 300) == "x" * 300
    assert one_line("x" * 301) == "x" * 299 + "…"
