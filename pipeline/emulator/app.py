"""The Gemini API as an ASGI app: takes requests to the gate, answers them, and acts out faults."""

from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio
from pydantic_core import from_json, to_json

from pipeline.emulator import bodies
from pipeline.emulator.acts import FOREIGN, bend
from pipeline.emulator.bodies import Answer
from pipeline.emulator.counts import Counts
from pipeline.emulator.faults import Fault
from pipeline.emulator.gate import Admitted, Clock, Gate
from pipeline.emulator.lexicon import assessor
from pipeline.emulator.log import FLUSH_S, FileLog, Log, NoLog
from pipeline.emulator.replies import body, say
from pipeline.emulator.settings import CHANGEABLE, Settings, changed
from pipeline.emulator.wire import Refused, Route, route

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CONNECTION = "connection"
"""Under this name a scope's state holds the transport, so that faults can break it."""

_PAUSE = 5.0  # seconds of `slow` and `trickle` where their spec does not say
_PIECES = 10  # a trickled body comes in this many
_MARKS = [(b"x-gemini-service-tier", b"standard"), (b"x-rowmill-emulator", b"1")]
_GRANT = Answer(200, to_json({"access_token": "no-token", "expires_in": 3600, "token_type": "Bearer"}))
"""What Google's token endpoint says to any account; the gate takes the token on the cloud path."""
_NO_PAGE = bodies.page(404, "Error 404 (Not Found)!!1")


def create_app(settings: Settings, clock: Clock, wall: Clock) -> "App":
    """Make an emulator; `clock` is monotonic seconds, `wall` is Unix time."""
    return App(settings, clock, wall)


