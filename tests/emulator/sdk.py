"""The real SDK and raw HTTP against an emulator: what tests of files, batches and caches share."""

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from google import genai
from google.genai import types

from tests.conftest import Emulator
from tests.emulator.conftest import LABELS, MODEL, asking

LONG = " ".join(f"rule {number} says to be fair and short" for number in range(300))


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
