"""The client against a real server: one request per call, every trouble a Failure, nothing left open."""

from __future__ import annotations

import gc
import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.flow import Failure, FailureKind, Reply, Request, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.gemini.endpoint import Endpoint
    from tests.gemini.conftest import Asking, End, Server

pytestmark = pytest.mark.anyio

ANSWER = json.dumps(
    {
        "candidates": [
            {"content": {"role": "model", "parts": [{"text": '{"ok": true}'}]}, "finishReason": "STOP"}
        ],
        "usageMetadata": {"promptTokenCount": 21, "candidatesTokenCount": 4, "totalTokenCount": 25},
        "modelVersion": "models/gemini-3.1-flash-lite",
    }
)


def _request(most: int | None = 100) -> Request:
    return Request(id=bytes(16), text="Is this a question?", max_output_tokens=most)


def _failure(outcome: Reply | Failure) -> Failure:
    assert isinstance(outcome, Failure), outcome
    return outcome


async def test_an_answer_becomes_a_reply(server: Server, asking: Asking) -> None:
    """Text, tokens, model and tier of a plain answer arrive."""
    server.will(ANSWER, headers={"X-Gemini-Service-Tier": "standard"})
    reply = await asking.once()
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish, reply.model, reply.tier) == (
        '{"ok": true}',
        "STOP",
        "gemini-3.1-flash-lite",
        "standard",
    )
    assert reply.usage == Usage(prompt=21, output=4, total=25)
    assert 0 < reply.seconds < 5


async def test_the_request_carries_every_setting(server: Server, asking: Asking, key: str) -> None:
    """Model, version, key, schema and settings stand where the API looks for them."""
    server.will(ANSWER)
    await asking.once("What is it?")
    (arrived,) = server.arrived
    assert arrived.path == "/v1beta/models/gemini-3.1-flash-lite:generateContent"
    assert arrived.headers["x-goog-api-key"] == key
    assert arrived.content["contents"] == [{"parts": [{"text": "What is it?"}], "role": "user"}]
    assert arrived.content["safetySettings"] == [
        {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}
    ]
    assert arrived.content["generationConfig"] == {
        "maxOutputTokens": 100,
        "seed": 7,
        "responseMimeType": "application/json",
        "responseJsonSchema": asking.generation.json_schema,
        "thinkingConfig": {"thinkingLevel": "MINIMAL"},
    }


async def test_what_is_not_set_is_not_sent(server: Server, asking: Asking) -> None:
    """A generation of nothing but a model and a schema sends nothing else."""
    server.will(ANSWER)
    bare = replace(asking.generation, system="", thinking_level=None, seed=None, safety=())
    async with replace(asking, generation=bare).open() as client:
        await client.ask(_request(most=None))
    content = server.arrived[0].content
    assert content.keys() == {"contents", "generationConfig"}
    assert isinstance(content["generationConfig"], dict)
    assert content["generationConfig"].keys() == {"responseMimeType", "responseJsonSchema"}


async def test_each_request_has_its_own_output_limit(server: Server, asking: Asking) -> None:
    """A larger limit on a second try does not change the first one's."""
    limits = (100, 400, 100)
    async with asking.open() as client:
        for most in limits:
            server.will(ANSWER)
            await client.ask(_request(most))
    sent = [json.loads(arrived.body)["generationConfig"]["maxOutputTokens"] for arrived in server.arrived]
    assert tuple(sent) == limits


async def test_many_tasks_share_a_client(server: Server, asking: Asking) -> None:
    """More calls than connections at once all get their answers."""
    replies: list[Reply | Failure] = []
    async with asking.open() as client:

        async def ask() -> None:
            replies.append(await client.ask(_request()))

        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                server.will(ANSWER)
                tasks.start_soon(ask)
    assert [isinstance(reply, Reply) for reply in replies] == [True] * 30


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (204, FailureKind.SERVER),
        (400, FailureKind.BAD_REQUEST),
        (401, FailureKind.KEY),
        (402, FailureKind.BILLING),
        (404, FailureKind.MODEL),
        (408, FailureKind.SERVER),
        (413, FailureKind.TOO_LONG),
        (429, FailureKind.RATE_LIMITED),
        (500, FailureKind.SERVER),
        (503, FailureKind.OVERLOADED),
    ],
)
@pytest.mark.parametrize("kind_of_body", ["application/json", "text/html", "text/event-stream"])
async def test_a_status_is_asked_once(
    server: Server, asking: Asking, status: int, kind: FailureKind, kind_of_body: str
) -> None:
    """Each error status is one request and one kind, also with JSON that is cut."""
    body = "" if status == 204 else '{"error": {"message": "so'
    server.will(body, status, headers={"Content-Type": kind_of_body})
    assert _failure(await asking.once()).kind is kind
    assert len(server.arrived) == 1


async def test_a_status_outweighs_its_cut_body(server: Server, asking: Asking) -> None:
    """A 503 whose body ends early is still a 503."""
    server.will("{", status=503, end="close")
    assert _failure(await asking.once()).kind is FailureKind.OVERLOADED


