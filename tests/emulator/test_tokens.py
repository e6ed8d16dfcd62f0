"""Counting tokens without a vocabulary."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.emulator.tokens import count_tokens


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", 0, 0),
        ("a", 1, 1),
        ("The kettle boils fast and looks good on the counter.", 9, 16),
        ("Der Wasserkocher ist schnell und schön, aber laut.", 9, 20),
        ("배송이 빠르고 품질이 아주 좋아요", 8, 24),
        ("1234567890", 10, 10),
        ("👍👍👍", 3, 8),
    ],
)
def test_the_count_is_near_that_of_a_real_vocabulary(text: str, least: int, most: int) -> None:
    """Latin text has about four characters a token, digits and other scripts have fewer."""
    assert least <= count_tokens(text) <= most


@given(st.text(), st.text())
def test_a_longer_text_never_has_fewer_tokens(text: str, more: str) -> None:
    """The count grows with the text, also for lone surrogates."""
    assert count_tokens(text) <= count_tokens(text + more) <= count_tokens(text) + count_tokens(more)
