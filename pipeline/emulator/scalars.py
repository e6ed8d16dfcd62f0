"""Compiles the leaves of a schema: options, strings, numbers and truth values."""

from collections.abc import Callable
from decimal import Decimal
from hashlib import sha256
from typing import Any

from pipeline.emulator.finders import finder, is_money, name_words, number
from pipeline.emulator.nodes import MISSING, Fill, Scope, plain_words
from pipeline.emulator.subject import Subject

ECHO = "row_hash"
"""The field that tells by a hash which row's text an answer was made of."""

_SCORES = frozenset({"confidence", "score", "probability", "certainty", "likelihood"})
_FEELINGS = frozenset({"polarity", "sentiment"})
_RATINGS = frozenset({"rating", "stars", "grade", "satisfaction"})
_SPARE = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00",
    "email": "n@example.org",
}
_GROUPS = {
    "positive": "positive positiv positif positivo positiva pos good favorable 긍정",
    "negative": "negative negativ négatif negatif negativo negativa neg bad unfavorable 부정",
    "neutral": "neutral neutre neutro none 중립 unclear",
    "mixed": "mixed gemischt mixte mixto both ambivalent 혼합",
}
_SIDES = {word: side for side, words in _GROUPS.items() for word in words.split()}
_HINTS = {
    "card": "visa mastercard amex kreditkarte carte tarjeta carta cartão kart karta kortti",
    "transfer": "iban bic wire sepa überweisung virement transferencia transferência bank"
    " banküberweisung bankgiro bonifico przelew převodem 계좌이체 havale neft ach pix eft bacs"
    " 银行转账 giro overschrijving",
    "cash": "bar barzahlung espèces efectivo contanti dinheiro hotově gotówka nakit kontant 현금 نقداً 现金",
    "debit": "lastschrift prélèvement mandate domiciliación addebito collect autogiro incasso",
    "cheque": "check chèque scheck assegno",
    "paypal": "paypal",
}


def fill_nothing(_subject: Subject, must: bool) -> Any:
    """Stand for a schema that contains itself: absent wherever it may be."""
    return None if must else MISSING


def fill_choice(options: list[Any], scope: Scope) -> Fill:
    """Compile an enum: by the mood of the text, by a currency, or by the words that both share."""
    options = [option for option in options if option is not None]
    if not options:
        return lambda _subject, _must: None
    sides = {_SIDES[word]: option for option in options for word in plain_words(option) if word in _SIDES}
    if {"positive", "negative"} <= sides.keys():
        return lambda subject, _must: _leaning(subject, sides)
    if all(isinstance(option, int) for option in options):
        ordered = sorted(options)
        return lambda subject, _must: ordered[round((subject.mood.polarity + 1) / 2 * (len(ordered) - 1))]
    hints = [(option, plain_words(option)) for option in options]
    hints = [
        (option, words | {h for w in words for h in _HINTS.get(w, "").split()}) for option, words in hints
    ]
    names = frozenset().union(*(words for _, words in hints))
    currency = finder("currency", "", "") if "currency" in name_words(scope.name) else None

    def fill(subject: Subject, must: bool) -> Any:
        said = currency(subject) if currency is not None else None
        if said is not None and said in options:
            return said
        if currency is not None and must and not subject.vocabulary & names:
            return next((common for common in ("EUR", "USD") if common in options), options[0])
        best = max(hints, key=lambda pair: len(pair[1] & subject.vocabulary))
        if best[1] & subject.vocabulary:
            return best[0]
        return options[subject.chance(scope.name, len(options))] if must else MISSING

    return fill


def _leaning(subject: Subject, sides: dict[str, Any]) -> Any:
    feeling = subject.mood
    if feeling.mixed and "mixed" in sides:
        return sides["mixed"]
    if abs(feeling.polarity) < 0.08 and ("neutral" in sides or "mixed" in sides):
        return sides.get("neutral", sides.get("mixed"))
    if feeling.polarity == 0:
        return sides[("positive", "negative")[subject.chance("side", 2)]]
    return sides["positive" if feeling.polarity > 0 else "negative"]


def row_hash(text: str) -> str:
    """Return the first 16 digits of the SHA-256 of a text without the space around it."""
    return sha256(text.strip().encode("utf-8", "surrogatepass")).hexdigest()[:16]


def fill_string(node: dict[str, Any], scope: Scope) -> Fill:
    """Compile a string: what the text says for the field, else the text's first words.

    A field named `row_hash` gets the hash of the row that the answer is for, alone or in a pack.
    """
    if scope.name == ECHO:
        return lambda subject, _must: row_hash(subject.text)
    form = str(node.get("format") or "")
    find = finder(scope.name, form, str(node.get("description") or ""))
    spare = _SPARE.get(form) or ("0.00" if is_money(scope.name) else None)

    def fill(subject: Subject, must: bool) -> Any:
        value = find(subject)
        if value is not None:
            return value
        return (spare or subject.quote()) if must else MISSING

    return fill


def fill_number(node: dict[str, Any], scope: Scope) -> Fill:
    """Compile a number: scores and ratings follow the mood of the text, others stand in it."""
    words = name_words(scope.name)
    low, high = node.get("minimum"), node.get("maximum")
    whole = "integer" in str(node.get("type")).lower()
    if words & _RATINGS:
        return _scaled(_liking, 1 if low is None else low, 5 if high is None else high, whole)
    if words & _FEELINGS:
        return _scaled(_liking, -1 if low is None else low, 1 if high is None else high, whole)
    if words & _SCORES:
        return _scaled(_certainty, 0 if low is None else low, 1 if high is None else high, whole)

    def fill(subject: Subject, must: bool) -> Any:
        value = number(subject, words)
        if value is None and not must:
            return MISSING
        chosen = Decimal(subject.chance(scope.name, 10)) if value is None else value
        return _clamped(float(chosen), low, high, whole)

    return fill


def _scaled(share: Callable[[Subject], float], low: float, high: float, whole: bool) -> Fill:
    def fill(subject: Subject, _must: bool) -> Any:
        value = low + share(subject) * (high - low)
        return round(value) if whole else round(value, 2)

    return fill


def _liking(subject: Subject) -> float:
    return (subject.mood.polarity + 1) / 2


def _certainty(subject: Subject) -> float:
    """Be surer of strong feelings, never wholly."""
    return min(0.99, 0.5 + abs(subject.mood.polarity) * 0.45 + subject.chance("certainty", 5) / 100)


def _clamped(value: float, low: float | None, high: float | None, whole: bool) -> float | int:
    value = value if low is None else max(low, value)
    value = value if high is None else min(high, value)
    return round(value) if whole or float(value).is_integer() else value


def fill_boolean(_node: dict[str, Any], scope: Scope) -> Fill:
    """Compile a truth value: a feeling, or whether the text uses the field's words."""
    words = name_words(scope.name) - {"is", "has", "was", "are", "the"}
    feels = words & (_SIDES.keys() | {"recommend", "recommends", "recommended", "satisfied", "happy"})
    bad = "negative" in {_SIDES.get(word) for word in words}

    def fill(subject: Subject, must: bool) -> Any:
        if feels:
            return (subject.mood.polarity < 0) if bad else (subject.mood.polarity > 0)
        said = bool(words & subject.vocabulary)
        return said if said or must else MISSING

    return fill
