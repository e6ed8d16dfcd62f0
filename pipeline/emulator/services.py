"""Files, batches and context caches over HTTP, with the faults that a script puts before and after each."""

from typing import Any

import anyio
from anyio.abc import TaskGroup
from pydantic_core import from_json, to_json

from pipeline.emulator import asgi, bodies, jobs
from pipeline.emulator.asgi import Receive, Scope, Send
from pipeline.emulator.batches import Batches
from pipeline.emulator.bodies import Answer
from pipeline.emulator.caches import Caches
from pipeline.emulator.counts import Counts
from pipeline.emulator.faults import DONE_KINDS, OPERATIONS, REFUSAL_KINDS, Fault, Script
from pipeline.emulator.files import File, Files
from pipeline.emulator.gate import Gate
from pipeline.emulator.log import Log
from pipeline.emulator.mill import Clock, Mill
from pipeline.emulator.operations import Operation, paged
from pipeline.emulator.refusals import refusal
from pipeline.emulator.settings import Settings
from pipeline.emulator.shelf import Asked, Shelf, send_file
from pipeline.emulator.wire import Refused, Route

_PAUSE = 5.0  # seconds of `slow` where its spec does not say
_EMPTY = Answer(200, b"{}\n")
_CREATIONS = frozenset({"batch-create", "cache-create", "upload-start"})


class Services:
    """The three services of one emulator."""

    def __init__(
        self,
        settings: Settings,
        gate: Gate,
        caches: Caches,
        *,
        told: tuple[Counts, Log],
        clocks: tuple[Clock, Clock],
    ) -> None:
        self._settings, self._gate, self._caches, self._counts = settings, gate, caches, told[0]
        self._files, self._batches = Files(clocks[1]), Batches(clocks[1])
        self._mill = Mill(self._files, self._batches, counts=told[0], log=told[1], clocks=clocks)
        self._shelf = Shelf(self._files)
        self._jobs = jobs.Jobs(self._files, self._batches, self._mill, caches.recall)
        self._ordinals = dict.fromkeys(OPERATIONS, 0)
        self._script()

    def open(self, group: TaskGroup) -> None:
        """Run jobs in a task group from now on."""
        self._mill.open(group)

    def close(self) -> None:
        """Delete what lies on disk."""
        self._files.close()

    def change(self, settings: Settings) -> None:
        """Go on with other settings; a new script begins its own counts."""
        fresh = settings.faults != self._settings.faults
        self._settings = settings
        if fresh:
            self._script()

    def restart(self) -> None:
        """Count from zero; files, jobs and caches stay."""
        self._jobs.restart()
        self._ordinals = dict.fromkeys(OPERATIONS, 0)
        self._script()

    def as_json(self) -> dict[str, Any]:
        """Return every job with what became of its lines, and how often each key was answered and billed."""
        told = [
            {
                "name": job.name,
                "displayName": job.display,
                "state": job.state,
                "requests": len(job.input.starts),
                "answered": job.succeeded,
                "failed": job.failed,
                "input": job.input.file,
                "output": job.output,
            }
            for job in reversed(self._batches.all())
        ]
        return {"batches": told, "billed": dict(self._counts.keys)}

    async def serve(self, operation: Operation, scope: Scope, receive: Receive, send: Send) -> None:
        """Do an operation, and act out the fault that it meets."""
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        asked = Asked(
            operation, headers, f"{scope.get('scheme', 'http')}://{headers.get('host', 'localhost')}"
        )
        bytes_come = operation.kind == "upload-bytes"
        content = b"" if bytes_come else await asgi.content(receive)
        fault = self._fault(asked, content)
        kind = "" if fault is None else fault.kind
        if kind in ("hang", "reset"):
            self._counts.hold(f"{operation.kind}/{kind}")
            await asgi.part(scope, receive, kind)
            return
        if fault is not None and kind == "slow":
            self._counts.hold(f"{operation.kind}/{kind}")
            await anyio.sleep(_PAUSE if fault.seconds is None else fault.seconds)
        made = await self._made(asked, content, fault, scope=scope, receive=receive)
        if kind in DONE_KINDS or kind == "cut":
            self._counts.hold(f"{operation.kind}/{kind}")
        if kind in DONE_KINDS:
            await asgi.part(scope, receive, kind.removeprefix("done-"))
            return
        if isinstance(made, File):
            await send_file(send, made, cut=kind == "cut")
        elif kind == "cut":
            await asgi.half(send, made)
        else:
            await asgi.send_whole(send, made)
        if kind == "cut":
            await asgi.part(scope, receive, kind)

    async def _made(
        self, asked: Asked, content: bytes, fault: Fault | None, *, scope: Scope, receive: Receive
    ) -> Answer | File:
        """Do an operation and return its answer, or the file that is the answer."""
        kind = asked.operation.kind
        try:
            key = "" if kind == "upload-bytes" else self._gate.key(scope["headers"], None)
            if fault is not None and fault.kind in REFUSAL_KINDS:
                if kind == "upload-bytes":
                    await asgi.content(receive)
                raise Refused(refusal(fault, _route(asked.operation), key, self._settings))
            if kind == "upload-bytes":
                return await self._shelf.take(asked, asgi.pieces(receive))
            if kind == "file-download":
                return self._shelf.generated(asked.operation.name)
            if kind.startswith("batch-"):
                return await self._jobs.answer(asked.operation, content, lambda: self._settings)
            if kind.startswith("cache-"):
                return self._cached(asked.operation, content)
            return self._shelf.answer(asked, content, self._settings.storage)
        except Refused as refused:
            return refused.answer

    def _cached(self, operation: Operation, content: bytes) -> Answer:
        """Do an operation on context caches."""
        match operation.kind:
            case "cache-list":
                page, token = paged(self._caches.all(), operation.page)
                listed: dict[str, Any] = (
                    {"cachedContents": [cache.as_json() for cache in page]} if page else {}
                )
                return Answer(200, to_json(listed | ({"nextPageToken": token} if token else {})))
            case "cache-delete":
                self._caches.delete(operation.name)
                return _EMPTY
            case "cache-get":
                return Answer(200, to_json(self._caches.get(operation.name).as_json()))
        try:
            told = from_json(content)
        except ValueError as broken:
            raise Refused(bodies.invalid(f"Invalid JSON payload received. {broken}")) from None
        if operation.kind == "cache-create":
            return Answer(200, to_json(self._caches.create(told).as_json()))
        return Answer(200, to_json(self._caches.update(operation.name, told).as_json()))

    def _fault(self, asked: Asked, content: bytes) -> Fault | None:
        """Count a request and return the fault that it meets."""
        kind = asked.operation.kind
        self._counts.operation(kind)
        self._ordinals[kind] += 1
        script = self._scripts[kind]
        return script.pick(self._ordinals[kind], self._label(asked, content)) if script else None

    def _label(self, asked: Asked, content: bytes) -> str:
        """Return the name by which a script knows a request: the client's own, or the resource's."""
        if asked.operation.kind in _CREATIONS:
            return (
                jobs.label(content)
                if asked.operation.kind == "batch-create"
                else content.decode("utf-8", "replace")
            )
        try:
            return self._shelf.label(asked)
        except Refused:
            return ""

    def _script(self) -> None:
        self._jobs.script(self._settings)
        told = self._settings
        self._scripts = {place: Script(told.faults, place, told.seed) for place in OPERATIONS}


def _route(operation: Operation) -> Route:
    """Return what a refusal needs to know of where it happens."""
    model = operation.name.removeprefix("models/") if operation.kind == "batch-create" else ""
    return Route(operation.version, operation.name, model, operation.kind, cloud=False)
