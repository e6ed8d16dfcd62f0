"""`python -m pipeline.emulator`: the emulator as a process of its own."""

import argparse
import sys
from collections.abc import Sequence

from pipeline.emulator.server import serve
from pipeline.emulator.settings import LIVE_MODELS, Settings


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    options = argparse.ArgumentParser("python -m pipeline.emulator", description=__doc__)
    options.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options.add_argument("--rpm", type=int, help="requests per minute")
    options.add_argument("--tpm", type=int, help="input tokens per minute")
    options.add_argument("--rpd", type=int, help="requests per Pacific day")
    options.add_argument("--capacity", type=int, help="requests in flight; above it, 429 without details")
    options.add_argument("--tier", choices=["free", "paid"], default="free", help="how quotas are named")
    options.add_argument("--latency", type=float, default=0.0, help="seconds until an answer")
    options.add_argument("--jitter", type=float, default=0.0, help="up to so many seconds more")
    options.add_argument("--model", action="append", help="a model id besides the live ones; repeatable")
    options.add_argument("--fault", action="append", help="[PLACE/]KIND@N, %%SHARE or ~WORD; repeatable")
    options.add_argument("--seed", type=int, default=0, help="draws the shares of faults")
    options.add_argument("--log", metavar="FILE", help="a line of CSV for each request; written anew")
    options.add_argument("--batch-wait", type=float, default=0.0, help="seconds until a batch runs")
    options.add_argument("--batch-work", type=float, default=0.0, help="seconds that it runs at least")
    options.add_argument("--batch-expiry", type=float, default=48 * 3600.0, help="seconds until it expires")
    options.add_argument("--batch-lag", type=float, default=0.0, help="seconds until the list has it")
    options.add_argument("--batch-jobs", type=int, default=100, help="unfinished jobs at a time")
    options.add_argument("--batch-tokens", type=int, help="their input tokens, for each model")
    options.add_argument("--storage", type=int, default=20 * 2**30, help="bytes of all files")
    options.add_argument("--implicit-cache", type=int, metavar="TOKENS", help="cache starts of prompts from")
    options.add_argument("--cancel-loses", action="store_true", help="cancelled jobs have no results")
    options.add_argument("--exit-with-parent", action="store_true", help="stop when the parent process ends")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the emulator; 2 where the options make no sense."""
    options = parser()
    said = options.parse_args(arguments)
    try:
        settings = Settings(
            models=(*LIVE_MODELS, *(said.model or ())),
            rpm=said.rpm,
            tpm=said.tpm,
            rpd=said.rpd,
            capacity=said.capacity,
            tier=said.tier,
            latency=said.latency,
            jitter=said.jitter,
            faults=tuple(said.fault or ()),
            seed=said.seed,
            log=said.log,
            batch_wait=said.batch_wait,
            batch_work=said.batch_work,
            batch_expiry=said.batch_expiry,
            batch_lag=said.batch_lag,
            batch_jobs=said.batch_jobs,
            batch_tokens=said.batch_tokens,
            storage=said.storage,
            implicit_cache=said.implicit_cache,
            cancel_keeps=not said.cancel_loses,
        )
    except ValueError as wrong:
        options.error(str(wrong))
    serve(settings, said.port, exit_with_parent=said.exit_with_parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
