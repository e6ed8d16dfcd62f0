"""One client for the API: google-genai, set up so that a call is one HTTP request.

Retries, waits and the reading of answers are ours; the SDK builds the request, authenticates and
sends. What it does otherwise, and what each setting here prevents, stands beside the setting.
"""

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from time import perf_counter, time
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

import aiohttp
import anyio
import anyio.to_thread
import google.auth
from google import genai
from google.auth import exceptions as auth
from google.auth.credentials import Credentials
from google.genai import types
from google.genai.client import DebugConfig

from pipeline.errors import RefusedError
from pipeline.flow import Failure, FailureKind, Reply, Request
from pipeline.gemini.bodies import line
from pipeline.gemini.call import Call, Generation, call_of, shared_body
from pipeline.gemini.connections import Connector
from pipeline.gemini.endpoint import Endpoint
from pipeline.gemini.failures import FOREIGN, failure_of_exception, failure_of_status
from pipeline.gemini.replies import EMULATOR, EMULATOR_HEADER, reply_of_body

__all__ = ["Client", "Generation", "HttpError", "open_client", "open_sdk"]

TWICE = "the answer is one to another request, which the network has brought twice"

_CLOSE_S = 5.0
_READ_BUFFER = 2**22
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CLOUD_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class Client:
    """Asks one question per call. Made by `open_client`, usable while that is open, by many tasks at once."""

    def __init__(self, call: Call, connector: Connector, timeout_s: float, secrets: tuple[str, ...]) -> None:
        self._call = call
        self._connector = connector
        self._timeout_s = timeout_s
        self._secrets = secrets

    async def ask(self, request: Request) -> Reply | Failure:
        """Send one HTTP request and return its answer, or why there is none.

        Never raises for what the network or the API does; only cancellation passes through. The deadline
        covers everything, from the fetch of a token to the last byte of the answer.
        """
        if not request.text:
            return Failure(FailureKind.BAD_REQUEST, "the prompt is empty, and the API takes no empty prompt")
        began = perf_counter()
        try:
            with anyio.fail_after(self._timeout_s):
                raw = await self._call(request.text, request.max_output_tokens)
        except HttpError as error:
            failure = failure_of_status(error.status, error.body, secrets=self._secrets)
            return replace(failure, source=EMULATOR) if error.emulated else failure
        except TimeoutError:
            return Failure(FailureKind.TIMEOUT, f"no answer within {self._timeout_s:g} s")
        except FOREIGN as exc:
            return failure_of_exception(exc, secrets=self._secrets)
        seconds = perf_counter() - began
        if self._connector.repeats(raw.body or "", request.text):
            return Failure(FailureKind.GARBLED, TWICE)
        return reply_of_body(
            raw.body or "", raw.headers or {}, seconds=seconds, at=time(), secrets=self._secrets
        )


@asynccontextmanager
async def open_client(
    endpoint: Endpoint, generation: Generation, *, timeout_s: float, connections: int
) -> AsyncIterator[Client]:
    """Open a client for at most `connections` calls at a time, each of at most `timeout_s` seconds.

    Raises RefusedError where Vertex AI finds no credentials on this machine.
    """
    connector = Connector(limit=connections + 8)
    async with open_sdk(endpoint, connector, timeout_s=timeout_s, body=shared_body(generation)) as sdk:
        call = call_of(sdk, generation.model, public=endpoint.public_sdk)
        yield Client(call, connector, timeout_s, (endpoint.api_key,) if endpoint.api_key else ())


@asynccontextmanager
async def open_sdk(
    endpoint: Endpoint,
    connector: aiohttp.TCPConnector,
    *,
    timeout_s: float,
    body: dict[str, object],
    beside: Sequence[aiohttp.ClientMiddlewareType] = (),
) -> AsyncIterator[genai.Client]:
    """Open the SDK's client on a session of our own; every status but 200 raises HttpError.

    `body` is sent with each request, the middlewares `beside` see what was answered with 200. Raises
    RefusedError where Vertex AI finds no credentials on this machine.
    """
    credentials = await _credentials() if endpoint.vertex else None
    session = _session(endpoint, connector, beside)
    try:
        sdk = _sdk(endpoint, credentials, session, timeout_s=timeout_s, body=body)
        try:
            yield sdk
        finally:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await sdk.aio.aclose()
            sdk.close()
    finally:
        with anyio.move_on_after(_CLOSE_S, shield=True):
            await session.close()


class HttpError(Exception):
    """A status other than 200, with the body as it came, and which emulator sent it: empty for the API."""

    def __init__(self, status: int, body: str, emulated: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.emulated = emulated


async def _only_200(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Take errors before the SDK and aiohttp see them.

    The SDK loses the status of an error whose JSON is broken, and aiohttp would follow a redirect and
    carry the key to another host.
    """
    response = await send(request)
    if response.status == 200:
        return response
    async with response:
        emulated = response.headers.get(EMULATOR_HEADER, "")
        raise HttpError(response.status, await _whatever(response), emulated)


async def _whatever(response: aiohttp.ClientResponse) -> str:
    """Return the error's body, or nothing where it is cut: its status says enough."""
    try:
        return (await response.read()).decode("utf-8", "replace")
    except aiohttp.ClientError:
        return ""


def _session(
    endpoint: Endpoint, connector: aiohttp.TCPConnector, beside: Sequence[aiohttp.ClientMiddlewareType]
) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=_needs_proxy(endpoint),
        read_bufsize=_READ_BUFFER,
        middlewares=(*beside, _only_200),
    )


def _needs_proxy(endpoint: Endpoint) -> bool:
    """Tell whether to obey proxy variables: looking them up costs two thread hops per request."""
    local = urlsplit(endpoint.base_url or "").hostname in _LOOPBACK
    return not local and not getproxies_environment().keys().isdisjoint(("http", "https"))


def _sdk(
    endpoint: Endpoint,
    credentials: Credentials | None,
    session: aiohttp.ClientSession,
    *,
    timeout_s: float,
    body: dict[str, object] | None,
) -> genai.Client:
    """Build the SDK's client with everything explicit, so that it reads nothing from the environment."""
    return genai.Client(
        enterprise=endpoint.vertex,
        api_key=endpoint.api_key,
        credentials=credentials,
        project=endpoint.project,
        location=endpoint.location,
        debug_config=DebugConfig(client_mode=None),  # the environment can switch on record and replay
        http_options=types.HttpOptions(
            base_url=endpoint.base_url,
            api_version=endpoint.api_version,  # the default, v1, lacks features
            timeout=math.ceil(timeout_s * 1000),
            retry_options=types.HttpRetryOptions(attempts=1),  # unset, aiohttp errors are sent twice
            aiohttp_client=session,
            extra_body=body,  # converted once by us rather than by the SDK with each call
        ),
    )


async def _credentials() -> Credentials:
    """Load Application Default Credentials; in a thread, since that may ask the network."""
    try:
        credentials, _ = await anyio.to_thread.run_sync(_adc)
    except auth.GoogleAuthError as exc:
        raise RefusedError(
            line(f"Vertex AI finds no credentials: {exc}"),
            "run `gcloud auth application-default login`, or set `GOOGLE_APPLICATION_CREDENTIALS`",
        ) from exc
    return credentials


def _adc() -> tuple[Credentials, str | None]:
    return google.auth.default(scopes=[_CLOUD_SCOPE])
