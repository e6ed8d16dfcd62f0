"""A TCP proxy that plays the faults of a network between a client and an HTTP server, as it is told.

`Proxy` has a plan that names a fault for each request, and another for each connection; FAULTS and GREETINGS
hold the names, "" is none. `proxying` runs one in a thread of this process.
"""

import asyncio
import re
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

HOST = "127.0.0.1"
BITE_S = 1.0  # between two bytes that trickle
SLOW_S = 1.0  # to the first byte of a slow answer
LATE_S = 0.02  # until what comes after an answer
BREAK_S = 1.0  # for which nobody listens
END_S = 3.0  # in which all connections end with the proxy
LONGEST_HEAD = 2**16

_LENGTH = re.compile(rb"(?i)content-length: *(\d+)")
_PAGE = b"<!DOCTYPE html><html><head><title>Proxy</title></head><body><h1>Please log in</h1></body></html>"
_GONE = (OSError, asyncio.IncompleteReadError)

Plan: TypeAlias = Callable[[bytes], str]
"""From the body of a request to the name of a fault."""

Greeting: TypeAlias = Callable[[int], str]
"""From the number of a connection, from 1, to what happens to it before it is read."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request that was read, and the way back."""

    proxy: "Proxy"
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    raw: bytes

    async def answer(self) -> bytes:
        """Let the server behind answer."""
        return await self.proxy.forward(self.raw)

    async def send(self, raw: bytes) -> None:
        """Hand on bytes."""
        self.writer.write(raw)
        await self.writer.drain()

    async def silence(self) -> None:
        """Say nothing until the client hangs up."""
        while await self.reader.read(LONGEST_HEAD):
            pass


Fault: TypeAlias = Callable[[Exchange], Awaitable[bool]]
"""Plays a fault; says whether the connection goes on."""


async def _pass(one: Exchange) -> bool:
    await one.send(await one.answer())
    return True


async def _reset_before(one: Exchange) -> bool:
    reset(one.writer)
    return False


async def _reset_after(one: Exchange) -> bool:
    await one.answer()
    reset(one.writer)
    return False


async def _reset_body(one: Exchange) -> bool:
    await one.send(_half(await one.answer()))
    await asyncio.sleep(LATE_S)  # otherwise the reset overtakes it
    reset(one.writer)
    return False


async def _cut(one: Exchange) -> bool:
    await one.send(_half(await one.answer()))
    return False


async def _silent(one: Exchange) -> bool:
    await one.silence()
    return False


async def _lost(one: Exchange) -> bool:
    await one.answer()
    await one.silence()
    return False


async def _trickle(one: Exchange) -> bool:
    for byte in await one.answer():
        await one.send(bytes([byte]))
        await asyncio.sleep(BITE_S)
    return False


async def _slow(one: Exchange) -> bool:
    raw = await one.answer()
    await asyncio.sleep(SLOW_S)
    await one.send(raw)
    return True


async def _garbage(one: Exchange) -> bool:
    await one.send(bytes(range(256)) + b"\r\n\r\n")
    return True


