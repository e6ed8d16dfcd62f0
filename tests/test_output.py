"""The final table is written piece by piece, and is as if it had been written at once."""

from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from pipeline.arrow import Layout
from pipeline.errors import ChangedError
from pipeline.flow import Outcome, Spent, Usage
from pipeline.input.source import Source, open_source
from pipeline.output import GROUP, Written, count, write_output
from pipeline.store.parts import Parts
from pipeline.store.standing import Standing, stand

TEXTS = ["a", "b", "c"]


class Answer(BaseModel):
    """The least there is."""

    label: str


LAYOUT = Layout(Answer)


def opened(folder: Path, rows: int) -> Source:
    """Return an input of so many rows, which have three texts in turn."""
    path = folder / "rows.parquet"
    pl.DataFrame({"id": range(rows)}).with_columns(
        text=pl.Series(TEXTS).gather(pl.int_range(rows, eager=True) % 3)
    ).write_parquet(path)
    return open_source(path, key=[], used=["text"])


def answered(source: Source, folder: Path, texts: int) -> tuple[Parts, Standing]:
    """Answer some of the texts, in a part each."""
    survey = source.survey()
    (folder / "parts").mkdir()
    parts = Parts(folder / "parts", LAYOUT.part)
    first = next(source.tables())
    spent = Spent(Usage(prompt=3, output=1, total=4), 0.5)
    for number in reversed(range(texts)):
        key = first.keys[number]
        parts.write(LAYOUT.table([Outcome(key, key, Answer(label=TEXTS[number].upper()), spent)]))
    return parts, stand(survey, parts)


def test_row_groups_are_larger_than_chunks(tmp_path: Path) -> None:
    """Every row has its answer over several groups, and only the first of equal rows carries its cost."""
    rows, target = 2 * GROUP + 7, tmp_path / "out.parquet"
    source = opened(tmp_path, rows)
    parts, standing = answered(source, tmp_path, 3)
    written = write_output(source, parts, standing, LAYOUT, target)
    assert pq.read_metadata(target).num_row_groups == 3
    frame = pl.read_parquet(target)
    assert frame["id"].to_list() == list(range(rows))
    assert (frame["label"] == frame["text"].str.to_uppercase()).all()
    assert frame["_cost_usd"].to_list()[:4] == [0.5, 0.5, 0.5, 0.0]
    assert (written.ok, written.shared, written.cost_usd, written.prompt_tokens) == (rows, rows - 3, 1.5, 9)


def test_what_is_there_is_counted_before_all_is(tmp_path: Path) -> None:
    """Every row counts, as in the table; what an answer took counts once, however many rows have it."""
    source = opened(tmp_path, 12)
    parts, standing = answered(source, tmp_path, 2)
    expected = Written(ok=8, shared=6, prompt_tokens=6, output_tokens=2, cost_usd=1.0, sources={"api"})
    assert count(parts, standing) == expected


def test_a_row_without_answer_stops_the_output(tmp_path: Path) -> None:
    """The old table stays."""
    source, target = opened(tmp_path, 12), tmp_path / "out.csv"
    parts, standing = answered(source, tmp_path, 2)
    target.write_text("old")
    with pytest.raises(ChangedError, match=r"`.*rows.parquet` was changed while"):
        write_output(source, parts, standing, LAYOUT, target)
    assert target.read_text() == "old"
