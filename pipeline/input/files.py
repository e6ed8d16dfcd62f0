"""The files of an input: found by path, folder or glob, their format, and what is wrong with them.

What Polars, pyarrow and the system raise while a file is read is translated here, and nowhere else.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import polars as pl
import pyarrow as pa

from pipeline.columns import some_of
from pipeline.disk import may_read
from pipeline.errors import BadRowError, ChangedError, InputError
from pipeline.input.bad import LEAVE_OUT, BadRows
from pipeline.input.delimited import QUOTING, SEPARATORS
from pipeline.input.ndjson import ndjson_fault
from pipeline.input.recode import Copies
from pipeline.schema_file import nearest_file

ENDINGS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".arrow": "ipc",
    ".ipc": "ipc",
    ".feather": "ipc",
}
FOREIGN = (
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
    pa.ArrowException,
    OSError,
    UnicodeDecodeError,
)
HINTS = {
    "csv": QUOTING,
    "tsv": QUOTING,
    "ndjson": "each line must be one JSON object, and a column must hold values of one kind",
    "parquet": "check that it is a whole Parquet file, or get it again",
    "ipc": "check that it is a whole Arrow IPC file (not a stream), or get it again",
}
PLAINER = "write the column in a type that other programs read too, such as text"
AGAIN = (
    "{first}, let nothing write to the input while a run goes on, and run the same command again: rows that "
    "are still the same are not asked again"
)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the system tells of a file: size, inode, and when it was written to, which can be set back.

    `touched` is when anything of it was changed, also its rights, owner and names (`marks`): nobody can set
    that back.
    """

    size: int
    modified: int
    inode: int
    touched: int
    marks: tuple[int, ...]

    def is_explained(self, before: "Stamp") -> bool:
        """Tell whether the content is what it was, also where rights, owner or names were changed since."""
        if (self.size, self.modified, self.inode) != (before.size, before.modified, before.inode):
            return False
        return self.touched == before.touched or self.marks != before.marks


@dataclass(frozen=True, slots=True)
class Files:
    """What is read, and how the files stood when they were opened; `copies` are read in place of some.

    `separator` stands between the cells of CSV and TSV files. `bad` takes the rows that are left out; None
    where a bad row is an error.
    """

    paths: tuple[Path, ...]
    kind: str
    stamps: list["Stamp"]
    copies: Copies = field(default_factory=Copies)
    bad: BadRows | None = None
    separator: str = ""

    @property
    def text(self) -> bool:
        """Whether all cells are text."""
        return self.kind in SEPARATORS

    @property
    def read(self) -> tuple[Path, ...]:
        """The files to read, in the order of `paths`: themselves, or their copies in UTF-8."""
        return tuple(map(self.copies.of, self.paths))

    @property
    def changed(self) -> list[Path]:
        """The files that were written to, replaced or removed since they were opened."""
        found = []
        for number, (path, before) in enumerate(zip(self.paths, self.stamps, strict=False)):
            now = _stamp_now(path)
            if now is not None and now.is_explained(before):
                self.stamps[number] = now
            else:
                found.append(path)
        return found

    @property
    def said(self) -> str:
        """How to name the files where it is not known which one is meant."""
        others = f" or another of the {len(self.paths):,} files" if len(self.paths) > 1 else ""
        return f"`{self.paths[0]}`{others}"

    def change(self) -> ChangedError:
        """Return the error for files that are not what they were when they were opened."""
        found = self.changed
        which = f"`{found[0]}`" if found else self.said
        how, first = "changed", "see that the file is whole"
        if found and not found[0].exists():
            how, first = "removed", "put the file back or name another in [input]"
        return ChangedError(f"the input {which} was {how} while the run went on", AGAIN.format(first=first))


def find(path: Path, kind: str | None) -> tuple[tuple[Path, ...], str]:
    """Return the files that `path` means, in order, and their format."""
    if path.is_file():
        paths = [path]
    elif path.is_dir():
        paths = _in_folder(path, kind)
    else:
        paths = _matches(path)
    if not paths:
        raise _missing(path)
    return tuple(paths), _format(paths, kind)


def separator_of(kind: str, given: str | None) -> str:
    """Return what stands between cells in a format; raises InputError where one is given for another."""
    if given is not None and kind not in SEPARATORS:
        said = f"`separator` is for CSV and TSV files, and the format of the input is `{kind}`"
        raise InputError(said, "leave `separator` out of [input], or set `format` there to csv")
    return given or SEPARATORS.get(kind, "")


def _in_folder(folder: Path, kind: str | None) -> list[Path]:
    """Return the tables in a folder and below; names that begin with a dot are hidden, as for a glob."""
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if _is_wanted(path.relative_to(folder), kind) and path.is_file()
    ]
    if not found:
        hint = f"its files must end in one of {', '.join(sorted(_endings(kind)))}; else name them with a glob"
        raise InputError(f"the folder `{folder}` holds no table", hint)
    return found


def _endings(kind: str | None) -> set[str]:
    """Return the endings of files of a format, or of all."""
    return {ending for ending, known in ENDINGS.items() if kind in {None, known}}


def _is_wanted(place: Path, kind: str | None) -> bool:
    """Tell whether a file at this place in a folder is one of its tables."""
    hidden = any(part.startswith(".") for part in place.parts)
    return place.suffix.lower() in _endings(kind) and not hidden


