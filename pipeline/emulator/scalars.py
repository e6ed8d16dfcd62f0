"""Compiles the leaves of a schema: options, strings, numbers and truth values."""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from hashlib import sha256
from typing import Any
from uuid import UUID

from pipeline.emulator.bounds import Bounds, bounds, form, plain
from pipeline.emulator.finders import Find, finder, is_money, name_words, number
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
    "uri": "https://example.org/",
    "duration": "PT1H",
}
_ALWAYS = re.compile(r"(?:^|[(;])\s*always (true|false)(?=[;)]|$)")
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
    kind, limits = form(node), bounds(node)
    if kind == "uuid":
        return lambda subject, _must: str(UUID(row_hash(subject.text) * 2))
    find = finder(scope.name, kind, str(node.get("description") or ""))
    if kind == "decimal":
        return _decimal(find, scope, limits)
    spare = _SPARE.get(kind) or ("0.00" if is_money(scope.name) else None)

    def fill(subject: Subject, must: bool) -> Any:
        value = find(subject)
        if value is None and not must:
            return MISSING
        return limits.text(value or spare or subject.quote(), subject)

    return fill


def _decimal(find: Find, scope: Scope, limits: Bounds) -> Fill:
    """Compile a decimal number that is written as text."""
    words = name_words(scope.name)

    def fill(subject: Subject, must: bool) -> Any:
        said = find(subject)
        value = number(subject, words) if said is None else said
        if value is None and not must:
            return MISSING
        spare = "0.00" if is_money(scope.name) else Decimal(subject.chance(scope.name, 10))
        try:
            read = Decimal(spare if value is None else value)
        except InvalidOperation:
            read = Decimal(spare)
        return plain(read, limits)

    return fill


def fill_number(node: dict[str, Any], scope: Scope) -> Fill:
    """Compile a number: scores and ratings follow the mood of the text, others stand in it."""
    words, limits = name_words(scope.name), bounds(node)
    for names, share, usual in _SCALES:
        if words & names:
            return _scaled(share, usual, limits, whole=is_whole(node))
    write = writer(node)

    def fill(subject: Subject, must: bool) -> Any:
        value = number(subject, words)
        if value is None and not must:
            return MISSING
        return write(Decimal(subject.chance(scope.name, 10)) if value is None else value)

    return fill


def is_whole(node: dict[str, Any]) -> bool:
    """Tell whether a number is an integer."""
    return "integer" in str(node.get("type")).lower()


def writer(node: dict[str, Any]) -> Callable[[Decimal], float | int]:
    """Return how to write a number as a node wants it, within its bounds."""
    limits, whole = bounds(node), is_whole(node)

    def write(value: Decimal) -> float | int:
        fitting = limits.number(value, whole=whole)
        return int(fitting) if whole or fitting == fitting.to_integral_value() else float(fitting)

    return write


def _scaled(
    share: Callable[[Subject], float], usual: tuple[int, int], limits: Bounds, *, whole: bool
) -> Fill:
    """Compile a number that lies on a scale: the bounds of the node, or the usual ones."""
    low, high = (
        Decimal(spare) if end is None else end for end, spare in zip(limits.ends, usual, strict=True)
    )

    def fill(subject: Subject, _must: bool) -> Any:
        value = float(low) + share(subject) * float(high - low)
        fitting = limits.number(Decimal(str(round(value, 2))), whole=whole)
        return int(fitting) if whole else float(fitting)

    return fill


def _liking(subject: Subject) -> float:
    return (subject.mood.polarity + 1) / 2


def _certainty(subject: Subject) -> float:
    """Be surer of strong feelings, never wholly."""
    return min(0.99, 0.5 + abs(subject.mood.polarity) * 0.45 + subject.chance("certainty", 5) / 100)


_SCALES = ((_RATINGS, _liking, (1, 5)), (_FEELINGS, _liking, (-1, 1)), (_SCORES, _certainty, (0, 1)))


def fill_boolean(node: dict[str, Any], scope: Scope) -> Fill:
    """Compile a truth value: the only one, a feeling, or whether the text uses the field's words."""
    only = _ALWAYS.search(str(node.get("description") or ""))
    if only is not None:
        return lambda _subject, _must: only[1] == "true"
    words = name_words(scope.name) - {"is", "has", "was", "are", "the"}
    feels = words & (_SIDES.keys() | {"recommend", "recommends", "recommended", "satisfied", "happy"})
    bad = "negative" in {_SIDES.get(word) for word in words}

    def fill(subject: Subject, must: bool) -> Any:
        if feels:
            return (subject.mood.polarity < 0) if bad else (subject.mood.polarity > 0)
        said = bool(words & subject.vocabulary)
        return said if said or must else MISSING

    return fill
