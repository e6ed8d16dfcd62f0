"""One line of a batch: read, answered by the same model as an online request, and written as the API does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from pipeline.emulator import bodies
from pipeline.emulator.bodies import Answer
from pipeline.emulator.counts import Tokens
from pipeline.emulator.faults import REFUSAL_KINDS, Script
from pipeline.emulator.generation import read_generation
from pipeline.emulator.model import respond
from pipeline.emulator.refusals import refusal
from pipeline.emulator.settings import Settings
from pipeline.emulator.wire import MOST_INPUT, Call, Refused, Route, digest, read_request

_CODES = {400: 3, 402: 9, 403: 7, 404: 5, 408: 4, 429: 8, 499: 1, 500: 13, 502: 14, 503: 14, 504: 4}
"""The gRPC code that a line's error has in place of an HTTP status."""

_TIER = "SERVICE_TIER_STANDARD"  # so usage in batches names it

Recall = Callable[[Call, Route], Call]
"""Adds to a call the content that it takes from a context cache."""


@dataclass(frozen=True, slots=True)
class Line:
    """What became of a line: the JSON that is written for it, and what it took; no digest where it failed."""

    key: str
    written: bytes
    tokens: Tokens
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads and answers the lines of one job."""

    where: Route
    settings: Settings
    script: Script
    recall: Recall

    def size(self, line: bytes) -> int:
        """Return the input tokens of a line; 0 where it cannot be read."""
        try:
            call = read_request(_split(line)[1])
            return (self.recall(call, self.where) if call.cache else call).tokens
        except Refused:
            return 0

    def answer(self, line: bytes, ordinal: int) -> Line:
        """Answer a line, the `ordinal`-th of all batches; what is wrong with it becomes its error."""
        key, request = _split(line)
        try:
            call = self._call(request)
            generation, config = read_generation(call.config, self.where.model)
            if generation.refusal is not None:
                raise Refused(generation.refusal)
            fault = self.script.pick(ordinal, call.prompt) if self.script else None
            if fault is not None and fault.kind in REFUSAL_KINDS:
                raise Refused(refusal(fault, self.where, "", self.settings))
        except Refused as refused:
            return Line(_name(key), to_json(key | {"error": status(refused.answer)}), Tokens(0, 0))
        mark = digest(self.where.model, call.prompt, config)
        kind = "" if fault is None else fault.kind
        reply, tokens = respond(call, generation, self.where, mark, kind=kind, tier=_TIER)
        return Line(_name(key), to_json(key | {"response": reply}), tokens, mark)

    def _call(self, request: object) -> Call:
        call = self.recall(read_request(request), self.where)
        if call.tokens > MOST_INPUT:
            raise Refused(bodies.invalid(bodies.TOO_LONG))
        return call


def _split(line: bytes) -> tuple[dict[str, Any], object]:
    """Return what a line is joined by and its request; neither where the line is no JSON object."""
    try:
        loaded = from_json(line)
    except ValueError:
        return {}, None
    if not isinstance(loaded, dict):
        return {}, None
    return {name: loaded[name] for name in ("key", "metadata") if name in loaded}, loaded.get("request")


def _name(key: dict[str, Any]) -> str:
    metadata = key.get("metadata")
    return str(key.get("key") or (metadata.get("key") if isinstance(metadata, dict) else None) or "")


def status(answer: Answer) -> dict[str, Any]:
    """Return an HTTP error as the status object of a line: a gRPC code, a message, its details."""
    code = _CODES.get(answer.status, 13)
    if answer.content_type != bodies.JSON_TYPE:
        return {"code": code, "message": "The service is currently unavailable."}
    inner = from_json(answer.body)["error"]
    return {"code": code} | {name: inner[name] for name in ("message", "details") if name in inner}
