"""The emulator as a server of its own for one run (`--offline`)."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import UsageError
from pipeline.gemini.endpoint import Endpoint, wants_public_sdk
from pipeline.models import Limits


def offline_endpoint(address: str) -> Endpoint:
    """Return the emulator as an endpoint; it wants a key, and any will do."""
    return Endpoint(
        api_key="no-key-for-the-emulator",
        base_url=address,
        vertex=False,
        project=None,
        location=None,
        api_version="v1beta",
        public_sdk=wants_public_sdk(os.environ),
    )


@contextmanager
def emulator(limits: Limits, *, model: str, free: bool) -> Iterator[str]:
    """Start the emulator with these limits and yield its address; it ends with the block."""
    command = [sys.executable, "-m", "pipeline.emulator", "--port", "0", "--exit-with-parent"]
    command += ["--tier", "free" if free else "paid", "--model", model]
    for name in ("rpm", "tpm", "rpd"):
        if (value := getattr(limits, name)) is not None:
            command += [f"--{name}", str(value)]
    # A session of its own: Ctrl-C in the terminal must not end it before what is in flight is answered.
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("GEMINI_", "GOOGLE_"))}
    server = subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=bare
    )
    try:
        yield _address(server)
    finally:
        server.terminate()
        server.wait(10)
        if server.stdout is not None:
            server.stdout.close()


def _address(server: "subprocess.Popen[str]") -> str:
    line = server.stdout.readline() if server.stdout is not None else ""
    address = line.split()[-1] if line.split() else ""
    if not address.startswith("http://"):
        raise UsageError(
            "the emulator did not start",
            "run `rowmill emulate` to see why, or run without `--offline` and with a key",
        )
    return address
