"""What stops a run: one exception tree, its exit codes, and the hint that says what to do next.

Failures of single rows are values (`pipeline.flow.Failure`), never exceptions.
"""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command `rowmill`; the README lists them."""

    OK = 0
    ROWS_FAILED = 1
    BAD_INPUT = 2
    STOPPED = 3
    STORE = 4
    REFUSED = 5


class RowmillError(Exception):
    """Stops the run. `message` is one line of what happened; `hint` says what to do next."""

    exit_code: Exit = Exit.BAD_INPUT

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class JobError(RowmillError):
    """The job file, its schema or its template cannot be used (exit 2)."""


class InputError(RowmillError):
    """The input table cannot be used (exit 2)."""


class BadRowError(InputError):
    """One row of the input table cannot be used; without it the others could (exit 2)."""


class ChangedError(InputError):
    """The input was changed while the run went on (exit 3): the same command continues."""

    exit_code = Exit.STOPPED


class OutputError(RowmillError):
    """The output path cannot be written or its columns clash (exit 2)."""


class UsageError(RowmillError):
    """The command line or the environment does not say enough (exit 2)."""


class DeclinedError(RowmillError):
    """Somebody was asked and stopped the command instead of answering (exit 3): nothing was done."""

    exit_code = Exit.STOPPED


class StoreError(RowmillError):
    """The run folder cannot be read, written or owned (exit 4)."""

    exit_code = Exit.STORE


class DamagedError(StoreError):
    """A part is damaged (exit 4, where it was not set aside)."""


class RefusedError(RowmillError):
    """The API refuses every request of this run: key, model, billing or schema (exit 5)."""

    exit_code = Exit.REFUSED
