"""The final table is written piece by piece, and is as if it had been written at once."""

import random
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from pipeline.arrow import Layout
from pipeline.errors import ChangedError
from pipeline.flow import Outcome, Spent, Usage
from pipeline.input.source import Source, open_source
from pipeline.keys import digests
from pipeline.output import GROUP, Written, count, write_output
from pipeline.store.parts import Parts
from pipeline.store.standing import Standing, stand
from pipeline.store.window import BLOCK

TEXTS = ["a", "b", "c"]


class Answer(BaseModel):
    """The least there is."""

    label: str


class Choice(BaseModel):
    """One whose column is a dictionary."""

    label: Literal["even", "odd"]
    rank: int


LAYOUT = Layout(Answer)
SPENT = Spent(Usage(prompt=3, output=1, total=4), 0.5)


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
    for number in reversed(range(texts)):
        key = first.keys[number]
        parts.write(LAYOUT.table([Outcome(key, key, Answer(label=TEXTS[number].upper()), SPENT)]))
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


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_another_order_of_the_input_is_that_of_the_table(tmp_path: Path, ending: str) -> None:
    """Rows that were mixed after they were asked, all or some of them, have the answers that they had."""
    rows, layout = 4 * BLOCK, Layout(Choice)
    keys = digests([list(range(rows))])
    (tmp_path / "parts").mkdir()
    parts = Parts(tmp_path / "parts", layout.part)
    for start in range(0, rows, rows // 20):
        some = range(start, start + rows // 20)
        answers = [Choice(label="even" if n % 2 == 0 else "odd", rank=n) for n in some]
        parts.write(layout.table([Outcome(keys[n], keys[n], answers[n - start], SPENT) for n in some]))
    mixed = random.Random(1).sample(range(rows - BLOCK), rows - BLOCK) + list(range(rows - BLOCK, rows))
    pl.DataFrame({"id": mixed}).write_parquet(tmp_path / "rows.parquet")
    source, target = open_source(tmp_path / "rows.parquet", key=[], used=["id"]), tmp_path / f"out.{ending}"
    write_output(source, parts, stand(source.survey(), parts), layout, target)
    frame = pl.read_parquet(target) if ending == "parquet" else pl.read_csv(target)
    assert frame["id"].to_list() == frame["rank"].to_list() == mixed
    assert (frame["label"].cast(pl.String) == pl.Series(["even", "odd"]).gather(frame["id"] % 2)).all()


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