def would_read(path: Path, kind: str | None, target: Path) -> bool:
    """Tell whether a file written to `target` would be one of the files that a folder or glob means."""
    if path.is_file():
        return False
    root, place = root_of(path), target.parent.resolve() / target.name
    if not place.is_relative_to(root.resolve()):
        return False
    place = place.relative_to(root.resolve())
    if path == root:
        return _is_wanted(place, kind)
    pattern = path.relative_to(root)
    return glob.has_magic(str(pattern)) and _fits(pattern.parts, place.parts)


def _fits(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """Tell whether a glob, in parts, matches a path, as `glob.glob` does."""
    if not patterns or not names:
        return not names and all(one == "**" for one in patterns)
    hidden = names[0].startswith(".") and not patterns[0].startswith(".")
    if patterns[0] == "**":
        return _fits(patterns[1:], names) or (not hidden and _fits(patterns, names[1:]))
    return not hidden and fnmatchcase(names[0], patterns[0]) and _fits(patterns[1:], names[1:])


def root_of(path: Path) -> Path:
    """Return the folder that `path` names, or the one before the first pattern in it, or that of a file."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _matches(path: Path) -> list[Path]:
    """Return the files that a glob matches; the folders in it that exist are taken by their name."""
    root = root_of(path)
    names = glob.glob(str(path.relative_to(root)), root_dir=root, recursive=True)
    return [root / name for name in sorted(set(names)) if (root / name).is_file()]


def _missing(path: Path) -> InputError:
    if path.exists():
        return InputError(f"the input `{path}` is neither a file nor a folder", "save it as a file first")
    if glob.has_magic(path.name):
        return InputError(f"no file matches `{path}`", "check the pattern; `**` goes down into folders")
    if path.is_symlink():
        return InputError(
            f"the input `{path}` is a link to nothing", "let it lead to a file, or name another"
        )
    said = f"the input `{path}` does not exist"
    if not path.parent.is_dir():
        return InputError(said, f"the folder `{path.parent}` does not exist either")
    near = sorted(file.name for file in path.parent.iterdir() if not file.name.startswith("."))
    if not near:
        return InputError(said, f"the folder `{path.parent}` is empty")
    hint = f"{nearest_file(path, near)} the files there are {some_of(near)}".strip()
    return InputError(said, hint)


def _format(paths: Sequence[Path], given: str | None) -> str:
    kinds = {ENDINGS.get(path.suffix.lower()): path for path in reversed(paths)}
    if given:
        return given
    if None in kinds:
        raise InputError(
            f"the format of `{kinds[None]}` is not known by its ending",
            "set format in [input] to csv, tsv, parquet, ndjson or ipc; unpack compressed files first",
        )
    if len(kinds) > 1:
        one, other = list(kinds.values())[:2]
        raise InputError(
            f"the input mixes formats: `{other}` and `{one}`", "name one pattern, such as `data/*.csv`"
        )
    return next(kind for kind in kinds if kind)


@contextmanager
def translated(files: Files, path: Path | None = None) -> Iterator[None]:
    """Turn what Polars, pyarrow and the system raise into InputError; `path` is the file, where known.

    Whatever is wrong with a file that was changed meanwhile is a ChangedError, and copies are never named.
    """
    try:
        yield
    except FOREIGN as exc:
        if files.changed:
            raise files.change() from exc
        raise _original(files, _unreadable(files, path, exc)) from exc
    except InputError as exc:
        if files.changed and not isinstance(exc, ChangedError):
            raise files.change() from exc
        raise _original(files, exc) from exc.__cause__


def _original(files: Files, error: InputError) -> InputError:
    """Name the files of the input in place of their copies, and what else may be done about a bad row."""
    error.message, error.hint = files.copies.named(error.message), files.copies.named(error.hint)
    if isinstance(error, BadRowError) and files.bad is None and LEAVE_OUT not in error.hint:
        error.hint = f"{error.hint}; {LEAVE_OUT}"
    return error


def _unreadable(files: Files, path: Path | None, exc: BaseException) -> InputError:
    if files.kind == "ndjson" and not isinstance(exc, OSError):
        with suppress(OSError):
            for one in [path] if path else files.read:
                if fault := ndjson_fault(one):
                    return fault
    which = f"`{path or _refused(files, exc)}`" if path or _refused(files, exc) else files.said
    if isinstance(exc, OSError) and exc.errno:
        said = f"{which} cannot be read: {os.strerror(exc.errno).lower()}"
        return InputError(said, "check the path and the right to read it")
    if isinstance(exc, pa.ArrowNotImplementedError):
        return InputError(f"{which} holds what cannot be read: {first_line(exc)}", PLAINER)
    return InputError(f"{which} cannot be read: {first_line(exc)}", HINTS.get(files.kind, HINTS["ipc"]))


def _refused(files: Files, exc: BaseException) -> Path | None:
    """Return which of several files may not be read, if that is what is wrong; what reads them names none."""
    if not isinstance(exc, OSError):
        return None
    named = [path for path in files.read if str(path) == exc.filename]
    return next((path for path in named or files.read if named or not may_read(path)), None)


def first_line(exc: BaseException) -> str:
    """Return what a foreign error says, on one short line."""
    return " ".join(str(exc).split("\n\n")[0].split()).split(". ")[0].rstrip(".")[:200]


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a file. Raises OSError."""
    stat = path.stat()
    marks = (stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid)
    return Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns, marks)


def _stamp_now(path: Path) -> Stamp | None:
    try:
        return stamp_of(path)
    except OSError:
        return None
