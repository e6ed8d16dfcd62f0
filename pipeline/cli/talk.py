"""What the commands say to people, on standard error, and what becomes of results that nobody can take."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from textwrap import wrap
from typing import Any, TextIO, cast

from rich.console import Console

from pipeline.errors import StoreError

FURTHER = "  "  # before what goes on in another line


class Talk(Console):
    """Standard error; when nobody reads it any more, or its disk is full, the run goes on in silence."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Say something, as far as it can be said; a terminal gets lines that end between words.

        Elsewhere, as in a file, a line is left whole (`soft_wrap`).
        """
        if how.get("soft_wrap") and self.is_terminal:
            objects = tuple(hanging(one, self.width) if isinstance(one, str) else one for one in objects)
        try:
            super().print(*objects, **how)
        except OSError:
            self.quiet = True

    def on_broken_pipe(self) -> None:
        """Say nothing more."""
        self.quiet = True


def hanging(text: str, width: int) -> str:
    """Break the lines of a text between words; what goes on stands further in, and a path stays whole."""
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip(" "))]
        lines += wrap(
            line,
            max(1, width),
            subsequent_indent=f"{indent}{FURTHER}",
            expand_tabs=False,
            replace_whitespace=False,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return "\n".join(lines)


console = Talk(stderr=True, highlight=False)


def complain(message: str, hint: str) -> None:
    """Say what went wrong and what to do next."""
    console.print(f"error: {message}\n\nhint: {hint}", style=None, markup=False, soft_wrap=True)


def tell(lines: Iterable[str]) -> None:
    """Print results for people on standard output; on a terminal their lines end between words."""
    out = Console(highlight=False)
    for line in lines:
        out.print(hanging(line, out.width) if out.is_terminal else line, markup=False, soft_wrap=True)


class Results:
    """Standard output; where it cannot be written that is a StoreError, unless nobody reads it any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text. Raises StoreError, but not for an empty text: click tries a stream with one."""
        if text == "":
            return 0
        try:
            return self._stream.write(text)
        except OSError as exc:
            self._lose(exc)
            return len(text)

    def flush(self) -> None:
        """Hand over what was written. Raises StoreError."""
        try:
            self._stream.flush()
        except OSError as exc:
            self._lose(exc)

    def _lose(self, exc: OSError) -> None:
        with open(os.devnull, "w") as nowhere:  # what is still to come would fail again at the very end
            os.dup2(nowhere.fileno(), self._stream.fileno())
        if not isinstance(exc, BrokenPipeError):  # as of `| head -1`
            raise StoreError(
                f"standard output cannot be written: {exc.strerror}",
                "free some space there, or send it elsewhere; then run the same command again: what was "
                "answered is kept",
            ) from exc


@contextmanager
def guarded_results() -> Iterator[None]:
    """Have standard output fail as `Results` does within the block."""
    before = sys.stdout
    if before is not None:  # it is, where it was closed
        sys.stdout = cast("TextIO", Results(before))
    try:
        yield
    finally:
        sys.stdout = before
