"""Bad files end with one clear line before anything is sent, bad rows fail alone, changes stop the run."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline.executors import online
from tests.conftest import Emulator, Project, emulating
from tests.test_cli import KEY, Shell, shell

__all__ = ["shell"]  # a fixture


def csv(content: bytes | str) -> Callable[[Project], None]:
    """Write the input as CSV."""
    raw = content if isinstance(content, bytes) else content.encode()

    def write(project: Project) -> None:
        (project.folder / "rows.csv").write_bytes(raw)

    return write


def named(name: str, content: bytes) -> Callable[[Project], None]:
    """Write the input under another name."""

    def write(project: Project) -> None:
        project.change("rows.csv", name)
        path = project.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    return write


def parquet(damage: Callable[[bytearray], bytes | bytearray]) -> Callable[[Project], None]:
    """Write the input as Parquet with checksums, then damage it."""

    def write(project: Project) -> None:
        path = project.folder / "rows.parquet"
        frame = pl.DataFrame({"id": range(500), "text": [f"good {n * 7919}" for n in range(500)]})
        pq.write_table(frame.to_arrow(), path, write_page_checksum=True, compression="none")
        path.write_bytes(damage(bytearray(path.read_bytes())))
        project.change("rows.csv", "rows.parquet")

    return write


def flipped(content: bytearray) -> bytes:
    """Change one letter of one cell."""
    content[content.index(b"good 7919") + 6] ^= 1
    return bytes(content)


def folder(**files: bytes) -> Callable[[Project], None]:
    """Let the input be a folder with these files; `__` stands for the point."""

    def write(project: Project) -> None:
        project.change("rows.csv", "rows")
        (project.folder / "rows").mkdir()
        for name, content in files.items():
            (project.folder / "rows" / name.replace("__", ".")).write_bytes(content)

    return write


def with_key(key: str, content: bytes) -> Callable[[Project], None]:
    """Write the input as CSV and add a key to [input]."""

    def write(project: Project) -> None:
        project.change('path = "rows.csv"', f'path = "rows.csv"\n{key}')
        csv(content)(project)

    return write


def linked(project: Project) -> None:
    """Let the input be a link to nothing."""
    (project.folder / "rows.csv").symlink_to("nowhere")


GOOD = b"id,text\n1,good\n2,bad\n"
REFUSED = {
    "invalid UTF-8": (
        csv(b"id,text\n1,good\n2,caf\xe9\n"),
        "line 3: byte 0xe9 is not UTF-8",
        'encoding = "cp1252"',
    ),
    "Shift-JIS": (
        csv("id,text\n1,とても良いです。\n".encode("shift_jis")),
        "it may be `shift_jis`",
        "shift_jis",
    ),
    "GBK": (csv("id,text\n1,非常好，很满意。\n".encode("gbk")), "`gb18030`", "encoding = "),
    "Big5": (csv("id,text\n1,非常好，很滿意。\n".encode("big5")), "`big5`", "encoding = "),
    "other bytes": (
        with_key('encoding = "cp1252"', b"id,text\n1,\x81\n"),
        "line 2: byte 0x81",
        "encoding_errors",
    ),
    "unknown encoding": (with_key('encoding = "utf-99"', GOOD), "`input.encoding` must be", "correct"),
    "NUL in JSON": (named("r.ndjson", b'{"id":1,"text":"a\0b"}\n'), "line 1: no JSON", "one object"),
    "duplicate keys": (csv("id,text\n1,a\n2,b\n1,c\n"), "rows 1 and 3 of", "key columns"),
    "null key": (csv("id,text\n1,a\n,b\n"), "key column `id` is empty in row 2", "fill it"),
    "unclosed quote": (csv('id,text\n1,"a\n2,b\n'), "begins at line 2", "never closed"),
    "short line": (csv("id,text\n1,a\n2\n"), "line 3: 1 cell where the header has 2", "double quotes"),
    "long line": (csv("id,text\n1,a\n2,b,c\n"), "line 3: 3 cells where the header has 2", "double quotes"),
    "semicolons": (csv("id;text\n1;a\n"), "column `id` is not in the input", 'set `separator = ";"`'),
    "semicolons, ragged": (
        csv("id;text\n1;a, b\n"),
        "2 cells where the header has 1",
        'set `separator = ";"`',
    ),
    "tabs": (csv("id\ttext\n1\ta\n"), "column `id` is not in the input", "`.tsv`"),
    "no header": (csv("1,good\n2,bad\n"), "column `id` is not in the input", "line above the rows"),
    "Parquet, cut": (
        parquet(lambda raw: raw[: len(raw) // 2]),
        "rows.parquet` cannot be read",
        "get it again",
    ),
    "Parquet, its end": (parquet(lambda raw: raw[:-1]), "rows.parquet` cannot be read", "get it again"),
    "Parquet, a byte": (parquet(flipped), "rows.parquet` cannot be read", "get it again"),
    "empty": (csv(""), "is empty", "get the file again, or take it away"),
    "empty UTF-16": (csv(b"\xff\xfe"), "is empty", "get the file again, or take it away"),
    "bytes in one row": (
        csv(b"id,text\n1,a\n2,caf\xe9\n"),
        "byte 0xe9",
        'or set `bad_rows = "skip"` in [input]',
    ),
    "bytes of an encoding in one row": (
        with_key('encoding = "cp1252"', b"id,text\n1,\x81\n"),
        "byte 0x81",
        'or set `bad_rows = "skip"` in [input]',
    ),
    "web page": (csv("\n<!DOCTYPE html>\n<p>id,text</p>\n"), "rows.csv` is a web page", "log in"),
    "web page as NDJSON": (
        named("r.ndjson", b"<html lang='en'>\n</html>\n"),
        "r.ndjson` is a web page",
        "log in",
    ),
    "JSON": (named("r.ndjson", b'[\n  {"id": 1, "text": "a"}\n]\n'), "is a JSON array", "jq -c"),
    "JSON in one line": (named("r.ndjson", b'[{"id": 1, "text": "a"}]'), "is a JSON array", "jq -c"),
    "blank header": (csv("\n1,a\n"), "line 1 is blank", "name the columns"),
    "stray table": (folder(a__csv=GOOD, b__csv=b"name\nx\n"), "b.csv` has no column `id`", "pattern"),
    "stray format": (folder(a__csv=GOOD, b__parquet=b"PAR1"), "mixes formats", "pattern"),
    "empty folder": (folder(), "holds no table", "must end in"),
    "no match": (
        lambda project: project.change("rows.csv", "rows-*.csv"),
        "no file matches",
        "check the pattern",
    ),
    "link to nothing": (linked, "is a link to nothing", "lead to a file"),
    "spreadsheet": (csv(b"PK\x03\x04\xff"), "a ZIP archive or a spreadsheet", "save the sheet"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_file_is_one_line_and_a_hint(shell: Shell, project: Project, what: str) -> None:
    """Exit code 2, the fault with its place, what to do about it, and nothing written or left."""
    write, says, advises = REFUSED[what]
    write(project)
    before = sorted(project.folder.rglob("*"))
    said = shell("run", project.job, "--offline")
    error, blank, hint = said.err.strip().split("\n")
    assert (said.code, blank) == (2, "")
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert says in error
    assert advises in hint
    assert [path for path in sorted(project.folder.rglob("*")) if "__pycache__" not in path.parts] == before


COLUMNS = ["id", "text", *(f"column {n}" for n in range(998))]
WIDE = "\n".join(
    ",".join(cells) for cells in (COLUMNS, ["1", "good", *["x"] * 998], ["2", "bad", *[""] * 998])
)
FINISHED = {
    "replaced bytes": (with_key('encoding_errors = "replace"', b"id,text\n1,good\n2,b\xff\xfe\n"), 2, None),
    "UTF-16": (csv("id,text\n1,good\n2,schön\n".encode("utf-16")), 2, None),
    "NUL bytes": (csv(b"id,text\n1,go\0od\n2,\0\n"), 2, None),
    "1,000 columns": (csv(WIDE), 2, None),
    "header only": (csv("id,text\n"), 0, None),
    "nulls everywhere": (csv("id,text,more\n1,,\n2,,\n3,,\n"), 3, None),
    "stray files": (folder(a__csv=GOOD, notes__txt=b"\xff", _SUCCESS=b"", __DS_Store=b"\0"), 2, None),
    "a cell of a megabyte": (csv(b"id,text\n1," + b"good " * 200_000 + b"\n2,bad\n"), 2, None),
    "a cell of 12 MB": (csv(b"id,text\n1," + b"good " * 2_400_000 + b"\n2,bad\n"), 2, "too_long"),
}


@pytest.mark.parametrize("what", FINISHED)
def test_a_bad_row_costs_at_most_itself(shell: Shell, project: Project, what: str) -> None:
    """The run ends, every row stands in the table, and at most the bad one has failed, with its reason."""
    write, rows, kind = FINISHED[what]
    write(project)
    said = shell("run", project.job, "--offline")
    assert said.code == (1 if kind else 0), said.err
    table = project.table()
    failures = table.filter(pl.col("_status") == "failed")["_error_kind"].to_list()
    assert table.height == rows
    assert failures == ([kind] if kind else [])


def test_a_column_of_nulls_only_is_asked(shell: Shell, project: Project) -> None:
    """Parquet has a type for it; the prompt's text is empty."""
    pl.DataFrame({"id": [1, 2], "text": [None, None]}).write_parquet(project.folder / "rows.parquet")
    project.change("rows.csv", "rows.parquet")
    assert shell("run", project.job, "--offline").code == 0
    assert project.table()["text"].to_list() == [None, None]


