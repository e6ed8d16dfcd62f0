"""What a calibration has found, as tables that a terminal of 80 columns shows whole."""

from collections.abc import Iterable, Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from pipeline.calibration import Calibration, Finding, Size
from pipeline.intervals import Share

TOOK = (
    "rows a\nrequest",
    "requests for\n1,000 rows",
    "tokens in\na row",
    "out\na row",
    "USD for\n1,000 rows",
    "failed",
)
AGREED = ("rows a\nrequest", "as alone", "in both orders", "lost\nat most", "safe")
FIELDS = ("field\n  rows a request", "as alone", "lost\nat most")
GOLD = "as gold says"
LONGEST = 36  # letters of a field's name in a line
TWICE = (
    "at 1 stands how well rows that were asked alone twice, with two seeds, agree: what packs are held "
    "against; by chance these can agree better. Behind each share is its interval of 95 %"
)


def tables(found: Calibration) -> Iterator[Table]:
    """Yield what each size takes, how well its answers agree, and the same for each field."""
    yield _table(TOOK, map(_took, found.sizes), texts=0)
    yield _table(AGREED, map(_agreed, found.sizes), texts=0)
    gold = any(one.gold for one in found.findings)
    rows = [row for one in found.findings for row in _by_size(one, found.sizes)]
    yield _table((*FIELDS, GOLD), rows) if gold else _table(FIELDS, (row[:-1] for row in rows))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> Table:
    """Return a table whose first `texts` columns are folded where there is no room, and no figure ever."""
    table = Table(box=SIMPLE_HEAD)
    for place, name in enumerate(heads):
        text = place < texts
        table.add_column(
            name,
            justify="left" if text else "right",
            overflow="fold",
            no_wrap=not text,
            max_width=LONGEST if text else None,
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _took(size: Size) -> Sequence[str]:
    return (
        str(size.rows),
        f"{size.requests * 1000:,.0f}",
        f"{size.prompt_tokens:,.0f}",
        f"{size.output_tokens:,.0f}",
        f"{size.cost_usd * 1000:,.4f}",
        f"{size.failed:.1%}",
    )


def _agreed(size: Size) -> Sequence[str]:
    packed = size.rows > 1
    return (
        str(size.rows),
        _percent(size.agreement),
        _percent(size.orders),
        _lost(size.loss) if packed else "",
        ("yes" if size.safe else "no") if packed else "",
    )


def _by_size(one: Finding, sizes: Sequence[Size]) -> Iterator[Sequence[str]]:
    """Yield a line with the field's name, and one for each size."""
    yield f"{one.field.name} ({'decides' if one.decides else 'does not decide'})", "", "", ""
    for size in sizes:
        gold = one.gold.get(size.rows)
        yield (
            f"  {size.rows}",
            _percent(one.agreement.get(size.rows, one.floor)),
            _lost(one.losses[size.rows]) if size.rows in one.losses else "",
            "" if gold is None else _percent(gold),
        )


def _lost(loss: float) -> str:
    return f"{max(0.0, loss):.1%}"


def _percent(share: Share) -> str:
    low, high = share.interval
    return f"{share.value:.1%} ({100 * low:.0f}–{100 * high:.0f})"
