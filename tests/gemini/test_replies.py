"""What a 200 says, in every shape in which it comes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.flow import Failure, FailureKind, Reply, Usage
from pipeline.gemini.replies import reply_of_body, usage_of


def _read(content: object, headers: dict[str, str] | None = None) -> Reply:
    reply = reply_of_body(json.dumps(content), headers or {}, seconds=0.5)
    assert isinstance(reply, Reply), reply
    return reply


def _answer(*parts: dict[str, object], **more: object) -> dict[str, object]:
    return {"candidates": [{"content": {"parts": list(parts)}, "finishReason": "STOP"}], **more}


def test_thoughts_are_not_text() -> None:
    """Only the visible text of the first candidate counts, all of its parts together."""
    content = _answer({"text": "hm", "thought": True}, {"text": "a"}, {"inlineData": {}}, {"text": "b"})
    content["candidates"] += [{"content": {"parts": [{"text": "second"}]}}]  # type: ignore[operator]  # built here
    assert _read(content).text == "ab"


def test_chunks_are_one_answer() -> None:
    """An array is read in order: text of all, the last reason and the last counts."""
    chunks = [
        {**_answer({"text": '{"a":'}), "usageMetadata": {"promptTokenCount": 3, "totalTokenCount": 3}},
        {**_answer({"text": " 1}"}), "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4}},
    ]
    reply = _read(chunks)
    assert (reply.text, reply.finish, reply.usage.output) == ('{"a": 1}', "STOP", 4)


def test_an_array_of_one_is_that_one() -> None:
    """A wrapped answer is the answer."""
    assert _read([_answer({"text": "x"})]) == _read(_answer({"text": "x"}))


def test_a_blocked_prompt() -> None:
    """No candidate, but a reason and the tokens of the prompt."""
    reply = _read({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 6}})
    assert (reply.block, reply.finish, reply.text) == ("SAFETY", "", "")
    assert reply.usage == Usage(prompt=6, total=6)


@pytest.mark.parametrize(
    "candidate", [{}, {"content": {}}, {"content": {"role": "model"}}, {"content": None}]
)
def test_a_candidate_without_parts(candidate: dict[str, object]) -> None:
    """STOP can come with nothing."""
    reply = _read({"candidates": [{**candidate, "finishReason": "STOP"}]})
    assert (reply.text, reply.finish) == ("", "STOP")


def test_only_usage_is_a_reply() -> None:
    """A 200 with neither candidate nor feedback is told as empty and paid for."""
    reply = _read({"usageMetadata": {"promptTokenCount": 8, "totalTokenCount": 8}})
    assert (reply.finish, reply.usage.prompt) == ("", 8)


def test_the_model_and_the_tier_as_served() -> None:
    """The model loses its prefix; the header wins over the body, in any case of letters."""
    content = _answer(modelVersion="models/m-2", usageMetadata={"serviceTier": "SERVICE_TIER_FLEX"})
    assert (_read(content).model, _read(content).tier) == ("m-2", "flex")
    assert _read(content, {"X-GEMINI-service-tier": "Priority"}).tier == "priority"


def test_the_emulator_marks_its_answers() -> None:
    """The source is the emulator exactly where its header says so."""
    assert _read(_answer()).source == "api"
    assert _read(_answer(), {"X-Rowmill-Emulator": "1"}).source == "emulator"


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, Usage()),
        (
            {
                "promptTokenCount": 10,
                "candidatesTokenCount": 5,
                "thoughtsTokenCount": 7,
                "totalTokenCount": 22,
            },
            Usage(prompt=10, thoughts=7, output=5, total=22),
        ),
        (  # candidates already hold the thoughts
            {
                "promptTokenCount": 10,
                "candidatesTokenCount": 12,
                "thoughtsTokenCount": 7,
                "totalTokenCount": 22,
            },
            Usage(prompt=10, thoughts=7, output=5, total=22),
        ),
        (  # thinking used up the budget
            {"promptTokenCount": 10, "thoughtsTokenCount": 7, "totalTokenCount": 17},
            Usage(prompt=10, thoughts=7, total=17),
        ),
        (
            {
                "promptTokenCount": 10,
                "toolUsePromptTokenCount": 4,
                "candidatesTokenCount": 1,
                "totalTokenCount": 15,
            },
            Usage(prompt=14, output=1, total=15),
        ),
        (
            {"promptTokenCount": 10, "cachedContentTokenCount": 8, "totalTokenCount": 10},
            Usage(prompt=10, cached=8, total=10),
        ),
        (  # sound has a price of its own
            {
                "promptTokenCount": 10,
                "cachedContentTokenCount": 8,
                "totalTokenCount": 10,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 3},
                    {"modality": "AUDIO", "tokenCount": 7},
                ],
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 6}, "odd", {"modality": "TEXT"}],
            },
            Usage(prompt=10, cached=8, total=10, audio=7, cached_audio=6),
        ),
        ({"promptTokenCount": 10, "candidatesTokenCount": 2}, Usage(prompt=10, output=2, total=12)),
        ({"promptTokenCount": 10, "candidatesTokenCount": 2, "totalTokenCount": 3}, Usage(10, 0, 0, 2, 12)),
        ({"promptTokenCount": "10", "candidatesTokenCount": -2, "totalTokenCount": True}, Usage()),
    ],
)
def test_tokens(counts: dict[str, object], expected: Usage) -> None:
    """What is billed adds up, whatever the model counts among its candidates."""
    assert usage_of(counts) == expected


@given(
    st.dictionaries(
        st.sampled_from(
            sorted(
                [
                    "promptTokenCount",
                    "candidatesTokenCount",
                    "thoughtsTokenCount",
                    "toolUsePromptTokenCount",
                    "totalTokenCount",
                    "cachedContentTokenCount",
                ]
            )
        ),
        st.integers(-5, 10**12),
    )
)
def test_nothing_is_counted_twice(counts: dict[str, object]) -> None:
    """For any counts: no negative, cached within prompt, and the parts are the total."""
    usage = usage_of(counts)
    assert min(usage.prompt, usage.cached, usage.thoughts, usage.output) >= 0
    assert usage.cached <= usage.prompt
    assert usage.total == usage.prompt + usage.thoughts + usage.output


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "null",
        "7",
        "[]",
        "{}",
        '"text"',
        "<html>",
        '[{"candidates": []}, 3]',
        '{"name": "batches/1"}',
        "[" * 9_999,
    ],
)
def test_other_bodies_are_garbled(body: str) -> None:
    """What is not the API's JSON is told with its beginning."""
    failure = reply_of_body(body, {}, seconds=0.1)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.GARBLED


def test_lone_surrogates_are_replaced() -> None:
    """JSON can carry half a character; no store can."""
    reply = reply_of_body('{"candidates": [{"content": {"parts": [{"text": "a\\ud83d"}]}}]}', {}, seconds=0.1)
    assert isinstance(reply, Reply)
    assert reply.text == "a?"


NAMES = st.sampled_from(
    [
        "candidates",
        "content",
        "parts",
        "text",
        "thought",
        "finishReason",
        "promptFeedback",
        "blockReason",
        "usageMetadata",
        "totalTokenCount",
        "serviceTier",
        "modelVersion",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=25,
)


@given(body=st.text() | JSON.map(json.dumps), headers=st.dictionaries(st.text(), st.text(), max_size=3))
def test_every_body_is_a_reply_or_a_failure(body: str, headers: dict[str, str]) -> None:
    """Any text, any JSON, any headers: no exception, and strings that can be stored."""
    outcome = reply_of_body(body, headers, seconds=0.1)
    if isinstance(outcome, Failure):
        assert outcome.kind is FailureKind.GARBLED
    else:
        text = "".join([outcome.text, outcome.finish, outcome.block, outcome.model, outcome.tier])
        assert text.encode().decode() == text
