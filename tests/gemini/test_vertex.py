"""Vertex AI with real service-account credentials against a token endpoint on loopback."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from benchmarks.account import write_account
from pipeline.errors import RefusedError
from pipeline.flow import Failure, FailureKind, Reply, Request
from pipeline.gemini.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.gemini.conftest import Asking, Server

pytestmark = pytest.mark.anyio

TOKEN = "ya29.not-a-real-token-0123456789"
ANSWER = json.dumps({"candidates": [{"content": {"parts": [{"text": "{}"}]}, "finishReason": "STOP"}]})
QUESTION = Request(id=bytes(16), text="Is this a question?", max_output_tokens=9)
GRANTED = json.dumps({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})


@pytest.fixture
def account(server: Server, private_key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put credentials into a file, as a user has them."""
    written = write_account(tmp_path, server.url, private_key)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(written))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def vertex(server: Server, ask_of: Callable[[Endpoint], Asking], account: None, public_sdk: bool) -> Asking:
    """Ask the server as Vertex AI."""
    return ask_of(
        Endpoint(
            None,
            server.url,
            vertex=True,
            project="mill-1",
            location="europe-west4",
            api_version="v1beta1",
            public_sdk=public_sdk,
        )
    )


async def test_a_token_is_fetched_once_and_sent(server: Server, vertex: Asking) -> None:
    """Two calls take one token, and each goes to the project's path with it."""
    server.will(GRANTED)
    async with vertex.open() as client:
        for _ in range(2):
            server.will(ANSWER)
            assert isinstance(await client.ask(QUESTION), Reply)
    token, *calls = server.arrived
    assert token.path == "/token"
    assert [call.path for call in calls] == [
        "/v1beta1/projects/mill-1/locations/europe-west4"
        "/publishers/google/models/gemini-3.1-flash-lite:generateContent"
    ] * 2
    assert [call.headers["authorization"] for call in calls] == [f"Bearer {TOKEN}"] * 2


async def test_a_key_in_the_environment_is_not_sent(
    server: Server, vertex: Asking, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key of the Developer API stays at home when Vertex AI is asked."""
    monkeypatch.setenv("GEMINI_API_KEY", key)
    server.will(GRANTED)
    server.will(ANSWER)
    await vertex.once()
    assert "x-goog-api-key" not in server.arrived[1].headers


async def test_a_refused_account_is_a_key_failure(server: Server, vertex: Asking) -> None:
    """Credentials that Google does not take stop the run and say so."""
    server.will(json.dumps({"error": "invalid_grant", "error_description": "no such account"}), status=400)
    failure = await vertex.once()
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.KEY
    assert "no such account" in failure.message


async def test_an_unreachable_token_endpoint_is_a_connection_failure(server: Server, vertex: Asking) -> None:
    """A network trouble on the way to the token is worth another try."""
    server.will_say(b"", "close")
    failure = await vertex.once()
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.CONNECTION


async def test_a_vertex_429_has_no_hint(server: Server, vertex: Asking) -> None:
    """Vertex AI says only that something is exhausted."""
    server.will(GRANTED)
    body = [{"error": {"code": 429, "message": "Resource exhausted.", "status": "RESOURCE_EXHAUSTED"}}]
    server.will(json.dumps(body), status=429)
    assert await vertex.once() == Failure(FailureKind.RATE_LIMITED, "HTTP 429: Resource exhausted.")


@pytest.mark.parametrize("content", [None, "{", '{"type": "service_account"}', '{"type": "odd"}'])
async def test_missing_credentials_refuse_the_run(
    vertex: Asking, content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not there or no account is told when the client opens, with the way out."""
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with pytest.raises(RefusedError) as refused:
        await vertex.once()
    assert "gcloud auth application-default login" in refused.value.hint
    assert "\n" not in refused.value.message


async def test_tokens_and_private_keys_are_not_logged(
    server: Server, vertex: Asking, private_key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The loudest log shows neither the token nor the key that signs for it."""
    caplog.set_level(logging.DEBUG)
    server.will(GRANTED)
    server.will(json.dumps({"error": {"message": f"bad header Bearer {TOKEN}"}}), status=401)
    failure = await vertex.once()
    assert isinstance(failure, Failure)
    assert failure.message == "HTTP 401: bad header Bearer ***"
    assert TOKEN not in caplog.text
    assert private_key.splitlines()[1] not in caplog.text


async def test_the_deadline_covers_the_token(server: Server, vertex: Asking) -> None:
    """A token endpoint that says nothing costs a call no more than its time."""
    server.will(end="silence")
    assert await vertex.once(timeout_s=0.3) == Failure(FailureKind.TIMEOUT, "no answer within 0.3 s")
