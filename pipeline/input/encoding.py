"""What a text file is that is not UTF-8, guessed from its bytes so that the hint can name what to set."""

import codecs
from pathlib import Path

from pipeline.errors import BadRowError, InputError

ENCODING = (
    'set in [input] its encoding, such as `encoding = "{name}"`, or `encoding_errors = "replace"` so that '
    "only such cells suffer; or save the file as UTF-8 (in a spreadsheet: `CSV UTF-8`)"
)
RESAVE = ENCODING.format(name="cp1252")
CANDIDATES = (
    "shift_jis",
    "big5",
    "euc_kr",
    "gb18030",
    "cp1251",
)  # of letters that come in rows of high bytes
ASCII = 0x80
WESTERN, DOUBTFUL = 0.75, 0.5  # shares of letters beyond ASCII that stand alone
SAMPLE = 1 << 18  # bytes by which an encoding is guessed
MAGIC = {
    b"\x1f\x8b": ("compressed with gzip", "unpack it first"),
    b"\x28\xb5\x2f\xfd": ("compressed with Zstandard", "unpack it first"),
    b"PK\x03\x04": ("a ZIP archive or a spreadsheet", "unpack it, or save the sheet as `CSV UTF-8`"),
    b"PAR1": ("a Parquet file", "give it the ending `.parquet`, or set format in [input]"),
    b"ARROW1": ("an Arrow file", "give it the ending `.arrow`, or set format in [input]"),
}
PAGES = (b"<!doctype html", b"<html>", b"<html ")  # small letters
START = 8_192  # bytes that are looked at before anything else
TWICE = 2  # in UTF-32 one half of the bytes holds twice as many NULs as the other, in UTF-16 many more


def not_utf8(path: Path) -> InputError:
    """Find the line that is not UTF-8, and guess what the file is."""
    if fault := no_text(path) or wide_text(path):
        return fault
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as exc:
                byte = f"`{path}`, line {number}: byte 0x{line[exc.start]:02x} is not UTF-8"
                if "unexpected end" in exc.reason and not file.read(1):
                    return InputError(
                        f"{byte}: the file ends in the middle of a letter", "get the file again; " + RESAVE
                    )
                fault = _guessed(byte, path)
                return fault if number == 1 else BadRowError(fault.message, fault.hint)  # 1 may be a header
    return InputError(f"`{path}` was changed while it was read", "run the same command again")


def no_text(path: Path) -> InputError | None:
    """Return the error for a file that is known to be no text; None for what may be some."""
    with path.open("rb") as file:
        start = file.read(8)
    for magic, (what, hint) in MAGIC.items():
        if start.startswith(magic):
            return InputError(f"`{path}` is {what}", hint)
    return web_page(path)


def web_page(path: Path) -> InputError | None:
    """Return the error for a page of a site that was saved in place of a table; None for what is none."""
    with path.open("rb") as file:
        start = file.read(START)
    if not start.removeprefix(codecs.BOM_UTF8).lstrip().lower().startswith(PAGES):
        return None
    return InputError(
        f"`{path}` is a web page",
        "get the table itself: open the address in a browser, perhaps you must log in",
    )


def _guessed(byte: str, path: Path) -> InputError:
    with path.open("rb") as file:
        sample = b"".join(file.readlines(SAMPLE))  # whole lines
    alone = _alone(sample) if _decodes(sample, "cp1252") else 0.0
    if alone >= WESTERN:
        return InputError(f"{byte}; it may be Windows-1252", RESAVE)
    names = [name for name in CANDIDATES if _decodes(sample, name)] + ["cp1252"] * (alone >= DOUBTFUL)
    if not names:
        return InputError(byte, RESAVE)
    told = ", ".join(f"`{name}`" for name in names)
    return InputError(f"{byte}; it may be {told}", ENCODING.format(name=names[0]))


def _alone(sample: bytes) -> float:
    """Return which share of the letters beyond ASCII stand alone between others, as in Latin scripts."""
    bytes_ = [0, *sample, 0]
    letters = alone = 0
    for before, byte, after in zip(bytes_, bytes_[1:], bytes_[2:], strict=False):
        letters += byte >= ASCII
        alone += byte >= ASCII and before < ASCII and after < ASCII
    return alone / letters if letters else 1.0


def _decodes(sample: bytes, encoding: str) -> bool:
    try:
        sample.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def wide_text(path: Path) -> InputError | None:
    """Return the error for text in UTF-16 without a byte order mark, None for what is none."""
    with path.open("rb") as file:
        codec = _wide(file.read(START))
    if codec is None:
        return None
    return InputError(
        f"`{path}` seems to be UTF-16 text without a byte order mark",
        f'set `encoding = "{codec}"` in [input], or save the file as UTF-8',
    )


def _wide(start: bytes) -> str | None:
    """Return the form of UTF-16 that a file with this start seems to have.

    Latin letters, digits, separators and line breaks have a NUL there, always in the same half of two bytes.
    """
    start = start[: len(start) // 2 * 2]
    even, odd = start[::2].count(0), start[1::2].count(0)
    for codec, many, few in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if many > TWICE * few and "\n" in codecs.getincrementaldecoder(codec)("replace").decode(start):
            return codec
    return None
