"""Counting tokens through the SDK, against a scripted server."""

import json
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync

from benchmarks.account import write_account
from pipeline.flow import Failure, FailureKind
from pipeline.gemini.counting import Counted, count_all
from pipeline.gemini.endpoint import Endpoint
from tests.gemini.conftest import Server, developer

pytestmark = pytest.mark.anyio

MODEL = "gemini-3.1-flash-lite"


async def counted(endpoint: Endpoint, *requests: list[str]) -> list[int] | Failure:
    """Count in a thread, as the command does without an event loop of its own."""
    with anyio.fail_after(20):
        found = await run_sync(count_all, endpoint, MODEL, list(requests))
    return found.tokens if isinstance(found, Counted) else found


async def test_instructions_are_counted_as_contents(server: Server) -> None:
    """The Developer API refuses a system instruction there; each text is a content, and an empty one none."""
    server.will('{"totalTokens": 12, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 12}]}')
    assert await counted(developer(server.url), ["You label.", "good"]) == [12]
    server.will('{"totalTokens": 3}')
    assert await counted(developer(server.url), ["", "good"]) == [3]
    first, second = server.arrived
    assert first.path == f"/v1beta/models/{MODEL}:countTokens"
    assert first.content == {
        "contents": [
            {"parts": [{"text": "You label."}], "role": "user"},
            {"parts": [{"text": "good"}], "role": "user"},
        ]
    }
    assert second.content == {"contents": [{"parts": [{"text": "good"}], "role": "user"}]}


async def test_nothing_is_counted_without_a_call(server: Server) -> None:
    """A job without a system instruction has no tokens for it."""
    assert await counted(developer(server.url), [""], []) == [0, 0]
    assert server.arrived == []


async def test_counts_come_in_the_order_of_the_requests(server: Server) -> None:
    """Calls are made side by side, and more of them than connections."""
    for _ in range(30):
        server.will('{"totalTokens": 7}')
    assert await counted(developer(server.url), *[["good"] for _ in range(30)]) == [7] * 30


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ('{"error": {"code": 429, "message": "Resource exhausted."}}', 429, FailureKind.RATE_LIMITED),
        ('{"error": {"code": 403, "message": "no"}}', 403, FailureKind.KEY),
        ("<html>busy</html>", 502, FailureKind.SERVER),
        ("<html>hello</html>", 200, FailureKind.GARBLED),
        ("{}", 200, FailureKind.GARBLED),
        ('{"totalTokens": "many"}', 200, FailureKind.GARBLED),
    ],
)
async def test_what_the_api_says_instead_is_a_value(
    server: Server, body: str, status: int, kind: FailureKind
) -> None:
    """No answer stops an estimate."""
    server.will(body, status)
    found = await counted(developer(server.url), ["good"])
    assert isinstance(found, Failure)
    assert found.kind is kind


async def test_nobody_there_is_a_value(server: Server) -> None:
    """A refused connection neither."""
    found = await counted(developer("http://127.0.0.1:9"), ["good"])
    assert isinstance(found, Failure)
    assert found.kind is FailureKind.CONNECTION


def vertex(url: str) -> Endpoint:
    """Return Vertex AI at an address."""
    return Endpoint(None, url, vertex=True, project="mill-1", location="global", api_version="v1beta1")


async def test_vertex_counts_with_an_account(
    server: Server, private_key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same contents to the path of the cloud, with a token instead of a key."""
    account = write_account(tmp_path, server.url, private_key)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server.will(json.dumps({"access_token": "ya29.x", "expires_in": 3600, "token_type": "Bearer"}))
    server.will('{"totalTokens": 4}')
    assert await counted(vertex(server.url), ["You label.", "good"]) == [4]
    assert server.arrived[1].path.endswith(f"/locations/global/publishers/google/models/{MODEL}:countTokens")


async def test_missing_credentials_are_a_value(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vertex AI without an account is no reason to give no estimate."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nothing.json"))
    found = await counted(vertex(server.url), ["good"])
    assert isinstance(found, Failure)
    assert "no credentials" in found.message
