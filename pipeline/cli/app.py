"""The group of commands, and the one map from errors to exit codes."""

import atexit
import gc
import os
import signal
import sys
import traceback
from types import FrameType

import click
import pyarrow as pa

from pipeline.cli.talk import complain, guarded_results
from pipeline.errors import Exit, RowmillError
from pipeline.executors.halt import WORDS

BUG = 70  # the exit code of a fault of our own, as in sysexits.h


@click.group(context_settings={"auto_envvar_prefix": "ROWMILL", "help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rowmill")
def rowmill() -> None:
    """Ask Gemini Flash-Lite one typed question about every row of a table."""


def main() -> None:
    """Run the command and exit with its code; the one place where errors become exit codes."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as it is under `nohup`
        signal.signal(signal.SIGHUP, _interrupt)
    _keep_memory_flat()
    try:
        with guarded_results():
            code = rowmill.main(standalone_mode=False)
    except RowmillError as error:
        complain(error.message, error.hint)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = Exit.BAD_INPUT
    except (KeyboardInterrupt, click.Abort) as stopped:
        complain(
            f"stopped before the end by {signal_name(stopped)}",
            "run the same command again: it goes on where it stopped",
        )
        code = Exit.STOPPED
    except SystemExit as asked:
        code = asked.code if isinstance(asked.code, int) else BUG
    except BaseException:  # noqa: BLE001 - a bug, also a panic of Rust, must not look like failed rows
        traceback.print_exc()
        code = BUG
    sys.exit(code)


def _keep_memory_flat() -> None:
    """Choose for the process what memory that does not grow with the input needs; benchmarks/memory.py."""
    os.environ.setdefault("POLARS_CSV_CHUNK_SIZE", "300000")  # bytes; it reads less far ahead
    os.environ.setdefault("POLARS_ROW_GROUP_PREFETCH_SIZE", "1")  # so it does in Parquet
    pa.set_memory_pool(pa.system_memory_pool())  # gives back what mimalloc keeps
    gc.freeze()  # what the imports have made stays: no collection has to walk over it
    gc.set_threshold(50_000, 20, 50)  # a run makes few cycles; looking for them took a tenth of its CPU
    atexit.register(gc.unfreeze)  # or libraries report it as leaked


def _interrupt(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGHUP:  # which comes more than once when a terminal is closed
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise KeyboardInterrupt(WORDS[signal.Signals(number)])


def signal_name(stopped: BaseException) -> str:
    """Name what has stopped the command; click puts its own exception around it, and Python names none."""
    said = [str(one) for one in (stopped, stopped.__context__) if isinstance(one, KeyboardInterrupt)]
    return said[0] if said and said[0] else WORDS[signal.SIGINT]
