"""A small real HTTP server on loopback whose next answers a test writes down beforehand."""

import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Literal

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from pipeline.flow import Failure, Reply, Request
from pipeline.gemini.client import Client, Generation, open_client
from pipeline.gemini.endpoint import Endpoint

KEY = "AIzaNotARealKey-0123456789_abcdefghijkl"

End = Literal["keep", "close", "reset", "silence", "trickle"]
"""What the server does after the bytes of an answer: go on, close, reset, say nothing, or drip blanks."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """One request as the server read it."""

    path: str
    headers: Mapping[str, str]
    body: str

    @property
    def content(self) -> dict[str, object]:
        """The JSON body."""
        content: dict[str, object] = json.loads(self.body)
        return content


@dataclass(slots=True)
class Server:
    """Answers each request with the next bytes of the script, and keeps what arrived."""

    port: int = 0
    script: list[tuple[bytes, End]] = field(default_factory=list)
    arrived: list[Arrived] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The address to use as base URL."""
        return f"http://127.0.0.1:{self.port}"

    def will(
        self,
        body: str | bytes = b"",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        end: End = "keep",
    ) -> None:
        """Answer next with this body; any other `end` than `keep` comes before the promised length."""
        raw = body if isinstance(body, bytes) else body.encode()
        length = len(raw) + (0 if end == "keep" else 1_000_000)
        named = {"Content-Type": "application/json", "Content-Length": str(length), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        self.script.append((f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + raw, end))

    def will_say(self, raw: bytes, end: End) -> None:
        """Answer next with exactly these bytes."""
        self.script.append((raw, end))

    async def serve(self, stream: SocketStream) -> None:
        """Read the requests of one connection and follow the script."""
        async with stream:
            reader = BufferedByteReceiveStream(stream)
            while (arrived := await _request(reader)) is not None:
                self.arrived.append(arrived)
                raw, end = self.script.pop(0)
                await stream.send(raw)
                if end != "keep":
                    await _finish(stream, end)
                    break


async def _request(reader: BufferedByteReceiveStream) -> Arrived | None:
    try:
        raw = (await reader.receive_until(b"\r\n\r\n", 65_536)).decode("latin-1")
    except (anyio.IncompleteRead, anyio.BrokenResourceError):
        return None
    first, *lines = raw.split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.receive_exactly(int(headers.get("content-length", "0")))
    return Arrived(first.split(" ")[1], headers, body.decode())


async def _finish(stream: SocketStream, end: End) -> None:
    try:
        if end == "reset":
            linger = struct.pack("ii", 1, 0)
            stream.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif end == "silence":
            await stream.receive()  # until the client hangs up
        elif end == "trickle":
            while True:
                await stream.send(b" ")
                await anyio.sleep(0.01)
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return


@dataclass(frozen=True, slots=True)
class Asking:
    """What a test needs to ask: the server's endpoint, a generation, and ways to open a client."""

    endpoint: Endpoint
    generation: Generation

    def open(self, timeout_s: float = 5.0) -> AbstractAsyncContextManager[Client]:
        """Open a client for this endpoint."""
        return open_client(self.endpoint, self.generation, timeout_s=timeout_s, connections=4)

    async def once(self, text: str = "Is this a question?", timeout_s: float = 5.0) -> Reply | Failure:
        """Open a client, ask once, close."""
        async with self.open(timeout_s) as client:
            return await client.ask(question(text))


def question(text: str = "Is this a question?", most: int | None = 100) -> Request:
    """Return a request for one text."""
    return Request(id=bytes(16), text=text, max_output_tokens=most)


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio: the SDK's aiohttp transport knows nothing else."""
    return "asyncio"


@pytest.fixture
async def server(anyio_backend: str) -> AsyncIterator[Server]:
    """Run the server for one test."""
    scripted = Server()
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        scripted.port = listener.extra(SocketAttribute.local_port)
        tasks.start_soon(listener.serve, scripted.serve)
        yield scripted
        tasks.cancel_scope.cancel()


@pytest.fixture(params=["short way", "public call"])
def public_sdk(request: pytest.FixtureRequest) -> bool:
    """Ask in either way: what the client promises, it promises in both."""
    return bool(request.param == "public call")


@pytest.fixture
def asking(server: Server, public_sdk: bool) -> Asking:
    """Ask the server as the Developer API."""
    return Asking(replace(developer(server.url), public_sdk=public_sdk), generation())


@pytest.fixture
def ask_of() -> Callable[[Endpoint], Asking]:
    """Ask another endpoint."""
    return lambda endpoint: Asking(endpoint, generation())


@pytest.fixture
def key() -> str:
    """Return the key that must never be seen."""
    return KEY


def developer(base_url: str) -> Endpoint:
    """Return the Developer API at an address."""
    return Endpoint(KEY, base_url, vertex=False, project=None, location=None, api_version="v1beta")


def generation() -> Generation:
    """Return the settings of a small run."""
    schema: dict[str, object] = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
    }
    return Generation(
        model="gemini-3.1-flash-lite",
        system="Answer in one word.",
        json_schema=schema,
        thinking_level="minimal",
        thinking_budget=None,
        seed=7,
        temperature=None,
        safety=(("HARM_CATEGORY_HARASSMENT", "BLOCK_NONE"),),
    )
