"""Files, batches and caches as the real SDK asks for them, and raw HTTP where that drops things."""

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from anyio import to_thread
from google import genai
from google.genai import errors, types

from pipeline.emulator.faults import OPERATIONS
from tests.conftest import Emulator, emulating
from tests.emulator.conftest import LABELS, MODEL, asking

pytestmark = pytest.mark.anyio
QUICK: dict[str, Any] = {
    "faults": [],
    "batch_wait": 0,
    "batch_work": 0,
    "batch_expiry": 172_800,
    "batch_jobs": 100,
    "batch_tokens": None,
    "storage": 2**30,
    "cancel_keeps": True,
    "implicit_cache": None,
}
LONG = " ".join(f"rule {number} says to be fair and short" for number in range(300))


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


@contextlib.asynccontextmanager
async def client(emulator: Emulator) -> AsyncIterator[genai.client.AsyncClient]:
    """Yield the SDK, which sends each request once."""
    async with aiohttp.ClientSession() as session:
        options = types.HttpOptions(
            base_url=emulator.address,
            api_version="v1beta",
            timeout=20_000,
            retry_options=types.HttpRetryOptions(attempts=1),
            aiohttp_client=session,
        )
        made = genai.Client(api_key="key", http_options=options)
        yield made.aio
        await made.aio.aclose()
        made.close()


