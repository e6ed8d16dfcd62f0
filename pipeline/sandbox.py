"""Jinja within bounds: what a template of a job may do, and what null cells are to it.

A template can neither load nor change anything, nor write what differs from one call to the next; what would
fill the memory is refused.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from math import inf
from types import BuiltinMethodType

from jinja2 import StrictUndefined, Undefined
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace

from pipeline.fence import fenced

LONGEST = 10_000_000  # characters of a prompt or elements of a list; no model takes a tenth of it
WIDEST = 100_000  # of a size or a padding that a filter or a method is asked for
GLOBALS: dict[str, object] = {"dict": dict, "namespace": Namespace, "range": safe_range}

_SIZED = ("batch", "center", "indent", "round", "slice", "truncate", "wordwrap")  # filters that take a size
_PADDING = {"center", "expandtabs", "ljust", "rjust", "to_bytes", "zfill"}  # methods that do

# Formats whose width is beyond WIDEST, or stands elsewhere
_WIDE_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(?:[0-9]*\.)?(?:[0-9]{6}|\*)")
_WIDE_BRACES = re.compile(r"\{[^{}]*:[^{}]*(?:[0-9]{6}|\{)")


class OverlongError(OverflowError):
    """A prompt, or something on the way to it, is longer than any model can read."""


class Null(str):
    """A null cell: empty text that passes `is none` and `== none`."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other is None or other == ""

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash("")


_NULL = Null()


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja with bounds: what would fill the memory is refused, and fields win over methods.

    It has no names of its own: every name in a template is a column until shown.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=False, finalize=_written)
        self.globals.clear()
        filters = self.filters
        del filters["random"]  # a prompt that changes by itself would be asked again after a kill
        for name in _SIZED:
            filters[name] = _guarded(filters[name], 2 if hasattr(filters[name], "jinja_pass_arg") else 1)
        filters["format"] = _checked_format(filters["format"])
        filters["tojson"] = _to_json
        filters["fenced"] = _fenced
        self.tests["none"] = lambda cell: cell is None or isinstance(cell, Null)

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Join what a template writes, up to a length."""
        kept, size = [], 0
        for part in parts:
            size += len(part)
            _check_size(size)
            kept.append(part)
        return "".join(kept)

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        """Compute, unless a null cell is no operand or the result would be absurdly large."""
        if any(isinstance(one, Null) for one in (left, right)) and not (
            isinstance(left, str) and isinstance(right, str)
        ):
            kinds = " and ".join(f"`{type(one).__name__}`" for one in (left, right))
            raise TypeError(f"unsupported operand types for {operator}: {kinds}")
        _check_size(_size(operator, left, right))
        result: object = super().call_binop(context, operator, left, right)
        return result

    def getattr(self, obj: object, attribute: str) -> object:
        """Return a column or field rather than a method of the same name, such as `items`."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        found: object = super().getattr(obj, attribute)
        if attribute in _PADDING and isinstance(found, BuiltinMethodType):
            return _guarded(found, 0)
        if attribute in {"format", "format_map"} and isinstance(obj, str) and _WIDE_BRACES.search(obj):
            _check_size(inf)
        return found


def cell_of(cell: object) -> object:
    """Return a cell with empty text in place of nulls, also inside lists and structs."""
    if cell is None:
        return _NULL
    if isinstance(cell, list):
        return [cell_of(one) for one in cell]
    if isinstance(cell, dict):
        return {name: cell_of(one) for name, one in cell.items()}
    return cell


def _written(value: object) -> object:
    """Return what is written for a value; raises TypeError for one that has no text of its own."""
    if value is None:
        return ""
    if isinstance(value, str | Undefined):
        return value
    if callable(value) or isinstance(value, Iterator):
        raise TypeError(f"a {type(value).__name__} has no text: call it, or end with | list or | join")
    return value


def _fenced(value: object, tag: str) -> str:
    return fenced(str(_written(value)), tag)


def _to_json(value: object, indent: int | None = None) -> str:
    """Write JSON as it is, without the escapes for HTML."""
    return json.dumps(_plain(value), ensure_ascii=False, indent=indent, default=str)


def _plain(value: object) -> object:
    if isinstance(value, Null):
        return None
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return value


def _size(operator: str, left: object, right: object) -> float:
    """Return about how large the result of an operation is; for numbers it is 0 or infinite."""
    match operator, left, right:
        case "+", (str() | list() | tuple()), (str() | list() | tuple()):
            return len(left) + len(right)
        case "*", (str() | bytes() | list() | tuple()), int():
            return len(left) * right
        case "*", int(), (str() | bytes() | list() | tuple()):
            return left * len(right)
        case "*" | "**", int(), int():
            bits = left.bit_length() * (right if operator == "**" else 1) + right.bit_length()
            return inf if bits > WIDEST else 0
        case "%", str(), _:
            return inf if _WIDE_PERCENT.search(left) else 0
    return 0


def _check_size(size: float) -> None:
    if size > LONGEST:
        raise OverlongError("the template writes more than any model can read: shorten the row")


def _guarded(function: Callable[..., object], first: int) -> Callable[..., object]:
    """Return the function with a bound on its integers from argument `first` on."""

    @wraps(function)
    def guarded(*args: object, **kwargs: object) -> object:
        for size in (*args[first:], *kwargs.values()):
            if isinstance(size, int) and abs(size) > WIDEST:
                raise OverflowError(f"a template may ask for a size of {WIDEST:,} at most")
        return function(*args, **kwargs)

    return guarded


def _checked_format(function: Callable[..., object]) -> Callable[..., object]:
    @wraps(function)
    def checked(value: object, *args: object, **kwargs: object) -> object:
        _check_size(_size("%", str(value), None))
        return function(value, *args, **kwargs)

    return checked
