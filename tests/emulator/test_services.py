"""Files and batches as the real SDK asks for them, and raw HTTP where that drops things."""

import json
from pathlib import Path
from typing import Any

import pytest
from google.genai import errors, types

from tests.conftest import Emulator, emulating
from tests.emulator.conftest import LABELS, MODEL, asking
from tests.emulator.sdk import LONG, client, listing, over, ran, sent, until, upload, written

pytestmark = pytest.mark.anyio


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


async def test_the_list_has_a_job_only_later(emulator: Emulator, tmp_path: Path) -> None:
    """As the API's may lag; who knows its name sees the job at once."""
    emulator.change(batch_lag=600)
    async with client(emulator) as aio:
        name = await upload(aio, written(tmp_path, ["a"]))
        job = await aio.batches.create(model=MODEL, src=name)
        assert job.name not in [one.name async for one in await aio.batches.list()]
        assert (await aio.batches.get(name=str(job.name))).name == job.name
        emulator.change(batch_lag=0)
        assert job.name in [one.name async for one in await aio.batches.list()]


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