async def test_a_redirect_is_not_followed(server: Server, asking: Asking) -> None:
    """The key does not travel to where a redirect points."""
    server.will("", status=302, headers={"Location": f"{server.url}/elsewhere"})
    assert _failure(await asking.once()).kind is FailureKind.SERVER
    assert len(server.arrived) == 1


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{", b"SSH-2.0\r\n\r\n"])
async def test_a_broken_connection_is_asked_once(
    server: Server, asking: Asking, raw: bytes, end: End
) -> None:
    """Closed, reset or garbled before or in the answer: one request, one Failure."""
    server.will_say(raw, end)
    assert _failure(await asking.once()).kind is FailureKind.CONNECTION
    assert len(server.arrived) == 1


async def test_a_refused_connection_fails_at_once(
    asking: Asking, ask_of: Callable[[Endpoint], Asking]
) -> None:
    """Nobody listens: a Failure within the time in which a hidden retry would still sleep."""
    nowhere = ask_of(replace(asking.endpoint, base_url="http://127.0.0.1:1"))
    with anyio.fail_after(1):
        assert _failure(await nowhere.once()).kind is FailureKind.CONNECTION


@pytest.mark.parametrize("end", ["silence", "trickle"])
async def test_the_deadline_is_for_the_whole_call(server: Server, asking: Asking, end: End) -> None:
    """Neither a silent server nor one that drips keeps a call longer than its time."""
    server.will("", end=end)
    failure = _failure(await asking.once(timeout_s=0.2))
    assert failure == Failure(FailureKind.TIMEOUT, "no answer within 0.2 s")


async def test_cancellation_passes_through(server: Server, asking: Asking) -> None:
    """A cancelled call ends with the scope and leaves nothing that warns."""
    server.will("", end="silence")
    with anyio.move_on_after(0.1) as scope:
        async with asking.open() as client:
            await client.ask(_request())
    gc.collect()
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{}", b"<html>hello</html>", b"\xff\xfe", b"[" * 50_000, b"1" * 5_000]
)
async def test_a_200_without_an_answer_is_garbled(server: Server, asking: Asking, body: bytes) -> None:
    """Whatever stands in a 200 that is not the API's JSON, the call returns."""
    server.will(body)
    assert _failure(await asking.once()).kind is FailureKind.GARBLED


async def test_an_undecodable_body_is_a_failure(server: Server, asking: Asking) -> None:
    """A body that is not compressed as promised does not escape as an exception."""
    server.will("not gzip", headers={"Content-Encoding": "gzip"})
    assert _failure(await asking.once()).kind is FailureKind.CONNECTION


async def test_an_empty_prompt_is_not_sent(server: Server, asking: Asking) -> None:
    """The SDK refuses an empty text with an exception of its own; the row gets a Failure."""
    assert _failure(await asking.once("")).kind is FailureKind.BAD_REQUEST
    assert server.arrived == []


async def test_the_key_is_nowhere(
    server: Server, asking: Asking, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a server that echoes the key nor any log at its loudest shows it."""
    caplog.set_level(logging.DEBUG)
    server.will(json.dumps({"error": {"message": f"Consumer {key} is unknown", "code": 403}}), status=403)
    server.will(f"sorry, {key}")
    server.will_say(f"HTTP/1.1 {key}\r\n\r\n".encode(), "close")
    failures = [_failure(await asking.once()) for _ in range(3)]
    assert [failure.kind for failure in failures] == [
        FailureKind.KEY,
        FailureKind.GARBLED,
        FailureKind.CONNECTION,
    ]
    assert not any(key in failure.message for failure in failures)
    assert key not in caplog.text


async def test_a_key_of_any_look_is_redacted(
    server: Server, asking: Asking, ask_of: Callable[[Endpoint], Asking]
) -> None:
    """The known key is replaced also where no pattern would find it."""
    server.will(json.dumps({"error": {"message": "who is plain-secret?"}}), status=403)
    plain = ask_of(replace(asking.endpoint, api_key="plain-secret"))
    assert _failure(await plain.once()).message == "HTTP 403: who is ***?"


async def test_the_emulator_is_named_as_source(server: Server, asking: Asking) -> None:
    """An answer that no model gave says so."""
    server.will(ANSWER, headers={"X-Rowmill-Emulator": "1"})
    reply = await asking.once()
    assert isinstance(reply, Reply)
    assert reply.source == "emulator"


async def test_a_proxy_is_not_asked_for_loopback(
    server: Server, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy of the company does not stand between the client and the local emulator."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    server.will(ANSWER)
    assert isinstance(await asking.once(), Reply)


async def test_a_proxy_from_the_environment_is_used(
    server: Server, asking: Asking, ask_of: Callable[[Endpoint], Asking], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For any other host the proxy gets the request with the whole address."""
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    server.will(ANSWER)
    far = ask_of(replace(asking.endpoint, base_url="http://gemini.invalid"))
    assert isinstance(await far.once(), Reply)
    assert server.arrived[0].path.startswith("http://gemini.invalid/v1beta/")


async def test_environment_does_not_switch_the_sdk(
    server: Server, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the SDK's record mode nor its Vertex switch overrides the endpoint."""
    monkeypatch.setenv("GOOGLE_GENAI_CLIENT_MODE", "replay")
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    monkeypatch.setenv("GOOGLE_GENAI_API_VERSION", "v9")
    server.will(ANSWER)
    assert isinstance(await asking.once(), Reply)
    assert server.arrived[0].path.startswith("/v1beta/models/")
