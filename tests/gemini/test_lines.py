"""Lines of the Batch API's files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.flow import Failure, FailureKind, Reply, Usage
from pipeline.gemini.lines import Answer, Job, answer_of_line, request_line

RESPONSE = {
    "candidates": [
        {"content": {"role": "model", "parts": [{"text": "Lima"}]}, "index": 0, "finishReason": "STOP"}
    ],
    "usageMetadata": {
        "promptTokenCount": 15,
        "candidatesTokenCount": 2,
        "thoughtsTokenCount": 60,
        "totalTokenCount": 77,
        "serviceTier": "SERVICE_TIER_STANDARD",
    },
    "modelVersion": "gemini-3.5-flash",
    "responseId": "a",
}


def read(line: object) -> Answer:
    """Read one line, as text or as JSON."""
    text = line if isinstance(line, str) else json.dumps(line)
    found = answer_of_line(text, Job(seconds=9.0, at=1.0))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "line",
    [
        {"key": "k", "response": RESPONSE},
        {"response": RESPONSE, "key": "k"},
        {"metadata": {"key": "k"}, "response": RESPONSE},
        {"custom_id": "k", "response": RESPONSE},
        {"key": "k", "request": {"contents": []}, "response": RESPONSE, "status": "", "processed_time": "x"},
        {"key": "k", **RESPONSE},
    ],
)
def test_a_response_is_read_in_every_shape(line: dict[str, object]) -> None:
    """Its key, text and tokens are found, and its tier is the batch's, whatever it says."""
    found = read(line)
    assert found.key == "k"
    assert isinstance(found.answer, Reply)
    assert (found.answer.text, found.answer.tier, found.answer.seconds) == ("Lima", "batch", 9.0)
    assert found.answer.usage == Usage(15, 0, 60, 2, 77)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 3, "message": "Request contains an invalid argument."}, FailureKind.BAD_REQUEST),
        ({"code": 13, "message": "An internal error has occurred."}, FailureKind.SERVER),
        ({"code": 8, "message": "Resource has been exhausted (e.g. check quota)."}, FailureKind.RATE_LIMITED),
        ({"code": 14, "message": "The model is overloaded."}, FailureKind.OVERLOADED),
        ({"code": 4, "message": "Deadline expired."}, FailureKind.DEADLINE),
        ({"code": 16, "message": "No credentials."}, FailureKind.KEY),
        ({"code": 3, "message": "API key not valid."}, FailureKind.KEY),
        ({"code": 3, "message": "The input token count (9) exceeds the maximum."}, FailureKind.TOO_LONG),
        ({"code": 400, "message": "bad", "status": "INVALID_ARGUMENT"}, FailureKind.BAD_REQUEST),
        ({"code": 503, "message": "high demand", "details": [{"a": [{}]}]}, FailureKind.OVERLOADED),
        ({"message": "no code at all"}, FailureKind.SERVER),
        ({"code": 99}, FailureKind.SERVER),
        ("Bad Request", FailureKind.SERVER),
    ],
)
@pytest.mark.parametrize("place", ["error", "status", "inside"])
def test_error_lines_are_failures(error: object, kind: FailureKind, place: str) -> None:
    """GRPC codes and HTTP statuses mean the same, wherever the error stands."""
    line = {"key": "k", "response": {"error": error}} if place == "inside" else {"key": "k", place: error}
    found = read(line)
    assert found.key == "k"
    assert isinstance(found.answer, Failure)
    assert found.answer.kind is kind


@pytest.mark.parametrize("line", ["{", "[]", "null", "<html>", '{"key": "k"}', '{"key": 7, "response": {}}'])
def test_what_is_no_answer_is_garbled(line: str) -> None:
    """A line that is cut or says nothing leaves its row unanswered."""
    found = read(line)
    assert isinstance(found.answer, Failure)
    assert found.answer.kind is FailureKind.GARBLED


def test_an_empty_line_is_none() -> None:
    """As at the end of a file."""
    assert answer_of_line("\n", Job()) is None


@given(
    st.text()
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["key", "response", "error", "status", "metadata", "code"]), inner
            )
        ),
    ).map(json.dumps)
)
def test_no_line_raises(line: str) -> None:
    """Whatever stands in a file of results."""
    answer_of_line(line, Job())


def test_secrets_are_not_kept() -> None:
    """The server may echo the key in an error line, too."""
    line = json.dumps({"key": "k", "error": {"code": 7, "message": "suspended: secret-key-1"}})
    found = answer_of_line(line, Job(secrets=("secret-key-1",)))
    assert found is not None
    assert isinstance(found.answer, Failure)
    assert "secret" not in found.answer.message


@given(st.text(min_size=1))
def test_a_request_is_one_line_of_utf8(text: str) -> None:
    """Line breaks, lone surrogates and quotes of a prompt do not break a line; what is shared is in it."""
    shared = {"generationConfig": {"seed": 7}, "systemInstruction": {"parts": [{"text": "s"}]}}
    line = request_line("k", text, 50, shared)
    assert line.count(b"\n") == 1
    loaded = json.loads(line)
    assert loaded["key"] == "k"
    assert loaded["request"]["generationConfig"] == {"seed": 7, "maxOutputTokens": 50}
    expected = text.encode("utf-8", "replace").decode()
    assert loaded["request"]["contents"][0]["parts"][0]["text"] == expected
