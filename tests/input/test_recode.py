"""Text in other encodings reaches rows as if it were UTF-8, and its copies are gone afterwards."""

import codecs
import fcntl
import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError, StoreError
from pipeline.input.recode import BLOCK, PREFIX, Decoding, copies_of
from pipeline.input.source import Source, open_source

shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
TABLE = 'id,text\n1,"grün, ""été""\nzwei"\n2,\n3,Straße\n'


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path) -> Iterator[Path]:
    """Let copies stand in a folder of the test."""
    before, folder = tempfile.tempdir, tmp_path / "temporary"
    folder.mkdir()
    tempfile.tempdir = str(folder)
    yield folder
    tempfile.tempdir = before


def opened(path: Path, encoding: str | None = None, *, replace: bool = False) -> Source:
    """Open an input in an encoding."""
    decoding = Decoding(encoding, "replace" if replace else "strict")
    return open_source(path, key=["id"], used=["text"], decoding=decoding)


def rows(source: Source) -> list[tuple[bytes, bytes, object]]:
    """Return key, digest and text of every row."""
    pending = np.ones(source.survey().rows, np.bool_)
    return [(row.key, row.digest, row.values["text"]) for some in source.rows(pending) for row in some]


def refusal(folder: Path, path: Path, encoding: str | None = None, *, replace: bool = False) -> str:
    """Return what is wrong with an input, without the folder."""
    with pytest.raises(InputError) as caught:
        opened(path, encoding, replace=replace).survey()
    return f"{caught.value.message}; {caught.value.hint}".replace(f"{folder}/", "")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16-le", "UTF-32", "utf-8", "cp850", "utf-7"])
