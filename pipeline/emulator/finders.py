"""Which value of a text answers a field, judged by the field's name, format and description."""

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache

from pipeline.emulator.subject import Subject
from pipeline.emulator.values import CODE, DATE, EMAIL, PHONE, URL, amounts, currency, numbers

Find = Callable[[Subject], str | None]

_SYNONYMS = {
    "vendor": "dodavatel sprzedawca satıcı 공급자 销售方 verkäufer säljare selger supplier seller"
    " merchant issuer from sender company firma lieferant fournisseur vendeur proveedor"
    " emisor",
    "customer": "buyer client recipient billed bill kunde cliente destinataire",
    "invoice": "rechnung rechnungs facture factura fattura inv receipt",
    "number": "no nr num numero numéro nummer nº n° # id ref reference",
    "payment": "platba zapłata płatność ödeme 付款方式 결제 betaling betalning pay paid payable zahlung"
    " zahlungsart zahlbar paiement règlement pago pagamento",
    "method": "mode means art by via per",
    "total": "grand charged zahlen zahlbetrag celkem razem zapłaty pagar betala macht 合計 合计 价税合计"
    " 합계 الإجمالي toplam totaal összesen betales payable gesamtbetrag gesamt summe importe"
    " endbetrag totale rechnungsbetrag",
    "tax": "moms dph hst mva kdv alv pdv btw ptu nds ндс 消費税 税额 부가세 ضريبة imposto impuesto vat"
    " mwst ust umsatzsteuer tva iva gst steuer",
    "subtotal": "base základ exkl zzgl mdse taxable 小計 小计 不含税合计 공급가액 الفرعي netta ara"
    " matrah excl zwischensumme netto net",
    "due": "bis até jusqu entro hasta collect förfallodatum splatnost termin płatności vade"
    " vervaldatum forfallsdato お支払期限 支払期限 납기 scad venc pay_by fällig fälligkeit"
    " fälligkeitsdatum échéance vencimiento vence scadenza until deadline",
    "issue": "vystaveno wystawienia datum_vystavení 开票日期 작성일 tarih issued invoiced dated"
    " rechnungsdatum ausgestellt émise fecha",
    "date": "datum fecha data on day",
    "quantity": "qty menge quantité cantidad count pieces",
    "description": "item product article artikel name désignation bezeichnung",
    "unit": "each einzelpreis",
    "price": "preis prix precio rate",
    "amount": "betrag montant importe line_total",
    "address": "adresse anschrift dirección street",
    "email": "mail e-mail",
    "phone": "telephone tel mobile telefon téléphone",
}
CANONICAL = {word: name for name, words in _SYNONYMS.items() for word in (name, *words.split())}
_SPLIT = re.compile(r"[^\w#°º]+|_+|(?<=[a-zà-ÿ])(?=[A-Z])")

_MONEY = frozenset(
    {"total", "amount", "price", "tax", "subtotal", "sum", "cost", "fee", "discount", "shipping", "gross"}
    | {"balance", "budget", "salary"}
)
_TOLD = frozenset(
    {"reason", "summary", "explanation", "rationale", "evidence", "comment", "justification", "why"}
    | {"note", "notes", "quote", "analysis"}
)
_COMPANY = re.compile(
    r"(?m)^\W*((?:[^\W\d_][\w&.,' -]{1,50}?\s)"
    r"(?:GmbH(?: & Co\. KG)?|AG|KG|Ltd\.?|Limited|Inc\.?|LLC|PLC|S\.?A\.?R?\.?L?\.?|S\.?L\.?"
    r"|SpA|S\.p\.A\.|B\.?V\.?|Oy|AB|ApS|Sp\. z o\.o\.|Co\.))(?!\w)"
)
_CLAUSE = re.compile(
    r"\n|;\s|,\s(?!\d)|\s/\s|\s{2,}(?=[^\W\d]{2,}\s[^\n]*\d)|\.\s+(?=[^\W\d_])"
    r"|(?<=\d[.,]\d\d)\s\+\s"
)
_TIME = re.compile(r"(?<![\d:])(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?(?![\d:])", re.ASCII)
_FIGURES = re.compile(r"[\d.,:%€$£]+")
_CENTS = re.compile(r"\d[.,]\d\d(?!\d)")
_TERM = re.compile(
    r"(?i)\b(\d{1,3})\s?(?:days|tagen?|jours|días|dias|giorni|dagen|dagar|dager|dní|dni|gün|дней|天|日以内|일)"
)
_TITLES = frozenset(
    {
        "invoice",
        "quantity",
        "description",
        "total",
        "tax",
        "faktura",
        "fatura",
        "請求書",
        "gutschrift",
        "credit",
    }
    | {"거래명세서", "발票", "发票", "statement", "confirmed", "bill"}
)
_GREETING = re.compile(
    r"(?i)\s*(?:hi|hello|dear|hallo|liebe[rs]?|bonjour|hola|ciao|olá|from|subject|to|re)\b"
)
_FROM = re.compile(r"\b(?:from|by|von|de chez)\s+([A-ZÄÖÜÉ][\w&'-]*(?:\s+(?:[A-ZÄÖÜÉ&][\w&.'-]*))*)")
_INVOICE_NUMBER = re.compile(
    r"(?i)(?:invoice|rechnung\w*|gutschrift|facture|factura|fattura|faktura|fatura|ricevuta fiscale|receipt"
    r"|inv|nf|comprobante|check|order|statement|honoraires|فاتورة|号码|番号|번호)(?!\w)[ \t]*"
    r"(?:vat[ \t]*)?(?:number|nummer|no\b\.?|nr\b\.?|num\b\.?|n[°º.]|č\.|رقم|#|id\b)?"
    r"[ \t]*[:：#]?[ \t]*(?:[A-Z]{2}[ ](?=\d{4}/))?((?=[\w/.-]*\d)[^\W_][\w/.-]*\w|\d)"
)


