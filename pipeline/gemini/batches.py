"""Jobs and files of the Batch API, through google-genai's public calls.

The SDK builds, authenticates and sends each request; what came back is read from the body as it came, which a
middleware of our own session keeps, because the SDK's typed job has neither errors nor counts and its reader
raises for jobs of others with details of errors. No call sends more than the HTTP requests that it needs.
"""

import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeAlias

import aiohttp
import anyio
from google import genai
from google.genai import types

from pipeline.batch import Seen, plain_state
from pipeline.flow import Failure, FailureKind
from pipeline.gemini.bodies import line, loaded, valid
from pipeline.gemini.client import HttpError, open_sdk
from pipeline.gemini.endpoint import Endpoint
from pipeline.gemini.failures import FOREIGN, failure_of_exception, failure_of_status
from pipeline.gemini.replies import EMULATOR_HEADER

MIME = "application/jsonl"
PAGE = 100  # jobs of a page of the list
PAGES = 500
SLOW = 50_000  # bytes a second below which a transfer is given up
_HIDDEN = "may not exist"  # the API does not tell whether a file is gone or somebody else's


@dataclass(frozen=True, slots=True)
class Gone:
    """The API knows no such job or file; `emulated` as in `Seen`."""

    failure: Failure
    emulated: str = ""


@dataclass(frozen=True, slots=True)
class Hidden:
    """The API shows this key no such file: it is gone, or somebody else's; `emulated` as in `Seen`."""

    failure: Failure
    emulated: str = ""


@dataclass(frozen=True, slots=True)
class _Came:
    """A body with status 200 and which emulator has sent it: empty for the API."""

    body: str
    emulated: str


Absent: TypeAlias = Gone | Hidden
_Object: TypeAlias = dict[str, object]
_CAME: ContextVar[_Came | None] = ContextVar("body of the task's last answer", default=None)


class Batches:
    """The Batch API of one model. Made by `open_batches`.

    No method raises for what the network or the API does; `Gone` is the API's own 404.
    """

    def __init__(self, sdk: genai.Client, model: str, timeout_s: float, secrets: tuple[str, ...]) -> None:
        self._sdk = sdk
        self._model = model
        self._timeout_s = timeout_s
        self._secrets = secrets

    async def upload(self, path: Path, name: str, size: int) -> str | Absent | Failure:
        """Upload a file of lines of so many bytes; return what the API calls it."""
        files = self._sdk.aio.files
        config = types.UploadFileConfig(mime_type=MIME, display_name=name)
        deadline = self._deadline(size)
        found = await self._asked(lambda: files.upload(file=path, config=config), deadline)
        if not isinstance(found, dict):
            return found
        file = _object(found.get("file")).get("name") or found.get("name")
        return file if isinstance(file, str) and file else self._garbled(found)

    async def create(self, file: str, name: str) -> Seen | Absent | Failure:
        """Create the job of an uploaded file. After a fault of the way it may exist all the same."""
        batches = self._sdk.aio.batches
        return await self._job(
            lambda: batches.create(model=self._model, src=file, config={"display_name": name})
        )

    async def look(self, job: str) -> Seen | Absent | Failure:
        """Return how far a job is."""
        return await self._job(lambda: self._sdk.aio.batches.get(name=job))

    async def find(self, name: str) -> list[Seen] | Absent | Failure:
        """Return the jobs with this display name, the newest first."""
        token = ""
        for _ in range(PAGES):
            config = types.ListBatchJobsConfig(page_size=PAGE, page_token=token or None)
            found = await self._asked(partial(self._sdk.aio.batches.list, config=config))
            if not isinstance(found, dict):
                return found
            listed = found.get("operations") or found.get("batches")
            mark = {EMULATOR_HEADER: found.get(EMULATOR_HEADER)}
            jobs = [_seen({**_object(job), **mark}) for job in listed] if isinstance(listed, list) else []
            if same := [job for job in jobs if job.name == name]:
                return same
            token = str(found.get("nextPageToken") or "")
            if not token:
                break
        return []

    async def cancel(self, job: str) -> Absent | Failure | None:
        """Ask a job to end."""
        found = await self._asked(lambda: self._sdk.aio.batches.cancel(name=job))
        return None if isinstance(found, dict) else found

    async def fetch(self, results: str, target: Path, size: int) -> Absent | Failure | None:
        """Stream a file of results to `target`; `size` is about how many bytes it has."""
        files, deadline = self._sdk.aio.files, self._deadline(size)
        config = types.DownloadFileConfig(http_options=types.HttpOptions(timeout=math.ceil(deadline * 1000)))
        found = await self._asked(
            lambda: files.download(file=results, destination=target, config=config),
            deadline,
        )
        return None if isinstance(found, dict) else found

    async def remove(self, file: str) -> Absent | Failure | None:
        """Delete a file."""
        found = await self._asked(lambda: self._sdk.aio.files.delete(name=file))
        return None if isinstance(found, dict) else found

    def _deadline(self, size: int) -> float:
        return self._timeout_s + size / SLOW

    async def _job(self, call: Callable[[], Awaitable[object]]) -> Seen | Absent | Failure:
        found = await self._asked(call)
        if not isinstance(found, dict):
            return found
        job = _seen(found)
        return job if job.job else self._garbled(found)

    async def _asked(
        self, call: Callable[[], Awaitable[object]], deadline: float | None = None
    ) -> _Object | Absent | Failure:
        """Return the JSON object that was answered; an empty one where the answer had no body to keep."""
        _CAME.set(None)
        seconds = deadline or self._timeout_s
        try:
            with anyio.fail_after(seconds):
                await call()
        except HttpError as error:
            return self._of_status(error)
        except TimeoutError:
            return Failure(FailureKind.TIMEOUT, f"no answer within {seconds:g} s")
        except FOREIGN as exc:
            return failure_of_exception(exc, secrets=self._secrets)
        except (ValueError, KeyError, TypeError) as exc:  # from the SDK, about a body that it does not expect
            if _CAME.get() is None:
                return Failure(FailureKind.GARBLED, line(f"the answer cannot be read: {exc}", self._secrets))
        return self._read(_CAME.get())

    def _of_status(self, error: HttpError) -> Absent | Failure:
        failure = failure_of_status(error.status, error.body, secrets=self._secrets)
        if error.status == 403 and _HIDDEN in failure.message:
            return Hidden(failure, error.emulated)
        if error.status != 404:
            return failure
        # A proxy or a wrong address says 404, too, and knows nothing of jobs.
        if not _says_not_found(error.body):
            return replace(failure, kind=FailureKind.GARBLED)
        return Gone(failure, error.emulated)

    def _read(self, came: _Came | None) -> _Object | Failure:
        if came is None or not came.body.strip():
            return {}
        found = loaded(came.body)
        if not isinstance(found, dict):
            return self._garbled(came.body[:200])
        return {**found, EMULATOR_HEADER: came.emulated}

    def _garbled(self, found: object) -> Failure:
        shown = json.dumps(found, default=str)
        said = line(f"the answer is not what the Batch API sends: {shown}", self._secrets)
        return Failure(FailureKind.GARBLED, said)


