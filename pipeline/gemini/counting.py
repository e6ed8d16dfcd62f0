"""Counts tokens with the API's own countTokens, which is free and takes nothing of a quota.

The Developer API takes no system instruction there, so instructions are counted as contents on both APIs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
from google import genai
from google.genai import types
from pydantic import ValidationError

from pipeline.errors import RefusedError
from pipeline.flow import Failure, FailureKind
from pipeline.gemini.client import HttpError, open_sdk
from pipeline.gemini.connections import Connector
from pipeline.gemini.endpoint import Endpoint
from pipeline.gemini.failures import FOREIGN, failure_of_exception, failure_of_status
from pipeline.gemini.replies import EMULATOR_HEADER

TIMEOUT_S = 20.0
UNREAD = "the answer names no number of tokens"
AT_ONCE = 8  # calls in flight: nobody has published how many a minute are taken


@dataclass(frozen=True, slots=True)
class Counted:
    """The tokens of each request; `emulated` says that the emulator counted them."""

    tokens: list[int]
    emulated: bool = False


def count_all(endpoint: Endpoint, model: str, requests: Sequence[Sequence[str]]) -> Counted | Failure:
    """Return the tokens of each request, whose texts are contents of their own; empty texts are left out.

    One call for each. The first that fails, for whatever reason, ends it: its Failure is returned.
    """
    return anyio.run(_count_all, endpoint, model, requests)


@dataclass(slots=True)
class _Counting:
    """What was counted so far, and why it ended early if it did."""

    counts: dict[int, int] = field(default_factory=dict)
    emulated: bool = False
    failure: Failure | None = None


async def _count_all(endpoint: Endpoint, model: str, requests: Sequence[Sequence[str]]) -> Counted | Failure:
    secrets = (endpoint.api_key,) if endpoint.api_key else ()
    todo, counting = list(enumerate(requests)), _Counting()

    async def work(sdk: genai.Client) -> None:
        while todo and counting.failure is None:
            place, texts = todo.pop()
            counted = await _count(sdk, model, texts, secrets)
            if isinstance(counted, Failure):
                counting.failure = counted
            else:
                counting.counts[place], emulated = counted
                counting.emulated |= emulated

    try:
        async with (
            open_sdk(endpoint, Connector(limit=AT_ONCE), timeout_s=TIMEOUT_S, body={}) as sdk,
            anyio.create_task_group() as workers,
        ):
            for _ in range(AT_ONCE):
                workers.start_soon(work, sdk)
    except* RefusedError as group:
        counting.failure = Failure(FailureKind.KEY, str(group.exceptions[0]))
    tokens = counting.counts
    return counting.failure or Counted([tokens[place] for place in range(len(requests))], counting.emulated)


async def _count(
    sdk: genai.Client, model: str, texts: Sequence[str], secrets: tuple[str, ...]
) -> tuple[int, bool] | Failure:
    """Return the tokens of texts, and whether the emulator counted them."""
    contents: list[types.ContentUnionDict] = [
        types.Content(role="user", parts=[types.Part(text=text)]) for text in texts if text
    ]
    if not contents:
        return 0, False
    try:
        with anyio.fail_after(TIMEOUT_S):
            counted = await sdk.aio.models.count_tokens(model=model, contents=contents)
    except HttpError as error:
        return failure_of_status(error.status, error.body, secrets=secrets)
    except TimeoutError:
        return Failure(FailureKind.TIMEOUT, f"no answer within {TIMEOUT_S:g} s")
    except FOREIGN as exc:
        return failure_of_exception(exc, secrets=secrets)
    except ValidationError:
        return Failure(FailureKind.GARBLED, UNREAD)
    return _read(counted)


def _read(counted: types.CountTokensResponse) -> tuple[int, bool] | Failure:
    if not counted.total_tokens:
        return Failure(FailureKind.GARBLED, UNREAD)
    came = counted.sdk_http_response
    names = (came and came.headers) or {}
    return counted.total_tokens, EMULATOR_HEADER in {name.lower() for name in names}
