"""Copies of text files for Polars: in UTF-8 where they are in another encoding, and without bad records.

A copy in UTF-8 has the same text on the same lines. All copies of an input stand in one folder among the
system's temporary files and go with the process; what a killed one left, the next that makes copies removes.
"""

import codecs
import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from pipeline.errors import BadRowError, InputError, StoreError
from pipeline.input.encoding import MAGIC
from pipeline.scratch import Column

PREFIX = "rowmill-utf8-"  # of the folders of copies
MARKING = "rowmill-mark"  # a way to decode: with MARK in place of what cannot be
MARK = "\udcff"  # becomes a byte that is never in UTF-8, so that its record is found to be bad
BLOCK = 1 << 20  # bytes that are decoded at a time
UTF8 = "utf-8"
MARKS = (  # the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, UTF8),
)
OTHER = 'set another `encoding` in [input], or `encoding_errors = "replace"` so that only such cells suffer'


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the job says that text files are to be read: a codec of Python, and what to do with other bytes."""

    encoding: str | None = None
    errors: Literal["strict", "replace"] = "strict"


PLAIN = Decoding()  # UTF-8, or what a byte order mark says


codecs.register_error(MARKING, lambda exc: (MARK, exc.end if isinstance(exc, UnicodeDecodeError) else 0))


class Copies:
    """The copies that stand for some files of an input, removed when nothing holds this any more."""

    def __init__(self) -> None:
        self._of: dict[Path, Path] = {}
        self._made = 0
        self._undecoded: dict[Path, tuple[str, InputError]] = {}  # the codec of each, and the first fault
        self._remove: weakref.finalize[[Path, int], Copies] | None = None

    def of(self, path: Path) -> Path:
        """Return what is to be read in place of `path`, which is the file itself where it has no copy."""
        return self._of.get(path, path)

    def add(self, path: Path, form: "_Form", errors: str) -> None:
        """Copy a file; raises InputError where it cannot be decoded and StoreError where there is no room."""
        try:
            copy = self._new(path)
            with copy.open("wb") as file:
                for text in _decoded(path, form, errors):
                    file.write(text)
        except OSError as exc:
            raise StoreError(
                f"`{path}` cannot be copied as UTF-8 to `{tempfile.gettempdir()}`: {exc.strerror or exc}",
                "name a folder with room for it in the environment as `TMPDIR`, or save the file as UTF-8",
            ) from exc
        self._of[path] = copy

    def add_marked(self, path: Path, form: "_Form") -> None:
        """Do as `add` does; what cannot be decoded makes its record a bad one."""
        try:
            self.add(path, form, "strict")
        except InputError as error:
            self._undecoded[path] = ("UTF-8" if form.codec == UTF8 else form.codec, error)
            self.add(path, form, MARKING)

    def fault(self, path: Path, error: InputError) -> InputError:
        """Return the first byte that is no text as what is wrong with a file, else the error of its copy."""
        return self._undecoded[path][1] if path in self._undecoded else error

    def leave_out(self, path: Path, gone: Column) -> None:
        """Read a copy of a file from now on that lacks what is `gone`, from `start` to `stop`.

        Raises StoreError where there is no room.
        """
        read = self.of(path)
        try:
            copy = self._new(path)
            with read.open("rb") as file, copy.open("wb") as rest:
                for _, some in gone.slices():
                    for start, stop in zip(some["start"].tolist(), some["stop"].tolist(), strict=True):
                        _copy(file, rest, start - file.tell())
                        file.seek(stop)
                shutil.copyfileobj(file, rest, BLOCK)
            if read != path:
                read.unlink()
        except OSError as exc:
            raise StoreError(
                f"`{path}` cannot be copied without its bad rows to `{tempfile.gettempdir()}`: "
                f"{exc.strerror or exc}",
                'name a folder with room for it in the environment as `TMPDIR`, or set `bad_rows = "refuse"`',
            ) from exc
        self._of[path] = copy

    def named(self, said: str) -> str:
        """Return a message with the files of the input in place of their copies."""
        for path, copy in self._of.items():
            if str(copy) in said and path in self._undecoded:
                said = said.replace("not UTF-8", f"not {self._undecoded[path][0]}")
            said = said.replace(str(copy), str(path))
        return said

    def remove(self) -> None:
        """Remove them at once."""
        if self._remove is not None:
            self._remove()

    def _new(self, path: Path) -> Path:
        """Return where a copy of a file goes; files of several folders may have one name, and a long one."""
        self._made += 1
        return self._folder(path) / f"{self._made}-copy"

    def _folder(self, path: Path) -> Path:
        """Return the folder of the copies, made and locked for the first of them."""
        if self._of:
            return self.of(next(iter(self._of))).parent
        _clear()
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = os.open(folder / "lock.new", os.O_RDWR | os.O_CREAT, 0o600)
        self._remove = weakref.finalize(self, _drop, folder, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "lock.new").rename(folder / "lock")  # nobody looks for it before it is held
        return folder


def _copy(file: BinaryIO, to: BinaryIO, size: int) -> None:
    while size > 0 and (block := file.read(min(size, BLOCK))):
        to.write(block)
        size -= len(block)


@dataclass(frozen=True, slots=True)
class _Form:
    """How a file is written: a codec, and the length of the mark before its text."""

    codec: str
    mark: int


def copies_of(paths: Sequence[Path], kind: str, decoding: Decoding, *, skip: bool = False) -> Copies:
    """Return copies of those text files that cannot be read as they are; of other formats there are none.

    To `skip` bad rows, records that cannot be decoded are made such. A byte order mark wins over the job's
    encoding. Raises InputError, StoreError and OSError.
    """
    copies = Copies()
    if kind not in {"csv", "tsv", "ndjson"}:
        return copies
    try:
        for path in paths:
            form = _form(path, decoding)
            if not _needs_copy(path, kind, form, decoding):
                continue
            if skip and decoding.errors == "strict":
                copies.add_marked(path, form)
            else:
                copies.add(path, form, decoding.errors)
    except BaseException:
        copies.remove()
        raise
    return copies


def _form(path: Path, decoding: Decoding) -> _Form:
    with path.open("rb") as file:
        start = file.read(8)
    for mark, codec in MARKS:
        if start.startswith(mark):
            return _Form(codec, len(mark))
    codec = codecs.lookup(decoding.encoding or UTF8).name
    for magic, (what, hint) in MAGIC.items():
        if start.startswith(magic) and decoding != PLAIN:  # nearly any bytes are text in some encodings
            raise InputError(f"`{path}` is {what}", hint)
    return _Form(UTF8 if codec == "utf-8-sig" else codec, 0)


def _needs_copy(path: Path, kind: str, form: _Form, decoding: Decoding) -> bool:
    if form.codec != UTF8 or (form.mark and kind == "ndjson"):
        return True
    return decoding.errors == "replace" and not _is_utf8(path)


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder(UTF8)()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _decoded(path: Path, form: _Form, errors: str) -> Iterator[bytes]:
    """Yield a file's text as UTF-8; what cannot be read or decoded is an InputError with its line."""
    decoder = codecs.getincrementaldecoder(form.codec)(errors)
    line, block = 1, b"-"
    try:
        with path.open("rb") as file:
            file.seek(form.mark)
            while block:
                block = file.read(BLOCK)
                text = decoder.decode(block, final=not block)
                line += text.count("\n")
                yield text.encode(errors="surrogateescape" if errors == MARKING else errors)
    except UnicodeDecodeError as exc:
        raise _undecodable(path, form, line, exc) from exc
    except UnicodeError as exc:
        raise InputError(f"`{path}`, about line {line}: no text in {form.codec}", OTHER) from exc
    except OSError as exc:
        said = f"`{path}` cannot be read: {(exc.strerror or str(exc)).lower()}"
        raise InputError(said, "check the path and the right to read it") from exc


def _undecodable(path: Path, form: _Form, line: int, exc: UnicodeDecodeError) -> InputError:
    before = exc.object[: exc.start].decode(form.codec, "replace")
    byte = f"byte 0x{exc.object[exc.start]:02x} is not {form.codec}"
    line += before.count("\n")
    kind = InputError if line == 1 else BadRowError  # the first line may be a header
    return kind(f"`{path}`, line {line}: {byte}", OTHER)


def _clear() -> None:
    """Remove the copies of processes that were killed; a lock ends with the process that holds it."""
    for name in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/lock"):
        try:
            lock = os.open(name, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, or gone meanwhile
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)  # in use
        else:
            _drop(name.parent, lock)


def _drop(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
