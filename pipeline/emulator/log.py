"""The log of a quota server: when each generateContent request came to the gate, and what became of it.

A CSV file: `seconds` of the monotonic clock that also drives the quota windows, the `status` (200 where
the gate let it pass, whatever a fault then did to the answer), and its input `tokens` as the emulator
counts them (0 where it was refused unread). The requests that used up quota are those that have another
status than 429 or 402, and were read. A line of a batch that was answered has the status `batch`: it uses up
no quota of requests.
"""

from pathlib import Path
from typing import Protocol

HEAD = "seconds,status,tokens\n"
FLUSH_S = 0.5
"""A line is in the file at most about this long after its request."""


class Log(Protocol):
    """Where the gate writes each request down."""

    def write(self, now: float, status: int | str, tokens: int) -> None:
        """Add a line; it need not reach the disk at once."""

    def flush(self) -> None:
        """Bring all lines to the file."""

    def close(self) -> None:
        """Bring all lines to the file; there will be no more."""


class NoLog:
    """Keeps nothing."""

    def write(self, now: float, status: int | str, tokens: int) -> None:
        """Forget it."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class FileLog:
    """A file that is written anew; OSError where it cannot be."""

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("w", encoding="ascii")  # noqa: SIM115 - it lives as long as the server
        self._file.write(HEAD)
        self._file.flush()

    def write(self, now: float, status: int | str, tokens: int) -> None:
        """Add a line to the buffer."""
        self._file.write(f"{now:.6f},{status},{tokens}\n")

    def flush(self) -> None:
        """Hand the buffer to the system."""
        self._file.flush()

    def close(self) -> None:
        """Hand the rest to the system."""
        self._file.close()
