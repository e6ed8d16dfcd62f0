"""The Files API over HTTP: the resumable upload protocol, and downloads piece by piece."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from anyio.lowlevel import checkpoint
from pydantic_core import from_json, to_json

from pipeline.emulator import asgi, bodies
from pipeline.emulator.asgi import Send
from pipeline.emulator.bodies import Answer
from pipeline.emulator.files import MOST_BYTES, File, Files, Upload
from pipeline.emulator.operations import Operation, paged
from pipeline.emulator.wire import Refused, fields, known

_PIECE = 2**20
_UPLOAD = known("file")
_FILE = known(
    "name displayName mimeType sizeBytes createTime updateTime expirationTime sha256Hash uri downloadUri"
    " state source error videoMetadata"
)
_EMPTY = Answer(200, b"{}\n")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for an operation: headers in lower case, and the address under which the client knows us."""

    operation: Operation
    headers: Mapping[str, str]
    host: str

    @property
    def base(self) -> str:
        """The address of the API with its version."""
        return f"{self.host}/{self.operation.version}"

    @property
    def command(self) -> str:
        """What the upload protocol wants."""
        return self.headers.get("x-goog-upload-command", "").lower()


class Shelf:
    """Answers operations on files. Every refusal is raised as Refused."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def answer(self, asked: Asked, content: bytes, storage: int | None) -> Answer:
        """Do an operation whose body is small."""
        told = asked.operation
        match told.kind:
            case "upload-start":
                return self._start(asked, content, storage)
            case "file-list":
                page, token = paged(self._files.all(), told.page)
                listed: dict[str, Any] = (
                    {"files": [file.as_json(asked.base) for file in page]} if page else {}
                )
                return Answer(200, to_json(listed | ({"nextPageToken": token} if token else {})))
            case "file-delete":
                self._files.delete(told.name)
                return _EMPTY
        return Answer(200, to_json(self._files.get(told.name).as_json(asked.base)))

    def _start(self, asked: Asked, content: bytes, storage: int | None) -> Answer:
        """Begin an upload; its address is our own, for clients follow it to the letter."""
        if "start" not in asked.command:
            raise Refused(
                bodies.invalid("Unsupported upload protocol; use `X-Goog-Upload-Protocol: resumable`.")
            )
        try:
            body = fields(from_json(content or b"{}"), _UPLOAD, "")
        except ValueError as broken:
            raise Refused(bodies.invalid(f"Invalid JSON payload received. {broken}")) from None
        told = fields(body.get("file") or {}, _FILE, "file")
        size = asked.headers.get("x-goog-upload-header-content-length", str(told.get("sizeBytes") or ""))
        mime = asked.headers.get("x-goog-upload-header-content-type", "")
        session = self._files.start(told, int(size) if size.isdigit() else None, mime, storage)
        address = f"{asked.host}/upload/{asked.operation.version}/files?upload_id={session}"
        headers = (
            (b"x-goog-upload-status", b"active"),
            (b"x-goog-upload-url", address.encode()),
            (b"x-goog-upload-chunk-granularity", b"262144"),
        )
        return Answer(200, b"", headers=headers)

    def label(self, asked: Asked) -> str:
        """Return the name that a client gave to what it uploads, else the file's."""
        if not asked.operation.upload:
            return asked.operation.name
        upload = self._files.upload(asked.operation.upload)
        return upload.display or upload.name

    async def take(self, asked: Asked, content: AsyncIterator[bytes]) -> Answer:
        """Take bytes of an upload as they come, and make a file of it when the client says so."""
        session = asked.operation.upload
        upload = self._files.upload(session)
        if "upload" in asked.command:
            offset = asked.headers.get("x-goog-upload-offset", "0")
            if not offset.isdigit() or int(offset) > upload.received:
                raise Refused(_misplaced(upload))
            await _written(upload, int(offset), content)
            length = asked.headers.get("content-length", "")
            if length.isdigit() and upload.received - int(offset) != int(length):  # the client left
                raise Refused(_misplaced(upload))
        if "cancel" in asked.command:
            self._files.abandon(session)
            return Answer(200, b"", headers=((b"x-goog-upload-status", b"cancelled"),))
        if "finalize" not in asked.command:
            return Answer(200, b"", headers=_active(upload))
        file = await to_thread.run_sync(self._files.finalize, session)
        body = to_json({"file": file.as_json(asked.base)})
        return Answer(200, body, headers=((b"x-goog-upload-status", b"final"),))

    def generated(self, name: str) -> File:
        """Return a file that may be downloaded; what was uploaded may not."""
        file = self._files.get(name)
        if file.source != "GENERATED":
            raise Refused(bodies.invalid("Only generated files can be downloaded."))
        return file


async def send_file(send: Send, file: File, *, cut: bool = False) -> None:
    """Send the content of a file piece by piece; only its first half where it is `cut`."""
    await asgi.start(send, Answer(200, b"", file.mime.encode()), file.size)
    with file.path.open("rb") as content:
        left = file.size // 2 if cut else file.size
        while left:
            piece = await to_thread.run_sync(content.read, min(_PIECE, left))
            left -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await checkpoint()
    if not cut:
        await send({"type": "http.response.body", "body": b""})


async def _written(upload: Upload, offset: int, content: AsyncIterator[bytes]) -> None:
    """Write bytes from an offset on; what was there behind it is sent again, and so forgotten."""
    with upload.path.open("r+b") as file:
        file.truncate(offset)
        file.seek(offset)
        upload.received = offset
        async for piece in content:
            file.write(piece)
            upload.received += len(piece)
            if upload.received > (MOST_BYTES if upload.declared is None else upload.declared):
                raise Refused(bodies.too_large(MOST_BYTES if upload.declared is None else upload.declared))


def _active(upload: Upload) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"x-goog-upload-status", b"active"),
        (b"x-goog-upload-size-received", str(upload.received).encode()),
    )


def _misplaced(upload: Upload) -> Answer:
    body = json.dumps({"error": {"code": 400, "message": bodies.INVALID, "status": "INVALID_ARGUMENT"}})
    return Answer(400, body.encode(), headers=_active(upload))
