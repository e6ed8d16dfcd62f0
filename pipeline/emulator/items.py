"""Line items: rows of a text that say how many, of what, at which price."""

import re
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations

from pipeline.emulator.values import NUMBER, SIGNS, decimal

_NUMBER = re.compile(rf"(?<![\w.,]){NUMBER}(?![\w%]|\s?%)|(?<![\w.,]){NUMBER}(?=\s?[x×]\s)")
_QUANTITY = re.compile(
    rf"(?<![\w.,])({NUMBER})\s?(?:[x×]|pcs?\b\.?|stk\b\.?|stück\b|units?\b|h\b|hours?\b|pi[eè]ces?\b)", re.I
)
_TIMES = re.compile(rf"(?:[x×]|\bqty\b\.?:?|\bmenge\b:?)\s?({NUMBER})(?![\w.,])", re.I)
_PRICE = re.compile(rf"(?:@|\bà|\bat|\bje|\beach|\bper unit)\s*(?:[^\w\s]|[A-Z]{{3}})?\s?({NUMBER})", re.I)
_SUMMARY = re.compile(
    r"(?i)\b(?:sub-?total|total|balance|amount due|vat|tax|mwst|ust|tva|iva|gst|netto|brutto|gesamt\w*|summe|"
    r"zwischensumme|sous-total|invoice|rechnung|facture|date|datum|due|iban|phone|tel|discount|shipping|page)\b"
)
_NOISE = re.compile(
    rf"(?:{'|'.join(map(re.escape, SIGNS))})"
    r"|\b(?:EUR|USD|GBP|CHF|JPY|PLN|SEK|CAD|AUD|each|je|at|qty|pcs?|stk|units?)\b\.?"
    r"|@|=|\bà(?!\w)|[x×](?!\w)|\|",
)
_NUMBERED = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)](?=\s)|#\d+)\s*")

_PLACE = re.compile(r"^\s*\d{1,3}\s{2,}(?=[^\W\d].*\s\d+\S*\s+\d\S*\s+\d)")  # `2  Pen  3  1.50  4.50`


@dataclass(frozen=True, slots=True)
class Item:
    """One line: what, how many, for how much each and together."""

    description: str
    quantity: Decimal
    unit_price: Decimal
    amount: Decimal


def line_items(text: str) -> list[Item]:
    """Find the lines whose numbers are a quantity, a price and, where stated, their product."""
    found = (_item(line) for line in text.splitlines() for line in _pieces(line))
    return [item for item in found if item is not None]


def _pieces(line: str) -> list[str]:
    """Split a line that names several items: `2 x Pen @ 1.50; 1 x Ink @ 4.00`."""
    return re.split(r";\s+", line) if len(_QUANTITY.findall(line)) > 1 else [line]


def _item(line: str) -> Item | None:
    line = _PLACE.sub("", _NUMBERED.sub("", line))
    spots = [(match.span(), decimal(match[0])) for match in _NUMBER.finditer(line)]
    if len(spots) < 2:
        return None
    return _multiplied(line, spots) or _marked(line)


def _multiplied(line: str, spots: list[tuple[tuple[int, int], Decimal]]) -> Item | None:
    """Take the three last numbers of which the first two make the third."""
    if _SUMMARY.search(line) and not _QUANTITY.search(line):
        return None
    for three in reversed(list(combinations(spots[-5:], 3))):
        quantity, price, amount = (value for _, value in three)
        if amount and abs(quantity * price - amount) <= Decimal("0.01"):
            description = _described(line, [span for span, _ in three])
            return Item(description, quantity, price, amount) if description else None
    return None


def _marked(line: str) -> Item | None:
    """Take numbers that signs call quantity and price."""
    count = _QUANTITY.search(line) or _TIMES.search(line)
    price = _PRICE.search(line)
    if count is None or price is None:
        return None
    quantity, each = decimal(count[1]), decimal(price[1])
    description = _described(line, [count.span(), price.span()])
    return Item(description, quantity, each, quantity * each) if description else None


def _described(line: str, spans: list[tuple[int, int]]) -> str:
    """Return what is left of a line without its numbers and signs."""
    for start, end in sorted(spans, reverse=True):
        line = line[:start] + " " + line[end:]
    plain = re.sub(r"\(\s*\)|\.{2,}|\s{2,}", " ", _NOISE.sub(" ", line))
    return re.sub(r"\s{2,}", " ", plain).strip(" ,;:|–—-.(=\t")
