"""What to say of a name that is not among the columns of a table, and of a header that is none."""

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches

LISTED = 20  # names in a hint
SIGNS = (";", "\t", "|", ",")  # that stand between cells
NO_HEADER = "the first line must name the columns: write such a line above the rows if there is none"
_NUMBER = re.compile(r"\s*-?[0-9][0-9.,]*\s*")


def column_hint(name: str, columns: Sequence[str]) -> str:
    """Return what to say about a name that is not among `columns`: the nearest, and which there are."""
    if (other := separator_hint(columns)) is not None:
        return other
    near = get_close_matches(name.lower(), [column.lower() for column in columns], n=1)
    meant = [column for column in columns if near and column.lower() == near[0]]
    listed = f"the columns are {some_of(columns)}"
    if meant:
        return f"did you mean `{meant[0]}`? {listed}"
    return f"{listed}; {NO_HEADER}" if any(map(_NUMBER.fullmatch, columns)) else listed


def some_of(names: Sequence[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(f"`{name}`" for name in names[:LISTED]) + more


def separator_hint(columns: Sequence[str]) -> str | None:
    """Return what to do where a table has one column because other signs than expected separate its cells."""
    found = [sign for sign in SIGNS if len(columns) == 1 and sign in columns[0]]
    if not found:
        return None
    sign = {"\t": "tabs", ",": "commas"}.get(found[0], f"`{found[0]}`")
    what = f"the header `{columns[0].expandtabs(1)}` is one column, its names are separated by {sign}"
    ending = ", or give the file the ending `.tsv`" if found[0] == "\t" else ""
    return f"{what}: set `separator = {json.dumps(found[0])}` in [input]{ending}"
