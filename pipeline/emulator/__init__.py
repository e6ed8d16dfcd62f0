"""A local emulator of the Gemini API: an ASGI application that imports nothing else of `pipeline`.

It stands aside so that it can judge the client: strict on requests, exact on quotas, and with the
bodies that the API sends. Importing this package is cheap; the application and the server load when
they are asked for.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.emulator.settings import Settings

if TYPE_CHECKING:
    from pipeline.emulator.app import App

__all__ = ["Settings", "create_app", "serve"]


def create_app(
    settings: Settings, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
) -> "App":
    """Make an ASGI application. `clock` drives the minute windows, `wall` (Unix time) the Pacific day."""
    from pipeline.emulator import app  # noqa: PLC0415 - loads slowly, and most commands never need it

    return app.create_app(settings, clock, wall)


def serve(
    settings: Settings,
    port: int = 0,
    *,
    announce: Callable[[str], None] | None = None,
    exit_with_parent: bool = False,
) -> None:
    """Serve on 127.0.0.1 until SIGTERM or SIGINT; port 0 takes a free one.

    `announce` gets the line `emulator listening on http://127.0.0.1:PORT`; without it stdout does.
    """
    from pipeline.emulator import server  # noqa: PLC0415 - as above

    server.serve(settings, port, announce=announce or server.say, exit_with_parent=exit_with_parent)
