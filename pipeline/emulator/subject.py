"""The text that a request asks about, and what is known of it; each fact is found once, when first wanted."""

import re
from functools import cached_property
from zlib import crc32

from pipeline.emulator.items import Item, line_items
from pipeline.emulator.lexicon import Mood, mood
from pipeline.emulator.values import Dated, Labelled, dates, labelled

_OPENING = re.compile(
    r"(?im)^[ \t]*(?:\*\*)?(?:review|text|comment|message|feedback|tweet|post|input|document|ticket|article|"
    r"question|passage|row|bewertung|kommentar|avis|reseña)(?:\*\*)?[ \t]*[:：][ \t]*(?:\*\*)?"
)
_FENCED = re.compile(r'(?s)<([a-z_]+)(?:\s[^>]*)?>(.*)</\1>|"""(.+?)"""|```[a-z]*\n(.+?)```')
_ROWS = (
    re.compile(r'(?s)<(?P<tag>[a-z_]+)\b[^>]*?\b(?:id|key|n)="(?P<id>[^"]+)"[^>]*>(?P<text>.*?)</(?P=tag)>'),
    re.compile(r"(?ms)^\s*\[(?P<id>[\w-]+)\]:?\s*(?P<text>.*?)(?=^\s*\[[\w-]+\]|\Z)"),
    re.compile(r"(?ms)^#+\s*(?:row|item|record)?\s*(?P<id>[\w-]+)\s*:?\s*$(?P<text>.*?)(?=^#+\s|\Z)"),
)
_WORD = re.compile(r"[^\W\d_]{2,}")


_DIGITS = {start + digit: str(digit) for start in (0x660, 0x6F0, 0x966, 0xFF10) for digit in range(10)}
_MARKS = _DIGITS | {0x66B: ".", 0x66C: ",", 0x2212: "-"}


class Subject:
    """One text. `seed` only turns what is left to chance."""

    def __init__(self, text: str, seed: int = 0) -> None:
        self.text = text
        self.seed = seed

    @cached_property
    def core(self) -> str:
        """The text after its instructions, where a label, a tag or a fence shows its start; digits as 0-9."""
        return self._core if self._core.isascii() else self._core.translate(_MARKS)

    @cached_property
    def _core(self) -> str:
        fenced = _FENCED.search(self.text)
        if fenced is not None:
            return (fenced[2] or fenced[3] or fenced[4] or "").strip()
        opening = _OPENING.search(self.text)
        return self.text[opening.end() :].strip() if opening is not None else self.text.strip()

    @cached_property
    def mood(self) -> Mood:
        """How the text feels."""
        return mood(self.core)

    @cached_property
    def words(self) -> list[str]:
        """The words of the text in lower case, in order."""
        return [word.lower() for word in _WORD.findall(self.core)]

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """The distinct words."""
        return frozenset(self.words)

    @cached_property
    def labels(self) -> list[Labelled]:
        """The lines `label: value`."""
        return labelled(self.core)

    @cached_property
    def dates(self) -> list[Dated]:
        """The dates."""
        return dates(self.core)

    @cached_property
    def items(self) -> list[Item]:
        """The line items."""
        return line_items(self.core)

    @cached_property
    def rows(self) -> list[tuple[str, str]]:
        """The parts of a text that holds several rows, each with its id."""
        for pattern in _ROWS:
            found = [(match["id"], match["text"]) for match in pattern.finditer(self.text)]
            if found:
                return found
        return []

    def chance(self, salt: str, sides: int) -> int:
        """Throw a die that falls the same for the same text, seed and salt."""
        return crc32(f"{self.seed}|{salt}|{self.core}".encode("utf-8", "surrogatepass")) % sides

    def quote(self, words: int = 8) -> str:
        """Return the first words of the text."""
        return " ".join(self.core.split(None, words + 1)[:words]).rstrip(" ,.;:!?")
