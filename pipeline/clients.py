"""The clients of a run: how many connections they may have, and which of them caches the instruction."""

import resource
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pipeline.executors.cached import AHEAD, CachingClient, Instruction
from pipeline.gemini.caches import open_caches
from pipeline.gemini.client import Client, Generation, open_client
from pipeline.gemini.endpoint import Endpoint
from pipeline.keys import cache_name
from pipeline.plan import Plan
from pipeline.store.recent import stored_until
from pipeline.tokens import TokenEstimate, may_be_cached

MOST_IN_FLIGHT = 4_096
SPARE_FILES = 128  # of the process's file descriptors: what is no connection
NO_VERTEX_CACHE = "the long instruction is sent with each request: on Vertex AI it is not cached by Rowmill"


@dataclass(frozen=True, slots=True)
class Clients:
    """Opens clients, which `stack` closes; tokens may be `free`, `uses` says how many requests will come."""

    plan: Plan
    endpoint: Endpoint
    stack: AsyncExitStack
    connections: int
    notes: list[str]
    uses: Callable[[], float]
    free: bool

    async def open(self, shared: Generation, *, most: bool) -> Client | CachingClient:
        """Open a client; one that caches the instruction where it asks for `most` rows and that can pay."""
        plain = await self.stack.enter_async_context(self._client(shared))
        instruction = self._instruction(shared) if most else None
        if instruction is None:
            return plain
        caches = await self.stack.enter_async_context(open_caches(self.endpoint))
        caching = CachingClient(
            plain, caches, lambda name: self._client(replace(shared, cache=name)), instruction
        )
        self.stack.push_async_callback(self._finish, caching)
        return caching

    def _client(self, generation: Generation) -> AbstractAsyncContextManager[Client]:
        timeout = self.plan.checked.loaded.job.model.deadline
        return open_client(self.endpoint, generation, timeout_s=timeout, connections=self.connections)

    def _instruction(self, generation: Generation) -> Instruction | None:
        """Return what is cached of the instruction; None where that is not wanted or cannot pay."""
        section, model = self.plan.checked.loaded.job.model, self.plan.checked.model
        price = model.price(datetime.now(UTC).date(), section.service_tier)
        wanted = section.context_cache == "auto" and not self.free
        if not wanted or price is None or not may_be_cached(generation.system, model):
            return None
        if self.endpoint.vertex:
            self.notes.append(NO_VERTEX_CACHE)
            return None
        return Instruction(
            model=generation.model,
            system=generation.system,
            display_name=cache_name(self.plan.fingerprint, generation.system),
            tokens=TokenEstimate(generation.system).tokens(""),
            price=price,
            since=stored_until(self.plan.folder.journal) + AHEAD,
            uses=self.uses,
        )

    async def _finish(self, caching: CachingClient) -> None:
        await caching.aclose()
        self.notes.extend(caching.notes)


def most_connections() -> int:
    """Return how many connections the process may open, after asking the system for as many as it gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_IN_FLIGHT + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MOST_IN_FLIGHT if soft == resource.RLIM_INFINITY else max(1, soft - SPARE_FILES)