def test_the_encoding_is_no_part_of_a_row(shell: Shell, project: Project) -> None:
    """The same text in another encoding is done already; only its output is written again."""
    table = "id,text\n1,grün\n2,schön\n"
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    with emulating() as emulator:
        for encoding in ("utf-8", "utf-16", "utf-8-sig"):
            csv(table.encode(encoding))(project)
            assert shell("run", project.job, "--base-url", emulator.address).code == 0
            assert project.table()["text"].to_list() == ["grün", "schön"]
        assert emulator.stats()["requests"] == 2


# --- while the run goes on


def cut(path: Path) -> None:
    """Take the second half of a file away."""
    os.truncate(path, path.stat().st_size // 2)


def overwritten(path: Path) -> None:
    """Write something shorter over a file."""
    path.write_bytes(path.read_bytes()[:100] + b"\n")


def replaced(path: Path) -> None:
    """Put another file in its place."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes().replace(b"good", b"evil"))
    other.rename(path)


def later(emulator: Emulator, change: Callable[[], None]) -> threading.Thread:
    """Change something when some requests have arrived."""

    def wait() -> None:
        while emulator.stats()["requests"] < 20:
            time.sleep(0.02)
        change()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("kind", "change"),
    [("csv", cut), ("csv", overwritten), ("csv", replaced), ("csv", Path.unlink), ("parquet", cut)],
)
def test_a_change_of_the_input_stops_the_run(
    shell: Shell, project: Project, kind: str, change: Callable[[Path], None]
) -> None:
    """Exit code 3 and no table of a mixture; with the old file back nothing is asked twice."""
    path = project.folder / f"rows.{kind}"
    frame = pl.DataFrame({"id": range(2_500), "text": [f"good {n} " + "x" * 200 for n in range(2_500)]})
    frame.write_csv(path) if kind == "csv" else frame.write_parquet(path, row_group_size=500)
    content = path.read_bytes()
    project.change("rows.csv", path.name)
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    with emulating("--latency", "0.02") as emulator:
        thread = later(emulator, lambda: change(path))
        said = shell("run", project.job, "--base-url", emulator.address)
        thread.join()
        assert said.code == 3
        assert "labels: 2,500 rows, " in said.err
        assert "  not written" in said.err
        how = "changed" if path.exists() else "removed"
        assert f"/{path.name}` was {how} while the run went on" in said.err
        assert not project.output.exists()
        path.write_bytes(content)
        assert shell("run", project.job, "--base-url", emulator.address, "--quiet").code == 0
        assert emulator.stats()["repeated"] == 0
    assert project.table()["id"].to_list() == list(range(2_500))


def test_a_change_of_the_input_is_seen_before_the_rest_is_asked(shell: Shell, project: Project) -> None:
    """Where no row is left to be read, too; what was in flight is kept, and the same command goes on."""
    project.rows([f"good {n}" for n in range(900)])  # all are read ahead or at hand
    project.change('tier = "1"', 'tier = "1"\nconcurrency = 8')
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    shell.monkeypatch.setattr(online, "PART_ROWS", 50)
    with emulating("--latency", "0.02") as emulator:
        thread = later(emulator, (project.folder / "rows.csv").touch)
        said = shell("run", project.job, "--base-url", emulator.address)
        thread.join()
        asked = emulator.stats()["requests"]
        assert said.code == 3
        assert "rows.csv` was changed while the run went on" in said.err
        assert asked < 300
        assert shell("run", project.job, "--base-url", emulator.address, "--quiet").code == 0
        assert (emulator.stats()["requests"], emulator.stats()["repeated"]) == (900, 0)
    assert project.table().height == 900
