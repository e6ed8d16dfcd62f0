"""The user's schema file: import it by its path, and find the class in it."""

import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path
from types import ModuleType

from pydantic import BaseModel

from pipeline.errors import JobError


def load_schema(project: Path, schema_path: str) -> type[BaseModel]:
    """Import the schema class that `file.py:Class` names; raises JobError with the line that fails."""
    file, _, name = schema_path.rpartition(":")
    module = _import_file(Path(os.path.abspath(project / os.path.expanduser(file))), file)
    found = getattr(module, name, None)
    if found is None:
        raise _no_class(module, file, name)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise JobError(f"`{name}` in `{file}` is not a Pydantic model", "derive it from `pydantic.BaseModel`")
    return found


def _import_file(path: Path, file: str) -> ModuleType:
    name = f"rowmill_schema_{blake2b(os.fsencode(path), digest_size=8).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        names = [near.name for near in path.parent.glob("*.py")]
        hint = nearest_file(Path(file), names) or "`schema` is `file.py:Class`, relative to the project"
        raise JobError(f"schema file `{file}` does not exist in `{path.parent}`", hint)
    try:
        path.open("rb").close()
    except OSError as exc:
        said = f"schema file `{file}` cannot be read: {(exc.strerror or str(exc)).lower()}"
        raise JobError(said, "check the path and the right to read it") from exc
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Pydantic looks forward references up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as exc:  # the user's own code may raise anything: translated only here
        sys.modules.pop(name, None)
        cause = f"{type(exc).__name__}{_place(exc, path)}: {one_line(getattr(exc, 'msg', exc))}"
        raise JobError(f"schema file `{file}` does not import: {cause}", f"try `python {file}`") from exc
    return module


def _place(exc: BaseException, path: Path) -> str:
    frames = traceback.extract_tb(exc.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    if isinstance(exc, SyntaxError) and exc.filename == str(path):
        lines.append(exc.lineno)
    return f" at line {lines[-1]}" if lines else ""


def _no_class(module: ModuleType, file: str, name: str) -> JobError:
    own = [key for key, kind in vars(module).items() if getattr(kind, "__module__", "") == module.__name__]
    return JobError(
        f"schema file `{file}` has no class `{name}`",
        nearest(name, own) or "it has " + (", ".join(f"`{key}`" for key in own) or "no class at all"),
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word most like `word`, or nothing."""
    near = get_close_matches(word, list(known), n=1)
    return f"did you mean `{near[0]}`?" if near else ""


def nearest_file(path: Path, names: Iterable[str]) -> str:
    """Return a hint that names the file in the folder of `path` most like it; endings do not count."""
    stems = {Path(name).stem: name for name in names}
    near = get_close_matches(path.stem, stems, n=1)
    return f"did you mean `{path.parent / stems[near[0]]}`?" if near else ""


def one_line(words: object) -> str:
    """Return a text on one line."""
    return " ".join(str(words).split())
