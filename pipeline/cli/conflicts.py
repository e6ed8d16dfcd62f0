"""Flags that contradict each other, or mean nothing where they stand, are refused before anything else."""

from collections.abc import Mapping

import click
from click.core import ParameterSource

from pipeline.errors import UsageError

LEAVE_OUT = "leave one of them out"
ANYWAY = "leave `--service-tier` out: what a batch leaves unanswered is asked in `flex` anyway"
DETACH = "add `--batch`, or leave `--detach` out: online every row is answered before the run ends"
ENDS = (
    "leave `--detach` out; or start `rowmill emulate`, and give its address with `--base-url` instead of "
    "`--offline`"
)
WAIT = (
    "leave one of them out: `--wait` stays until the daily quota resets, `--detach` ends while jobs are open"
)


def mode_of(options: Mapping[str, object]) -> str | None:
    """Return the mode that the flags ask for, None where they leave it to the job file. Raises UsageError."""
    if not (options["batch"] and options["online"]):
        return "batch" if options["batch"] else "online" if options["online"] else None
    told = {name for name in ("batch", "online") if _is_typed(name)}
    if len(told) != 1:
        raise UsageError("`--batch` and `--online` contradict each other", LEAVE_OUT)
    return told.pop()  # what is typed wins over the environment


def check_service_tier(options: Mapping[str, object]) -> None:
    """Refuse a tier that is no other way of asking; in the job file it says how the rest is asked."""
    if options["service_tier"] == "flex" and mode_of(options) == "batch":
        raise UsageError("`--batch` and `--service-tier flex` are two ways to half the price", ANYWAY)


def check_stay(mode: str, *, wait: bool, detach: bool, offline: bool) -> None:
    """Refuse `--detach` where no job would be left, and where a run is also to wait. Raises UsageError."""
    if detach and mode != "batch":
        raise UsageError("`--detach` means nothing without batch jobs, and this run asks online", DETACH)
    if detach and wait:
        raise UsageError("`--wait` and `--detach` contradict each other", WAIT)
    if detach and offline:
        raise UsageError("`--offline` has an emulator that ends with the run, and its jobs with it", ENDS)


def _is_typed(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE
