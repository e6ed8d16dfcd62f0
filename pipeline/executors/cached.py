"""Requests whose long instruction lies in a cache of the API, for as long as that pays.

The first requests carry the instruction themselves; they tell how fast the run is. From there on the cache is
made as soon as it is known to pay, kept by short times to live while requests use it, and deleted at the end:
what a killed process leaves behind ends by itself within minutes, or is found again by its name. Storage is
borne by the replies, each for the time since the one before it, so that the costs of rows add up to those of
the run. Whatever the API refuses about a cache, no row fails of it: its request goes out once more without.
"""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final

import anyio

from pipeline.caching import FIRST, break_even, gain_usd, storage_pico
from pipeline.executors.courier import Client
from pipeline.flow import Failure, FailureKind, Reply, Request
from pipeline.gemini.caches import Cache, Caches
from pipeline.models import Price
from pipeline.rates import PICO
from pipeline.retry import OUTAGE, is_of_cache

TTL: Final = 300.0
RENEW: Final = 120.0  # seconds left from which on it is kept for longer
AHEAD: Final = 5.0  # seconds of storage borne beyond a reply: after the last one the cache is deleted
PAUSE: Final = 30.0  # seconds before something that failed for the moment is tried again
LOSSES: Final = 2  # caches that may vanish before no other is made
CLOSE_S: Final = 10.0

USED = (
    "the instruction ({tokens:,} tokens) was cached: {uses:,} requests read it there for ${saved:,.4f} less, "
    "its storage cost ${stored:,.6f}; that pays from {rate:.1f} requests an hour on"
)
UNUSED = (
    "the instruction (about {tokens:,} tokens) was not cached: that pays from {rate:.1f} requests an hour "
    "on, and this run had too few left"
)
UNABLE = "the instruction was sent with each request, since the API does not cache it: {why}"
LEFT = "a cache of the instruction could not be deleted, it is billed for up to {ttl:.0f} s more: {why}"


@dataclass(frozen=True, slots=True)
class Instruction:
    """What is cached: the instruction, for a model, under a name of the job's own, at the price of its tier.

    `tokens` is an estimate, `since` the Unix time until which replies of earlier runs have borne the storage,
    `uses` says how many requests are still to come.
    """

    model: str
    system: str
    display_name: str
    tokens: int
    price: Price
    since: float
    uses: Callable[[], float]


@dataclass(slots=True)
class _Held:
    """A cache in use, the client whose requests name it, and what of its storage is borne already."""

    cache: Cache
    client: Client
    from_: float
    expires: float
    borne: int = 0


