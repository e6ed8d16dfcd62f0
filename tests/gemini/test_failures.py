"""What exceptions and unusable replies mean, and what no message may show."""

import errno
import json
import socket
import ssl
from collections.abc import Callable

import aiohttp
import httpx2
import pytest
from aiohttp.client_reqrep import ConnectionKey
from google.auth import exceptions as auth
from google.genai import errors, types
from hypothesis import given
from hypothesis import strategies as st

from pipeline.flow import FailureKind, Reply, Unsent, Usage
from pipeline.gemini.failures import (
    BLOCKS,
    FINISHES,
    FOREIGN,
    failure_of_exception,
    failure_of_reply,
    failure_of_status,
    redacted,
)


def _reply(text: str = "{}", finish: str = "STOP", block: str = "", usage: Usage | None = None) -> Reply:
    return Reply(text, finish, block, usage or Usage(), "m", "standard", 1.0, "api")


def _google(kind: Callable[..., Exception], message: str, **facts: bool) -> Exception:
    """Make an exception of google-auth, whose constructors have no types."""
    return kind(message, **facts)


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (aiohttp.ServerDisconnectedError(), FailureKind.CONNECTION),
        (aiohttp.ClientPayloadError("cut"), FailureKind.CONNECTION),
        (aiohttp.ClientOSError(104, "reset"), FailureKind.CONNECTION),
        (aiohttp.ConnectionTimeoutError("slow"), FailureKind.TIMEOUT),
        (httpx2.ConnectError("refused"), FailureKind.CONNECTION),
        (httpx2.RemoteProtocolError("cut"), FailureKind.CONNECTION),
        (httpx2.ReadTimeout("slow"), FailureKind.TIMEOUT),
        (httpx2.PoolTimeout("full"), FailureKind.TIMEOUT),
        (TimeoutError(), FailureKind.TIMEOUT),
        (OSError(24, "too many open files"), FailureKind.CONNECTION),
        (ssl.SSLCertVerificationError("self-signed"), FailureKind.CONNECTION),
        (json.JSONDecodeError("no", "<", 0), FailureKind.GARBLED),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), FailureKind.GARBLED),
        (_google(auth.DefaultCredentialsError, "none"), FailureKind.KEY),
        (_google(auth.RefreshError, "revoked"), FailureKind.KEY),
        (_google(auth.RefreshError, "later", retryable=True), FailureKind.SERVER),
        (_google(auth.TransportError, "away"), FailureKind.CONNECTION),
        (errors.ClientError(429, {"error": {"message": "limit"}}), FailureKind.RATE_LIMITED),
        (errors.ServerError(503, {"message": "busy", "status": "x"}), FailureKind.OVERLOADED),
        (errors.APIError(302, "moved"), FailureKind.SERVER),
    ],
)
def test_exceptions(exc: Exception, kind: FailureKind) -> None:
    """Every way in which a call ends has a kind, on both transports of the SDK."""
    assert isinstance(exc, FOREIGN)
    assert failure_of_exception(exc).kind is kind


KEY = ConnectionKey("api.test", 443, True, True, None, None, None)


def _refused() -> Exception:
    return aiohttp.ClientConnectorError(KEY, OSError(111, "Connect call failed ('10.0.0.1', 443)"))


def _untrusted() -> Exception:
    fault = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]")
    fault.verify_message = "self-signed certificate"
    return aiohttp.ClientConnectorCertificateError(KEY, fault)


@pytest.mark.parametrize(
    ("exc", "why"),
    [
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_AGAIN, "")), Unsent.NETWORK),
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_NONAME, "")), Unsent.NAME),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.ENETUNREACH, "")), Unsent.NETWORK),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.EHOSTUNREACH, "")), Unsent.REFUSED),
    ],
)
def test_a_machine_without_a_network_is_no_wrong_address(exc: Exception, why: Unsent) -> None:
    """A name that nobody can look up for now may be right, one that does not exist is not."""
    assert failure_of_exception(exc).unsent is why


@pytest.mark.parametrize(
    ("exc", "said"),
    [
        (_refused(), "no connection to api.test:443 (connection refused)"),
        (
            _untrusted(),
            "no connection to api.test:443 (its certificate is not trusted: self-signed certificate)",
        ),
        (aiohttp.ServerDisconnectedError(), "the API closed the connection before it had answered"),
        (
            aiohttp.ClientPayloadError("not completed: <ContentLengthError: 400>"),
            "the answer was cut before its end",
        ),
        (aiohttp.ClientOSError(104, "reset"), "the connection failed (connection reset by peer)"),
        (httpx2.ReadTimeout("slow"), "no answer came in time (slow)"),
        (TimeoutError(), "no answer came in time"),
        (json.JSONDecodeError("no", "<", 0), "the answer is not JSON (no: line 1 column 1 (char 0))"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "the answer is not UTF-8"),
        (_google(auth.RefreshError, "revoked"), "signing in to Google failed (revoked)"),
        (_google(auth.TransportError, "away"), "Google's service for signing in cannot be reached"),
    ],
)
def test_exceptions_are_told_in_words(exc: Exception, said: str) -> None:
    """What a library calls its exceptions says nothing to a user."""
    assert failure_of_exception(exc).message == said


