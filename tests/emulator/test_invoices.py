"""The sample invoices and reviews, answered for the schemas of the sample jobs."""

import csv
import importlib.util
import json
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline.emulator.answers import compile_schema
from pipeline.emulator.items import line_items
from pipeline.emulator.subject import Subject
from pipeline.emulator.values import dates, decimal

ROOT = Path(__file__).parents[2]
INVOICES = [
    json.loads(line) for line in (ROOT / "data/sample/invoices.ndjson").read_text("utf-8").splitlines()
]


def load(name: str) -> ModuleType:
    """Load a schema file by its path, as jobs do."""
    spec = importlib.util.spec_from_file_location(f"sample_{name}", ROOT / "schemas" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def invoices() -> list[Any]:
    """Answer every sample invoice and validate the answers."""
    model = load("invoice").Invoice
    fill = compile_schema(model.model_json_schema())
    subjects = (Subject(f"<invoice>\n{row['text']}\n</invoice>") for row in INVOICES)
    return [model.model_validate_json(json.dumps(fill(subject, True))) for subject in subjects]


def test_invoices_are_read_as_well_as_rules_can() -> None:
    """Every answer is valid; most totals, numbers and dates are right."""
    hits = dict.fromkeys(["total", "invoice_number", "issue_date", "currency", "vendor"], 0)
    for row, answer in zip(INVOICES, invoices(), strict=True):
        hits["total"] += Decimal(row["gold_total"]) == answer.total
        hits["vendor"] += row["gold_vendor"].lower() == answer.vendor.lower()
        hits["invoice_number"] += row["gold_invoice_number"] == answer.invoice_number
        hits["issue_date"] += row["gold_issue_date"] == answer.issue_date.isoformat()
        hits["currency"] += row["gold_currency"] == answer.currency
    least = {"total": 0.5, "invoice_number": 0.65, "issue_date": 0.75, "currency": 0.75, "vendor": 0.4}
    assert {
        name: hits[name] / len(INVOICES) for name in hits if hits[name] < least[name] * len(INVOICES)
    } == {}


def test_reviews_are_labelled_better_than_by_chance() -> None:
    """Every answer is valid, and more labels are right than the most frequent one would get."""
    model = load("sentiment").Sentiment
    fill = compile_schema(model.model_json_schema())
    with (ROOT / "data/sample/reviews.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    right = 0
    for row in rows:
        answer = model.model_validate_json(
            json.dumps(fill(Subject(f"<review>\n{row['text']}\n</review>"), True))
        )
        right += answer.label == row["gold_label"]
    golds = [row["gold_label"] for row in rows]
    assert right > max(golds.count(label) for label in golds)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1.234,56", "1234.56"),
        ("1,234.56", "1234.56"),
        ("1 234,5", "1234.5"),
        ("12'000", "12000"),
        ("1,234", "1234"),
        ("980,00", "980.00"),
        ("7.5", "7.5"),
        ("1.234.567", "1234567"),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, number: str) -> None:
    """Comma and point change places between countries."""
    assert decimal(text) == Decimal(number)


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("12 March 2026", "2026-03-12"),
        ("March 12th, 2026", "2026-03-12"),
        ("30.04.2026", "2026-04-30"),
        ("16/01/2026", "2026-01-16"),
        ("3. März 2026", "2026-03-03"),
        ("2026年10月5日", "2026-10-05"),
        ("due 04/09/2026, $ 5.00", "2026-04-09"),
    ],
)
def test_dates_are_read_as_people_write_them(text: str, iso: str) -> None:
    """With a sign of the dollar the month comes first."""
    assert [found.value.isoformat() for found in dates(text)] == [iso]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("3 x Paper A4 @ 4.50 EUR ........ 13.50", ("Paper A4", "3", "4.50", "13.50")),
        (
            "2    Montage (Std.)      7,5       52,00       390,00",
            ("Montage (Std.)", "7.5", "52.00", "390.00"),
        ),
        ("12 Dinner plate at 9.00 = 108.00", ("Dinner plate", "12", "9.00", "108.00")),
    ],
)
def test_a_line_item_is_quantity_price_and_product(line: str, said: tuple[str, ...]) -> None:
    """The numbers are found by what they make together."""
    (found,) = line_items(line)
    assert (found.description, *(str(n) for n in (found.quantity, found.unit_price, found.amount))) == said


@pytest.mark.parametrize("line", ["Subtotal 2 3.00 6.00", "Invoice 4417, 12 March 2026", "14 Ferry Lane"])
def test_other_lines_are_no_items(line: str) -> None:
    """Sums, headings and addresses have numbers too."""
    assert line_items(line) == []
