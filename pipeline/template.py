"""Prompt templates: compile one, list the columns it uses, write the prompt of a row.

A template is Jinja in a sandbox: it sees the cells of one row, can neither load nor change anything, and
writes the same text whenever it is asked. A null cell is empty text, falsy and of length 0, and it passes
`is none`; it never reads "None".
"""

from collections.abc import Mapping, Sequence
from decimal import DecimalException

from jinja2 import Template as JinjaTemplate
from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes

from pipeline.columns import column_hint
from pipeline.errors import JobError
from pipeline.fence import TAG, clean
from pipeline.flow import Failure, FailureKind
from pipeline.sandbox import GLOBALS, OverlongError, Sandbox, cell_of

ROW = "row"  # in a template: the mapping of all columns, for names that are no identifiers

_HINT = 'insert a column with `{{ column }}` or `{{ row["Column name"] }}`; the language is Jinja\'s'
_METHODS = {"get", "items", "keys", "values"}  # of `row`, where they are called
_LOADING = (nodes.Extends, nodes.FromImport, nodes.Import, nodes.Include)

# What a template can raise on the values of one row; anything else is a bug of ours.
_ROW_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
_SOURCE_ERRORS = (SyntaxError, MemoryError, OverflowError, RecursionError, ValueError)


class Template:
    """A compiled prompt template; raises JobError where the source does not compile.

    `columns` are the columns it names, sorted; None means all of them, because the template uses `row`
    as a whole or with a name that is known only when it renders. `fixed_after` counts the characters of its
    own that stand behind the first cell, where no cache of the API holds them.
    """

    def __init__(self, source: str) -> None:
        tree, self._template = _compiled(source)
        names = _names(tree)
        self.fixed_after = _fixed_after(tree)
        uses = _row_uses(tree) if ROW in names else []
        self._names = tuple(sorted(names - {ROW}))
        self._looked_up = any(isinstance(user, nodes.Getitem | nodes.Getattr) for user, _ in uses)
        self._row = bool(uses)
        in_row = {name for _, name in uses}
        self.columns: tuple[str, ...] | None = None
        if None not in in_row:
            self.columns = tuple(sorted({*self._names, *(name for name in in_row if name is not None)}))

    def render(self, values: Mapping[str, object]) -> str | Failure:
        """Return the prompt for the cells of one row, or why there is none.

        `values` holds at least the columns used. Control characters except tab and line feed are taken
        out, all line ends become line feeds.
        """
        seen = {name: cell_of(values[name]) for name in self._names if name in values}
        if self._row:
            cells = {name: cell_of(cell) for name, cell in values.items()}
            seen[ROW] = cells if self._looked_up else cells.get(ROW, cells)
        try:
            text = self._template.render(seen)
        except OverlongError as exc:
            return Failure(FailureKind.TOO_LONG, _line(exc))
        except _ROW_ERRORS as exc:
            return Failure(FailureKind.TEMPLATE, _why(exc))
        return clean(text)

    def misuses_row(self) -> bool:
        """Say whether `row` stands for the mapping of columns, so that no column may have this name."""
        return self._looked_up


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


def _compiled(source: str) -> tuple[nodes.Template, JinjaTemplate]:
    """Parse and compile; only what is written in the job file is ever loaded."""
    environment = Sandbox()
    try:
        tree = environment.parse(source)
        template = environment.from_string(source)
    except TemplateSyntaxError as exc:
        raise _refusal(exc.lineno, _line(exc)) from exc
    except _SOURCE_ERRORS as exc:
        raise JobError(f"the template does not compile: {_line(exc)}", _HINT) from exc
    template.globals = GLOBALS  # a plain dict: Jinja's chain of them takes longer than all the rest
    _check_tree(tree, environment)
    return tree, template


def _refusal(line: int, said: str, hint: str = _HINT) -> JobError:
    return JobError(f"line {line} of the template: {said}", hint)


