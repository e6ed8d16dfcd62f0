"""The Files API: resumable uploads, and files on disk that expire after 48 hours of the wall clock.

Contents lie in a temporary folder that goes with the emulator. An upload takes bytes at any offset that it
has reached, so a piece may be sent again; after `finalize` it is a file.
"""

import secrets
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pipeline.emulator import bodies
from pipeline.emulator.times import stamp
from pipeline.emulator.wire import Refused

LIFETIME_S = 48 * 3600.0
MOST_BYTES = 2 * 2**30
"""Of one file."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_PIECE = 2**20


def new_id(length: int) -> str:
    """Return a random id in small letters and digits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


@dataclass(frozen=True, slots=True)
class File:
    """A whole file; `created` is Unix time, `sha` the hexadecimal SHA-256 of its content."""

    name: str
    display: str
    mime: str
    path: Path
    size: int
    sha: str
    created: float
    source: Literal["UPLOADED", "GENERATED"] = "UPLOADED"

    def as_json(self, base: str) -> dict[str, Any]:
        """Return the resource; `base` is the address of the API with its version."""
        told: dict[str, Any] = {"name": self.name}
        if self.display:
            told["displayName"] = self.display
        told |= {
            "mimeType": self.mime,
            "sizeBytes": str(self.size),
            "createTime": stamp(self.created),
            "updateTime": stamp(self.created),
            "expirationTime": stamp(self.created + LIFETIME_S),
            "sha256Hash": b64encode(self.sha.encode()).decode(),
            "uri": f"{base}/{self.name}",
            "state": "ACTIVE",
            "source": self.source,
        }
        if self.source == "GENERATED":
            told["downloadUri"] = f"{base}/{self.name}:download?alt=media"
        return told


@dataclass(slots=True)
class Upload:
    """An upload under way: where its bytes go, and how many are there."""

    name: str
    display: str
    mime: str
    path: Path
    declared: int | None
    received: int = 0


class Files:
    """All files and uploads of one emulator. Every refusal is raised as Refused."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._files: dict[str, File] = {}
        self._uploads: dict[str, Upload] = {}
        self._folder: TemporaryDirectory[str] | None = None

    def path(self, name: str) -> Path:
        """Return where a content of this name lies."""
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="rowmill-emulator-")
        return Path(self._folder.name) / name.replace("/", "-")

    def close(self) -> None:
        """Delete all contents."""
        if self._folder is not None:
            self._folder.cleanup()

    def start(self, told: dict[str, Any], declared: int | None, mime: str, storage: int | None) -> str:
        """Begin an upload and return its id; `told` is the file's metadata, `storage` what all may take."""
        if (declared or 0) > MOST_BYTES:
            raise Refused(bodies.too_large(MOST_BYTES))
        self._forget()
        if (
            storage is not None
            and sum(file.size for file in self._files.values()) + (declared or 0) > storage
        ):
            raise Refused(bodies.exhausted_with_help())
        name = str(told.get("name") or f"files/{new_id(12)}")
        name = name if name.startswith("files/") else f"files/{name}"
        if name in self._files:
            raise Refused(bodies.error(409, "ALREADY_EXISTS", "Requested entity already exists"))
        session = new_id(40)
        path = self.path(f"upload-{session}")
        path.touch()
        mime = str(told.get("mimeType") or mime or "application/octet-stream")
        self._uploads[session] = Upload(name, str(told.get("displayName") or ""), mime, path, declared)
        return session

    def upload(self, session: str) -> Upload:
        """Return an upload under way."""
        if session not in self._uploads:
            raise Refused(bodies.error(404, "NOT_FOUND", "Upload not found or already finished."))
        return self._uploads[session]

    def finalize(self, session: str) -> File:
        """Make a file of an upload, which must have all bytes that it declared."""
        upload = self.upload(session)
        if upload.declared is not None and upload.declared != upload.received:
            raise Refused(bodies.invalid(bodies.INVALID))
        del self._uploads[session]
        return self.add(upload.name, upload.path, upload.mime, display=upload.display)

    def abandon(self, session: str) -> None:
        """Forget an upload and its bytes."""
        self.upload(session).path.unlink()
        del self._uploads[session]

    def add(self, name: str, path: Path, mime: str, *, display: str = "", generated: bool = False) -> File:
        """Keep a content that lies at `path` as a file."""
        source: Literal["UPLOADED", "GENERATED"] = "GENERATED" if generated else "UPLOADED"
        sha, size = _summed(path)
        self._files[name] = File(name, display, mime, path, size, sha, self._wall(), source)
        return self._files[name]

    def get(self, name: str) -> File:
        """Return a file; one that does not exist or has expired is refused like one of somebody else's."""
        self._forget()
        if name not in self._files:
            raise Refused(bodies.no_file(name))
        return self._files[name]

    def delete(self, name: str) -> None:
        """Delete a file."""
        self.get(name).path.unlink()
        del self._files[name]

    def all(self) -> list[File]:
        """Return all files, newest first."""
        self._forget()
        return list(reversed(self._files.values()))

    def _forget(self) -> None:
        """Drop what has expired."""
        born = self._wall() - LIFETIME_S
        for name in [name for name, file in self._files.items() if file.created <= born]:
            self._files.pop(name).path.unlink()


def _summed(path: Path) -> tuple[str, int]:
    digest, size = sha256(), 0
    with path.open("rb") as content:
        while piece := content.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size
