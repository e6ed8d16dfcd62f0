"""Context caches: contents that several requests share, kept for their time to live and paid by it.

Without a cache of its own, a request whose start equals that of an earlier one may find it cached as well,
which the API does by itself and promises nothing about; here it happens from a set number of tokens on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from pipeline.emulator import bodies
from pipeline.emulator.files import new_id
from pipeline.emulator.settings import Settings
from pipeline.emulator.times import moment, seconds, stamp
from pipeline.emulator.tokens import count_tokens
from pipeline.emulator.wire import Call, Refused, Route, fields, known, read_request

_TTL_S = 3600.0
_LEAST = 1024
_LEAST_OF = {"gemini-2.5-flash-lite": 2048}
_BLOCK = 512  # characters by which the starts of prompts are compared
_MOST_STARTS = 100_000
_CREATE = known(
    "name model displayName contents systemInstruction tools toolConfig ttl expireTime usageMetadata"
    " createTime updateTime"
)
_CONTENT_FIELDS = ("contents", "systemInstruction", "tools", "toolConfig")


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache; times are Unix time. `call` is its content, read as a request."""

    name: str
    model: str
    display: str
    call: Call
    created: float
    updated: float
    expires: float

    def as_json(self) -> dict[str, Any]:
        """Return the resource, which does not tell the content."""
        told: dict[str, Any] = {"name": self.name, "model": f"models/{self.model}"}
        told |= {"createTime": stamp(self.created), "updateTime": stamp(self.updated)}
        told |= {"expireTime": stamp(self.expires), "displayName": self.display}
        return told | {"usageMetadata": {"totalTokenCount": self.call.tokens}}


class Caches:
    """All context caches of one emulator. Every refusal is raised as Refused."""

    def __init__(self, settings: Settings, wall: Callable[[], float]) -> None:
        self._settings, self._wall = settings, wall
        self._caches: dict[str, Cache] = {}
        self._starts: dict[bytes, None] = {}
        self._stored = 0.0

    def change(self, settings: Settings) -> None:
        """Go on with other settings."""
        self._settings = settings

    def restart(self) -> None:
        """Count storage from zero, and forget the starts of prompts; caches stay."""
        now = self._wall()
        self._starts.clear()
        self._stored = -sum(_paid(cache, now) for cache in self._caches.values())

    @property
    def token_seconds(self) -> float:
        """What has been stored until now: tokens times seconds."""
        self._forget()
        now = self._wall()
        return self._stored + sum(_paid(cache, now) for cache in list(self._caches.values()))

    def create(self, content: object) -> Cache:
        """Keep a content."""
        told = fields(content, _CREATE, "cached_content")
        model = str(told.get("model") or "").removeprefix("models/")
        if model not in self._settings.models:
            raise Refused(bodies.model_not_found(f"models/{model}", "v1beta", "createCachedContent"))
        call = _call(told)
        if self._settings.tier == "free":
            raise Refused(bodies.no_cache_on_free_tier(model, call.tokens))
        least = _LEAST_OF.get(model, _LEAST)
        if call.tokens < least:
            raise Refused(bodies.cache_too_small(call.tokens, least))
        now = self._wall()
        name, display = f"cachedContents/{new_id(24)}", str(told.get("displayName") or "")
        cache = Cache(name, model, display, call, now, now, _expiry(told, now) or now + _TTL_S)
        self._caches[name] = cache
        return cache

    def get(self, name: str) -> Cache:
        """Return a cache; one that has expired is not there."""
        self._forget()
        cache = self._caches.get(name)  # at once: lines of batches are answered in another thread
        if cache is None:
            raise Refused(bodies.no_cache())
        return cache

    def update(self, name: str, content: object) -> Cache:
        """Give a cache another end; nothing else of it can change."""
        cache = self.get(name)
        told = fields(content, _CREATE, "cached_content")
        now = self._wall()
        expires = _expiry(told, now)
        if expires is None or any(field in told for field in _CONTENT_FIELDS):
            raise Refused(bodies.invalid(bodies.INVALID))
        self._caches[name] = replace(cache, updated=now, expires=expires)
        return self._caches[name]

    def delete(self, name: str) -> None:
        """Delete a cache; its storage is paid until now."""
        self._drop(self.get(name), self._wall())

    def all(self) -> list[Cache]:
        """Return all caches, newest first."""
        self._forget()
        return list(reversed(self._caches.values()))

    def recall(self, call: Call, where: Route) -> Call:
        """Return a call together with what it takes from a cache."""
        if call.cache:
            return self._joined(call, where)
        least = self._settings.implicit_cache
        return call if least is None else self._found(call, where, least)

    def _joined(self, call: Call, where: Route) -> Call:
        cache = self.get(call.cache)
        if call.fixed:
            raise Refused(bodies.invalid(bodies.CACHE_AND_SYSTEM))
        if cache.model != where.model:
            raise Refused(bodies.invalid(bodies.other_model(where.model, cache.model)))
        kept = cache.call
        return replace(
            call,
            prompt=f"{kept.prompt}\n{call.prompt}",
            tokens=kept.tokens + call.tokens,
            media=kept.media + call.media,
            cached=kept.tokens,
        )

    def _found(self, call: Call, where: Route, least: int) -> Call:
        """Count the longest start of a prompt that an earlier one had, and remember all of its own."""
        chain, seen = blake2b(where.model.encode(), digest_size=16), 0
        for end in range(_BLOCK, len(call.prompt) + 1, _BLOCK):
            chain.update(call.prompt[end - _BLOCK : end].encode("utf-8", "surrogatepass"))
            mark = chain.digest()
            if mark in self._starts:
                seen = end
            elif len(self._starts) < _MOST_STARTS:
                self._starts[mark] = None
        tokens = min(count_tokens(call.prompt[:seen]), call.tokens)
        return replace(call, cached=tokens) if tokens >= least else call

    def _forget(self) -> None:
        now = self._wall()
        for cache in [cache for cache in list(self._caches.values()) if cache.expires <= now]:
            self._drop(cache, cache.expires)

    def _drop(self, cache: Cache, end: float) -> None:
        if self._caches.pop(cache.name, None) is not None:
            self._stored += _paid(cache, end)


def _paid(cache: Cache, now: float) -> float:
    return cache.call.tokens * (min(now, cache.expires) - cache.created)


def _call(told: dict[str, Any]) -> Call:
    """Read the content of a cache as a request; it may consist of instructions alone."""
    content = {name: told[name] for name in _CONTENT_FIELDS if name in told}
    if content.get("contents"):
        return read_request(content)
    if content.get("systemInstruction") is None:
        raise Refused(bodies.invalid("* CreateCachedContentRequest.contents: contents is not specified\n"))
    return read_request({"contents": [content["systemInstruction"]]})


def _expiry(told: dict[str, Any], now: float) -> float | None:
    """Return when a cache ends, as it was said; None where nothing was."""
    try:
        if told.get("ttl") is not None:
            return now + seconds(str(told["ttl"]))
        return None if told.get("expireTime") is None else moment(str(told["expireTime"]))
    except ValueError:
        raise Refused(bodies.invalid(bodies.INVALID)) from None
