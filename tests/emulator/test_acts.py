"""Bending good replies."""

import json

import pytest

from pipeline.emulator.acts import bend
from pipeline.emulator.replies import Said, body
from pipeline.emulator.wire import Route

GOOD = Said('{"label":"positive","n":1}', "STOP", 10, 8, [{"modality": "TEXT", "tokenCount": 10}])
WHERE = Route("v1beta", "models/gemini-x", "gemini-x", "generateContent", cloud=False)


def test_bad_json_does_not_parse() -> None:
    """One token is missing, and the rest is there."""
    bad = bend("badjson", GOOD, None)
    with pytest.raises(json.JSONDecodeError):
        json.loads(bad.text or "")
    assert (bad.finish, bad.output) == ("STOP", 8)


def test_wrong_types_parse_but_are_others() -> None:
    """The keys stay, each value becomes an object."""
    assert json.loads(bend("wrongtype", GOOD, None).text or "") == {
        "label": {"value": "positive"},
        "n": {"value": 1},
    }


def test_a_fence_surrounds_the_json() -> None:
    """The text stands between the marks of Markdown."""
    assert bend("fenced", GOOD, None).text == f"```json\n{GOOD.text}\n```"


@pytest.mark.parametrize(
    ("kind", "text", "finish", "output"),
    [
        ("empty", None, "STOP", 0),
        ("nocandidates", None, None, 0),
        ("finish-safety", None, "SAFETY", 0),
        ("finish-stop", GOOD.text, "STOP", 8),
        ("finish-max_tokens", '{"label":"pos', "MAX_TOKENS", 4),
        ("slow", GOOD.text, "STOP", 8),
    ],
)
def test_the_end_of_a_reply(kind: str, text: str | None, finish: str | None, output: int) -> None:
    """What can be seen, why it ended, and what is billed."""
    bent = bend(kind, GOOD, None)
    assert (bent.text, bent.finish, bent.output) == (text, finish, output)


def test_thoughts_eat_the_whole_cap() -> None:
    """Nothing can be seen and everything is billed."""
    bent = bend("thinking", GOOD, 90)
    assert (bent.text, bent.finish, bent.output, bent.thoughts) == (None, "MAX_TOKENS", 0, 90)


def test_a_blocked_prompt_has_feedback_and_no_candidate() -> None:
    """The reason stands where the API puts it."""
    reply = json.loads(body(bend("blocked", GOOD, None), WHERE, "id"))
    assert "candidates" not in reply
    assert reply["promptFeedback"] == {"blockReason": "PROHIBITED_CONTENT"}


def test_counts_of_zero_are_left_out() -> None:
    """As in the API's own usage."""
    usage = json.loads(body(bend("empty", GOOD, None), WHERE, "id"))["usageMetadata"]
    assert "candidatesTokenCount" not in usage
    assert "thoughtsTokenCount" not in usage
    assert (usage["promptTokenCount"], usage["totalTokenCount"]) == (10, 10)
