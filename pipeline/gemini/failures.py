"""Says what an exception of the transport or an unusable reply means, as a Failure.

HTTP errors have their own rules in `pipeline.gemini.statuses`; this module is the door to all three.
"""

import errno
import json
import os
import socket
import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import aiohttp
import httpx2
from google.auth import exceptions as auth
from google.genai import errors

from pipeline.flow import MISSING, Failure, FailureKind, Reply, Unsent
from pipeline.gemini.bodies import line, redacted
from pipeline.gemini.connections import SpokeUnaskedError
from pipeline.gemini.statuses import failure_of_status

__all__ = [
    "BLOCKS",
    "FINISHES",
    "FOREIGN",
    "failure_of_exception",
    "failure_of_reply",
    "failure_of_status",
    "redacted",
]

Kind = FailureKind

FOREIGN: Final[tuple[type[Exception], ...]] = (
    errors.APIError,
    aiohttp.ClientError,
    httpx2.TransportError,
    auth.GoogleAuthError,
    json.JSONDecodeError,
    UnicodeDecodeError,
    OSError,  # also TimeoutError and ssl.SSLError
)
"""Every family of exceptions that a call may raise because of the network or the API."""

_WORDS: Final[tuple[tuple[type[Exception], str], ...]] = (  # the first that fits
    (aiohttp.ServerDisconnectedError, "the API closed the connection before it had answered"),
    (aiohttp.ClientPayloadError, "the answer was cut before its end"),
    (aiohttp.ClientResponseError, "the answer is none of the API's"),
    (TimeoutError, "no answer came in time"),
    (httpx2.TimeoutException, "no answer came in time"),
    (auth.TransportError, "Google's service for signing in cannot be reached"),
    (auth.GoogleAuthError, "signing in to Google failed"),
    (json.JSONDecodeError, "the answer is not JSON"),
    (UnicodeDecodeError, "the answer is not UTF-8"),
)
_NO_WAY: Final = (errno.ENETDOWN, errno.ENETUNREACH)  # to any address
_SILENT: Final = (  # say nothing that their words do not, or name classes
    aiohttp.ServerDisconnectedError,
    aiohttp.ClientPayloadError,
    auth.TransportError,
    UnicodeDecodeError,
)


def failure_of_exception(exc: Exception, *, secrets: tuple[str, ...] = ()) -> Failure:
    """Classify an exception of one of the FOREIGN families; raises any other again, since it is a bug."""
    if isinstance(exc, errors.APIError):
        body = json.dumps(exc.details, default=str)
        return failure_of_status(exc.code or 0, body, secrets=secrets)
    kind = _kind_of_exception(exc)
    if kind is None:
        raise exc
    return Failure(kind, line(_said(exc), secrets), unsent=_unsent(exc))


def _said(exc: Exception) -> str:
    """Say in words what an exception is, and its cause where that is not a name of the libraries, too."""
    if isinstance(exc, SpokeUnaskedError):
        return str(exc)
    if isinstance(exc, aiohttp.ClientConnectorError):
        if isinstance(exc, aiohttp.ClientConnectorCertificateError):
            fault: Exception = exc.certificate_error
        else:
            fault = exc.os_error
        return f"no connection to {exc.host}:{exc.port} ({_cause(fault)})"
    words = next((words for kind, words in _WORDS if isinstance(exc, kind)), "the connection failed")
    cause = "" if isinstance(exc, _SILENT) else _cause(exc)
    return f"{words} ({cause})" if cause else words


def _cause(exc: Exception) -> str:
    """Return what an exception says, without its number."""
    match exc:
        case ssl.SSLError() if verdict := getattr(exc, "verify_message", ""):
            return f"its certificate is not trusted: {verdict}"
        case ssl.SSLError() if reason := getattr(exc, "reason", None):
            return str(reason).replace("_", " ").lower()
        case OSError() if exc.errno is not None and exc.errno > 0:
            return os.strerror(exc.errno).lower()
        case OSError() if exc.strerror:
            return exc.strerror.lower()
        case _:
            return str(exc.args[0] if exc.args and isinstance(exc, auth.GoogleAuthError) else exc)


def _unsent(exc: Exception) -> Unsent | None:
    """Say why nothing has left, or None where something may have."""
    match exc:
        case aiohttp.ClientConnectorDNSError():
            return Unsent.NETWORK if exc.os_error.errno == socket.EAI_AGAIN else Unsent.NAME
        case aiohttp.ClientSSLError():
            return Unsent.TLS
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return Unsent.PROXY
        case aiohttp.ClientConnectorError():
            return Unsent.NETWORK if exc.os_error.errno in _NO_WAY else Unsent.REFUSED
        case SpokeUnaskedError():
            return Unsent.STALE
        case _:
            return None


def _kind_of_exception(exc: Exception) -> Kind | None:
    match exc:
        case TimeoutError() | httpx2.TimeoutException() | auth.TimeoutError():
            return Kind.TIMEOUT
        case auth.TransportError():
            return Kind.CONNECTION
        case auth.GoogleAuthError():
            return Kind.SERVER if exc.retryable else Kind.KEY
        case json.JSONDecodeError() | UnicodeDecodeError():
            return Kind.GARBLED
        case aiohttp.ClientError() | httpx2.TransportError() | OSError():
            return Kind.CONNECTION
        case _:
            return None