class App:
    """One emulator with its quotas, script and counters; an ASGI app."""

    def __init__(self, settings: Settings, clock: Clock, wall: Clock) -> None:
        self._settings = settings
        self._log: Log = NoLog() if settings.log is None else FileLog(settings.log)
        self._gate = Gate(settings, clock, wall, self._log)
        self._counts = Counts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's start and end."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        method, path = scope["method"], scope["path"]
        where = route(path) if method == "POST" else None
        content = await _content(receive)
        if where is None:
            await _send(send, self._own(method, path, content))
        elif where.method == "countTokens":
            await _send(send, self._count(where, scope, content))
        else:
            self._counts.arrive()
            try:
                await self._generate(where, content, scope, (receive, send))
            finally:
                self._counts.leave()

    def _own(self, method: str, path: str, content: bytes) -> Answer:
        """Answer what is no part of the API."""
        if (method, path) == ("GET", "/emulator/stats"):
            return Answer(200, to_json(self._counts.as_json()))
        if (method, path) == ("POST", "/emulator/reset"):
            self._counts.reset()
            self._gate.restart()
            return Answer(200, b"{}")
        if (method, path) == ("POST", "/emulator/settings"):
            return self._change(content)
        if (method, path) == ("POST", "/token"):
            return _GRANT
        return _NO_PAGE

    def _change(self, content: bytes) -> Answer:
        """Change what the body names; the answer has all that can change."""
        try:
            self._settings = changed(self._settings, from_json(content))
        except ValueError as wrong:
            return bodies.invalid(str(wrong))
        self._gate.change(self._settings)
        return Answer(200, to_json({name: getattr(self._settings, name) for name in CHANGEABLE}))

    def _count(self, where: Route, scope: Scope, content: bytes) -> Answer:
        try:
            tokens = self._gate.count(where, scope["headers"], content)
        except Refused as refused:
            return refused.answer
        details = [{"modality": "TEXT", "tokenCount": tokens}]
        return Answer(200, to_json({"totalTokens": tokens, "promptTokensDetails": details}))

    async def _generate(self, where: Route, content: bytes, scope: Scope, wire: tuple[Receive, Send]) -> None:
        try:
            admitted = self._gate.admit(where, scope["headers"], content)
        except Refused as refused:
            self._counts.sent(refused.answer.status)
            await _send(wire[1], refused.answer)
            return
        try:
            await self._fly(where, admitted, scope, wire)
        finally:
            self._gate.leave()

    async def _fly(self, where: Route, admitted: Admitted, scope: Scope, wire: tuple[Receive, Send]) -> None:
        """Answer what was admitted, and act out its fault."""
        receive, send = wire
        fault = admitted.fault
        kind = "" if fault is None else fault.kind
        if kind in ("hang", "reset"):
            await _part(scope, receive, kind)
            return
        answer = self._answer(where, admitted, kind)
        delay = self._delay(admitted)
        if delay:
            await anyio.sleep(delay)
        self._counts.sent(200)
        if kind == "trickle":
            await _trickle(send, answer, _seconds(fault))
        elif kind == "cut":
            await _start(send, answer)
            half = answer.body[: len(answer.body) // 2]
            await send({"type": "http.response.body", "body": half, "more_body": True})
            await _part(scope, receive, kind)
        else:
            await _send(send, answer)

    def _answer(self, where: Route, admitted: Admitted, kind: str) -> Answer:
        """Let the model answer, and bend the answer as the fault wants it."""
        if kind in FOREIGN:
            return FOREIGN[kind]
        said = say(admitted.call, admitted.generation)
        if kind:
            said = bend(kind, said, admitted.generation.limit)
        self._counts.answer(admitted.digest, said.prompt, said.output + said.thoughts)
        name = urlsafe_b64encode(admitted.digest).rstrip(b"=").decode()
        return Answer(200, body(said, where, name))

    def _delay(self, admitted: Admitted) -> float:
        """Return the seconds until the answer; jitter is drawn from the request itself."""
        share = int.from_bytes(admitted.digest[:4], "big") / 2**32
        slow = admitted.fault is not None and admitted.fault.kind == "slow"
        told = self._settings
        return told.latency + told.jitter * share + (_seconds(admitted.fault) if slow else 0.0)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Follow the server's start, which loads what is slow to load, and its end; keep the log fresh."""
        await receive()  # lifespan.startup
        assessor()
        await send({"type": "lifespan.startup.complete"})
        async with anyio.create_task_group() as group:
            group.start_soon(self._flush)
            await receive()  # lifespan.shutdown
            group.cancel_scope.cancel()
        self._log.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _flush(self) -> None:
        while True:
            await anyio.sleep(FLUSH_S)
            self._log.flush()


def _seconds(fault: Fault | None) -> float:
    return _PAUSE if fault is None or fault.seconds is None else fault.seconds


async def _content(receive: Receive) -> bytes:
    """Return the whole body of a request; what came of it where the client left early."""
    message = await receive()
    content: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        content += message.get("body", b"")
    return content


async def _send(send: Send, answer: Answer) -> None:
    await _start(send, answer)
    await send({"type": "http.response.body", "body": answer.body})


async def _start(send: Send, answer: Answer) -> None:
    size = str(len(answer.body)).encode()
    headers = [(b"content-type", answer.content_type), (b"content-length", size), *_MARKS]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})


async def _trickle(send: Send, answer: Answer, seconds: float) -> None:
    """Send the body in pieces over a time: each wait of the client is short, the whole is long."""
    await _start(send, answer)
    size = -(-len(answer.body) // _PIECES)
    for start in range(0, len(answer.body), size):
        piece = answer.body[start : start + size]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await anyio.sleep(seconds / _PIECES)
    await send({"type": "http.response.body", "body": b""})


async def _part(scope: Scope, receive: Receive, kind: str) -> None:
    """Wait until the client leaves, or break the connection and see it gone."""
    if kind != "hang":
        connection = scope.get("state", {}).get(CONNECTION)
        if connection is None:
            raise ConnectionResetError("the emulator breaks the connection")
        if kind == "cut":
            connection.close()
        else:
            connection.abort()
    while (await receive())["type"] != "http.disconnect":
        pass