@lru_cache(maxsize=1024)
def name_words(name: str) -> frozenset[str]:
    """Split a name (`invoiceNumber`, `due_date`) into words, each by the one name for its meaning."""
    words = (word.lower() for word in _SPLIT.split(name) if word)
    return frozenset(CANONICAL.get(word, word) for word in words)


def is_money(name: str) -> bool:
    """Tell if a field of this name holds an amount of money."""
    words = name_words(name)
    return bool(words & _MONEY) and "method" not in words


def finder(name: str, form: str, description: str) -> Find:
    """Choose how to look for a string field; what it returns is None where the text does not say."""
    words = name_words(name)
    rules: tuple[tuple[bool, Find], ...] = (
        (form == "date" or (not form and bool(words & {"date", "deadline", "birthday"})), _dated(words, "")),
        (form == "date-time", _dated(words, "T00:00:00Z")),
        (form == "time", _clock),
        (form == "email" or "email" in words, lambda subject: _first(subject, EMAIL)),
        ("phone" in words, lambda subject: _first(subject, PHONE)),
        (form in ("uri", "url"), _address),
        (bool(words & {"url", "website", "link"}), lambda subject: _first(subject, URL)),
        ("currency" in words, lambda subject: currency(subject.core)),
        (bool(words & _TOLD), told),
        (words >= {"invoice", "number"}, _invoice_number),
        (is_money(name), lambda subject: _money(money(subject, words))),
        ("vendor" in words, _vendor),
        ("number" in words, lambda subject: by_label(subject, words) or _first(subject, CODE)),
    )
    hint = name_words(description) & _MONEY if "decimal" in description.lower() else frozenset()
    fallback: Find = lambda subject: by_label(subject, words)  # noqa: E731 - one of a row of small functions
    if hint:
        fallback = lambda subject: _money(money(subject, words | hint))  # noqa: E731
    return next((find for applies, find in rules if applies), fallback)


def by_label(subject: Subject, words: frozenset[str]) -> str | None:
    """Return the value of the line whose label says most of the field's name."""
    best, value = 0.0, None
    for line in subject.labels:
        said = name_words(line.label)
        shared = len(said & words)
        score = shared - 0.1 * len(said ^ words)
        if shared and score > best and (shared == len(words) or shared * 2 > len(said)):
            best, value = score, line.value
    return value.strip("*_ ") if value else None


def money(subject: Subject, words: frozenset[str]) -> Decimal | None:
    """Return the amount on the line that names the field; a bare total is the last such line."""
    wanted = words & _MONEY - {"amount"} or words & {"amount", "unit", "price"} or words
    found: Decimal | None = None
    rank = 0
    cents = _CENTS.search(subject.core) is not None
    for line, said in _clauses(subject.core):
        shared = len(said & wanted) * 2 + len(said & words)
        if not said & wanted or (("subtotal" in said or "sub" in said) and "subtotal" not in wanted):
            continue
        values = [value for value in amounts(line) if not cents or _has_cents(value)]
        if values and shared >= rank:
            found, rank = values[-1], shared
    if found is None and "total" in wanted and subject.items:
        return sum((item.amount for item in subject.items), Decimal())
    return found


