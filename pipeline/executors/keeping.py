"""The cache that lines of batches name in place of their instruction: made, kept, borne, deleted.

It is made for minutes, before the first line that names it is written; kept for as long as a job may take,
just before that job is created, since nobody may be there to keep it meanwhile; and deleted before the lines
of the last job that names it are taken away. So whenever a process is killed, either an open batch leads to
the cache or it ends within minutes. Its storage is borne by the answers of batches, each for the time since
those before.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import anyio

from pipeline.batch import ASKING, Batch
from pipeline.caching import BATCH_HOURS, storage_pico, uses_to_pay
from pipeline.executors.cached import AHEAD, CLOSE_S, LOSSES, UNABLE
from pipeline.flow import Failure
from pipeline.gemini.caches import Cache, Caches
from pipeline.models import Price
from pipeline.rates import PICO
from pipeline.retry import OUTAGE, is_of_cache
from pipeline.store.batches import Kept, Table

SHORT: Final = 600.0  # seconds until the job that names it is created
LONG: Final = 49 * 3_600.0  # the API gives up a job after 48 hours
SLACK: Final = 600.0  # seconds of that which may be missing
HOUR: Final = 3_600.0
PAUSES: Final = (1.0, 3.0)  # seconds between tries

USED = (
    "the instruction ({tokens:,} tokens) was cached for batches: {uses:,} requests read it there for "
    "${saved:,.4f} less, its storage cost ${stored:,.6f}"
)
LEFT = "a cache of the instruction could not be deleted, it is billed until {until}: {why}"

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Terms:
    """What may be cached: the instruction, for a model, under a name of the job's own.

    `price` is that of a batch, None costs nothing; `since` tells until when replies of earlier runs have
    borne the storage of a cache with that name. Only where it is `wanted` is one made.
    """

    model: str
    system: str
    display_name: str
    price: Price | None
    since: Callable[[], float]
    wanted: bool


class Keeping:
    """Keeps the cache of one job's instruction. One task uses it at a time. Its methods raise StoreError."""

    def __init__(self, caches: Caches, table: Table, terms: Terms, notes: list[str]) -> None:
        self._caches, self._table, self._terms, self._notes = caches, table, terms, notes
        self._need = None if terms.price is None else uses_to_pay(terms.price, BATCH_HOURS)
        self._off = not terms.wanted
        self._losses = 0
        self._tokens, self._uses, self._stored = 0, 0, 0

    @property
    def need(self) -> int | None:
        """How many lines have to name a cache so that it pays; 0 where there is one, None to do without."""
        if self._off or self._need is None:
            return None
        return self._need if self._live() is None else 0

    async def name(self) -> str:
        """Return the name of a cache that is there, made where none is; empty where that is not possible."""
        kept = self._live()
        if kept is not None and await self._lasts(kept, SHORT / 2, SHORT):
            return kept.name
        if self._off:
            return ""
        made = await _tried(self._made)
        if isinstance(made, Kept):
            return made.name
        if made.kind not in OUTAGE:
            self._off = True
            self._notes.append(UNABLE.format(why=made.message))
        return ""

    async def covers(self, batch: Batch) -> bool:
        """Make the cache of a batch last for as long as its job may take; False where it is gone."""
        kept = self._kept(batch.cache)
        return kept is not None and await self._lasts(kept, LONG - SLACK, LONG)

    def lose(self, name: str) -> None:
        """Name a cache in no other line; after two such losses no other is made."""
        kept = self._kept(name)
        if kept is not None and kept.expires > time.time():
            self._table.keep(kept._replace(expires=time.time()))
            self._losses += 1
            self._off = self._off or self._losses >= LOSSES

    def charged(self, batch: Batch) -> Batch:
        """Return a batch that bears the storage since the last that did; one with results does so once."""
        kept = self._kept(batch.cache)
        if kept is None or self._terms.price is None or batch.stored or not batch.results:
            return batch
        until = max(kept.borne, min(time.time() + AHEAD, kept.expires))
        stored = storage_pico(self._terms.price, kept.tokens, until - kept.borne)
        self._tokens, self._stored = kept.tokens, self._stored + stored
        bearing = replace(batch, stored=stored)
        self._table.bear(bearing, kept._replace(borne=until))
        return bearing

    def unborne(self, batch: Batch) -> Batch:
        """Leave to the next batch what this one was to bear, since it has no answer that could."""
        kept = self._kept(batch.cache)
        if kept is None or self._terms.price is None or not batch.stored:
            return batch
        rent = storage_pico(self._terms.price, kept.tokens, HOUR)  # 0 where the price has come to be that
        seconds = batch.stored / rent * HOUR if rent else 0.0
        self._stored = max(0, self._stored - batch.stored)  # an earlier run may have counted it
        bare = replace(batch, stored=0)
        self._table.bear(bare, kept._replace(borne=kept.borne - seconds))
        return bare

    def used(self, uses: int) -> None:
        """Count answers that have read the instruction from a cache."""
        self._uses += uses

    async def sweep(self, done: int = 0) -> None:
        """Delete what no open batch names but the one with the number `done`."""
        named = self._named(done)
        for kept in self._table.caches():
            if kept.name not in named:
                await self._delete(kept)

    async def close(self) -> None:
        """Delete what no batch needs any more, and say what came of it."""
        with anyio.move_on_after(CLOSE_S, shield=True):
            await self.sweep()
        for kept in self._table.caches():
            if kept.expires > time.time() and kept.name not in self._named():
                self._notes.append(left(kept, "the API did not answer"))
        price = self._terms.price
        if self._uses and price is not None:
            saved = self._uses * self._tokens * (price.input - price.cached) / 1e6
            said = USED.format(tokens=self._tokens, uses=self._uses, saved=saved, stored=self._stored / PICO)
            self._notes.append(said)

    def _named(self, done: int = 0) -> set[str]:
        """Return the caches that open batches name."""
        return {one.cache for one in self._table.open() if one.stage in ASKING and one.number != done}

    def _kept(self, name: str) -> Kept | None:
        return next((kept for kept in self._table.caches() if name and kept.name == name), None)

    def _live(self) -> Kept | None:
        """Return the cache that new lines may name."""
        display, now = self._terms.display_name, time.time()
        there = (one for one in self._table.caches() if one.display == display and one.expires > now)
        return next(there, None)

    async def _lasts(self, kept: Kept, least: float, ttl: float) -> bool:
        """Keep a cache for `ttl` where less than `least` seconds are left; what cannot be kept is lost."""
        now = time.time()
        if kept.expires - now >= least:
            return True
        found = await _tried(lambda: self._caches.extend(kept.name, ttl)) if kept.expires > now else None
        if isinstance(found, Cache):
            self._table.keep(kept._replace(expires=now + ttl))
            return True
        self.lose(kept.name)
        return False

    async def _made(self) -> Kept | Failure:
        """Find the cache that a killed run has made, or create one; write it down."""
        now, terms = time.time(), self._terms
        lost = {kept.name for kept in self._table.caches()}
        found = await self._caches.find(terms.display_name)
        since = now
        if isinstance(found, Cache) and found.name not in lost:
            since = max(found.created, min(terms.since(), now))
            found = await self._caches.extend(found.name, SHORT)
        else:
            found = None if isinstance(found, Cache) else found
        if found is None or (isinstance(found, Failure) and is_of_cache(found)):
            since = now
            found = await self._caches.create(
                terms.model, terms.system, display_name=terms.display_name, ttl=SHORT
            )
        if isinstance(found, Failure):
            return found
        kept = Kept(found.name, terms.display_name, found.tokens, now + SHORT, since)
        self._table.keep(kept)
        return kept

    async def _delete(self, kept: Kept) -> None:
        """Delete a cache and forget it; one that cannot be deleted is tried again with the next sweep."""
        failure = await _tried(lambda: self._caches.delete(kept.name))
        if failure is None or is_of_cache(failure):
            self._table.forget(kept.name)


async def _tried(call: Callable[[], Awaitable[Found | Failure]]) -> Found | Failure:
    """Return what a call gives, again after a fault that passes."""
    for pause in PAUSES:
        found = await call()
        if not (isinstance(found, Failure) and found.kind in OUTAGE):
            return found
        await anyio.sleep(pause)
    return await call()


def left(kept: Kept, why: str) -> str:
    """Say until when a cache is billed that could not be deleted."""
    return LEFT.format(until=_moment(kept.expires), why=why)


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(at)) + " UTC"
