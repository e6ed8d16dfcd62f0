"""Cells made fit for a prompt: without control characters, and between tags that no cell can close."""

import re
from functools import cache

TAG = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
HARMLESS = "&lt;"  # in place of the `<` of a tag that a cell only pretends

# Control characters make models loop, lone surrogates cannot be sent; tab and line feed stay.
_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
# What nobody sees: Unicode's Default_Ignorable_Code_Point
_UNSEEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff"
)
_WIDE = 0xFF01 - ord("!")  # from an ASCII character to its full-width form


def clean(text: str) -> str:
    """Return a text without control characters other than tab and line feed; all line ends are line feeds."""
    if text.replace("\n", " ").isprintable():  # most are; it takes a third of the time
        return text
    return _UNWANTED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def fenced(text: str, tag: str) -> str:
    """Return a text on lines of its own between `<tag>` and `</tag>`, with no such tag inside it."""
    return f"<{tag}>\n{without(text, tag)}\n</{tag}>"


def without(text: str, tag: str) -> str:
    """Return a clean text without opening and closing tags of a name.

    In whatever case, width and spacing they stand, also with invisible characters between or unfinished, they
    keep their letters, but their `<` becomes `&lt;`.
    """
    # cleaned before it is searched: what is taken out later could have stood inside a tag
    text = clean(text)
    return text if text.isascii() and "<" not in text else _tags(tag).sub(HARMLESS, text)


@cache
def _tags(name: str) -> re.Pattern[str]:
    """Match the `<` of tags of one name; possessive, so that no text takes longer than its length."""
    gap = rf"[\s{_UNSEEN}]*+"
    letters = f"[{_UNSEEN}]*+".join(f"[{re.escape(one)}{chr(ord(one) + _WIDE)}]" for one in name)
    slashes = rf"(?:[/\\／＼∕⁄]{gap})*+"
    return re.compile(rf"[<＜﹤](?={gap}{slashes}{letters}(?![{_UNSEEN}]*+[\w-]))", re.IGNORECASE)
