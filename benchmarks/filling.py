"""Makes the input of `large.py`, which starts it, and parts that answer its first rows, without asking."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa

from benchmarks.review import Review
from pipeline.flow import Outcome, Spent, Usage
from pipeline.job import load_job
from pipeline.keys import digests
from pipeline.plan import Plan, check_job, make_plan
from pipeline.store.folder import owned
from pipeline.store.parts import Parts

PART_ROWS = 5_000
TEXT = "The coat is warm and the colour is right. I would buy it again and again. Order {} of many."
ANSWER = Review(sentiment="positive", topic="product", reason="It is warm and would be bought again.")
SPENT = Spent(Usage(prompt=60, output=30, total=90), 0.000_02, "gemini-3.1-flash-lite", 1, 700)


def write_input(path: Path, rows: int, *, shuffled: bool) -> None:
    """Write numbered rows of short texts, in order or in none."""
    frame = pl.LazyFrame({"id": [0]}).select(pl.int_range(rows).alias("id"))
    if shuffled:
        frame = frame.select(pl.col("id").shuffle(seed=1))
    frame = frame.with_columns(text=pl.format(TEXT, pl.col("id")))
    if path.suffix == ".csv":
        frame.sink_csv(path)
    else:
        frame.sink_parquet(path)


def write_parts(plan: Plan, answered: int, *, as_text: bool) -> None:
    """Answer the first rows; `as_text` says that the input's cells are text."""
    layout = plan.checked.layout
    like = layout.table([Outcome(bytes(16), bytes(16), ANSWER, SPENT)] * PART_ROWS)
    with owned(plan.folder, plan.identity):
        parts = Parts(plan.folder.parts, layout.part, plan.fingerprint)
        for start in range(0, answered, PART_ROWS):
            ids = range(start, min(start + PART_ROWS, answered))
            keys = digests([[str(one) for one in ids] if as_text else list(ids)])
            names = {"_key": keys, "_digest": digests([[TEXT.format(one) for one in ids]])}
            table = like.slice(0, len(ids))
            for column, found in names.items():
                number = layout.part.get_field_index(column)
                table = table.set_column(number, layout.part.field(column), pa.array(found, pa.binary(16)))
            parts.write(table)


def main() -> None:
    """Make what the command line names."""
    job, path, rows, answered, address, order = sys.argv[1:]
    write_input(Path(path), int(rows), shuffled=order == "shuffled")
    checked = check_job(load_job(Path(job)), datetime.now(UTC).date())
    plan = make_plan(checked, endpoint=address, runs=None, limit=None)
    write_parts(plan, int(answered), as_text=path.endswith(".csv"))


if __name__ == "__main__":
    main()