_FILTER = "the answer was stopped by"
_TOOLS = "the model tried to call a tool, and the request has none"
_IMAGE = "the model was about to make an image instead of text"

FINISHES: Final[Mapping[str, tuple[Kind, str]]] = MappingProxyType(
    {
        "MAX_TOKENS": (Kind.MAX_TOKENS, "the answer reached the output limit"),
        "SAFETY": (Kind.SAFETY, f"{_FILTER} the safety filter"),
        "PROHIBITED_CONTENT": (Kind.SAFETY, f"{_FILTER} the filter for prohibited content"),
        "BLOCKLIST": (Kind.SAFETY, f"{_FILTER} a list of forbidden terms"),
        "SPII": (Kind.SAFETY, f"{_FILTER} the filter for sensitive personal data"),
        "MODEL_ARMOR": (Kind.SAFETY, f"{_FILTER} the project's Model Armor policy"),
        "IMAGE_SAFETY": (Kind.SAFETY, f"{_FILTER} the safety filter for images"),
        "IMAGE_PROHIBITED_CONTENT": (Kind.SAFETY, f"{_FILTER} the filter for prohibited images"),
        "RECITATION": (Kind.RECITATION, "the answer came too close to a published text"),
        "IMAGE_RECITATION": (Kind.RECITATION, "the answer came too close to a published image"),
        "LANGUAGE": (Kind.LANGUAGE, "the model does not support the language of the row"),
        "FINISH_REASON_UNSPECIFIED": (Kind.UNFINISHED, "the model stopped without a reason"),
        "OTHER": (Kind.UNFINISHED, "the model stopped for a reason that the API does not tell"),
        "MALFORMED_RESPONSE": (Kind.UNFINISHED, "the model's answer was malformed"),
        "MALFORMED_FUNCTION_CALL": (Kind.UNFINISHED, _TOOLS),
        "UNEXPECTED_TOOL_CALL": (Kind.UNFINISHED, _TOOLS),
        "TOO_MANY_TOOL_CALLS": (Kind.UNFINISHED, _TOOLS),
        "MISSING_THOUGHT_SIGNATURE": (Kind.UNFINISHED, "the API missed a thought signature"),
        "ESCALATION": (Kind.UNFINISHED, "the request was handed to a review"),
        "PUP_LIMITED_DISABLED": (Kind.UNFINISHED, "the project is limited by Google's usage policy"),
        "CONTINUATION": (Kind.UNFINISHED, "the answer was cut, to be continued in another request"),
        "IMAGE_OTHER": (Kind.UNFINISHED, _IMAGE),
        "NO_IMAGE": (Kind.UNFINISHED, _IMAGE),
    }
)
"""What each finish reason other than STOP means: a kind and a sentence."""

BLOCKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "BLOCKED_REASON_UNSPECIFIED": "no reason given",
        "SAFETY": "safety filter",
        "OTHER": "a reason that the API does not tell",
        "BLOCKLIST": "list of forbidden terms",
        "PROHIBITED_CONTENT": "prohibited content",
        "IMAGE_SAFETY": "unsafe image",
        "MODEL_ARMOR": "the project's Model Armor policy",
        "JAILBREAK": "taken for an attempt to get around the rules",
    }
)
"""What each block reason of a prompt means."""


def failure_of_reply(reply: Reply) -> Failure | None:
    """Return why the reply holds no finished answer, or None where it does."""
    if reply.block:
        why = BLOCKS.get(reply.block, "a reason unknown to this version")
        return _failure(Kind.BLOCKED, f"the prompt was blocked: {why} (`{reply.block}`)")
    if reply.finish == MISSING:
        return _failure(Kind.MISSING, "the answer to this row was not among those of its pack")
    if reply.finish == "STOP":
        return None if reply.text.strip() else _empty(reply, "the model finished without any text")
    if not reply.finish and not reply.text.strip():
        return _empty(reply, "the reply holds no answer")
    if not reply.finish:
        return _failure(Kind.UNFINISHED, "the answer has no finish reason and may be cut")
    kind, sentence = FINISHES.get(
        reply.finish, (Kind.UNFINISHED, "the model stopped for a reason unknown to this version")
    )
    return _failure(kind, f"{sentence}{_spent(reply) if kind is Kind.MAX_TOKENS else ''} (`{reply.finish}`)")


def _empty(reply: Reply, sentence: str) -> Failure:
    return _failure(Kind.EMPTY, f"{sentence}{_spent(reply)}")


def _spent(reply: Reply) -> str:
    """Say where the output tokens went, because thinking can use up all of them."""
    usage = reply.usage
    return f" after {usage.output + usage.thoughts} tokens, {usage.thoughts} of them spent on thinking"


def _failure(kind: Kind, message: str) -> Failure:
    return Failure(kind, line(message))
