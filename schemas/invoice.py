"""What `jobs/invoices.toml` reads from each invoice, receipt or credit note."""

from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, Field

# The places also make the columns of the output: decimals with 2 and with 6 places.
Money = Annotated[Decimal, Field(decimal_places=2)]
Measure = Annotated[Decimal, Field(decimal_places=6)]


# ISO 4217 codes of the currencies that occur; add yours, the fewer the better for the API.
class Currency(StrEnum):
    """The three-letter code of a currency."""

    AED = "AED"
    AUD = "AUD"
    BRL = "BRL"
    CAD = "CAD"
    CHF = "CHF"
    CNY = "CNY"
    CZK = "CZK"
    EUR = "EUR"
    GBP = "GBP"
    INR = "INR"
    JPY = "JPY"
    KRW = "KRW"
    MXN = "MXN"
    NOK = "NOK"
    PLN = "PLN"
    SEK = "SEK"
    TRY = "TRY"
    USD = "USD"


class LineItem(BaseModel):
    """One line of the invoice; shipping, fees and discounts are lines too."""

    description: str = Field(description="The words of the line as printed, without quantity and prices.")
    quantity: Measure = Field(description="How many units, hours or kilograms; 1 where the line names none.")
    unit_price: Measure = Field(
        description="The price of one unit in the invoice's currency; the line's amount where none is "
        "printed."
    )
    amount: Money = Field(description="The line's total as printed; negative for a discount or a credit.")


# The lines come before the total, so that the model writes the total with the lines in view.
class Invoice(BaseModel):
    """One invoice, receipt or credit note."""

    vendor: str = Field(description="Who issued the document, as printed.")
    invoice_number: str = Field(
        description="The document's own number as printed, with its letters, slashes and leading zeros, "
        "without words such as No. before it; digits of any script as 0-9."
    )
    issue_date: date = Field(description="The day of issue, in the Gregorian calendar.")
    due_date: date | None = Field(
        description="The day by which it must be paid or is collected; the issue date plus the term where "
        "only a term such as 30 days is printed; null where neither is."
    )
    currency: Currency = Field(description="The currency of the total.")
    line_items: list[LineItem] = Field(description="All lines, in the order of the document.")
    tax: Money | None = Field(
        description="The sum of VAT or sales tax, null where no amount of tax is printed."
    )
    total: Money = Field(
        description="The total with tax, before payments already made; negative for a credit note."
    )
    payment_method: Literal["bank_transfer", "card", "cash", "direct_debit", "cheque", "other"] | None = (
        Field(description="How it was or is to be paid; null where the document does not say.")
    )
