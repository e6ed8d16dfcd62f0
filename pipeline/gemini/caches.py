"""Context caches of the Developer API: found by name, created, kept for longer, deleted."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import anyio
from google import genai
from google.genai import types

from pipeline.flow import Failure, FailureKind
from pipeline.gemini.client import HttpError, open_sdk
from pipeline.gemini.connections import Connector
from pipeline.gemini.endpoint import Endpoint
from pipeline.gemini.failures import FOREIGN, failure_of_exception, failure_of_status

TIMEOUT = 30.0
_PAGE = 100
_CONNECTIONS = 4

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache: its resource name, the tokens in it, and the Unix times of its creation and its end."""

    name: str
    tokens: int
    created: float
    expires: float


class Caches:
    """The caches of a project. Made by `open_caches`; nothing here raises for what network or API do."""

    def __init__(self, sdk: genai.Client, secrets: tuple[str, ...]) -> None:
        self._caches = sdk.aio.caches
        self._secrets = secrets

    async def find(self, display_name: str) -> Cache | Failure | None:
        """Return the cache of that display name, None where there is none."""

        async def look() -> Cache | None:
            async for found in await self._caches.list(config={"page_size": _PAGE}):
                if found.display_name == display_name:
                    return _cache(found)
            return None

        return await self._asked(look)

    async def create(self, model: str, system: str, *, display_name: str, ttl: float) -> Cache | Failure:
        """Keep an instruction for so many seconds. Storage is paid from now on."""

        async def make() -> Cache:
            config = types.CreateCachedContentConfig(
                system_instruction=system, ttl=f"{ttl:.0f}s", display_name=display_name
            )
            return _cache(await self._caches.create(model=model, config=config))

        return await self._asked(make)

    async def extend(self, name: str, ttl: float) -> Cache | Failure:
        """Keep a cache for so many seconds from now on."""

        async def keep() -> Cache:
            config = types.UpdateCachedContentConfig(ttl=f"{ttl:.0f}s")
            return _cache(await self._caches.update(name=name, config=config))

        return await self._asked(keep)

    async def delete(self, name: str) -> Failure | None:
        """Delete a cache, which ends its storage."""

        async def drop() -> None:
            await self._caches.delete(name=name)

        return await self._asked(drop)

    async def _asked(self, ask: Callable[[], Awaitable[Found]]) -> Found | Failure:
        try:
            with anyio.fail_after(TIMEOUT):
                return await ask()
        except HttpError as error:
            return failure_of_status(error.status, error.body, secrets=self._secrets)
        except TimeoutError:
            return Failure(FailureKind.TIMEOUT, f"no answer within {TIMEOUT:g} s")
        except FOREIGN as exc:
            return failure_of_exception(exc, secrets=self._secrets)


@asynccontextmanager
async def open_caches(endpoint: Endpoint) -> AsyncIterator[Caches]:
    """Open the caches of the project to which the endpoint's key belongs."""
    connector = Connector(limit=_CONNECTIONS)
    async with open_sdk(endpoint, connector, timeout_s=TIMEOUT, body={}) as sdk:
        yield Caches(sdk, (endpoint.api_key,) if endpoint.api_key else ())


def _cache(found: types.CachedContent) -> Cache:
    """Read what the API says of a cache; what it leaves out is empty."""
    counted = found.usage_metadata
    return Cache(
        name=found.name or "",
        tokens=(counted.total_token_count or 0) if counted else 0,
        created=_time(found.create_time),
        expires=_time(found.expire_time),
    )


def _time(moment: datetime | None) -> float:
    return 0.0 if moment is None else moment.timestamp()
