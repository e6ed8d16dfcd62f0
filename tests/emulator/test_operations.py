"""Faults before and after operations, caches, service tiers and hashes of rows, with the real SDK."""

import asyncio
import contextlib
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from anyio import to_thread
from google.genai import errors, types

from pipeline.emulator.faults import OPERATIONS
from tests.conftest import Emulator
from tests.emulator.conftest import MODEL, asking
from tests.emulator.sdk import LONG, client, listing, ran, sent, until, upload, written

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("place", ["batch-create", "upload-start", "file-download"])
@pytest.mark.parametrize(("kind", "made"), [("hang", 0), ("reset", 0), ("done-hang", 1), ("done-reset", 1)])
async def test_a_client_dies_before_or_after_an_operation(
    emulator: Emulator, tmp_path: Path, place: str, kind: str, made: int
) -> None:
    """It never hears of it; a job exists only where the fault comes after its creation."""
    emulator.change(faults=[f"{place}/{kind}@1"])
    before = len(listing(emulator)["batches"])
    call = asyncio.create_task(ran(emulator, tmp_path, ["a"]))
    await to_thread.run_sync(until, emulator, "held", f"{place}/{kind}")
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError, aiohttp.ClientError):
        await call
    after = len(listing(emulator)["batches"]) - before
    assert emulator.stats()["operations"][place] in (1, 2)  # a GET that was reset is sent again
    assert after == {"upload-start": 0, "batch-create": made, "file-download": 1}[place]


@pytest.mark.parametrize("place", sorted(OPERATIONS - {"upload-bytes"}))
async def test_every_operation_can_be_refused(emulator: Emulator, place: str) -> None:
    """Before it looks at what it is asked for."""
    emulator.change(faults=[f"{place}/503@1"])
    methods = {"get": "GET", "list": "GET", "download": "GET", "delete": "DELETE", "update": "PATCH"}
    service, _, verb = place.partition("-")
    whole = {"file": "files", "batch": "batches", "cache": "cachedContents", "upload": "files"}[service]
    path = whole if verb in ("list", "create") else f"{whole}/x"
    path += {"download": ":download", "cancel": ":cancel"}.get(verb, "")
    if place == "batch-create":
        path = f"models/{MODEL}:batchGenerateContent"
    version = "v1beta"
    if service == "upload":
        path, version = "files", "upload/v1"
    status, told = sent(emulator, path, {}, methods.get(verb, "POST"), version)
    assert (status, told["error"]["status"]) == (503, "UNAVAILABLE")


async def test_bytes_of_an_upload_can_be_refused_and_sent_again(emulator: Emulator, tmp_path: Path) -> None:
    """The SDK sends a piece again where the answer has no status of the upload."""
    emulator.change(faults=["upload-bytes/503@1"])
    path = written(tmp_path, ["a"])
    async with client(emulator) as aio:
        file = await aio.files.get(name=await upload(aio, path))
    assert file.size_bytes == path.stat().st_size
    assert emulator.stats()["operations"]["upload-bytes"] == 2


async def test_a_download_is_cut(emulator: Emulator, tmp_path: Path) -> None:
    """Half of what was promised comes; the next one is whole."""
    emulator.change(faults=["file-download/cut@1"])
    with pytest.raises(aiohttp.ClientPayloadError):
        await ran(emulator, tmp_path, ["a"] * 9)
    assert len((await ran(emulator, tmp_path, ["a"] * 9))[1]) == 9


async def test_a_cache_is_part_of_the_prompt(emulator: Emulator) -> None:
    """Its tokens count, as cached, and the answer is that of the whole prompt sent at once."""
    async with client(emulator) as aio:
        cache = await aio.caches.create(
            model=MODEL, config={"system_instruction": LONG, "ttl": "600s", "display_name": "rules"}
        )
        config = types.GenerateContentConfig(cached_content=cache.name)
        cached = await aio.models.generate_content(model=MODEL, contents="Review: great", config=config)
        config = types.GenerateContentConfig(system_instruction=LONG)
        whole = await aio.models.generate_content(model=MODEL, contents="Review: great", config=config)
        listed = [one.name async for one in await aio.caches.list()]
        longer = await aio.caches.update(name=str(cache.name), config={"ttl": "7200s"})
        await aio.caches.delete(name=str(cache.name))
        with pytest.raises(errors.ClientError) as caught:
            await aio.caches.get(name=str(cache.name))
    assert cached.usage_metadata is not None
    assert whole.usage_metadata is not None
    assert cache.usage_metadata is not None
    assert cached.text == whole.text
    assert cached.usage_metadata.cached_content_token_count == cache.usage_metadata.total_token_count
    assert cached.usage_metadata.prompt_token_count == whole.usage_metadata.prompt_token_count
    assert whole.usage_metadata.cached_content_token_count is None
    assert listed == [cache.name]
    assert cache.expire_time is not None
    assert longer.expire_time is not None
    assert 6_000 < (longer.expire_time - cache.expire_time).total_seconds() < 7_000
    assert (caught.value.code, caught.value.message) == (
        403,
        "CachedContent not found (or permission denied)",
    )
    stats: dict[str, Any] = dict(emulator.stats())
    assert (stats["answered"], stats["repeated"]) == (2, 1)
    assert stats["cache_token_seconds"] > 0


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"systemInstruction": {"parts": [{"text": "x"}]}}, "CachedContent can not be used with"),
        ({"cachedContent": "cachedContents/none"}, "CachedContent not found"),
    ],
)
async def test_a_cache_does_not_go_with_everything(
    emulator: Emulator, body: dict[str, Any], complaint: str
) -> None:
    """Instructions of one's own are refused beside it, and a cache must be there."""
    content = {"model": f"models/{MODEL}", "systemInstruction": {"parts": [{"text": LONG}]}}
    cache = sent(emulator, "cachedContents", content, "POST")[1]["name"]
    asked = asking() | {"cachedContent": cache} | body
    status, told = sent(emulator, f"models/{MODEL}:generateContent", asked, "POST")
    sent(emulator, cache, method="DELETE")
    assert status in (400, 403)
    assert complaint in told["error"]["message"]


