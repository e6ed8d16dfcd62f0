"""What the emulator's tests share: an emulator in this process with clocks of our own, and requests."""

import json
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from pipeline.emulator import Settings, create_app
from pipeline.emulator.app import App
from tests.conftest import Emulator, emulating

MODEL = "gemini-3.1-flash-lite"
PATH = f"/v1beta/models/{MODEL}:generateContent"
LABELS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "enum": ["positive", "negative", "neutral"]},
        "reason": {"type": "string"},
    },
    "required": ["label", "reason"],
}

QUICK: dict[str, Any] = {
    "faults": [],
    "batch_wait": 0,
    "batch_work": 0,
    "batch_expiry": 172_800,
    "batch_lag": 0,
    "batch_jobs": 100,
    "batch_tokens": None,
    "storage": 2**30,
    "cancel_keeps": True,
    "implicit_cache": None,
}
"""The settings with which a shared emulator begins each test."""


def asking(text: str = "good", schema: dict[str, Any] | None = None, **config: object) -> dict[str, Any]:
    """Return the body of a request; with a schema it wants JSON."""
    if schema is not None:
        config |= {"responseMimeType": "application/json", "responseJsonSchema": schema}
    body: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": text}]}]}
    return body | ({"generationConfig": config} if config else {})


@dataclass(frozen=True)
class Got:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.content)

    @property
    def text(self) -> str:
        """What the model said."""
        said: str = self.json["candidates"][0]["content"]["parts"][0]["text"]
        return said

    @property
    def message(self) -> str:
        """What an error says."""
        said: str = self.json["error"]["message"]
        return said


@dataclass
class Desk:
    """An emulator called without a socket; `now` and `wall` are its clocks."""

    settings: Settings
    now: float = 1000.0
    wall: float = 1_795_000_000.0
    app: App = field(init=False)

    def __post_init__(self) -> None:
        self.app = create_app(self.settings, lambda: self.now, lambda: self.wall)

    async def ask(
        self,
        body: object = None,
        path: str = PATH,
        key: str | None = "key",
        *,
        method: str = "POST",
        header: str = "x-goog-api-key",
    ) -> Got:
        """Send one request; without a body, a good one."""
        sent: list[MutableMapping[str, Any]] = []
        content = body if isinstance(body, bytes) else json.dumps(asking() if body is None else body).encode()

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": content}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        headers = [] if key is None else [(header.encode(), key.encode())]
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        await self.app(scope, receive, send)
        told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Got(sent[0]["status"], told, b"".join(part["body"] for part in sent[1:]))

    async def stats(self) -> dict[str, Any]:
        """Return what it has counted."""
        got = await self.ask(path="/emulator/stats", method="GET")
        counted: dict[str, Any] = got.json
        return counted


async def live(app: App) -> None:
    """Start an emulator as a server does, and end it."""
    stages = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": next(stages)}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as the server does."""
    return "asyncio"


@pytest.fixture(scope="module")
def shared() -> Iterator[Emulator]:
    """Return an emulator for the whole module."""
    with emulating("--tier", "paid") as running:
        yield running


@pytest.fixture
def emulator(shared: Emulator) -> Emulator:
    """Return it with its first settings and counts."""
    shared.change(**QUICK)
    shared.reset()
    return shared