@asynccontextmanager
async def open_batches(endpoint: Endpoint, model: str, *, timeout_s: float) -> AsyncIterator[Batches]:
    """Open the Batch API of one model; a call takes at most `timeout_s`, and more where a file is large."""
    connector = aiohttp.TCPConnector(limit=8)
    async with open_sdk(endpoint, connector, timeout_s=timeout_s, body={}, beside=(_keep_body,)) as sdk:
        yield Batches(sdk, model, timeout_s, (endpoint.api_key,) if endpoint.api_key else ())


async def _keep_body(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Remember the body for whoever asked; a file that is downloaded streams past."""
    response = await send(request)
    if ":download" not in request.url.path:
        body = (await response.read()).decode("utf-8", "replace")
        _CAME.set(_Came(body, response.headers.get(EMULATOR_HEADER, "")))
    return response


def _says_not_found(body: str) -> bool:
    found = loaded(body)
    if isinstance(found, list) and found:  # some ways of the API wrap an error so
        found = found[0]
    return _object(_object(found).get("error")).get("status") == "NOT_FOUND"


def _seen(operation: _Object) -> Seen:
    """Read a job in the shape of an operation, or as it stands in its metadata alone."""
    metadata = _object(operation.get("metadata")) or operation
    state = plain_state(_text(metadata.get("state")))
    error = _object(operation.get("error")) or _object(metadata.get("error"))
    stats = _object(metadata.get("batchStats"))
    ended = _time(metadata.get("endTime"))
    told = _count(stats.get("successfulRequestCount")) + _count(stats.get("failedRequestCount"))
    return Seen(
        job=_text(operation.get("name")) or _text(metadata.get("name")),
        name=_text(metadata.get("displayName")),
        state=state,
        done=operation.get("done") is True,
        results=_results(operation, metadata),
        why=line(_text(error.get("message"))) if error else "",
        told=told,
        seconds=max(0.0, ended - _time(metadata.get("createTime"))) if ended else 0.0,
        ended=ended,
        emulated=_text(operation.get(EMULATOR_HEADER)),
    )


def _results(operation: _Object, metadata: _Object) -> str:
    for place in (_object(operation.get("response")), _object(metadata.get("output"))):
        if name := _text(place.get("responsesFile")):
            return name
    return ""


def _time(told: object) -> float:
    """Return a time as Unix time, 0 where there is none."""
    try:
        return datetime.fromisoformat(_text(told)).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _object(value: object) -> _Object:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return valid(value) if isinstance(value, str) else ""


def _count(value: object) -> int:
    """Read a count, which the API sends as text."""
    return int(value) if isinstance(value, int | str) and str(value).isdecimal() else 0
