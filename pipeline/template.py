"""Prompt templates: compile one, list the columns it uses, write the prompt of a row.

A template is Jinja in a sandbox: it sees the cells of one row and can neither load nor change anything.
A null cell is empty text, falsy and of length 0, and it passes `is none`; it never reads "None".
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2 import Template as JinjaTemplate
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.errors import JobError
from pipeline.flow import Failure, FailureKind

ROW = "row"  # in a template: the mapping of all columns, for names that are no identifiers

_HINT = 'insert a column with `{{ column }}` or `{{ row["Column name"] }}`; the language is Jinja\'s'
_GLOBALS = ("dict", "namespace", "range")
_LOADING = (nodes.Extends, nodes.FromImport, nodes.Import, nodes.Include)

# Control characters make models loop, lone surrogates cannot be sent; tab and line feed stay.
_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

# What a template can raise on the values of one row; anything else is a bug of ours.
_ROW_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _Null:
    """A null cell: filters and tests take it for empty text, `is none` and `== none` for none."""

    def __str__(self) -> str:
        return ""

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[object]:
        return iter(())

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, _Null)

    def __hash__(self) -> int:
        return hash(None)


_NULL = _Null()


class Template:
    """A compiled prompt template; raises JobError where the source does not compile.

    `columns` are the columns it names, sorted; None means all of them, because the template uses `row`
    as a whole or with a name that is known only when it renders.
    """

    def __init__(self, source: str) -> None:
        self._tree, self._template = _compiled(source)
        self.columns: tuple[str, ...] | None = _columns(self._tree)

    def render(self, values: Mapping[str, object]) -> str | Failure:
        """Return the prompt for the cells of one row, or why there is none.

        `values` holds at least the columns used. Control characters except tab and line feed are taken
        out, all line ends become line feeds.
        """
        cells = {name: _NULL if cell is None else cell for name, cell in values.items()}
        try:
            text = self._template.render({ROW: cells, **cells})
        except _ROW_ERRORS as exc:
            return Failure(FailureKind.TEMPLATE, f"{type(exc).__name__}: {_line(exc)}")
        return _UNWANTED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))

    def misuses_row(self) -> bool:
        """Say whether `row` stands for the mapping of columns, so that no column may have this name."""
        return any(isinstance(user, nodes.Getitem | nodes.Getattr) for user, _ in _row_uses(self._tree))


def check_columns(template: Template, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that `template` uses, in the order of `columns`, which are those of the input.

    Raises JobError when it uses one that the input lacks, or none at all.
    """
    if ROW in columns and template.misuses_row():
        raise JobError(
            "`row` is a column of the input, so the template cannot use `row` for all columns",
            'rename that column, or use it as `{{ row }}` and no `row["..."]`',
        )
    if template.columns is None:
        return tuple(columns)
    for name in template.columns:
        if name not in columns:
            raise JobError(f"column `{name}` is not in the input", column_hint(name, columns))
    if not template.columns:
        raise JobError("the template uses no column, so all rows would get the same prompt", _HINT)
    return tuple(name for name in columns if name in template.columns)


def column_hint(name: str, columns: Sequence[str], what: str = "columns") -> str:
    """Return what to say about a name that is not among `columns`: the nearest one, and all of them."""
    near = get_close_matches(name.lower(), [column.lower() for column in columns], n=1)
    meant = [column for column in columns if near and column.lower() == near[0]]
    listed = "the columns are " + ", ".join(f"`{column}`" for column in columns)
    return f"did you mean `{meant[0]}`? {listed}" if meant else listed


def _compiled(source: str) -> tuple[nodes.Template, JinjaTemplate]:
    """Parse and compile; only what is written in the job file is ever loaded."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False)
    for name in [name for name in environment.globals if name not in _GLOBALS]:
        del environment.globals[name]
    try:
        tree = environment.parse(source)
        template = environment.from_string(source)
    except TemplateSyntaxError as exc:
        said = f"the template in [prompt] row does not compile, line {exc.lineno}: {_line(exc)}"
        raise JobError(said, _HINT) from exc
    if any(tree.find_all(_LOADING)):
        raise JobError("the template in [prompt] row loads another template", "write it in one piece")
    return tree, template


def _columns(tree: nodes.Template) -> tuple[str, ...] | None:
    """Return the columns used by name or through `row[...]`, sorted; None for all of them."""
    names = meta.find_undeclared_variables(tree) - set(_GLOBALS)
    for user, name in _row_uses(tree):
        if name is not None:
            names.add(name)
        elif user is None or isinstance(user, nodes.Getitem | nodes.Getattr):
            return None
    return tuple(sorted(names - {ROW}))


def _row_uses(tree: nodes.Template) -> list[tuple[nodes.Node | None, str | None]]:
    """Return each use of `row`: the node that looks a column up in it, and the column if it is constant."""
    uses: list[tuple[nodes.Node | None, str | None]] = []
    looked_up = set()
    users: list[nodes.Getitem | nodes.Getattr] = [
        *tree.find_all(nodes.Getitem),
        *tree.find_all(nodes.Getattr),
    ]
    for user in users:
        if isinstance(user.node, nodes.Name) and user.node.name == ROW:
            looked_up.add(id(user.node))
            uses.append((user, _constant(user)))
    bare = [name for name in tree.find_all(nodes.Name) if name.name == ROW and id(name) not in looked_up]
    return [*uses, *((None, None) for _ in bare)]


def _constant(user: nodes.Getitem | nodes.Getattr) -> str | None:
    if isinstance(user, nodes.Getattr):
        return user.attr
    value = user.arg.value if isinstance(user.arg, nodes.Const) else None
    return value if isinstance(value, str) else None


def _line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:200]
