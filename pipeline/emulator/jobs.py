"""Batches over HTTP: jobs are made of files and of inline requests, told of, cancelled and deleted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from pipeline.emulator import bodies
from pipeline.emulator.batches import Batches
from pipeline.emulator.bodies import Answer
from pipeline.emulator.faults import Script
from pipeline.emulator.files import Files, new_id
from pipeline.emulator.lines import Reader, Recall
from pipeline.emulator.mill import Mill
from pipeline.emulator.operations import Operation, paged
from pipeline.emulator.settings import Settings
from pipeline.emulator.wire import Refused, Route, fields, known

_INLINE_BYTES = 20 * 2**20
_CREATE = known("batch")
_BATCH = known("name model displayName inputConfig priority webhookConfig")
_INPUT = known("fileName requests")
_REQUESTS = known("requests")
_ITEM = known("request metadata")
_EMPTY = Answer(200, b"{}\n")


class Jobs:
    """Answers operations on batches. Every refusal is raised as Refused."""

    def __init__(self, files: Files, batches: Batches, mill: Mill, recall: Recall) -> None:
        self._files, self._batches, self._mill, self._recall = files, batches, mill, recall
        self._created = 0

    def script(self, settings: Settings) -> None:
        """Take the faults of lines and of whole jobs."""
        self._lines = Script(settings.faults, "line", settings.seed)
        self._jobs = Script(settings.faults, "batch", settings.seed)

    def restart(self) -> None:
        """Count jobs and lines from 1 again; jobs stay."""
        self._created = 0
        self._mill.restart()

    async def answer(self, operation: Operation, content: bytes, settings: Callable[[], Settings]) -> Answer:
        """Do an operation; `settings` returns those of the moment."""
        match operation.kind:
            case "batch-create":
                return await self._create(operation, content, settings)
            case "batch-list":
                page, token = paged(self._batches.listed(settings().batch_lag), operation.page)
                listed: dict[str, Any] = {"operations": [job.as_json() for job in page]} if page else {}
                return Answer(200, to_json(listed | ({"nextPageToken": token} if token else {})))
            case "batch-cancel":
                self._batches.cancel(operation.name)
                return _EMPTY
            case "batch-delete":
                gone = self._batches.delete(operation.name)
                if gone.inlined is not None:
                    gone.inlined.unlink()
                return _EMPTY
        return Answer(200, to_json(self._batches.get(operation.name).as_json()))

    async def _create(self, operation: Operation, content: bytes, settings: Callable[[], Settings]) -> Answer:
        where = _where(operation, settings())
        told = _told(content)
        self._batches.check(settings(), where.model)
        reader = Reader(where, settings(), self._lines, self._recall)
        size = reader.size if settings().batch_tokens is not None else None
        path, file = self._source(fields(told.get("inputConfig") or {}, _INPUT, "batch.input_config"))
        lines = await self._mill.read(path, file, size)
        if not lines.starts:
            raise Refused(bodies.invalid(bodies.INVALID))
        self._batches.check(settings(), where.model, lines.tokens)
        job = self._batches.create(where, str(told.get("displayName") or ""), lines)
        self._created += 1
        fault = self._jobs.pick(self._created, f"{job.display} {file}") if self._jobs else None
        self._mill.start(job, reader, settings, "" if fault is None else fault.kind)
        return Answer(200, to_json(job.as_json()))

    def _source(self, config: dict[str, Any]) -> tuple[Path, str]:
        """Return where the lines lie, which stays when their file goes, and the name of that file."""
        path = self._files.path(f"input-{new_id(36)}")
        if config.get("fileName"):
            file = self._files.get(str(config["fileName"]))
            path.hardlink_to(file.path)
            return path, file.name
        requests = fields(config.get("requests") or {}, _REQUESTS, "batch.input_config.requests")
        items = [fields(item, _ITEM, "requests") for item in requests.get("requests") or ()]
        path.write_bytes(b"".join(to_json(item) + b"\n" for item in items))
        return path, ""


def label(content: bytes) -> str:
    """Return the display name in the body of a creation; empty where there is none."""
    try:
        return str(_told(content).get("displayName") or "")
    except Refused:
        return ""


def _told(content: bytes) -> dict[str, Any]:
    if len(content) > _INLINE_BYTES:
        raise Refused(bodies.too_large(_INLINE_BYTES))
    try:
        body = fields(from_json(content), _CREATE, "")
    except ValueError as broken:
        raise Refused(bodies.invalid(f"Invalid JSON payload received. {broken}")) from None
    return fields(body.get("batch") or {}, _BATCH, "batch")


def _where(operation: Operation, settings: Settings) -> Route:
    model = operation.name.removeprefix("models/")
    if model not in settings.models:
        raise Refused(bodies.model_not_found(operation.name, operation.version, "batchGenerateContent"))
    return Route(operation.version, operation.name, model, "batchGenerateContent", cloud=False)
