"""A deterministic estimate of how many tokens the model sees in a text, without any vocabulary."""

from math import ceil

_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ \t\r"
_DIGITS = b"0123456789"

# UTF-8 lead bytes say which script a character is of, so counting needs no loop in Python.
_TRAIL = bytes(range(0x80, 0xC0))
_LEAD2 = bytes(range(0xC0, 0xE0))  # accented Latin, Greek, Cyrillic, Hebrew, Arabic
_LEAD3 = bytes(range(0xE0, 0xE3))  # Indic, Thai, typographic signs
_LEAD_CJK = bytes(range(0xE3, 0xF0))  # kana, Han, Hangul
_LEAD4 = bytes(range(0xF0, 0x100))  # emoji and rare scripts

MEDIA_TOKENS = 1120
"""Tokens of one image or file part at the default resolution."""


def count_tokens(text: str) -> int:
    """Estimate the tokens of `text`: Latin about 4.5 characters each, CJK about 1.3, a digit one each."""
    if not text:
        return 0
    whole = text.encode("utf-8", "surrogatepass")
    rest = whole.translate(None, _LETTERS)
    weight = 0.215 * (len(whole) - len(rest))
    signs = rest.translate(None, _DIGITS)
    weight += 1.0 * (len(rest) - len(signs))
    if not text.isascii():
        weight, signs = weight + _foreign(signs), signs.translate(None, bytes(range(0x80, 0x100)))
    lines = signs.count(b"\n")
    weight += 0.8 * lines + 0.7 * (len(signs) - lines)
    return max(1, ceil(weight))


def _foreign(signs: bytes) -> float:
    """Weigh the characters outside ASCII by their lead bytes."""
    leads = signs.translate(None, _TRAIL)
    weight = 0.0
    for kind, each in ((_LEAD2, 0.45), (_LEAD3, 0.8), (_LEAD_CJK, 0.78), (_LEAD4, 1.6)):
        rest = leads.translate(None, kind)
        weight += each * (len(leads) - len(rest))
        leads = rest
    return weight