@pytest.mark.parametrize("exc", [ValueError("ours"), KeyError("ours"), RuntimeError("ours")])
def test_an_unlisted_exception_is_a_bug(exc: Exception) -> None:
    """What is in none of the families is raised again and not called a failure of the network."""
    assert not isinstance(exc, FOREIGN)
    with pytest.raises(type(exc), match="ours"):
        failure_of_exception(exc)


def test_every_finish_reason_of_the_sdk_is_listed() -> None:
    """A new SDK with a new finish reason fails here until somebody decides what it means."""
    assert {reason.value for reason in types.FinishReason} == {"STOP", *FINISHES}


def test_every_block_reason_of_the_sdk_is_listed() -> None:
    """The same for the reasons for which a prompt is blocked."""
    assert {reason.value for reason in types.BlockedReason} == set(BLOCKS)


def test_a_finished_answer_is_no_failure() -> None:
    """STOP with text is what everybody wants."""
    assert failure_of_reply(_reply()) is None


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (_reply(text=""), FailureKind.EMPTY),
        (_reply(text=" \n"), FailureKind.EMPTY),
        (_reply(text="", finish=""), FailureKind.EMPTY),
        (_reply(finish=""), FailureKind.UNFINISHED),
        (_reply(finish="MAX_TOKENS"), FailureKind.MAX_TOKENS),
        (_reply(finish="SAFETY"), FailureKind.SAFETY),
        (_reply(finish="PROHIBITED_CONTENT"), FailureKind.SAFETY),
        (_reply(finish="RECITATION"), FailureKind.RECITATION),
        (_reply(finish="LANGUAGE"), FailureKind.LANGUAGE),
        (_reply(finish="OTHER"), FailureKind.UNFINISHED),
        (_reply(finish="WHAT_2031_BRINGS"), FailureKind.UNFINISHED),
        (_reply(text="", finish="", block="SAFETY"), FailureKind.BLOCKED),
        (_reply(text="", finish="", block="WHAT_2031_BRINGS"), FailureKind.BLOCKED),
    ],
)
def test_replies_without_an_answer(reply: Reply, kind: FailureKind) -> None:
    """Every ending other than STOP with text has a kind, also one that nobody knows yet."""
    failure = failure_of_reply(reply)
    assert failure is not None
    assert failure.kind is kind


def test_thinking_that_ate_the_budget_is_told() -> None:
    """The message of a cut answer says where the tokens went."""
    failure = failure_of_reply(_reply("", "MAX_TOKENS", usage=Usage(9, 0, 90, 10, 109)))
    assert failure is not None
    assert "after 100 tokens, 90 of them spent on thinking" in failure.message


@given(finish=st.text(), block=st.text(), text=st.text())
def test_every_reply_is_judged(finish: str, block: str, text: str) -> None:
    """Any strings: an answer or a Failure with a storable message."""
    failure = failure_of_reply(_reply(text, finish, block))
    if failure is None:
        assert finish == "STOP"
    else:
        assert len(failure.message) <= 500
        assert "\n" not in failure.message


@pytest.mark.parametrize(
    "text",
    [
        "Consumer 'api_key:AIzaXXXXXXXXXXXX' is suspended",
        "Consumer 'api_key:XXXXsomething' is suspended",
        "AIzaXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
        "key AQ.Ab8XXXXXXXX-_x.y",
        "Authorization: Bearer XXXXsomething",
        '{"authorization": "bearer XXXXsomething"}',
        "token ya29.XXXXX_x-y",
        "https://host/v1?key=XXXX&alt=json",
        "Invalid API key: XXXXX",
    ],
)
def test_secrets_by_their_look(text: str) -> None:
    """Keys and tokens are replaced, the words around them stay."""
    assert "X" not in redacted(text)
    assert "***" in redacted(text)


def test_plain_words_are_not_redacted() -> None:
    """Sentences about keys stay readable."""
    text = "API key not valid. Please pass a valid API key. The Bearer of AQ is AIza."
    assert redacted(text) == text


@given(
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=60),
    before=st.text(max_size=600),
)
def test_a_known_secret_never_survives(secret: str, before: str) -> None:
    """Wherever the server puts the key, also across the place where the message is cut."""
    body = json.dumps({"error": {"message": f"{before} {secret} after"}})
    for said in (body, f"{before} {secret} after"):
        message = failure_of_status(500, said, secrets=(secret,)).message
        assert secret not in message.replace("***", "\0")