async def test_a_cache_has_a_least_size_and_an_end(emulator: Emulator) -> None:
    """A small one is refused with its size, and one whose time is over is not there."""
    small = {"model": f"models/{MODEL}", "contents": asking("short")["contents"]}
    status, told = sent(emulator, "cachedContents", small, "POST")
    long = {"model": f"models/{MODEL}", "contents": asking(LONG)["contents"], "ttl": "0.05s"}
    name = sent(emulator, "cachedContents", long, "POST")[1]["name"]
    await asyncio.sleep(0.1)
    assert status == 400
    assert told["error"]["message"].startswith("Cached content is too small. total_token_count=")
    assert told["error"]["message"].endswith("min_total_token_count=1024")
    assert sent(emulator, name)[0] == 403


async def test_the_start_of_a_prompt_is_cached_where_it_is_wanted(emulator: Emulator) -> None:
    """The second prompt finds what it has in common with the first."""
    emulator.change(implicit_cache=1024)
    path = f"models/{MODEL}:generateContent"
    usages = [sent(emulator, path, asking(f"{LONG} {end}"), "POST")[1]["usageMetadata"] for end in "ab"]
    assert "cachedContentTokenCount" not in usages[0]
    assert 1024 <= usages[1]["cachedContentTokenCount"] < usages[1]["promptTokenCount"]


@pytest.mark.parametrize(("fault", "served"), [("downgrade%1", "standard"), ("503-shed%1", "priority")])
async def test_a_service_tier_is_served_and_told(emulator: Emulator, fault: str, served: str) -> None:
    """It stands in the usage and in the bill; the service may serve another one."""
    emulator.change(faults=[fault])
    path = f"models/{MODEL}:generateContent"
    status, told = sent(emulator, path, asking() | {"serviceTier": "priority"}, "POST")
    assert (status, told["usageMetadata"]["serviceTier"]) == (200, served)
    assert list(emulator.stats()["billed"]) == [served]


async def test_flex_is_shed_and_a_wrong_tier_refused(emulator: Emulator) -> None:
    """503 for the one, 400 for the other."""
    emulator.change(faults=["503-shed%1"])
    path = f"models/{MODEL}:generateContent"
    statuses = [
        sent(emulator, path, asking() | {"service_tier": tier}, "POST")[0]
        for tier in ("flex", "standard", "cheap")
    ]
    assert statuses == [503, 200, 400]


PACKED = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"id": {"type": "string"}, "row_hash": {"type": "string"}},
        "required": ["id", "row_hash"],
    },
}


async def test_a_row_s_hash_is_the_same_alone_and_in_a_pack(emulator: Emulator) -> None:
    """A client can make it itself: of the row's own text, without the space around it."""
    texts = ["First one: good  ", "Zweite Zeile, schön"]
    pack = "\n".join(f'<row id="{n}">\n{text}\n</row>' for n, text in enumerate(texts))
    path = f"models/{MODEL}:generateContent"

    def answered(text: str, schema: dict[str, Any]) -> Any:
        told = sent(emulator, path, asking(text, schema), "POST")[1]
        return json.loads(told["candidates"][0]["content"]["parts"][0]["text"])

    wanted = [sha256(text.strip().encode()).hexdigest()[:16] for text in texts]
    assert [one["row_hash"] for one in answered(pack, PACKED)] == wanted
    alone = [answered(text, PACKED["items"])["row_hash"] for text in texts]  # type: ignore[arg-type]
    assert alone == wanted
