"""What the commands say to people, on standard error."""

from typing import Any

from rich.console import Console


class Talk(Console):
    """Standard error; when nobody reads it any more, or its disk is full, the run goes on in silence."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Say something, as far as it can be said; a terminal gets lines that end between words.

        Elsewhere, as in a file, a line is left whole (`soft_wrap`).
        """
        how["soft_wrap"] = how.get("soft_wrap", False) and not self.is_terminal
        try:
            super().print(*objects, **how)
        except OSError:
            self.quiet = True

    def on_broken_pipe(self) -> None:
        """Say nothing more."""
        self.quiet = True


console = Talk(stderr=True, highlight=False)


def complain(message: str, hint: str) -> None:
    """Say what went wrong and what to do next."""
    console.print(f"error: {message}\n\nhint: {hint}", style=None, markup=False, soft_wrap=True)