def _check_tree(tree: nodes.Template, environment: Sandbox) -> None:
    """Refuse at once what would fail or surprise in each row."""
    for loading in tree.find_all(_LOADING):
        raise _refusal(loading.lineno, "it cannot load other templates")
    for used, known in ((nodes.Filter, environment.filters), (nodes.Test, environment.tests)):
        for node in tree.find_all(used):
            if node.name not in known:  # Jinja looks only outside of conditions
                raise _refusal(node.lineno, f"no {used.__name__.lower()} named `{node.name}`")
    _check_fences(tree)
    free = meta.find_undeclared_variables(tree)
    for name in tree.find_all(nodes.Name):
        if name.name == "self":
            said = "`self` is a word of the template language"
            raise _refusal(name.lineno, said, 'write `{{ row["self"] }}` for a column of that name')
        if name.name == ROW and name.ctx != "load" and ROW in free:
            said = "`row` gets another meaning, but stands for all columns elsewhere"
            raise _refusal(name.lineno, said, "give the variable another name")


def _check_fences(tree: nodes.Template) -> None:
    """Refuse a fence whose tag is not written in the template: a cell must not choose it."""
    for node in tree.find_all(nodes.Filter):
        if node.name != "fenced":
            continue
        tags = [one.value if isinstance(one, nodes.Const) else None for one in node.args]
        if len(tags) != 1 or node.kwargs or not isinstance(tags[0], str) or not TAG.fullmatch(tags[0]):
            said = "`fenced` takes the name of a tag: ASCII letters, digits, `-` and `_`"
            raise _refusal(node.lineno, said, 'write it as in `{{ text | fenced("review") }}`')


def _fixed_after(tree: nodes.Template) -> int:
    """Count the characters of a template's own text behind the first name of anything else."""
    seen, count = False, 0
    for node in tree.find_all((nodes.Name, nodes.TemplateData)):
        if isinstance(node, nodes.TemplateData):
            count += len(node.data.strip()) if seen else 0
        else:
            seen = True
    return count


def _names(tree: nodes.Template) -> set[str]:
    """Return the names that are looked up in the row; those of functions only where they are not called."""
    called = {id(call.node) for call in tree.find_all(nodes.Call)}
    bare = {name.name for name in tree.find_all(nodes.Name) if id(name) not in called}
    return {name for name in meta.find_undeclared_variables(tree) if name in bare or name not in GLOBALS}


def _row_uses(tree: nodes.Template) -> list[tuple[nodes.Node | None, str | None]]:
    """Return each use of `row`: the node that looks a column up in it, and the column if it is constant."""
    uses: list[tuple[nodes.Node | None, str | None]] = []
    looked_up = set()
    called = {id(call.node) for call in tree.find_all(nodes.Call)}
    users: list[nodes.Getitem | nodes.Getattr] = [
        *tree.find_all(nodes.Getitem),
        *tree.find_all(nodes.Getattr),
    ]
    for user in users:
        if isinstance(user.node, nodes.Name) and user.node.name == ROW:
            looked_up.add(id(user.node))
            name = _constant(user)
            uses.append((user, None if name in _METHODS and id(user) in called else name))
    bare = [name for name in tree.find_all(nodes.Name) if name.name == ROW and id(name) not in looked_up]
    return [*uses, *((None, None) for _ in bare)]


def _constant(user: nodes.Getitem | nodes.Getattr) -> str | None:
    if isinstance(user, nodes.Getattr):
        return user.attr
    value = user.arg.value if isinstance(user.arg, nodes.Const) else None
    return value if isinstance(value, str) else None


def _why(exc: BaseException) -> str:
    """Return what a template has met in a row; the class only where the exception has no words besides."""
    match exc:
        case MemoryError():
            return "the template needs more memory than there is"
        case KeyError():
            return f"no key {_line(exc)}"
        case DecimalException():
            return f"decimal arithmetic: {type(exc).__name__}"
    return _line(exc)


def _line(exc: BaseException) -> str:
    """Return an exception's words as one line in our form: no capital, no full stop, backticks."""
    words = " ".join(str(getattr(exc, "message", None) or exc).split()).rstrip(".").replace("'", "`")[:200]
    return words[:1].lower() + words[1:] or type(exc).__name__