@lru_cache(maxsize=8)  # every amount of a text is looked for in the same clauses
def _clauses(text: str) -> tuple[tuple[str, frozenset[str]], ...]:
    """Split a text where one statement ends and another begins, each with its words."""
    lines = _CLAUSE.split(DATE.sub(" ", text))
    return tuple((line, name_words(_FIGURES.sub(" ", line))) for line in lines)


def _has_cents(value: Decimal) -> bool:
    """Tell an amount from a year or a count, where a text writes its amounts with cents."""
    return value.as_tuple().exponent == -2


def number(subject: Subject, words: frozenset[str]) -> Decimal | None:
    """Return the number of a field that is no money: on its line, else the first of the text."""
    if words & _MONEY:
        return money(subject, words)
    value = by_label(subject, words)
    found = numbers(value) if value else []
    return found[0] if found else None


def told(subject: Subject) -> str:
    """Say in one sentence what the text says, in words of the text."""
    words = subject.mood.words
    if not words:
        return f"The text says “{subject.quote()}”, without a clear feeling."
    side = (
        "both sides"
        if subject.mood.mixed
        else "a good impression"
        if subject.mood.polarity > 0
        else "a bad one"
    )
    quoted = " and ".join(f"“{word}”" for word in words[:2])
    return f"Words like {quoted} show {side}."


def plain_money(value: Decimal) -> str:
    """Write an amount with two digits after the point at least."""
    exponent = value.as_tuple().exponent
    return f"{value:f}" if isinstance(exponent, int) and exponent <= -2 else f"{value:.2f}"


def _money(value: Decimal | None) -> str | None:
    return None if value is None else plain_money(value)


def _first(subject: Subject, pattern: re.Pattern[str]) -> str | None:
    match = pattern.search(subject.core)
    return match[0].strip() if match is not None else None


def _clock(subject: Subject) -> str | None:
    """Look for a time of day; its hour gets two digits."""
    found = _first(subject, _TIME)
    return None if found is None else found if found[2] == ":" else f"0{found}"


def _address(subject: Subject) -> str | None:
    """Look for a URL, with its scheme."""
    found = _first(subject, URL)
    return f"https://{found}" if found is not None and "://" not in found else found


def _dated(words: frozenset[str], suffix: str) -> Find:
    """Look for the date that the field's words precede; a due date must be called so."""
    wanted = words - {"date"}

    def find(subject: Subject) -> str | None:
        said = [(dated.value, name_words(dated.before)) for dated in subject.dates]
        hit = next((value for value, before in said if before & wanted), None)
        if hit is None and not wanted & {"due", "delivery", "paid", "payment", "shipping", "end"}:
            hit = next((value for value, before in said if not before & {"due", "delivery", "payment"}), None)
        if hit is None and "due" in wanted and said and (term := _TERM.search(subject.core)):
            hit = said[0][0] + timedelta(days=int(term[1]))
        return None if hit is None else hit.isoformat() + suffix

    return find


def _vendor(subject: Subject) -> str | None:
    labelled = by_label(subject, frozenset({"vendor"}))
    if labelled:
        return re.split(r",\s|\s{2,}|\s[|–-]\s|\s<", labelled)[0]
    match = _COMPANY.search(subject.core) or _FROM.search(subject.core)
    if match is not None:
        return match[1].strip(" ,.*#")
    names = (_name(line) for line in subject.core.splitlines())
    return next((name for name in names if name is not None), None)


def _name(line: str) -> str | None:
    """Return what a line starts with if that can be a name."""
    name = re.split(r"\s{2,}|\s[·|/–—-]+\s|,\s|\s\*", line.strip(" *#\ufeff\u200b"))[0].strip(" *#|-\u200b")
    plain = 1 < len(name) < 60 and not _GREETING.match(name)
    return name if plain and not re.search(r"\d|:", name) and not name_words(name) & _TITLES else None


def _invoice_number(subject: Subject) -> str | None:
    match = _INVOICE_NUMBER.search(subject.core)
    return match[1].rstrip(".") if match is not None else _first(subject, CODE)
