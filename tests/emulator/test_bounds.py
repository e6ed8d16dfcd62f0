"""Values lie within the bounds of their fields, by keywords or by words."""

import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, Field

from pipeline.emulator.answers import compile_schema
from pipeline.emulator.bounds import MOST_TEXT, Bounds, bounds, form
from pipeline.emulator.subject import Subject
from pipeline.schema import json_schema

TEXTS = ["Weight: 7.25\nPrice: 12.50", "rating 5 code: A1", "at 9:30", "77:99 www.example.org", "link: none"]


class Part(BaseModel):
    """An inner model with bounds of its own."""

    phrase: str = Field(min_length=3, max_length=12)
    weight: float = Field(ge=0, le=1)


class Bounded(BaseModel):
    """A field for each kind of bound."""

    weight: float = Field(ge=0, le=1)
    far: float = Field(gt=100)
    below: float | None = Field(lt=-0.5)
    thin: float = Field(gt=0, lt=0.001, description="A (very) small share")
    score: int = Field(gt=0, lt=101)
    rating: float = Field(ge=0.5, le=0.75)
    even: int = Field(ge=3, multiple_of=4)
    half: float = Field(gt=1, multiple_of=0.5)
    long: str = Field(min_length=60)
    short: str = Field(max_length=4)
    code: str | None = Field(min_length=8, max_length=8)
    tags: list[Annotated[str, Field(min_length=4, max_length=6)]] = Field(min_length=2, max_length=3)
    topics: list[Part] = Field(min_length=1, max_length=5)
    marks: set[int] = Field(min_length=4)
    sides: set[Literal["left", "right", "both"]] = Field(min_length=2)
    price: Decimal = Field(ge=Decimal("0.05"), le=Decimal("0.95"), decimal_places=2)
    size: Decimal = Field(gt=5, decimal_places=1, description="The decimal size")
    total_amount: Decimal = Field(lt=10)
    sure: Literal[True]


class Formal(BaseModel):
    """A field for each format that words may name."""

    day: date
    moment: datetime
    clock: time
    span: timedelta
    name: UUID
    link: AnyUrl
    days: list[date] = Field(min_length=2)
    weight: Decimal


def answer(schema: dict[str, Any], text: str) -> str:
    """Answer as the API does."""
    return json.dumps(compile_schema(schema)(Subject(text), True))


@given(text=st.text() | st.sampled_from(TEXTS))
@pytest.mark.parametrize("model", [Bounded, Formal])
def test_words_bound_values(model: type[BaseModel], text: str) -> None:
    """The words that stand for keywords which the API does not enforce are heeded, whatever the text."""
    assert model.model_validate_json(answer(json_schema(model), text))


@given(text=st.text())
def test_keywords_bound_values(text: str) -> None:
    """As Pydantic writes them, and as OpenAPI 3.0 does."""
    assert Bounded.model_validate_json(answer(Bounded.model_json_schema(), text))
    schema = {"type": "number", "minimum": 3, "exclusiveMinimum": True, "maximum": "4"}
    assert 3 < json.loads(answer(schema, text)) <= 4


def test_other_words_are_no_bounds() -> None:
    """Only what stands alone, or as a note behind a description."""
    for said in ("at least 3 sentences", "say at most 2", "of at least 3; or so"):
        assert bounds({"description": said}) == Bounds()
    assert bounds({"description": "at least 3"}) == Bounds(low=Decimal(3))
    assert bounds({"description": "One (or (two)) words (at least 1e-05; at most 3 items)"}) == Bounds(
        low=Decimal("0.00001"), most=3
    )
    assert bounds({"description": "at least 3", "minimum": 4}).low == 4
    assert (form({"description": "the URL of it"}), form({"description": "the place (URL)"})) == ("", "uri")


def test_a_text_is_cut_between_words() -> None:
    """Where that leaves enough of it."""
    subject = Subject("one two three four")
    assert Bounds(longest=10).text("one two three", subject) == "one two"
    assert Bounds(shortest=9, longest=10).text("one two three", subject) == "one two th"
    assert Bounds(shortest=20).text("one", subject) == "one one two three four"


def test_a_text_is_made_no_longer_than_any_answer() -> None:
    """Or a schema that wants a book would stop the emulator for all others."""
    subject = Subject("one two three four")
    for value in ("", "one"):
        assert MOST_TEXT <= len(Bounds(shortest=10**9).text(value, subject)) < MOST_TEXT + 20
        assert 5_000 <= len(Bounds(shortest=5_000).text(value, subject)) < 5_020
