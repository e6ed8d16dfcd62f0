"""Which operation of files, batches and context caches a request asks for, by its method and path."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeVar
from urllib.parse import parse_qs

from pipeline.emulator.bodies import invalid
from pipeline.emulator.wire import Refused

Kind = Literal[
    "upload-start",
    "upload-bytes",
    "file-get",
    "file-list",
    "file-download",
    "file-delete",
    "batch-create",
    "batch-get",
    "batch-list",
    "batch-cancel",
    "batch-delete",
    "cache-create",
    "cache-get",
    "cache-list",
    "cache-update",
    "cache-delete",
]

_VERSION = r"(?P<version>v1|v1beta)"
_ID = r"(?P<id>[^/:]+)"
_PATHS: tuple[tuple[str, str, Kind], ...] = (
    ("GET", rf"/{_VERSION}/files", "file-list"),
    ("GET", rf"(?:/download)?/{_VERSION}/(?P<name>files/{_ID}):download", "file-download"),
    ("GET", rf"/{_VERSION}/(?P<name>files/{_ID})", "file-get"),
    ("DELETE", rf"/{_VERSION}/(?P<name>files/{_ID})", "file-delete"),
    ("POST", rf"/{_VERSION}/(?P<name>models/{_ID}):batchGenerateContent", "batch-create"),
    ("GET", rf"/{_VERSION}/batches", "batch-list"),
    ("GET", rf"/{_VERSION}/(?P<name>batches/{_ID})", "batch-get"),
    ("POST", rf"/{_VERSION}/(?P<name>batches/{_ID}):cancel", "batch-cancel"),
    ("DELETE", rf"/{_VERSION}/(?P<name>batches/{_ID})", "batch-delete"),
    ("POST", rf"/{_VERSION}/cachedContents", "cache-create"),
    ("GET", rf"/{_VERSION}/cachedContents", "cache-list"),
    ("GET", rf"/{_VERSION}/(?P<name>cachedContents/{_ID})", "cache-get"),
    ("PATCH", rf"/{_VERSION}/(?P<name>cachedContents/{_ID})", "cache-update"),
    ("DELETE", rf"/{_VERSION}/(?P<name>cachedContents/{_ID})", "cache-delete"),
)
_UPLOAD = re.compile(rf"/upload/{_VERSION}/files")
_PATTERNS = [(method, re.compile(path), kind) for method, path, kind in _PATHS]
_MOST = 1000  # of a page; the API cuts larger wishes down to its own
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Operation:
    """What is asked for: `name` is the resource such as `files/abc`, empty for a whole collection.

    `upload` names the upload that bytes are for.
    """

    kind: Kind
    version: str
    name: str
    upload: str = ""
    page: tuple[int, str] = (50, "")


@lru_cache(maxsize=256)
def operation(method: str, path: str, query: bytes) -> Operation | None:
    """Read method, path and query; None for what is no operation of these services."""
    asked = {name: values[0] for name, values in parse_qs(query.decode("latin-1")).items()}
    upload = _UPLOAD.fullmatch(path)
    if upload is not None and method in ("POST", "PUT"):
        session = asked.get("upload_id", "")
        return Operation("upload-bytes" if session else "upload-start", upload["version"], "", session)
    for wanted, pattern, kind in _PATTERNS:
        match = pattern.fullmatch(path) if method == wanted else None
        if match is not None:
            return Operation(kind, match["version"], match.groupdict().get("name") or "", page=_page(asked))
    return None


def _page(asked: dict[str, str]) -> tuple[int, str]:
    size = asked.get("pageSize", asked.get("page_size", ""))
    token = asked.get("pageToken", asked.get("page_token", ""))
    return min(_MOST, int(size)) if size.isdigit() and int(size) else 50, token


def paged(things: Iterable[_T], page: tuple[int, str]) -> tuple[list[_T], str]:
    """Return a page of things and the token of the next, empty at the end; Refused for a foreign token."""
    size, token = page
    if token and not token.isdigit():
        raise Refused(invalid("Request contains an invalid argument."))
    rest = list(things)[int(token or 0) :]
    return rest[:size], str(int(token or 0) + size) if len(rest) > size else ""
