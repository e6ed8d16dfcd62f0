"""What the benchmarks stand on: an emulator, a project in a temporary folder, and what a process took.

This process stays small, since the peak memory of a child begins with that of its parent.
"""

import contextlib
import csv
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL = "gemini-3.1-flash-lite"
SYSTEM = "You read reviews of a shop. Judge each by what it says, not by what it leaves out."
PROMPT = "Review: {text}"
JOB = f"""
name = "bench"
schema = "schemas/review.py:Review"
[input]
path = "rows.csv"
key = ["id"]
[prompt]
system = "{SYSTEM}"
row = "Review: {{{{ text }}}}"
[model]
id = "{MODEL}"
[limits]
tier = "1"
rpm = 100000000
tpm = 2000000000
rpd = 1000000000
spend_10min_usd = 1000000.0
[output]
path = "out/bench.parquet"
"""
OPENINGS = [
    "The coat is warm",
    "My parcel came late",
    "Good value",
    "The seam broke",
    "It does what it should",
]
MIDDLES = [
    "and the colour is right",
    "but the box was torn",
    "after two weeks of use",
    "as the page had said",
]
ENDS = ["I would buy it again.", "I sent it back.", "The staff were kind.", "Nobody answered my mail."]

Watch = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Took:
    """What a process took from its start to its end: wall clock, user + system time, largest memory."""

    code: int
    seconds: float
    cpu_seconds: float
    peak_mib: float


@dataclass(frozen=True, slots=True)
class Emulator:
    """A running emulator in a process of its own."""

    address: str

    def stats(self) -> dict[str, int]:
        """Return what it has counted since its start or the last reset."""
        with urllib.request.urlopen(f"{self.address}/emulator/stats") as answer:
            counted: dict[str, int] = json.load(answer)
        return counted

    def reset(self) -> None:
        """Let it count from zero."""
        url = f"{self.address}/emulator/reset"
        urllib.request.urlopen(urllib.request.Request(url, method="POST")).close()

    def change(self, settings: Mapping[str, object]) -> None:
        """Let it go on with other pace, quotas or faults."""
        url, content = f"{self.address}/emulator/settings", json.dumps(settings).encode()
        urllib.request.urlopen(urllib.request.Request(url, content)).close()


@contextlib.contextmanager
def emulating(*flags: str) -> Iterator[Emulator]:
    """Run an emulator for the time of the block."""
    command = [sys.executable, "-m", "pipeline.emulator", "--port", "0", "--exit-with-parent", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        try:
            yield Emulator(server.stdout.readline().split()[-1])
        finally:
            server.terminate()


@dataclass(frozen=True, slots=True)
class Project:
    """A folder with a job, its schema, its rows and all that its runs leave behind."""

    folder: Path
    rows: int

    @property
    def table(self) -> Path:
        """The rows."""
        return self.folder / "rows.csv"

    @property
    def output(self) -> Path:
        """The table that the job writes."""
        return self.folder / "out" / "bench.parquet"

    @property
    def parts(self) -> int:
        """How many parts the job has written."""
        return len(list(self.folder.glob(".rowmill/bench/*/parts/part-*.parquet")))

    def command(self, emulator: Emulator, *flags: str) -> list[str]:
        """Return the command that runs the job."""
        job = str(self.folder / "jobs" / "bench.toml")
        rowmill = [sys.executable, "-m", "pipeline", "run", job, "--quiet"]
        return [*rowmill, "--base-url", emulator.address, *flags]


@contextlib.contextmanager
def project(rows: int) -> Iterator[Project]:
    """Make a project with so many rows of short, different texts; the same ones every time."""
    with filled(texts(rows)) as made:
        yield made


@contextlib.contextmanager
def filled(rows: Iterable[tuple[str, str]]) -> Iterator[Project]:
    """Make a project with these rows of ids and texts."""
    with tempfile.TemporaryDirectory(prefix="rowmill-") as name:
        folder = Path(name)
        for part in ("jobs", "schemas", "state"):
            (folder / part).mkdir()
        (folder / "jobs" / "bench.toml").write_text(JOB)
        (folder / "schemas" / "review.py").write_text((ROOT / "benchmarks" / "review.py").read_text())
        with (folder / "rows.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["id", "text"])
            count = sum(1 for row in rows if table.writerow(row))
        yield Project(folder, count)


def texts(rows: int) -> Iterator[tuple[str, str]]:
    """Yield ids and short texts, each text once."""
    dice = random.Random(1)
    for number in range(rows):
        words = f"{dice.choice(OPENINGS)} {dice.choice(MIDDLES)}, {dice.choice(ENDS)}"
        yield str(number), f"{words} Order {number}."


def environment(folder: Path) -> dict[str, str]:
    """Return an environment with a key that opens nothing and without this user's settings."""
    own = ("ROWMILL_", "GOOGLE_", "GEMINI_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return kept | {"GEMINI_API_KEY": "no-key", "ROWMILL_STATE_DIR": str(folder / "state")}


def start(command: Sequence[str], env: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a command of this project; what it says on stdout is dropped."""
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)


def measure(command: Sequence[str], env: Mapping[str, str], watch: Watch | None = None) -> Took:
    """Run a command to its end; `watch` is called with its process id in another thread meanwhile."""
    began = time.perf_counter()
    process = start(command, env)
    if watch is not None:
        threading.Thread(target=watch, args=(process.pid,), daemon=True).start()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    return Took(process.returncode, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def busiest(log: Path) -> Counter[str]:
    """Return how often the busiest thread makes each call, by a log of `strace -f`."""
    most: Counter[str] = Counter()
    lines = re.findall(r"^(\d+) +(\w+)\(", log.read_text(), re.MULTILINE)
    for (_, call), number in Counter(lines).items():
        most[call] = max(most[call], number)
    return most


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Format lines in columns; the first is flush left, the others right."""
    columns = [[head[n], *(line[n] for line in lines)] for n in range(len(head))]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(
            c.ljust(w) if n == 0 else c.rjust(w) for n, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in [head, *lines]
    )


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Format lines as a Markdown table; the first column is flush left, the others right."""
    rules = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rules, *lines])


def echo() -> str:
    """Return the command that was typed."""
    return f"$ python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".rstrip()