def test_a_declared_encoding_changes_nothing_but_bytes(tmp_path: Path, encoding: str) -> None:
    """Keys, digests and cells are those of the same table in UTF-8, line ends and quotes included."""
    (tmp_path / "plain.csv").write_text(TABLE, encoding="utf-8", newline="")
    (tmp_path / "t.csv").write_bytes(TABLE.encode(encoding))
    assert rows(opened(tmp_path / "t.csv", encoding)) == rows(opened(tmp_path / "plain.csv"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("declared", [None, "cp1252", "utf-16"])
@pytest.mark.parametrize("ending", ["csv", "ndjson"])
def test_a_byte_order_mark_is_believed(
    tmp_path: Path, encoding: str, declared: str | None, ending: str
) -> None:
    """Whatever the job says: a mark at the start of a file is no accident."""
    table = TABLE if ending == "csv" else '{"id":"1","text":"grün"}\n{"id":"2","text":"été"}\n'
    (tmp_path / f"plain.{ending}").write_text(table, encoding="utf-8", newline="")
    (tmp_path / f"t.{ending}").write_bytes(table.encode(encoding))
    assert rows(opened(tmp_path / f"t.{ending}", declared)) == rows(opened(tmp_path / f"plain.{ending}"))


def test_shift_jis_is_read(tmp_path: Path) -> None:
    """Bytes of two-byte letters that look like commas, quotes or slashes are none."""
    (tmp_path / "t.csv").write_bytes("id,text\n1,表示ソ能\n".encode("shift_jis"))
    assert rows(opened(tmp_path / "t.csv", "shift_jis"))[0][2] == "表示ソ能"


@shared_folder
@given(
    text=st.text(st.characters(codec="utf-16", exclude_characters='\r\n"'), min_size=1),
    encoding=st.sampled_from(["utf-16", "utf-32-be", "utf-8-sig", "gb18030"]),
    pad=st.integers(0, 9),
)
def test_no_letter_is_lost_between_blocks(tmp_path: Path, text: str, encoding: str, pad: int) -> None:
    """A letter whose bytes stand in two blocks is whole, and the copy is exactly the text."""
    whole = "x" * (BLOCK // 4 - 4 - pad) + text * 3
    path = tmp_path / "t.csv"
    path.write_bytes(whole.encode(encoding))
    copies = copies_of([path], "csv", Decoding(encoding))
    assert copies.of(path).read_bytes().removeprefix(codecs.BOM_UTF8) == whole.encode()


def test_replace_spoils_one_cell_only(tmp_path: Path) -> None:
    """Each undecodable byte becomes a mark in its cell; all other rows are those of a good file."""
    (tmp_path / "good.csv").write_bytes("id,text\n1,ä\n2,b\n3,ü\n".encode())
    good = rows(opened(tmp_path / "good.csv"))
    (tmp_path / "t.csv").write_bytes("id,text\n1,ä\n2,b\n3,ü\n".encode().replace(b"b", b"\xff\xc3"))
    found = rows(opened(tmp_path / "t.csv", replace=True))
    assert (found[0], found[2]) == (good[0], good[2])
    assert found[1][0] == good[1][0]
    assert found[1][2] == "��"


@pytest.mark.parametrize(
    ("content", "encoding", "said"),
    [
        (b"id,text\n1,a\n2,\x81\n", "cp1252", "`t.csv`, line 3: byte 0x81 is not cp1252; set another"),
        (
            b"id,text\n1,a\n2,\xff\n",
            None,
            "`t.csv`, line 3: byte 0xff is not UTF-8; it may be Windows-1252; set",
        ),
        ("id,text\n1,a\n".encode("utf-16")[:-1], None, "`t.csv`, line 2: byte 0x0a is not utf-16-le; set"),
        ("id,text\n1\n".encode("utf-16"), None, "`t.csv`, line 2: 1 cell where the header has 2; "),
        ('id,text\n1,"é\n'.encode("cp1252"), "cp1252", "`t.csv` ends inside a quoted cell of the row"),
        (codecs.BOM_UTF16_LE, None, "`t.csv` is empty; "),
        (b"\x1f\x8b\x08\x00", "latin-1", "`t.csv` is compressed with gzip; unpack it"),
        (
            "id,text\n1,a\n".encode("utf-16-le"),
            None,
            '`t.csv` seems to be UTF-16 text without a byte order mark; set `encoding = "utf-16-le"` in',
        ),
    ],
)
def test_what_is_wrong_names_the_file_and_line(
    tmp_path: Path, content: bytes, encoding: str | None, said: str
) -> None:
    """The original file is named, never the copy, whose lines are the same."""
    (tmp_path / "t.csv").write_bytes(content)
    assert refusal(tmp_path, tmp_path / "t.csv", encoding).startswith(said)
    assert not list(tmp_path.glob("temporary/*"))


def test_a_line_far_into_a_file_is_named(tmp_path: Path) -> None:
    """The count goes on over blocks."""
    lines = 300_000
    (tmp_path / "t.csv").write_bytes(b"id,text\n" + b"1,a123\n" * lines + b"1,\x81\n")
    assert refusal(tmp_path, tmp_path / "t.csv", "cp1252").startswith(f"`t.csv`, line {lines + 2}: byte 0x81")


def test_a_broken_line_of_json_is_named_by_the_original(tmp_path: Path) -> None:
    """Polars speaks of the copy, the message does not."""
    (tmp_path / "t.ndjson").write_bytes('{"id":"1","text":"é"}\n{"id":\n'.encode("utf-16"))
    assert refusal(tmp_path, tmp_path / "t.ndjson").startswith("`t.ndjson`, line 2: no JSON")


def test_good_text_is_not_copied(tmp_path: Path, temporary: Path) -> None:
    """UTF-8 is read where it stands, also with a mark, and where broken text would be allowed."""
    (tmp_path / "t.csv").write_bytes(codecs.BOM_UTF8 + TABLE.encode())
    sources = [opened(tmp_path / "t.csv"), opened(tmp_path / "t.csv", "utf8", replace=True)]
    assert [len(rows(source)) for source in sources] == [3, 3]
    assert not list(temporary.iterdir())


def test_copies_go_with_their_source(tmp_path: Path, temporary: Path) -> None:
    """As long as a source lives its copy stands, and the input is as it was."""
    content = TABLE.encode("utf-16")
    (tmp_path / "t.csv").write_bytes(content)
    source = opened(tmp_path / "t.csv")
    assert len(list(temporary.glob(f"{PREFIX}*"))) == 1
    assert len(rows(source)) == 3
    del source
    gc.collect()
    assert not list(temporary.iterdir())
    assert (tmp_path / "t.csv").read_bytes() == content


@pytest.mark.parametrize("kind", ["csv", "tsv", "ndjson"])
@pytest.mark.parametrize(
    ("codec", "broken"), [("shift_jis", b"\x82\xff"), ("cp1252", b"\x81"), ("utf-8-sig", b"\xff")]
)
def test_bytes_of_no_letter_make_a_bad_row(tmp_path: Path, kind: str, codec: str, broken: bytes) -> None:
    """It is left out with its line, whatever the encoding, and the others are read."""
    path = tmp_path / f"t.{kind}"
    row = {"csv": "%d,good", "tsv": "%d\tgood", "ndjson": '{"id":%d,"text":"good"}'}[kind]
    head = [] if kind == "ndjson" else [row.replace("%d", "id").replace("good", "text")]
    raw = "\n".join([*head, *(row % n for n in range(5)), ""]).encode(codec)
    path.write_bytes(raw.replace(b"good", broken, 2).replace(broken, b"good", 1))
    source = open_source(path, key=["id"], used=["text"], skip=True, decoding=Decoding(codec))
    source.survey()
    frame = pl.concat(chunk.frame for chunk in source.tables())
    assert frame["id"].cast(pl.Int64).to_list() == [0, 2, 3, 4]
    name = "UTF-8" if codec == "utf-8-sig" else codec
    assert source.left_out.first == (f"`{path}`, line {2 + len(head)}: bytes that are not {name}",)


def test_a_wrong_encoding_is_no_matter_of_single_rows(tmp_path: Path) -> None:
    """Where most rows cannot be decoded, the error names the byte and another way."""
    path = tmp_path / "t.csv"
    path.write_bytes(b"id,text\n" + b"".join(b"%d,\x82\xff\n" % n for n in range(20)))
    with pytest.raises(InputError, match=r"line 2: byte 0x82 is not shift_jis") as caught:
        open_source(path, key=["id"], used=["text"], skip=True, decoding=Decoding("shift_jis"))
    assert "another `encoding`" in caught.value.hint


def test_copies_of_the_dead_are_removed_and_of_the_living_are_not(tmp_path: Path, temporary: Path) -> None:
    """A lock that nobody holds any more tells that its process was killed."""
    for name in ("dead", "living"):
        (temporary / f"{PREFIX}{name}").mkdir()
        (temporary / f"{PREFIX}{name}" / "lock").touch()
    held = os.open(temporary / f"{PREFIX}living" / "lock", os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    (tmp_path / "t.csv").write_bytes(TABLE.encode("utf-16"))
    source = opened(tmp_path / "t.csv")
    os.close(held)
    assert not (temporary / f"{PREFIX}dead").exists()
    assert (temporary / f"{PREFIX}living" / "lock").exists()
    assert len(rows(source)) == 3


def test_the_original_is_watched(tmp_path: Path) -> None:
    """A copy never changes, but an answer belongs to the file that the user has."""
    path = tmp_path / "t.csv"
    path.write_bytes(TABLE.encode("utf-16"))
    source = opened(path)
    rows(source)
    path.write_bytes(TABLE.replace("zwei", "drei").encode("utf-16"))
    with pytest.raises(InputError, match="was changed"):
        source.check_unchanged()


def test_no_room_for_a_copy_is_told(tmp_path: Path, temporary: Path) -> None:
    """The disk is to blame and not the input; the hint says what moves the copies."""
    (tmp_path / "t.csv").write_bytes(TABLE.encode("utf-16"))
    temporary.rmdir()
    with pytest.raises(StoreError, match="cannot be copied as UTF-8") as caught:
        opened(tmp_path / "t.csv")
    assert "TMPDIR" in caught.value.hint
    temporary.mkdir()


def test_many_files_are_one_table(tmp_path: Path) -> None:
    """Files of one folder may differ in their marks."""
    for number, encoding in enumerate(["utf-16", "utf-8", "utf-8-sig"]):
        (tmp_path / f"{number}.csv").write_bytes(f"id,text\n{number},é\n".encode(encoding))
    assert [row[2] for row in rows(opened(tmp_path / "*.csv"))] == ["é"] * 3
