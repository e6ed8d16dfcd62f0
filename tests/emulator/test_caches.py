"""Context caches with a clock of our own: their end, what their storage costs, and what they go with."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from pipeline.emulator import Settings
from pipeline.emulator.caches import Caches
from pipeline.emulator.wire import Call, Refused, Route, read_request
from tests.emulator.conftest import asking

LONG = " ".join(f"rule {number} says to be fair and short" for number in range(300))
FLASH, LITE = (
    Route("v1", f"models/{m}", m, "", cloud=False) for m in ("gemini-3.1-flash-lite", "gemini-2.5-flash-lite")
)


@dataclass
class Room:
    """Caches whose clock is `wall`."""

    settings: Settings = field(default_factory=lambda: Settings(tier="paid"))
    wall: float = 1_795_000_000.0
    caches: Caches = field(init=False)

    def __post_init__(self) -> None:
        self.caches = Caches(self.settings, lambda: self.wall)

    def create(self, text: str = LONG, model: str = FLASH.name, **told: Any) -> str:
        """Keep a text as instructions; return the name."""
        return self.caches.create(
            {"model": model, "systemInstruction": {"parts": [{"text": text}]}} | told
        ).name

    def status(self, call: Call, where: Route) -> int:
        """Return how a call that wants a cache is refused."""
        with pytest.raises(Refused) as caught:
            self.caches.recall(call, where)
        return caught.value.answer.status


def with_cache(name: str) -> Call:
    """Return a request that builds on a cache."""
    return read_request(asking("Review: good") | {"cachedContent": name})


def test_a_cache_lasts_an_hour_and_storage_is_paid_for_it() -> None:
    """Tokens times the seconds that it was there, no matter when somebody looks."""
    room = Room()
    name = room.create()
    tokens = room.caches.get(name).call.tokens
    room.wall += 600
    assert room.caches.token_seconds == pytest.approx(tokens * 600)
    room.wall += 9_000
    assert room.caches.token_seconds == pytest.approx(tokens * 3_600)
    assert room.status(with_cache(name), FLASH) == 403


def test_a_deleted_cache_is_paid_until_then() -> None:
    """The rest of its hour is not."""
    room = Room()
    name = room.create(ttl="7200s")
    tokens = room.caches.get(name).call.tokens
    room.wall += 60
    room.caches.delete(name)
    room.wall += 60
    assert room.caches.token_seconds == pytest.approx(tokens * 60)


def test_storage_counts_from_a_restart_on() -> None:
    """The caches themselves stay."""
    room = Room()
    name = room.create()
    room.wall += 60
    room.caches.restart()
    room.wall += 10
    assert room.caches.token_seconds == pytest.approx(room.caches.get(name).call.tokens * 10)


def test_an_end_can_be_said_as_a_time() -> None:
    """At creation and later; nothing else can change."""
    room = Room()
    name = room.create(expireTime="2026-11-20T00:00:00Z")
    room.caches.update(name, {"expire_time": "2026-11-21T00:00:00.5Z"})
    assert room.caches.get(name).as_json()["expireTime"] == "2026-11-21T00:00:00.500000000Z"
    with pytest.raises(Refused):
        room.caches.update(name, {"contents": []})


def test_a_cache_belongs_to_a_model_and_brings_the_instructions() -> None:
    """Another model is refused, and so are instructions beside it."""
    room = Room()
    name = room.create()
    assert room.status(with_cache(name), LITE) == 400
    body = asking("x") | {"cachedContent": name, "systemInstruction": {"parts": [{"text": "y"}]}}
    assert room.status(read_request(body), FLASH) == 400
    call = room.caches.recall(with_cache(name), FLASH)
    assert call.prompt == f"{LONG}\nReview: good"
    assert (call.cached, call.last) == (room.caches.get(name).call.tokens, "Review: good")


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({"model": "models/gemini-x"}, 404),
        ({"contents": [], "systemInstruction": None}, 400),
        ({"ttl": "an hour"}, 400),
        ({"ttll": "1s"}, 400),
    ],
)
def test_a_wrong_cache_is_refused(told: dict[str, Any], status: int) -> None:
    """As the API refuses it."""
    with pytest.raises(Refused) as caught:
        Room().create(**told)
    assert caught.value.answer.status == status


def test_2_5_wants_more_tokens() -> None:
    """Its minimum is twice that of the others."""
    text = LONG[: len(LONG) // 2]
    assert Room().create(text)
    with pytest.raises(Refused) as caught:
        Room().create(text, LITE.name)
    assert b"min_total_token_count=2048" in caught.value.answer.body


def test_a_start_is_shared_within_a_model_and_from_a_size_on() -> None:
    """Neither another model nor a short start is cached."""
    room = Room(Settings(implicit_cache=1024))
    calls = [read_request(asking(text)) for text in (f"{LONG} a", f"{LONG} b", "short a", "short b")]
    cached = [room.caches.recall(call, FLASH).cached for call in calls]
    assert [bool(tokens) for tokens in cached] == [False, True, False, False]
    assert room.caches.recall(calls[1], LITE).cached == 0
