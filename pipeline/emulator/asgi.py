"""Sending answers over ASGI, whole, in pieces or broken off."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from pipeline.emulator.bodies import Answer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CONNECTION = "connection"
"""Under this name a scope's state holds the transport, so that faults can break it."""

MARK = (b"x-rowmill-emulator", secrets.token_hex(8).encode())
"""Every answer has it: nobody takes an answer of rules for one of a model.

It names the process, since jobs, files and caches end with that: who was given some knows an emulator that
was started again at the same address.
"""

_PIECES = 10  # a trickled body comes in this many


async def content(receive: Receive) -> bytes:
    """Return the whole body of a request; what came of it where the client left early."""
    return b"".join([piece async for piece in pieces(receive)])


async def pieces(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the body of a request as it comes."""
    while True:
        message = await receive()
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


async def send_whole(send: Send, answer: Answer) -> None:
    """Send an answer."""
    await start(send, answer)
    await send({"type": "http.response.body", "body": answer.body})


async def start(send: Send, answer: Answer, size: int | None = None) -> None:
    """Send status and headers; `size` is that of the body where the answer does not hold it."""
    length = len(answer.body) if size is None else size
    told = [
        (b"content-type", answer.content_type),
        (b"content-length", str(length).encode()),
        MARK,
        *answer.headers,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": told})


async def trickle(send: Send, answer: Answer, seconds: float) -> None:
    """Send the body in pieces over a time: each wait of the client is short, the whole is long."""
    await start(send, answer)
    size = -(-len(answer.body) // _PIECES)
    for begin in range(0, len(answer.body), size):
        piece = answer.body[begin : begin + size]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await anyio.sleep(seconds / _PIECES)
    await send({"type": "http.response.body", "body": b""})


async def half(send: Send, answer: Answer) -> None:
    """Send the first half of an answer; the rest is never sent."""
    await start(send, answer)
    body = answer.body[: len(answer.body) // 2]
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await checkpoint()


async def part(scope: Scope, receive: Receive, kind: str) -> None:
    """Wait until the client leaves (`hang`), or break the connection (`cut`, `reset`) and see it gone."""
    if kind != "hang":
        connection = scope.get("state", {}).get(CONNECTION)
        if connection is None:
            raise ConnectionResetError("the emulator breaks the connection")
        if kind == "cut":
            connection.close()
        else:
            connection.abort()
    while (await receive())["type"] != "http.disconnect":
        pass
