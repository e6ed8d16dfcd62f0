"""The Gemini API as an ASGI app: admits requests as the API does, answers by rules, acts out faults."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import anyio
from pydantic_core import to_json

from pipeline.emulator import bodies
from pipeline.emulator.acts import FOREIGN, bend, not_found, refusal
from pipeline.emulator.bodies import Answer
from pipeline.emulator.counters import Counters
from pipeline.emulator.faults import QUOTA_KINDS, REFUSAL_KINDS, Fault, Script
from pipeline.emulator.generation import Generation, read_generation
from pipeline.emulator.lexicon import assessor
from pipeline.emulator.quota import Ledger
from pipeline.emulator.replies import Said, body, say
from pipeline.emulator.settings import Settings
from pipeline.emulator.wire import Call, Refused, Route, read_call, route

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Clock = Callable[[], float]

CONNECTION = "connection"
"""Where in a scope's state the server puts the connection, so that faults can break it."""

_MOST_INPUT = 1_048_576
_PAUSE = 5.0  # seconds of `slow` and `trickle` where their spec does not say
_PIECES = 10  # a trickled body comes in this many
_CHEAP = (b"x-gemini-service-tier", b"standard"), (b"x-rowmill-emulator", b"1")
_NO_PAGE = bodies.page(404, "Error 404 (Not Found)!!1")


class Connection(Protocol):
    """What faults need of a transport."""

    def close(self) -> None:
        """Close after what is already written."""

    def abort(self) -> None:
        """Close at once."""


@dataclass(frozen=True, slots=True)
class Task:
    """An admitted request: what it asks, what the model says, what is wrong with it and how long it takes."""

    said: Said
    digest: bytes
    fault: Fault | None
    delay: float


class Emulator:
    """One emulator with its quotas, script and counters; an ASGI app."""

    def __init__(self, settings: Settings, clock: Clock, wall: Clock) -> None:
        self._settings = settings
        self._clock, self._wall = clock, wall
        self._script = Script(settings.faults)
        self._counters = Counters()
        self._ledgers = self._fresh_ledgers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's start and end."""
        if scope["type"] == "lifespan":
            return await _live(receive, send)
        where = route(scope["path"]) if scope["method"] == "POST" else None
        content = await _content(receive)
        if where is None:
            return await _send(send, self._own(scope["method"], scope["path"]))
        if where.method == "countTokens":
            return await _send(send, self._count(scope, where, content))
        self._counters.enter()
        try:
            await self._generate(scope, where, content, receive, send)
        finally:
            self._counters.leave()
        return None

    def _fresh_ledgers(self) -> dict[str, Ledger]:
        told = self._settings
        return {model: Ledger(told.rpm, told.tpm, told.rpd) for model in told.models}

    def _own(self, method: str, path: str) -> Answer:
        """Answer what is no part of the API."""
        if (method, path) == ("GET", "/emulator/stats"):
            return Answer(200, to_json(self._counters.stats()))
        if (method, path) == ("POST", "/emulator/reset"):
            self._counters.restart()
            self._script.restart()
            self._ledgers = self._fresh_ledgers()
            return Answer(200, b"{}")
        return _NO_PAGE