def written(folder: Path, texts: Sequence[str], **config: object) -> Path:
    """Write the lines of a batch: keys r0, r1, r2 ... for the texts."""
    path = folder / "in.jsonl"
    lines = [{"key": f"r{n}", "request": asking(text, LABELS, **config)} for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def sent(
    emulator: Emulator, path: str, body: object = None, method: str = "GET", version: str = "v1beta"
) -> tuple[int, Any]:
    """Send a request over raw HTTP; return status and JSON."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{emulator.address}/{version}/{path}", content, {"x-goog-api-key": "key"}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


async def upload(aio: genai.client.AsyncClient, path: Path) -> str:
    """Upload a file and return its name."""
    file = await aio.files.upload(file=path, config={"mime_type": "application/jsonl", "display_name": "in"})
    return str(file.name)


def over(emulator: Emulator, name: str) -> dict[str, Any]:
    """Wait until a job is over and return its operation."""
    while not (told := sent(emulator, name)[1]).get("done"):
        pass
    return dict(told)


def until(emulator: Emulator, counter: str, name: str) -> None:
    """Wait until something has been counted: that a fault has caught a request, that a line was paid."""
    while not emulator.stats()[counter].get(name):
        pass


def listing(emulator: Emulator) -> dict[str, Any]:
    """Return all jobs of the emulator, and how often each key was paid."""
    with urllib.request.urlopen(f"{emulator.address}/emulator/batches") as answer:
        told: dict[str, Any] = json.load(answer)
    return told


async def ran(emulator: Emulator, folder: Path, texts: Sequence[str]) -> tuple[dict[str, Any], list[Any]]:
    """Run a job over texts; return its operation and its lines."""
    async with client(emulator) as aio:
        name = await upload(aio, written(folder, texts))
        job = await aio.batches.create(model=MODEL, src=name, config={"display_name": "job"})
        told = over(emulator, str(job.name))
        results = told.get("response", {}).get("responsesFile")
        lines = (await aio.files.download(file=results)).splitlines() if results else []
    return told, [json.loads(line) for line in lines]


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # so the SDK does
async def test_a_file_is_uploaded_in_pieces_and_told_of(emulator: Emulator, tmp_path: Path) -> None:
    """Three pieces of 8 MB, found again by name and in the list, gone when deleted."""
    path = tmp_path / "big.jsonl"
    path.write_bytes(b"0123456789abcdef" * 1_200_000)
    async with client(emulator) as aio:
        name = await upload(aio, path)
        file = await aio.files.get(name=name)
        listed = [one.name async for one in await aio.files.list(config={"page_size": 1})]
        await aio.files.delete(name=name)
        with pytest.raises(errors.ClientError) as caught:
            await aio.files.get(name=name)
    assert (file.size_bytes, file.display_name, file.mime_type) == (19_200_000, "in", "application/jsonl")
    assert name in listed
    assert file.expiration_time is not None
    assert file.create_time is not None
    assert (file.expiration_time - file.create_time).total_seconds() == 48 * 3600
    assert emulator.stats()["operations"]["upload-bytes"] == 3
    assert (caught.value.code, caught.value.status) == (403, "PERMISSION_DENIED")


async def test_what_was_uploaded_cannot_be_downloaded(emulator: Emulator, tmp_path: Path) -> None:
    """Only results can."""
    async with client(emulator) as aio:
        name = await upload(aio, written(tmp_path, ["a"]))
        with pytest.raises(errors.ClientError) as caught:
            await aio.files.download(file=name)
    assert caught.value.code == 400


async def test_files_have_a_storage_in_common(emulator: Emulator, tmp_path: Path) -> None:
    """What does not fit any more is refused at its start."""
    emulator.change(storage=10)
    async with client(emulator) as aio:
        with pytest.raises(errors.ClientError) as caught:
            await upload(aio, written(tmp_path, ["a"]))
    assert caught.value.code == 429
    assert [detail["@type"] for detail in caught.value.details["error"]["details"]] == [
        "type.googleapis.com/google.rpc.Help"
    ]


async def test_a_batch_answers_each_line_as_online(emulator: Emulator, tmp_path: Path) -> None:
    """The same words and counts under each key, in another order than the lines, paid apart."""
    texts = [f"Review {number}: a great kettle" for number in range(120)]
    told, lines = await ran(emulator, tmp_path, texts)
    online = sent(emulator, f"models/{MODEL}:generateContent", asking(texts[7], LABELS), "POST")[1]
    line = next(line["response"] for line in lines if line["key"] == "r7")
    stats: dict[str, Any] = dict(emulator.stats())
    assert sorted(line["key"] for line in lines) == sorted(f"r{n}" for n in range(120))
    assert [line["key"] for line in lines] != [f"r{n}" for n in range(120)]
    assert line["candidates"] == online["candidates"]
    assert line["usageMetadata"].pop("serviceTier") == "SERVICE_TIER_STANDARD"
    assert line["usageMetadata"].items() <= online["usageMetadata"].items()
    assert told["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
    assert told["metadata"]["batchStats"] == {"requestCount": "120", "successfulRequestCount": "120"}
    assert told["metadata"]["output"]["responsesFile"] == told["response"]["responsesFile"]
    assert (stats["answered"], stats["distinct"], stats["repeated"]) == (1, 120, 1)
    used = [line["response"]["usageMetadata"] for line in lines]
    assert stats["billed"]["batch"] == {
        "answered": 120,
        "cached_tokens": 0,
        "output_tokens": sum(one["candidatesTokenCount"] for one in used),
        "prompt_tokens": sum(one["promptTokenCount"] for one in used),
    }


async def test_a_new_job_is_pending_and_all_its_requests_are(emulator: Emulator, tmp_path: Path) -> None:
    """Counts are texts, and those of zero are left out; there is no `done` yet."""
    emulator.change(batch_wait=600)
    async with client(emulator) as aio:
        name = await upload(aio, written(tmp_path, ["a", "b"]))
        body = {"batch": {"display_name": "n", "input_config": {"file_name": name}}}
        told = sent(emulator, f"models/{MODEL}:batchGenerateContent", body, "POST")[1]
    assert told.keys() == {"name", "metadata"}
    assert told["metadata"]["state"] == "BATCH_STATE_PENDING"
    assert told["metadata"]["batchStats"] == {"requestCount": "2", "pendingRequestCount": "2"}
    assert told["metadata"]["inputConfig"] == {"fileName": name}
    assert told["metadata"]["name"] == told["name"]
    sent(emulator, f"{told['name']}:cancel", {}, "POST")


async def test_inline_requests_come_back_in_order(emulator: Emulator) -> None:
    """With the metadata that they were sent with, or with none."""
    async with client(emulator) as aio:
        source = [
            types.InlinedRequest(contents="great", metadata={"key": "a"}),
            types.InlinedRequest(contents="awful"),
        ]
        job = await aio.batches.create(model=MODEL, src=source)
        over(emulator, str(job.name))
        job = await aio.batches.get(name=str(job.name))
    assert job.dest is not None
    answers = job.dest.inlined_responses or []
    assert [one.metadata for one in answers] == [{"key": "a"}, None]
    texts = [one.response.text or "" for one in answers if one.response is not None]
    assert ["great" in texts[0], "awful" in texts[1]] == [True, True]


async def test_creation_is_not_idempotent(emulator: Emulator, tmp_path: Path) -> None:
    """The same request twice is two jobs, which the list has page by page, newest first."""
    async with client(emulator) as aio:
        name = await upload(aio, written(tmp_path, ["a"]))
        made = [
            await aio.batches.create(model=MODEL, src=name, config={"display_name": "twin"}) for _ in range(2)
        ]
        listed = [job async for job in await aio.batches.list(config={"page_size": 1})]
        for job in made:
            over(emulator, str(job.name))
    assert [job.name for job in listed[:2]] == [job.name for job in reversed(made)]
    assert {job.display_name for job in listed[:2]} == {"twin"}
    assert listing(emulator)["billed"] == {"r0": 2}


async def test_lines_fail_by_themselves(emulator: Emulator, tmp_path: Path) -> None:
    """The job succeeds, its count of failures tells, and errors have the code of gRPC."""
    emulator.change(faults=["line/500~r: x", "line/400-argument@3"])
    told, lines = await ran(emulator, tmp_path, ["r: x", "good", "third", "bad"])
    found = {line["key"]: line.get("error", {}).get("code") for line in lines}
    assert found == {"r0": 13, "r1": None, "r2": 3, "r3": None}
    assert told["metadata"]["batchStats"] == {
        "requestCount": "4",
        "successfulRequestCount": "2",
        "failedRequestCount": "2",
    }
    assert emulator.stats()["billed"]["batch"]["answered"] == 2


async def test_a_line_that_is_no_request_is_an_error(emulator: Emulator, tmp_path: Path) -> None:
    """Broken JSON, no request, an unknown field: each is told under its key, if it has one."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"key":"a"}\n\n{"key":\n{"key":"b","request":{"contentz":[]}}\n')
    async with client(emulator) as aio:
        job = await aio.batches.create(model=MODEL, src=await upload(aio, path))
        told = over(emulator, str(job.name))
        lines = (await aio.files.download(file=told["response"]["responsesFile"])).splitlines()
    errors_of = {json.loads(line).get("key"): json.loads(line)["error"] for line in lines}
    assert {key: error["code"] for key, error in errors_of.items()} == {"a": 3, None: 3, "b": 3}
    assert 'Unknown name "contentz"' in errors_of["b"]["message"]


@pytest.mark.parametrize(
    ("fault", "changes", "state"),
    [
        ("batch/fail@1", {}, "FAILED"),
        ("batch/stuck@1", {"batch_expiry": 0.3}, "EXPIRED"),
        ("batch/stuck~job", {"batch_expiry": 0.3}, "EXPIRED"),
        ("line/500@99", {"batch_wait": 600, "batch_expiry": 0.3}, "EXPIRED"),
    ],
)
async def test_a_job_can_end_without_results(
    emulator: Emulator, tmp_path: Path, fault: str, changes: dict[str, Any], state: str
) -> None:
    """It is done, has an error and no response, and no line of it was paid."""
    emulator.change(faults=[fault], **changes)
    told, lines = await ran(emulator, tmp_path, ["a", "b"])
    assert told["metadata"]["state"] == f"BATCH_STATE_{state}"
    assert told["error"]["message"]
    assert "response" not in told
    assert lines == []
    assert emulator.stats()["billed"] == {}


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_cancelled_job_stops(emulator: Emulator, tmp_path: Path, keeps: bool) -> None:
    """What was answered is paid, and kept where the settings say so; the rest is never answered."""
    emulator.change(batch_work=600, cancel_keeps=keeps)
    async with client(emulator) as aio:
        name = await upload(aio, written(tmp_path, [f"text {n}" for n in range(40)]))
        job = await aio.batches.create(model=MODEL, src=name)
        until(emulator, "billed", "batch")
        await aio.batches.cancel(name=str(job.name))
        told = over(emulator, str(job.name))
        results = told.get("response", {}).get("responsesFile")
        lines = (await aio.files.download(file=results)).splitlines() if results else []
    paid = emulator.stats()["billed"]["batch"]["answered"]
    assert told["metadata"]["state"] == "BATCH_STATE_CANCELLED"
    assert 0 < paid < 40
    assert len(lines) == (paid if keeps else 0)
    assert told["metadata"]["batchStats"]["pendingRequestCount"] == str(40 - paid)


async def test_a_job_that_expires_half_way_has_no_results(emulator: Emulator, tmp_path: Path) -> None:
    """What it had answered is paid all the same."""
    emulator.change(batch_work=600, batch_expiry=1)
    told, lines = await ran(emulator, tmp_path, [f"text {n}" for n in range(40)])
    assert (told["metadata"]["state"], lines) == ("BATCH_STATE_EXPIRED", [])
    assert 0 < emulator.stats()["billed"]["batch"]["answered"] < 40


async def test_lines_of_batches_stand_in_the_log(tmp_path: Path) -> None:
    """With a status of their own, for they use up no quota."""
    log = tmp_path / "log.csv"
    with emulating("--tier", "paid", "--log", str(log)) as logging:
        await ran(logging, tmp_path, ["good", "bad"])
        while len(log.read_text().splitlines()) < 3:
            pass
    assert [line.split(",")[1] for line in log.read_text().splitlines()[1:]] == ["batch", "batch"]


async def test_a_job_that_waits_is_cancelled_at_once_and_can_be_deleted(
    emulator: Emulator, tmp_path: Path
) -> None:
    """Nothing of it is paid, and then it is not there any more."""
    emulator.change(batch_wait=600)
    async with client(emulator) as aio:
        job = await aio.batches.create(model=MODEL, src=await upload(aio, written(tmp_path, ["a"])))
        await aio.batches.cancel(name=str(job.name))
        state = (await aio.batches.get(name=str(job.name))).state
        await aio.batches.delete(name=str(job.name))
        with pytest.raises(errors.ClientError) as caught:
            await aio.batches.get(name=str(job.name))
    assert (state, caught.value.code) == (types.JobState.JOB_STATE_CANCELLED, 404)
    assert emulator.stats()["billed"] == {}


@pytest.mark.parametrize("limits", [{"batch_jobs": 1}, {"batch_tokens": 60}])
async def test_jobs_have_limits_in_common(emulator: Emulator, tmp_path: Path, limits: dict[str, Any]) -> None:
    """One more is refused without a word of which limit, until another one is over."""
    emulator.change(batch_wait=600, **limits)
    async with client(emulator) as aio:
        name = await upload(aio, written(tmp_path, ["a text of quite a few words that take tokens"] * 4))
        first = await aio.batches.create(model=MODEL, src=name)
        with pytest.raises(errors.ClientError) as caught:
            await aio.batches.create(model=MODEL, src=name)
        await aio.batches.cancel(name=str(first.name))
        last = await aio.batches.create(model=MODEL, src=name)
        await aio.batches.cancel(name=str(last.name))
    error = caught.value.details["error"]
    assert (error["code"], len(error["details"])) == (429, 1)
    assert error["message"].endswith("https://ai.dev/rate-limit. ")


async def test_the_free_tier_has_no_batches_and_no_caches(tmp_path: Path) -> None:
    """The upload is free, the rest is refused."""
    with emulating("--tier", "free") as free:
        async with client(free) as aio:
            name = await upload(aio, written(tmp_path, ["a"]))
            with pytest.raises(errors.ClientError) as batch:
                await aio.batches.create(model=MODEL, src=name)
            with pytest.raises(errors.ClientError) as cache:
                await aio.caches.create(model=MODEL, config={"system_instruction": LONG})
    assert (batch.value.code, cache.value.code) == (429, 429)
    assert "TotalCachedContentStorageTokensPerModelFreeTier limit exceeded" in str(cache.value)


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
