"""The command that serves the emulator."""

from typing import Any

import click

from pipeline import emulator as emulator_server
from pipeline.cli.app import rowmill
from pipeline.cli.numbers import Number, Whole
from pipeline.cli.talk import console
from pipeline.errors import UsageError

ASK = (
    "in another terminal, with any text as the key: "
    "`GEMINI_API_KEY=any rowmill run jobs/sentiment.toml --tier 1 --base-url {address}`"
)


@rowmill.command(short_help="Serve an emulator of the API until it is stopped.")
@click.option("--port", type=Whole(0, 65_535), default=8_600, show_default=True, help="0 takes a free one.")
@click.option("--rpm", type=Whole(min=0), help="Requests per minute.")
@click.option("--tpm", type=Whole(min=0), help="Input tokens per minute.")
@click.option("--rpd", type=Whole(min=0), help="Requests per day (Pacific time).")
@click.option("--capacity", type=Whole(min=0), help="Requests in flight; a bare 429 above it.")
@click.option("--latency", type=Number(min=0), default=0.0, help="Seconds until an answer.")
@click.option("--jitter", type=Number(min=0), default=0.0, help="Up to so many seconds more.")
@click.option("--log", metavar="FILE", help="Write time, status and tokens of each request.")
@click.option("--batch-wait", type=Number(min=0), default=0.0, help="Seconds until a batch runs.")
@click.option("--batch-work", type=Number(min=0), default=0.0, help="Seconds that it runs at least.")
@click.option(
    "--batch-expiry", type=Number(min=0), default=48 * 3600.0, help="Seconds until a batch expires."
)
@click.option("--batch-lag", type=Number(min=0), default=0.0, help="Seconds until the list has a batch.")
@click.option("--batch-jobs", type=Whole(min=0), default=100, help="Unfinished batches at a time.")
@click.option("--batch-tokens", type=Whole(min=0), help="Their input tokens, for each model.")
@click.option("--storage", type=Whole(min=0), default=20 * 2**30, help="Bytes of all uploaded files.")
@click.option("--implicit-cache", type=Whole(min=0), help="Tokens from which starts count as cached.")
@click.option("--cancel-loses", "loses", is_flag=True, help="Cancelled batches have no results.")
@click.option("--fault", "faults", multiple=True, metavar="KIND@N", help="A scripted fault; may be repeated.")
@click.option("--seed", type=int, default=0, help="Draws which prompts a share of faults meets.")
@click.option("--tier", type=click.Choice(["free", "paid"]), default="paid", help="How its quotas are named.")
def emulate(port: int, faults: tuple[str, ...], *, loses: bool, **quotas: Any) -> None:
    """Serve the Gemini API emulator on the loopback until it is stopped."""
    try:
        settings = emulator_server.Settings(faults=faults, cancel_keeps=not loses, **quotas)
    except ValueError as error:
        raise UsageError(str(error), "`docs/reference.md` lists the faults") from error
    console.print("answers come from rules, not from a model; stop with Ctrl-C", soft_wrap=True)
    emulator_server.serve(settings, port, announce=_announced)


def _announced(line: str) -> None:
    """Say where the emulator listens, on standard output, and to people how to ask it."""
    click.echo(line)
    console.print(ASK.format(address=line.rsplit(maxsplit=1)[-1]), markup=False, soft_wrap=True)
