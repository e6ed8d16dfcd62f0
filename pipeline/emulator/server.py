"""Runs the emulator on the loopback until it is told to stop."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from asyncio import Transport, get_running_loop
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from pipeline.emulator.app import create_app
from pipeline.emulator.asgi import CONNECTION
from pipeline.emulator.settings import Settings

_HOST = "127.0.0.1"
_UNABLE = 2  # the exit code where it cannot start
_KEEP_ALIVE_S = 240  # as the API's front end; the default of 5 s would drop idle connections of clients


def say(line: str) -> None:
    """Write a line to stdout at once. Raises BrokenPipeError where nobody reads it any more."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        with open(os.devnull, "w") as nowhere:  # or Python tries again at its end, and says so
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise


def serve(
    settings: Settings,
    port: int = 0,
    *,
    announce: Callable[[str], None] = say,
    exit_with_parent: bool = False,
) -> None:
    """Serve on 127.0.0.1 until SIGTERM or SIGINT; port 0 takes a free one.

    `announce` gets one line with the address as soon as the emulator listens. With
    `exit_with_parent` it also stops within about a second after the process that started it.
    A port that is taken or a log that cannot be written is SystemExit(2) with a line on stderr.
    """
    listening = _listen(port)
    try:
        server = make_server(settings, announce=announce, exit_with_parent=exit_with_parent)
    except OSError as failed:
        listening.close()
        raise _unable(f"write {settings.log}", failed) from None
    if threading.current_thread() is threading.main_thread():
        # uvicorn raises the signal again after its clean end: without this the exit code would not be 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)
    with listening:
        server.run([listening])


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((_HOST, port))
    except OSError as failed:
        listening.close()
        raise _unable(f"listen on {_HOST}:{port}", failed) from None
    return listening


def _unable(act: str, failed: OSError) -> SystemExit:
    """Say on stderr what could not be done; return how to end."""
    sys.stderr.write(f"emulator: cannot {act}: {os.strerror(failed.errno or 0)}\n")
    return SystemExit(_UNABLE)


def make_server(
    settings: Settings, *, announce: Callable[[str], None], exit_with_parent: bool = False
) -> uvicorn.Server:
    """Return a server that is not yet running; it wants a bound socket, or it takes a free port."""
    config = uvicorn.Config(
        create_app(settings, time.monotonic, time.time),
        host=_HOST,
        port=0,
        http=_protocol(),
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        ws="none",
        lifespan="on",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
    )
    return _Server(config, announce, os.getppid() if exit_with_parent else None)


class _Server(uvicorn.Server):
    """A uvicorn server that says where it listens and can end with its parent."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[str], None], parent: int | None) -> None:
        super().__init__(config)
        self._announce = announce
        self._parent = parent

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            try:
                self._announce(f"emulator listening on http://{host}:{port}")
            except BrokenPipeError:  # who started it is gone, or wants no address
                self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; requests still in flight after a second are cut off, which is no error to report."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        if self._parent is not None and counter % 10 == 0 and os.getppid() != self._parent:
            self.should_exit = True
        return await super().on_tick(counter)


class _Whole:
    """A transport that sends the head and the body of an answer together.

    uvicorn writes them apart, which wakes the client twice and costs both sides a system call.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._loop = get_running_loop()
        self._held: list[bytes] = []

    def write(self, content: bytes) -> None:
        """Hold it until this turn of the loop is over."""
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(content)

    def close(self) -> None:
        """Send what is held, then close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._held:
            self._transport.write(b"".join(self._held))
            self._held = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _protocol() -> type[Any]:
    """Return uvicorn's protocol, which besides puts the transport into each scope's state."""

    def connection_made(self: Any, transport: Transport) -> None:
        whole = _Whole(transport)
        AutoHTTPProtocol.connection_made(self, whole)  # type: ignore[arg-type]  # it is one in all but name
        self.app_state = self.app_state | {CONNECTION: whole}

    return type("Connected", (AutoHTTPProtocol,), {"connection_made": connection_made})