async def _short(one: Exchange) -> bool:
    raw = await one.answer()
    await one.send(_promised(raw, len(_body(raw)) // 2))
    return True


async def _long(one: Exchange) -> bool:
    raw = await one.answer()
    await one.send(_promised(raw, len(_body(raw)) + 1_000))
    await one.silence()
    return False


async def _twice(one: Exchange) -> bool:
    raw = await one.answer()
    await one.send(raw + raw)
    return True


async def _twice_late(one: Exchange) -> bool:
    raw = await one.answer()
    await one.send(raw)
    await asyncio.sleep(LATE_S)
    await one.send(raw)
    return True


async def _idle_close(one: Exchange) -> bool:
    await _pass(one)
    await asyncio.sleep(LATE_S)
    return False


async def _break(one: Exchange) -> bool:
    one.proxy.away(BREAK_S)
    reset(one.writer)
    return False


def _page(status: int) -> Fault:
    """Return a fault that answers with a page of the proxy in the place of the server."""
    head = f"HTTP/1.1 {status} Proxy\r\nContent-Type: text/html\r\nContent-Length: {len(_PAGE)}\r\n\r\n"

    async def play(one: Exchange) -> bool:
        await one.send(head.encode() + _PAGE)
        return True

    return play


FAULTS: Final[Mapping[str, Fault]] = {
    "": _pass,
    "reset before": _reset_before,
    "reset after": _reset_after,
    "reset in body": _reset_body,
    "cut": _cut,
    "silent": _silent,
    "lost": _lost,
    "trickle": _trickle,
    "slow": _slow,
    "page 200": _page(200),
    "page 407": _page(407),
    "page 502": _page(502),
    "page 504": _page(504),
    "garbage": _garbage,
    "short length": _short,
    "long length": _long,
    "twice": _twice,
    "twice late": _twice_late,
    "idle close": _idle_close,
    "refused": _break,
}
"""What can happen to a request. Of `refused` that nobody listens for BREAK_S and all connections break."""

PAID: Final = frozenset(
    {"reset after", "reset in body", "cut", "lost", "trickle", "short length", "long length"}
)
"""Faults whose request was answered, and paid for, and whose answer does not arrive."""

GREETINGS: Final = frozenset({"deaf", "reset", "close", "speak"})
"""What can happen to a connection: never read, reset or closed at once, or greeted with another protocol."""


class Proxy:
    """Stands before the server at `upstream`; usable while `run` runs, from any thread."""

    def __init__(
        self,
        upstream: str,
        plan: Plan = lambda _body: "",
        *,
        greet: Greeting = lambda _number: "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        where = urlsplit(upstream)
        self._upstream = (where.hostname or HOST, where.port or 80)
        self.plan = plan
        self._greet = greet
        self._tls = tls
        self._tasks: set[asyncio.Task[Any]] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._spare: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._behind: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()
        self.port = 0
        self.connections = 0
        self.played: Counter[str] = Counter()

    @property
    def address(self) -> str:
        """The base URL of a client."""
        return f"{'http' if self._tls is None else 'https'}://{HOST}:{self.port}"

    async def run(self, ready: Callable[[], None]) -> None:
        """Listen until `stop`; `ready` is called once it does."""
        self._loop = asyncio.get_running_loop()
        await self._listen()
        ready()
        await self._end.wait()
        await self._hang_up()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_S)
        for writer in self._behind:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._behind), return_exceptions=True)

    def stop(self) -> None:
        """End `run`."""
        self._soon(self._end.set)

    def away(self, seconds: float | None) -> None:
        """Break all connections and let nobody listen for so long; for ever with None."""
        self._soon(lambda: self._task(self._away(seconds)))

    def back(self) -> None:
        """Listen again."""
        self._soon(lambda: self._task(self._listen()))

    async def forward(self, raw: bytes) -> bytes:
        """Return what the server behind answers to the bytes of a request."""
        reader, writer = self._spare.pop() if self._spare else await self._connected()
        writer.write(raw)
        answer = await _message(reader)
        self._spare.append((reader, writer))
        return answer

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self._upstream)
        self._behind.append(writer)
        return reader, writer

    def _soon(self, act: Callable[[], object]) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(act)

    def _task(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self) -> None:
        if self._server is None and not self._end.is_set():
            self._server = await asyncio.start_server(
                self._serve, HOST, self.port, limit=LONGEST_HEAD, ssl=self._tls, backlog=4_096
            )
            self.port = self._server.sockets[0].getsockname()[1]

    async def _away(self, seconds: float | None) -> None:
        await self._hang_up()
        if seconds is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), seconds)
            await self._listen()

    async def _hang_up(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        if (task := asyncio.current_task()) is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            with suppress(*_GONE):
                await self._talk(reader, writer)
        finally:
            self._open.discard(writer)
            writer.close()
            with suppress(*_GONE):
                await writer.wait_closed()  # otherwise a closed loop may be left with it

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = self._greet(self.connections)
        if greeting:
            self.played[greeting] += 1
            await _greeted(greeting, writer, self._end)
            return
        going = True
        while going:
            raw = await _message(reader)
            fault = self.plan(_body(raw))
            self.played[fault] += 1
            going = await FAULTS[fault](Exchange(self, reader, writer, raw))


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST instead of FIN."""
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _greeted(greeting: str, writer: asyncio.StreamWriter, end: asyncio.Event) -> None:
    match greeting:
        case "deaf":
            transport = writer.transport
            if isinstance(transport, asyncio.ReadTransport):
                transport.pause_reading()
            await end.wait()
        case "reset":
            reset(writer)
        case "speak":
            writer.write(b"SSH-2.0-proxy\r\n")
            await writer.drain()
        case "close":
            pass
        case _:
            raise ValueError(f"`{greeting}` is not one of {', '.join(sorted(GREETINGS))}")


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Read one request or answer; the length of its body has to stand in its head."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return head + await reader.readexactly(int(length[1]) if length else 0)


def _body(raw: bytes) -> bytes:
    return raw.partition(b"\r\n\r\n")[2]


def _half(raw: bytes) -> bytes:
    """Return the head and half of the body."""
    body = _body(raw)
    return raw[: len(raw) - len(body) + len(body) // 2]


def _promised(raw: bytes, length: int) -> bytes:
    return _LENGTH.sub(b"content-length: %d" % length, raw, count=1)


@contextmanager
def proxying(proxy: Proxy) -> Iterator[Proxy]:
    """Run a proxy in a thread for the time of the block."""
    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(proxy.run(ready.set)), daemon=True)
    thread.start()
    if not ready.wait(10):
        raise RuntimeError("the proxy does not listen")
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join(10)
