"""Numbers on the command line: within their bounds, and told in words where they are none."""

from typing import Any

import click

from pipeline.errors import UsageError

Range = click.IntRange | click.FloatRange


class Whole(click.IntRange):
    """A whole number between bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return it as an integer. Raises UsageError."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            raise _refusal("a whole number", self, value, param) from None


class Number(click.FloatRange):
    """A number between bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return it as a number. Raises UsageError."""
        try:
            return float(super().convert(value, param, ctx))
        except click.BadParameter:
            raise _refusal("a number", self, value, param) from None


class Dollars(click.ParamType[float]):
    """An amount of money, more than nothing; the job's section checks that it is finite."""

    name = "dollars"

    def convert(self, value: object, _param: click.Parameter | None, _ctx: click.Context | None) -> float:
        """Return it as a number. Raises UsageError."""
        hint = "write a number, such as `--max-cost 0.5`"
        try:
            amount = float(str(value))
        except ValueError:
            raise UsageError(f"`--max-cost` must be an amount of dollars, not `{value}`", hint) from None
        if amount <= 0:
            raise UsageError(f"`--max-cost` must be more than 0, not `{value}`", hint)
        return amount


def _refusal(noun: str, bounds: Range, value: object, param: click.Parameter | None) -> UsageError:
    flag = param.opts[0] if param is not None else "it"
    low = f"{'more than' if bounds.min_open else 'at least'} {bounds.min:,}"
    high = "" if bounds.max is None else f" and at most {bounds.max:,}"
    return UsageError(f"`{flag}` must be {noun}, {low}{high}, not `{value}`", f"correct `{flag}`")
