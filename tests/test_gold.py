"""Right values of fields, as columns of an input hold them."""

import pytest

from pipeline.gold import form, is_known, is_possible, is_right
from pipeline.shape import Choice, Group, Kind, Many, Named, Shape, Single

TEXT, NUMBER, FLAG = Single(Kind.TEXT), Single(Kind.NUMBER), Single(Kind.BOOLEAN)
LABEL = Choice(Kind.TEXT, ("good", "bad"))
PARTS = Many(Group((("phrase", TEXT), ("weight", NUMBER))))
TAGS = Many(LABEL, ordered=False)
SHARES = Named(NUMBER)


def test_gold_in_other_words() -> None:
    """Case, blanks and the form of a number do not count."""
    assert is_right(TEXT, "Positive", " positive ")
    assert is_right(NUMBER, 1.5, "1.50")
    assert is_right(FLAG, True, "true")
    assert not is_right(TEXT, "a", "b")
    assert not is_right(TEXT, None, "b")


@pytest.mark.parametrize("cell", ["", "  ", None])
def test_what_is_blank_is_not_known(cell: str | None) -> None:
    """Unless a field may be answered with just that; a null never is."""
    assert not is_known(LABEL, cell)
    assert not is_known(TEXT, cell)
    assert is_known(Choice(Kind.TEXT, ("good", "")), cell) == (cell is not None)
    assert is_known(NUMBER, 0)
    assert not is_known(NUMBER, float("nan"))


@pytest.mark.parametrize(
    ("shape", "answer", "cell", "other"),
    [
        (PARTS, [{"phrase": "a", "weight": 0.5}], '[{"weight": 0.50, "phrase": "A"}]', "[]"),
        (TAGS, ["bad", "good"], '["good", "bad"]', '["good", "good"]'),
        (Many(LABEL), ["bad", "good"], ["bad", "good"], ["good", "bad"]),
        (SHARES, {"a": 1.0}, '{"a": 1}', '{"b": 1}'),
    ],
)
def test_what_has_parts_is_read_as_json(shape: Shape, answer: object, cell: object, other: object) -> None:
    """A cell holds a list or an object as text, or as such; only a set has no order."""
    assert is_right(shape, answer, cell)
    assert not is_right(shape, answer, other)
    assert is_possible(shape, cell)


@pytest.mark.parametrize(
    ("shape", "cell", "hint"),
    [
        (PARTS, "neutral", "JSON"),
        (PARTS, '["neutral"]', "JSON"),
        (TAGS, '["grey"]', "JSON"),
        (SHARES, "[1]", "JSON"),
        (LABEL, "grey", "one of `good`, `bad`"),
        (NUMBER, "many", "numbers"),
        (FLAG, "1", "`true` or `false`"),
    ],
)
def test_what_no_answer_can_be_is_told(shape: Shape, cell: object, hint: str) -> None:
    """With how it is to be written; free text can be anything."""
    assert not is_possible(shape, cell)
    assert hint in form(shape)
    assert is_possible(TEXT, cell)
