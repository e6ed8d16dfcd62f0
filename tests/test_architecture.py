"""The module table of `docs/architecture.md` holds."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pipeline"
DOORS = {"__init__", "__main__"}  # they hold no logic; __main__ is the cli


def floors() -> list[str]:
    """Return the modules of the table, top to bottom."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    return re.findall(r"^\|[^|]*\| `([\w.]+)` \|", text, re.MULTILINE)


def modules() -> dict[str, Path]:
    """Return every module of the package under the name that the table gives it."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if name.split(".")[-1] not in DOORS and not name.startswith("emulator."):
            found[name] = path
    return found | {"emulator": PACKAGE / "emulator" / "__init__.py"}


def imports(path: Path) -> set[str]:
    """Return the modules of ours that a file imports, wherever in the file, as the table names them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pipeline":
            inner = node.module.removeprefix("pipeline").removeprefix(".")
            names |= {f"{inner}.{alias.name}".strip(".") for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name.removeprefix("pipeline.") for a in node.names if a.name.startswith("pipeline")}
    table = floors()
    return {next((row for row in table if name == row or name.startswith(f"{row}.")), name) for name in names}


def test_the_table_names_every_module_once() -> None:
    """No module is missing from the table, and no row of it names one that is not there."""
    assert sorted(floors()) == sorted(modules())


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_imports_only_from_above(name: str) -> None:
    """Imports only go up the table."""
    table = floors()
    allowed = set(table[: table.index(name)])
    assert imports(modules()[name]) - {name} <= allowed


def test_the_emulator_imports_nothing_of_the_rest() -> None:
    """The emulator can judge the client because it shares no code with it."""
    for path in (PACKAGE / "emulator").rglob("*.py"):
        assert {name.split(".")[0] for name in imports(path)} <= {"emulator"}, path.name


def test_only_the_door_knows_click() -> None:
    """The library can be used without the command line."""
    users = {
        name
        for name, path in modules().items()
        if re.search(r"^\s*(import|from) click", path.read_text(), re.M)
    }
    assert {name.partition(".")[0] for name in users} == {"cli"}
