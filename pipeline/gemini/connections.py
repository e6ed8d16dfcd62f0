"""Connections on which no request gets what was sent for another.

HTTP/1.1 tells answers apart by their order alone. A proxy that sends an answer twice leaves bytes behind that
aiohttp would hand to the next request of a kept connection: a valid answer, to another row. So a connection
on which something arrived unasked is not used again, and an answer with the id of the one before it on the
same connection is not believed.
"""

import re
from contextvars import ContextVar
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

_ID = re.compile(r'"responseId"\s*:\s*"([^"]+)"')
_USED: ContextVar[ResponseHandler] = ContextVar("connection of the task's last request")


class SpokeUnaskedError(aiohttp.ClientConnectionError):
    """A kept connection held bytes that no request had asked for; nothing was sent on it."""

    def __init__(self) -> None:
        super().__init__("the connection held an answer that nobody had asked for")


class Connector(aiohttp.TCPConnector):
    """TCP connections that are checked before each use, and remember the last answer on them."""

    def __init__(self, *, limit: int) -> None:
        super().__init__(limit=limit)
        self._last: WeakKeyDictionary[ResponseHandler, tuple[str, str]] = WeakKeyDictionary()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Return a connection on which nothing waits; raises SpokeUnaskedError where something does."""
        connection = await super().connect(req, traces, timeout)
        protocol = connection.protocol
        if protocol is None or protocol.should_close:
            connection.close()
            raise SpokeUnaskedError
        _USED.set(protocol)
        return connection

    def repeats(self, body: str, text: str) -> bool:
        """Tell whether the body that this task got for `text` was the answer to another text before.

        A connection on which an answer came twice is closed: the true answer is still to come there.
        """
        found, protocol = _ID.search(body), _USED.get(None)
        if found is None or protocol is None:
            return False
        before = self._last.get(protocol)
        self._last[protocol] = (found[1], text)
        if before is None or before[0] != found[1]:
            return False
        protocol.close()
        return before[1] != text
