"""Values that stand in a text: dates, amounts, currencies, codes and what follows a label."""

import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

NUMBER = r"\d{1,3}(?:[,.'’ \u00a0\u202f]\d{3})+(?:[.,]\d{1,2})?(?!\d)|\d+(?:[.,]\d+)?"
_NUMBER = re.compile(NUMBER)
SIGNS = {
    "€": "EUR",
    "£": "GBP",
    "R$": "BRL",
    "$": "USD",
    "円": "JPY",
    "元": "CNY",
    "원": "KRW",
    "₩": "KRW",
    "₹": "INR",
    "zł": "PLN",
    "Kč": "CZK",
    "₺": "TRY",
    "درهم": "AED",
    "Fr.": "CHF",
    "发票": "CNY",
    "¥": "JPY",
    "Euro": "EUR",
}
"""What stands for a currency, the surer signs first."""
_CODE = re.compile(
    r"\b(EUR|USD|GBP|CHF|JPY|CNY|KRW|INR|PLN|SEK|NOK|DKK|CZK|CAD|AUD|NZD|BRL|MXN|SGD|HKD|ZAR|AED|TRY)\b"
)
_CURRENCY = rf"(?:{'|'.join(map(re.escape, SIGNS))}|[A-Z]{{3}}|kr\.?)"
_MONEY = re.compile(
    rf"(?P<before>{_CURRENCY}\s?)?(?<![\w.,])(?P<number>{NUMBER})(?P<after>\s?%|\s?{_CURRENCY}(?!\w))?"
)

_MONTHS = (
    "jan jän ene gen stycz",
    "feb fév fev lut",
    "mar mär mrz",
    "apr avr abr kwi",
    "may mai mayo mag maj",
    "jun juin giu cze",
    "jul juil lug lip",
    "aug aoû ago sie",
    "sep set wrz",
    "oct okt out ott paź",
    "nov lis",
    "dec dez déc dic gru",
)
_MONTH = {prefix: number for number, names in enumerate(_MONTHS, 1) for prefix in names.split()}
DATE = re.compile(
    r"(?<![\d.])(?:"
    r"(?P<y1>(?:19|20)\d\d)\s?[-/.年년]\s?(?P<m1>\d{1,2})\s?[-/.月월]\s?(?P<d1>\d{1,2})"
    r"|(?P<a>\d{1,2})(?P<sep>[./-])(?P<b>\d{1,2})(?P=sep)(?P<y2>(?:19|20)\d\d|\d\d)"
    r"|(?P<d3>\d{1,2})(?:st|nd|rd|th|\.|er)?(?:\s+(?:of|de))?[\s-]+(?P<n3>[^\W\d_]{3,10})\.?(?:\s+(?:de|del))?[\s,-]+"
    r"(?P<y3>(?:19|20)\d\d)"
    r"|(?<![^\W\d_])(?P<n4>[^\W\d_]{3,10})\.?\s+(?P<d4>\d{1,2})(?:st|nd|rd|th)?,?\s+(?P<y4>(?:19|20)\d\d)"
    r")(?!\d)",
    re.IGNORECASE,
)

EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
PHONE = re.compile(r"(?<![\w.])\+?\(?\d[\d ()/.-]{6,18}\d\b")
URL = re.compile(r"(?:https?://|www\.)[^\s<>\"')\]]+")
CODE = re.compile(r"\b(?=[\w/-]*\d)[A-Z]{1,6}[-/ ]?\d[\w/-]*\b")
_LABEL = re.compile(
    r"^[\s*•>#|-]*(?P<label>[^\n:：=|\t]{2,40}?)\s*(?:[:：=|\t]|\.{3,})\s*(?P<value>\S[^\n]*?)[\s|*]*$", re.M
)


@dataclass(frozen=True, slots=True)
class Dated:
    """A date and the words that stand before it on its line, in lower case."""

    value: date
    before: str


@dataclass(frozen=True, slots=True)
class Labelled:
    """A line of the shape `label: value`; the label in lower case."""

    label: str
    value: str


def dates(text: str) -> list[Dated]:
    """Find all dates, in the order of the text."""
    american = "$" in text or "USD" in text
    found = []
    for match in DATE.finditer(text):
        value = _date(match, american=american)
        if value is not None:
            line = text[max(0, match.start() - 60) : match.start()].rpartition("\n")[2]
            found.append(Dated(value, line.lower()))
    return found


def decimal(text: str) -> Decimal:
    """Read a number as people write it: `1.234,56`, `1,234.56`, `1 234,5`, `12'000`."""
    if text.isdecimal():
        return Decimal(text)
    text = re.sub(r"['’\s]", "", text)
    point = max(text.rfind("."), text.rfind(","))
    if point < 0:
        return Decimal(text)
    tail = text[point + 1 :]
    several = len(re.findall(r"[.,]", text)) > 1
    same = several and len(set(re.findall(r"[.,]", text))) == 1
    grouped = len(tail) == 3 and (same or (not several and text[point] == "," and len(text) <= 7))
    whole = re.sub(r"[.,]", "", text if grouped else text[:point])
    return Decimal(whole if grouped else f"{whole or 0}.{tail}")


def amounts(line: str) -> list[Decimal]:
    """Find the amounts of a line, left to right; percentages are none."""
    return [
        decimal(match["number"])
        for match in _MONEY.finditer(line)
        if not (match["after"] or "").endswith("%")
    ]


def numbers(text: str) -> list[Decimal]:
    """Find all numbers of a text."""
    return [decimal(match[0]) for match in _NUMBER.finditer(text)]


def currency(text: str) -> str | None:
    """Name the currency of a text by its code, else by its sign."""
    match = _CODE.search(text)
    if match is not None:
        return match[1]
    return next((code for sign, code in SIGNS.items() if sign in text), None)


def labelled(text: str) -> list[Labelled]:
    """Find the lines that name what they say."""
    return [Labelled(match["label"].lower().strip(), match["value"]) for match in _LABEL.finditer(text)]


def _date(match: re.Match[str], *, american: bool) -> date | None:
    if match["y1"]:
        parts = match["y1"], match["m1"], match["d1"]
    elif match["y2"]:
        first, second = int(match["a"]), int(match["b"])
        month_first = match["sep"] == "/" and (american or second > 12) and first <= 12
        day, month = (second, first) if month_first else (first, second)
        parts = match["y2"], str(month), str(day)
    else:
        name = (match["n3"] or match["n4"]).lower()
        number = _MONTH.get(name[:3]) or _MONTH.get(name[:4]) or _MONTH.get(name[:5])
        if number is None:
            return None
        parts = match["y3"] or match["y4"], str(number), match["d3"] or match["d4"]
    year, month, day = (int(part) for part in parts)
    try:
        return date(year + 2000 if year < 100 else year, month, day)
    except ValueError:
        return None
