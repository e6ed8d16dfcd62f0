"""The Gemini API as an ASGI app: takes requests to the gate, answers them, and acts out faults."""

from typing import Any

import anyio
from pydantic_core import from_json, to_json

from pipeline.emulator import asgi, bodies
from pipeline.emulator.acts import FOREIGN
from pipeline.emulator.asgi import Receive, Scope, Send
from pipeline.emulator.bodies import Answer
from pipeline.emulator.caches import Caches
from pipeline.emulator.counts import Counts
from pipeline.emulator.faults import Fault
from pipeline.emulator.gate import Admitted, Clock, Gate
from pipeline.emulator.lexicon import assessor
from pipeline.emulator.log import FLUSH_S, FileLog, Log, NoLog
from pipeline.emulator.model import respond
from pipeline.emulator.operations import operation
from pipeline.emulator.services import Services
from pipeline.emulator.settings import CHANGEABLE, Settings, changed
from pipeline.emulator.wire import Refused, Route, route

_PAUSE = 5.0  # seconds of `slow` and `trickle` where their spec does not say
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
        self._counts = Counts()
        self._caches = Caches(settings, wall)
        self._gate = Gate(settings, self._log, self._caches.recall, clock=clock, wall=wall)
        self._services = Services(
            settings, self._gate, self._caches, told=(self._counts, self._log), clocks=(clock, wall)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's start and end."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        method, path = scope["method"], scope["path"]
        wanted = operation(method, path, scope.get("query_string", b""))
        if wanted is not None:
            await self._services.serve(wanted, scope, receive, send)
            return
        where = route(path) if method == "POST" else None
        content = await asgi.content(receive)
        if where is None:
            await asgi.send_whole(send, self._own(method, path, content))
        elif where.method == "countTokens":
            await asgi.send_whole(send, self._count(where, scope, content))
        else:
            self._counts.arrive()
            try:
                await self._generate(where, content, scope, (receive, send))
            finally:
                self._counts.leave()

    def _own(self, method: str, path: str, content: bytes) -> Answer:
        """Answer what is no part of the API."""
        if (method, path) == ("GET", "/emulator/stats"):
            return Answer(200, to_json(self._stats()))
        if (method, path) == ("GET", "/emulator/batches"):
            return Answer(200, to_json(self._services.as_json()))
        if (method, path) == ("POST", "/emulator/reset"):
            self._counts.reset()
            self._gate.restart()
            self._caches.restart()
            self._services.restart()
            return Answer(200, b"{}")
        if (method, path) == ("POST", "/emulator/settings"):
            return self._change(content)
        if (method, path) == ("POST", "/token"):
            return _GRANT
        return _NO_PAGE

    def _stats(self) -> dict[str, Any]:
        return self._counts.as_json() | {"cache_token_seconds": round(self._caches.token_seconds, 3)}

    def _change(self, content: bytes) -> Answer:
        """Change what the body names; the answer has all that can change."""
        try:
            self._settings = changed(self._settings, from_json(content))
        except ValueError as wrong:
            return bodies.invalid(str(wrong))
        self._gate.change(self._settings)
        self._caches.change(self._settings)
        self._services.change(self._settings)
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
            await asgi.send_whole(wire[1], refused.answer)
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
            await asgi.part(scope, receive, kind)
            return
        answer = self._answer(where, admitted, kind)
        delay = self._delay(admitted)
        if delay:
            await anyio.sleep(delay)
        self._counts.sent(200)
        if kind == "trickle":
            await asgi.trickle(send, answer, _seconds(fault))
        elif kind == "cut":
            await asgi.half(send, answer)
            await asgi.part(scope, receive, kind)
        else:
            await asgi.send_whole(send, answer)

    def _answer(self, where: Route, admitted: Admitted, kind: str) -> Answer:
        """Let the model answer, and bend the answer as the fault wants it."""
        if kind in FOREIGN:
            return FOREIGN[kind]
        call = admitted.call
        reply, tokens = respond(
            call, admitted.generation, where, admitted.digest, kind=kind, tier=admitted.tier
        )
        self._counts.answer(admitted.digest, tokens, admitted.tier)
        return Answer(200, to_json(reply), headers=(_tier(admitted.tier),))

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
            self._services.open(group)
            await receive()  # lifespan.shutdown
            group.cancel_scope.cancel()
        self._services.close()
        self._log.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _flush(self) -> None:
        while True:
            await anyio.sleep(FLUSH_S)
            self._log.flush()


def _tier(tier: str) -> tuple[bytes, bytes]:
    """Return the header that says which service tier has answered."""
    return b"x-gemini-service-tier", tier.encode()


def _seconds(fault: Fault | None) -> float:
    return _PAUSE if fault is None or fault.seconds is None else fault.seconds
