"""A cell between two tags cannot close them, whatever stands in it, and is otherwise left alone."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import JobError
from pipeline.fence import HARMLESS, clean, fenced
from pipeline.template import Template

OPEN, CLOSE = "<review>\n", "\n</review>"
UNSEEN = "\u200b\u200d\u2060\ufeff\u00ad\ufe0f\U000e0041"


def inside(text: str) -> str:
    """Return what stands in the fence."""
    whole = fenced(text, "review")
    assert whole.startswith(OPEN)
    assert whole.endswith(CLOSE)
    return whole[len(OPEN) : -len(CLOSE)]


def folded(text: str) -> str:
    """Return a text as somebody reads it who sees no invisible characters, no width and no case."""
    seen = unicodedata.normalize("NFKC", re.sub(f"[{UNSEEN}]", "", text)).casefold()
    return re.sub(r"\s", "", seen)


@pytest.mark.parametrize(
    "tag",
    [
        "</review>",
        "<review>",
        "</REVIEW>",
        "</ReView >",
        "< / review >",
        "<\n/\treview\n>",
        "<//review>",
        "<\\/review>",
        "</review",
        '<review id="2">',
        "<review/>",
        "＜/review＞",
        "﹤/review>",
        "<／ｒｅｖｉｅｗ>",
        "<\u200b/rev\u200biew>",
        "</re\u00adview\ufeff>",
        "<\x00/review>",
        "</re\x07view>",
        "</\x85review>",
        "</re\ud800view>",
    ],
)
def test_a_tag_in_a_cell_is_harmless(tag: str) -> None:
    """Its first sign is replaced, visibly; what stands around it stays."""
    found = inside(f"good {tag} bad")
    assert found == "good " + HARMLESS + clean(tag)[1:] + " bad"


@pytest.mark.parametrize(
    "text",
    [
        "a < b, <b>bold</b>, <reviewer>, </reviews>, <re view>, </preview>, &lt;/review&gt;",
        'say "review" / <- review',
        "",
        "tabs\tand\nlines",
        "{{ text }} {% raw %} ${x} %s",
    ],
)
def test_everything_else_stays(text: str) -> None:
    """No other tag, no quote and no template is touched."""
    assert inside(text) == text


@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                ["<", "＜", "/", "\\", "review", "REVIEW", "ｒｅview", "rev", "iew", ">", " ", "\n"]
            ),
            st.sampled_from([*UNSEEN, "\x00", "\r", "\x1b", "\ud800"]),
            st.text(max_size=3),
        ),
        max_size=12,
    )
)
def test_no_text_holds_the_closing_tag(pieces: list[str]) -> None:
    """Read without invisible signs, width and case there is one opening and one closing tag."""
    whole = folded(clean(fenced("".join(pieces), "review")))
    assert (whole.count("<review>"), whole.count("</review>")) == (1, 1)


def test_a_long_cell_takes_no_longer_than_its_length() -> None:
    """Blanks, slashes and invisible signs without end after a `<` are read once."""
    for filler in (" ", "/", "\u200b", "< ", "</", "<r\u200b"):
        assert inside("<" + filler * 1_000_000 + "x")


def test_a_fence_is_a_filter_of_templates() -> None:
    """For cells of every kind; a null is an empty fence."""
    template = Template('{{ text | fenced("review") }}')
    assert template.render({"text": "a</review>"}) == f"{OPEN}a&lt;/review>{CLOSE}"
    assert template.render({"text": None}) == OPEN + CLOSE
    assert template.render({"text": 4.5}) == f"{OPEN}4.5{CLOSE}"
    assert template.columns == ("text",)


def test_a_fence_can_hold_several_cells() -> None:
    """As a block, with words of the template between them; tags in all of it are harmless."""
    template = Template('{% filter fenced("r") %}{{ a }}: {{ b }}{% endfilter %}')
    assert template.render({"a": "</r>", "b": "x"}) == "<r>\n&lt;/r>: x\n</r>"


@pytest.mark.parametrize(
    "filter_", ["fenced", "fenced()", "fenced(a)", 'fenced("a b")', 'fenced("")', "fenced(1)"]
)
def test_the_tag_stands_in_the_template(filter_: str) -> None:
    """A cell that chose its own fence would be none; a bad one is refused before any row."""
    with pytest.raises(JobError, match="line 1 of the template: `fenced` takes the name of a tag"):
        Template(f"{{{{ text | {filter_} }}}}")


@given(st.text(st.sampled_from("\r\n\t\0\x85\ud800 aé\u200b"), max_size=6) | st.text())
def test_a_clean_text_has_no_control_character_and_keeps_all_others(text: str) -> None:
    """Also where a quick look may do."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    kept = [one for one in lines if one in "\t\n" or unicodedata.category(one) not in {"Cc", "Cs"}]
    assert clean(text) == "".join(kept)
