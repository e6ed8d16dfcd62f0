"""Answers conform to their schema and make sense for the text."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from pipeline.emulator.answers import compile_schema
from pipeline.emulator.subject import Subject
from tests.emulator.conftest import LABELS


def answer(schema: dict[str, Any], text: str, seed: int = 0) -> Any:
    """Answer and send the value through JSON, as the API does."""
    return json.loads(json.dumps(compile_schema(schema)(Subject(text, seed), True)))


class Inner(BaseModel):
    """Something with a reference."""

    name: str
    children: list["Inner"] = []


class Everything(BaseModel):
    """One field for each kind of value."""

    text: str
    whole: int = Field(ge=3, le=9)
    share: float = Field(ge=0, le=1)
    yes: bool
    tags: list[str] = Field(max_length=2)
    inner: Inner
    maybe: str | None
    either: int | str
    money: Decimal | None
    extra: dict[str, str]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("I love this kettle, it is wonderful", "positive"),
        ("Terrible. It broke after two days and I want a refund", "negative"),
        ("It is a kettle", "neutral"),
        ("not good at all", "negative"),
        ("Sehr gut, bin begeistert", "positive"),
        ("Schlechte Qualität, nach einer Woche kaputt", "negative"),
        ("Excellente bouilloire, je recommande", "positive"),
        ("Très déçue, elle est arrivée cassée", "negative"),
        ("Muy buena, la recomiendo", "positive"),
        ("정말 좋아요, 추천합니다", "positive"),
        ("최악이에요 환불하고 싶어요", "negative"),
        ("とても良い、満足です", "positive"),
        ("😍👍", "positive"),
        ("😡👎", "negative"),
    ],
)
def test_the_label_follows_the_mood(text: str, label: str) -> None:
    """In several languages, with emoji, and with a negation."""
    assert answer(LABELS, f"Review: {text}")["label"] == label


def test_only_the_row_is_judged() -> None:
    """Words of the instruction before the row do not count."""
    prompt = "Is this terrible, awful review bad?\n<review>\nI love it\n</review>"
    assert answer(LABELS, prompt)["label"] == "positive"


def test_the_reason_has_words_of_the_text() -> None:
    """It quotes what decided."""
    assert "wonderful" in answer(LABELS, "Review: a wonderful kettle")["reason"]


@given(text=st.text(), seed=st.integers(0, 3))
def test_every_answer_conforms(text: str, seed: int) -> None:
    """Whatever the text, a model of all kinds of fields accepts the answer, and it has just these fields."""
    found = answer(Everything.model_json_schema(), text, seed)
    accepted = Everything.model_validate(found)
    assert list(found) == list(Everything.model_fields)
    assert 3 <= accepted.whole == found["whole"] <= 9
    assert answer(Everything.model_json_schema(), text, seed) == found


def test_the_order_is_the_schema_s() -> None:
    """Fields come in the order of `propertyOrdering`, else in that of the properties."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in "bac"},
        "required": ["a", "b", "c"],
    }
    assert list(answer(schema, "x")) == ["b", "a", "c"]
    assert list(answer(schema | {"propertyOrdering": ["c", "b", "a"]}, "x")) == ["c", "b", "a"]


def test_packed_rows_come_back_under_their_ids() -> None:
    """Each row of a packed prompt is judged by itself."""
    row = {"type": "object", "properties": {"id": {"type": "string"}, **LABELS["properties"]}}
    prompt = '<row id="r1">I love it</row>\n<row id="r2">Terrible, broken</row>'
    found = answer({"type": "array", "items": row | {"required": ["id", "label"]}}, prompt)
    assert [(one["id"], one["label"]) for one in found] == [("r1", "positive"), ("r2", "negative")]


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("email", "string", "ann@example.org"),
        ("invoice_number", "string", "INV-7"),
        ("total", "number", 31.5),
        ("dueDate", "string", "2026-04-11"),
        ("currency", "string", "EUR"),
    ],
)
def test_a_field_is_found_by_its_name(name: str, kind: str, said: object) -> None:
    """Names in either spelling lead to the value in the text."""
    text = "Invoice INV-7\nDate: 12 March 2026  Due: 11 April 2026\nMail: ann@example.org\nTotal: 31.50 EUR"
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    assert answer(schema, text) == {name: said}


def test_what_the_text_does_not_say_is_null_or_absent() -> None:
    """Nothing is invented where it may be left out."""
    text = {"type": "string"}
    schema = {"type": "object", "properties": {"iban": {"anyOf": [text, {"type": "null"}]}, "email": text}}
    assert answer(schema, "nothing of that kind") == {"iban": None}
