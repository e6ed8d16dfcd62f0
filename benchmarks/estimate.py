"""What `rowmill estimate` says beforehand against what the run then takes, by the emulator's own bill.

python benchmarks/estimate.py reviews.csv --text body
python benchmarks/estimate.py --large 10000000
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.ground import (
    MODEL,
    Emulator,
    Project,
    echo,
    emulating,
    environment,
    filled,
    markdown,
    measure,
    project,
)
from pipeline.models import find_model
from tests.conftest import TODAY

HEAD = (
    "Table, rows, in a request",
    "Requests",
    "Tokens in",
    "off",
    "Tokens out, no row answered",
    "off, 500 answered",
    "USD",
    "off, 500 answered",
    "Counted",
)
LARGE_HEAD = ("Rows", "Seconds", "Peak MiB")


def main() -> None:
    """Compare, and print a line for each table and pack size."""
    words = argparse.ArgumentParser()
    words.add_argument("tables", nargs="*", type=Path, help="CSV or Parquet")
    words.add_argument("--text", default="text", help="column of the text")
    words.add_argument("--rows", type=int, help="of a table, drawn at random")
    words.add_argument("--packs", type=int, nargs="+", default=[1, 20])
    words.add_argument("--large", type=int, nargs="+", help="time and memory on so many rows instead")
    told = words.parse_args()
    print(echo(), end="\n\n")
    if told.large:
        print(markdown(LARGE_HEAD, [large(rows) for rows in told.large]))
        return
    lines = []
    with emulating() as emulator:
        for table in told.tables:
            with filled(texts(table, told.text, told.rows)) as made:
                lines += [compared(table.stem, made, emulator, pack) for pack in told.packs]
    print(markdown(HEAD, lines))


def texts(table: Path, column: str, rows: int | None) -> Iterator[tuple[str, str]]:
    """Yield ids and the texts of a table that are not empty."""
    frame = pl.read_parquet(table) if table.suffix == ".parquet" else pl.read_csv(table, infer_schema=False)
    found = frame[column].drop_nulls().filter(frame[column].drop_nulls().str.strip_chars() != "")
    chosen = found if rows is None or rows >= len(found) else found.sample(rows, seed=1)
    yield from ((str(number), text) for number, text in enumerate(chosen.to_list()))


def compared(name: str, made: Project, emulator: Emulator, pack: int) -> list[str]:
    """Estimate without and with 500 answers, run the rest, and compare with the bill."""
    flags = ("--pack", str(pack), "--runs-dir", str(made.folder / f"runs-{pack}"))
    first = estimate(made, emulator, *flags)
    emulator.reset()
    run(made, emulator, *flags)
    bill = emulator.stats()
    early = ("--pack", str(pack), "--runs-dir", str(made.folder / f"early-{pack}"))
    run(made, emulator, *early, "--limit", "500")
    second = estimate(made, emulator, *early)
    emulator.reset()
    run(made, emulator, *early)
    rest = emulator.stats()
    guess, seen = first["ways"][0], second["ways"][0]
    price = find_model(MODEL, TODAY).price(TODAY, "standard")
    assert price is not None
    usd = (rest["prompt_tokens"] * price.input + rest["output_tokens"] * price.output) / 1e6
    return [
        f"{name}, {made.rows:,}, {pack}",
        f"{guess['requests']:,} of {bill['requests']:,}",
        f"{bill['prompt_tokens']:,}",
        off(guess["input_tokens"]["expected"], bill["prompt_tokens"]),
        f"{bill['output_tokens'] / guess['output_tokens']['expected']:.2f} of the guess",
        off(seen["output_tokens"]["expected"], rest["output_tokens"]),
        f"{usd:.4f}",
        off(seen["cost_usd"]["expected"], usd),
        f"{first['counted']}",
    ]


def off(said: float, took: float) -> str:
    """Return by how much an estimate was off."""
    return f"{said / took - 1:+.1%}" if took else "none"


def estimate(made: Project, emulator: Emulator, *flags: str) -> Mapping[str, Any]:
    """Return what the command says."""
    words = [sys.executable, "-m", "pipeline", "estimate", str(made.folder / "jobs" / "bench.toml"), "--json"]
    command = [*words, "--base-url", emulator.address, *flags]
    said = subprocess.run(command, env=environment(made.folder), capture_output=True, check=True, text=True)
    found: Mapping[str, Any] = json.loads(said.stdout)
    return found


def run(made: Project, emulator: Emulator, *flags: str) -> None:
    """Run the job."""
    took = measure(made.command(emulator, *flags), environment(made.folder))
    assert took.code == 0, took


def large(rows: int) -> list[str]:
    """Estimate a new input of so many rows of Parquet, without a key."""
    with project(1) as made, tempfile.TemporaryDirectory(prefix="rowmill-") as folder:
        path = Path(folder) / "rows.parquet"
        numbers = pl.select(pl.int_range(rows, dtype=pl.Int64).alias("id")).lazy()
        text = pl.concat_str(pl.lit("The coat is warm, order "), pl.col("id"), pl.lit("."))
        numbers.select("id", text.alias("text")).sink_parquet(path)
        env = {name: value for name, value in environment(made.folder).items() if name != "GEMINI_API_KEY"}
        job = str(made.folder / "jobs" / "bench.toml")
        words = [sys.executable, "-m", "pipeline", "estimate", job, "--json", "--input", str(path)]
        took = measure(words, env)
        assert took.code == 0, took
    return [f"{rows:,}", f"{took.seconds:.1f}", f"{took.peak_mib:.0f}"]


if __name__ == "__main__":
    main()
