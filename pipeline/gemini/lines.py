"""Lines of the Batch API's files: a request as it is sent, and what came back for it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from pipeline.flow import Failure, FailureKind, Reply
from pipeline.gemini.bodies import line, loaded
from pipeline.gemini.call import text_body
from pipeline.gemini.replies import EMULATOR, EMULATOR_HEADER, reply_of_body
from pipeline.gemini.statuses import failure_of_status

TIER = "batch"  # lines say `standard`, and are billed at half of it

# gRPC codes, which error lines have in place of HTTP statuses; google/rpc/code.proto names the pairs.
_HTTP_OF_GRPC: Final = MappingProxyType(
    {
        1: 499,
        2: 500,
        3: 400,
        4: 504,
        5: 404,
        6: 409,
        7: 403,
        8: 429,
        9: 400,
        10: 409,
        11: 400,
        12: 501,
        13: 500,
        14: 503,
        15: 500,
        16: 401,
    }
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for the line with this key (`""` where the answer has none)."""

    key: str
    answer: Reply | Failure


@dataclass(frozen=True, slots=True)
class Job:
    """What the lines of a job do not say: how long it took, when it ended (Unix time), who answered."""

    seconds: float = 0.0
    at: float = 0.0
    emulated: bool = False
    secrets: tuple[str, ...] = ()


def request_line(key: str, text: str, most: int | None, shared: Mapping[str, object]) -> bytes:
    """Return the line that asks `text`; `shared` is what all requests of the run have in common."""
    body = {**shared, **text_body(text, most)}
    for name in ("generationConfig",):
        own, common = body.get(name), shared.get(name)
        if isinstance(own, dict) and isinstance(common, dict):
            body[name] = {**common, **own}
    asked = json.dumps({"key": key, "request": body}, ensure_ascii=False, separators=(",", ":"))
    return asked.encode("utf-8", "replace") + b"\n"


def answer_of_line(text: str, job: Job) -> Answer | None:
    """Read a line of results; None for an empty one. Never raises.

    A line holds a `response`, or an `error` (also `status`) with a gRPC or an HTTP code.
    """
    if not text.strip():
        return None
    whole = loaded(text)
    if not isinstance(whole, dict):
        said = line(f"a line of the results is not JSON: {text.strip()[:200]}", job.secrets)
        return Answer("", Failure(FailureKind.GARBLED, said))
    key = _key(whole)
    response = whole.get("response")
    if isinstance(response, dict) and response and "error" not in response:
        return Answer(key, _reply(response, job))
    error = whole.get("error") or _error_in(response) or whole.get("status")
    if error:
        return Answer(key, _failure(error, job))
    if not isinstance(response, dict):  # the response itself, without anything around it
        response = {
            name: value for name, value in whole.items() if name not in ("key", "request", "metadata")
        }
    return Answer(key, _reply(response, job))


def _key(whole: Mapping[str, object]) -> str:
    metadata = whole.get("metadata")
    inner = metadata if isinstance(metadata, dict) else {}
    key = whole.get("key") or inner.get("key") or whole.get("custom_id") or inner.get("custom_id")
    return key if isinstance(key, str) else ""


def _error_in(response: object) -> object:
    return response.get("error") if isinstance(response, dict) else None


def _reply(response: Mapping[str, object], job: Job) -> Reply | Failure:
    headers = {EMULATOR_HEADER: "1"} if job.emulated else {}
    body = json.dumps(response)
    found = reply_of_body(body, headers, seconds=job.seconds, at=job.at, secrets=job.secrets)
    return replace(found, tier=TIER) if isinstance(found, Reply) else found


def _failure(error: object, job: Job) -> Failure:
    code = error.get("code") if isinstance(error, dict) else None
    number = code if isinstance(code, int) and not isinstance(code, bool) else 2
    status = _HTTP_OF_GRPC.get(number, number if 400 <= number < 600 else 500)
    failure = failure_of_status(status, json.dumps({"error": error}), secrets=job.secrets)
    return replace(failure, source=EMULATOR) if job.emulated else failure
