"""Reading requests as strictly as the API does."""

import json

import pytest

from pipeline.emulator.tokens import MEDIA_TOKENS, count_tokens
from pipeline.emulator.wire import Refused, read_call, route


def read(**fields: object) -> str:
    """Return the message of the refusal of a request."""
    with pytest.raises(Refused) as caught:
        read_call(json.dumps(fields).encode())
    assert caught.value.answer.status == 400
    message: str = json.loads(caught.value.answer.body)["error"]["message"]
    return message


def test_the_paths_of_both_flavours_are_read() -> None:
    """The model's resource name is what stands before the method."""
    plain = route("/v1/models/gemini-x:countTokens")
    cloud = route("/v1beta1/projects/p/locations/global/publishers/google/models/gemini-x:generateContent")
    assert plain is not None
    assert cloud is not None
    assert (plain.name, plain.method, plain.cloud) == ("models/gemini-x", "countTokens", False)
    assert (cloud.version, cloud.model, cloud.cloud) == ("v1beta1", "gemini-x", True)


@pytest.mark.parametrize("path", ["/", "/v2/models/m:generateContent", "/v1/models/m:embedContent"])
def test_other_paths_are_none(path: str) -> None:
    """What the API does not offer has no route."""
    assert route(path) is None


def test_both_spellings_are_one() -> None:
    """Snake and camel case mean the same field, and the system text counts."""
    text = {"parts": [{"text": "Hello there"}]}
    snake = read_call(json.dumps({"system_instruction": text, "contents": [text]}).encode())
    camel = read_call(json.dumps({"systemInstruction": text, "contents": text}).encode())
    assert snake == camel
    assert snake.prompt == "Hello there\nHello there"
    assert snake.last == "Hello there"
    assert snake.tokens == 2 * count_tokens("Hello there")


def test_parts_that_are_no_text_have_tokens_of_their_own() -> None:
    """An image counts by its resolution."""
    parts = [{"text": "See"}, {"inlineData": {"mime_type": "image/png", "data": "AA=="}}]
    call = read_call(json.dumps({"contents": [{"parts": parts}]}).encode())
    assert call.tokens == count_tokens("See") + MEDIA_TOKENS
    assert [detail["modality"] for detail in call.details] == ["TEXT", "IMAGE"]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"contents": [], "prompt": "x"}, 'Unknown name "prompt"'),
        ({"contents": [{"parts": [{"txt": "x"}]}]}, "Unknown name \"txt\" at 'contents[0].parts[0]'"),
        ({"contents": []}, "contents is not specified"),
        ({"contents": [{"role": "user", "parts": []}]}, "must not be empty"),
        ({"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "valid role: user, model"),
        ({"contents": [{"parts": [{"text": 5}]}]}, "Invalid value"),
        ({"contents": ["x"]}, "expected an object"),
    ],
)
def test_what_the_api_does_not_know_is_refused(fields: dict[str, object], complaint: str) -> None:
    """The message names the field and where it stands."""
    assert complaint in read(**fields)


def test_broken_json_is_refused() -> None:
    """A body that does not parse is a 400."""
    with pytest.raises(Refused):
        read_call(b'{"contents": [')