class CachingClient:
    """Asks with the instruction or with the name of its cache; many tasks share one."""

    def __init__(
        self,
        plain: Client,
        caches: Caches,
        opens: Callable[[str], AbstractAsyncContextManager[Client]],
        instruction: Instruction,
    ) -> None:
        self.notes: list[str] = []
        self._plain, self._caches, self._opens, self._instruction = plain, caches, opens, instruction
        self._held: _Held | None = None
        self._name: str | None = None  # of the cache that is to be deleted in the end
        self._open = AsyncExitStack()
        self._since = instruction.since
        self._owed = 0  # picodollars that the next reply has to bear
        self._busy = False
        self._next = 0.0  # when something may be tried again
        self._losses = 0
        self._off = break_even(instruction.price) is None
        self._began, self._replies, self._already = 0.0, 0, 0
        self._tokens, self._uses, self._stored = instruction.tokens, 0, 0

    async def ask(self, request: Request) -> Reply | Failure:
        """Return the answer to one request, or why there is none; CACHE where only the cache was missing."""
        held = await self._ready()
        if held is None:
            answer = await self._plain.ask(request)
            return self._learned(answer) if isinstance(answer, Reply) else answer
        answer = await held.client.ask(request)
        if isinstance(answer, Reply):
            self._uses += 1
            self._bear(held, time.time() + AHEAD)
            return self._charged(answer)
        if is_of_cache(answer):
            self._lose(held)
            return replace(answer, kind=FailureKind.CACHE, retry_after=None)
        return answer

    def less(self) -> float:
        """Return by how many USD a request costs less that leaves now; see `executors.purse`."""
        held, price = self._held, self._instruction.price
        there = held is not None and held.expires > time.time()
        return self._tokens * (price.input - price.cached) / 1e6 if there else 0.0

    async def aclose(self) -> None:
        """Delete the cache, and say what came of it."""
        self._held = None
        with anyio.move_on_after(CLOSE_S, shield=True):
            if self._name is not None and (failure := await self._caches.delete(self._name)) is not None:
                self.notes.append(LEFT.format(ttl=TTL, why=failure.message))
            await self._open.aclose()
        price = self._instruction.price
        rate = break_even(price)
        if self._uses:
            saved = self._uses * self._tokens * (price.input - price.cached) / 1e6
            said = USED.format(
                tokens=self._tokens, uses=self._uses, saved=saved, stored=self._stored / PICO, rate=rate
            )
            self.notes.append(said)
        elif not self._off and self._replies:
            self.notes.append(UNUSED.format(tokens=self._tokens, rate=rate))

    async def _ready(self) -> _Held | None:
        """Return the cache to use, after making or keeping one where it is time to."""
        now = time.time()
        if self._held is not None and self._held.expires <= now:
            self._bear(self._held, self._held.expires)  # a long pause
            self._held = self._name = None
        if not (self._busy or self._off or now < self._next):
            self._busy = True
            try:
                if self._held is None and self._pays(now):
                    await self._make()
                elif self._held is not None and self._held.expires - now < RENEW:
                    await self._keep(self._held)
            finally:
                self._busy = False
        return self._held

    def _pays(self, now: float) -> bool:
        """Tell whether a cache saves more than it costs, if the run goes on as it has begun."""
        if self._replies < FIRST:
            return False
        uses = self._instruction.uses()
        hours = uses * (now - self._began) / self._replies / 3600
        already = self._already / self._replies
        return gain_usd(self._instruction.price, self._tokens, uses, hours, already=already) > 0

    async def _make(self) -> None:
        """Find the cache of an earlier run that was killed, or create one."""
        now = time.time()
        found = await self._caches.find(self._instruction.display_name)
        since = now
        if isinstance(found, Cache):
            since = max(found.created, min(self._since, now))
            found = await self._caches.extend(found.name, TTL)
        if found is None or (isinstance(found, Failure) and found.kind is FailureKind.CACHE):
            since, instruction = now, self._instruction
            found = await self._caches.create(
                instruction.model, instruction.system, display_name=instruction.display_name, ttl=TTL
            )
        if isinstance(found, Failure):
            self._next = now + PAUSE
            if found.kind not in OUTAGE:
                self._off = True
                self.notes.append(UNABLE.format(why=found.message))
            return
        self._tokens, self._name = found.tokens or self._tokens, found.name
        client = await self._open.enter_async_context(self._opens(found.name))
        self._held = _Held(found, client, from_=since, expires=now + TTL)

    async def _keep(self, held: _Held) -> None:
        now = time.time()
        kept = await self._caches.extend(held.cache.name, TTL)
        if isinstance(kept, Cache):
            held.expires = now + TTL
        elif is_of_cache(kept):
            self._lose(held)
        else:
            self._next = now + PAUSE

    def _lose(self, held: _Held) -> None:
        """Go on without a cache that is gone; several requests may find that out at once."""
        if self._held is not held:
            return
        self._held = self._name = None
        self._losses += 1
        self._off = self._losses >= LOSSES

    def _learned(self, reply: Reply) -> Reply:
        self._began = self._began or time.time() - reply.seconds
        self._replies += 1
        self._already += reply.usage.cached
        return self._charged(reply)

    def _bear(self, held: _Held, until: float) -> None:
        """Take on the storage from where it was borne last until then."""
        self._since = max(self._since, min(until, held.expires))
        whole = storage_pico(self._instruction.price, self._tokens, max(0.0, self._since - held.from_))
        due = max(0, whole - held.borne)
        held.borne += due
        self._owed += due

    def _charged(self, reply: Reply) -> Reply:
        """Return a reply that bears what is owed for storage."""
        due, self._owed = self._owed, 0
        self._stored += due
        return replace(reply, stored=due) if due else reply
