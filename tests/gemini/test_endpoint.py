"""The rules by which the environment names an API and an identity."""

import pytest

from pipeline.errors import UsageError
from pipeline.gemini.endpoint import Endpoint, endpoint, is_vertex

VERTEX = {"GOOGLE_GENAI_USE_VERTEXAI": "true", "GOOGLE_CLOUD_PROJECT": "mill-1"}


def test_google_api_key_wins() -> None:
    """Of two keys the SDK takes GOOGLE_API_KEY."""
    found = endpoint({"GEMINI_API_KEY": "second", "GOOGLE_API_KEY": " first\n"}, base_url=None)
    assert found == Endpoint("first", None, vertex=False, project=None, location=None, api_version="v1beta")


def test_a_blank_key_is_no_key() -> None:
    """A variable of blanks is passed over."""
    assert endpoint({"GEMINI_API_KEY": "k", "GOOGLE_API_KEY": " "}, base_url=None).api_key == "k"


def test_no_key_names_both_ways_out() -> None:
    """Without a key the hint shows where to get one and how to run without."""
    with pytest.raises(UsageError) as raised:
        endpoint({}, base_url=None)
    assert "GEMINI_API_KEY" in raised.value.hint
    assert "https://aistudio.google.com/apikey" in raised.value.hint
    assert "--offline" in raised.value.hint


@pytest.mark.parametrize("key", ["AIza one", "AIza\ttwo", "AIza\x00three", "AIza\x7f4", "AIzä5"])
def test_a_broken_key_is_refused_unseen(key: str) -> None:
    """A key with blanks or control characters inside is told, not shown."""
    with pytest.raises(UsageError) as raised:
        endpoint({"GEMINI_API_KEY": key}, base_url=None)
    assert "AIz" not in f"{raised.value.message}{raised.value.hint}{raised.value!r}"
    assert "`GEMINI_API_KEY`" in raised.value.message


def test_the_key_is_not_in_repr_or_scope() -> None:
    """Neither the printed endpoint nor its scope shows the key."""
    found = endpoint({"GEMINI_API_KEY": "AIzaSecret"}, base_url=None)
    assert "AIza" not in repr(found)
    assert "AIza" not in found.scope()


def test_scope_tells_keys_and_addresses_apart() -> None:
    """Limits are counted apart for another key and for another address, together for the same."""
    one = endpoint({"GEMINI_API_KEY": "one"}, base_url=None)
    same = endpoint({"GOOGLE_API_KEY": "one"}, base_url=None)
    other = endpoint({"GEMINI_API_KEY": "other"}, base_url=None)
    elsewhere = endpoint({"GEMINI_API_KEY": "one"}, base_url="http://localhost:80")
    assert one.scope() == same.scope()
    assert len({one.scope(), other.scope(), elsewhere.scope()}) == 3


def test_keys_of_one_project_share_limits_where_it_is_named() -> None:
    """The name that the user gives stands in the place of the key."""
    one = endpoint({"GEMINI_API_KEY": "one"}, base_url=None)
    other = endpoint({"GEMINI_API_KEY": "other"}, base_url=None)
    assert one.scope("mill") == other.scope("mill") != one.scope("another") != one.scope()


@pytest.mark.parametrize(("value", "vertex"), [("true", True), ("1", True), ("false", False), ("", False)])
def test_the_environment_says_whether_it_is_vertex(value: str, *, vertex: bool) -> None:
    """Without a key or a project being looked for."""
    assert is_vertex({"GOOGLE_GENAI_USE_VERTEXAI": value}) is vertex


def test_vertex_takes_the_project_and_no_key() -> None:
    """Vertex AI has a project, a default location, its own version, and the project as scope."""
    found = endpoint({**VERTEX, "GEMINI_API_KEY": "k"}, base_url=None)
    assert found == Endpoint(
        None, None, vertex=True, project="mill-1", location="global", api_version="v1beta1"
    )
    assert found.scope() == "mill-1/global"


@pytest.mark.parametrize(
    ("enterprise", "vertex", "expected"),
    [
        ("true", None, True),
        ("1", "false", True),
        ("TRUE", "", True),
        ("false", "true", False),
        ("", "1", True),
        (None, "yes", False),
    ],
)
def test_enterprise_is_looked_at_first(enterprise: str | None, vertex: str | None, expected: bool) -> None:
    """The newer switch decides where it is set; only `true` and `1` mean yes."""
    env = {"GOOGLE_CLOUD_PROJECT": "p", "GEMINI_API_KEY": "k"}
    if enterprise is not None:
        env["GOOGLE_GENAI_USE_ENTERPRISE"] = enterprise
    if vertex is not None:
        env["GOOGLE_GENAI_USE_VERTEXAI"] = vertex
    assert endpoint(env, base_url=None).vertex is expected


def test_vertex_needs_a_project() -> None:
    """Without a project Vertex AI cannot be addressed."""
    with pytest.raises(UsageError, match="GOOGLE_CLOUD_PROJECT"):
        endpoint({"GOOGLE_GENAI_USE_VERTEXAI": "1"}, base_url=None)


@pytest.mark.parametrize("location", ["../x", "evil.com/", "a b", "-x"])
def test_a_location_cannot_change_the_host(location: str) -> None:
    """What becomes a part of a host name holds nothing that ends it."""
    with pytest.raises(UsageError, match="GOOGLE_CLOUD_LOCATION"):
        endpoint({**VERTEX, "GOOGLE_CLOUD_LOCATION": location}, base_url=None)


ADDRESSES = {
    "GOOGLE_GEMINI_BASE_URL": "http://gemini.example",
    "GOOGLE_VERTEX_BASE_URL": "http://vertex.example",
}


def test_each_backend_has_its_own_address() -> None:
    """Vertex AI is never sent to the address of the Developer API, as the SDK would do."""
    assert endpoint({**VERTEX, **ADDRESSES}, base_url=None).base_url == "http://vertex.example"
    found = endpoint({"GEMINI_API_KEY": "k", **ADDRESSES}, base_url=None)
    assert found.base_url == "http://gemini.example"


def test_the_flag_beats_the_environment() -> None:
    """An address on the command line wins."""
    found = endpoint({"GEMINI_API_KEY": "k", **ADDRESSES}, base_url="http://127.0.0.1:8080")
    assert found.base_url == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    "address", ["gemini.example", "ftp://x", "http://", "http://u:p@h", "http://[", "http://h:x"]
)
def test_an_unusable_address_is_refused(address: str) -> None:
    """An address that no request can go to is told before the first row, without its password."""
    with pytest.raises(UsageError, match="base URL") as raised:
        endpoint({"GEMINI_API_KEY": "k"}, base_url=address)
    assert "u:p" not in raised.value.message


@pytest.mark.parametrize(("version", "expected"), [("v1", "v1"), ("beta", "v1beta"), ("", "v1beta")])
def test_the_version_is_explicit(version: str, expected: str) -> None:
    """The variable wins over v1beta; `beta` is the SDK's word for it."""
    env = {"GEMINI_API_KEY": "k", "GOOGLE_GENAI_API_VERSION": version}
    assert endpoint(env, base_url=None).api_version == expected


@pytest.mark.parametrize(("word", "public"), [(None, False), ("", False), (" public\n", True)])
def test_the_public_call_can_be_asked_for(word: str | None, public: bool) -> None:
    """ROWMILL_SDK=public is what keeps to the documented call, on either API."""
    env = {"GEMINI_API_KEY": "k"} if word is None else {"GEMINI_API_KEY": "k", "ROWMILL_SDK": word}
    assert endpoint(env, base_url=None).public_sdk is public
    assert endpoint({**env, **VERTEX}, base_url=None).public_sdk is public


def test_another_word_for_the_sdk_is_refused() -> None:
    """A mistyped wish is not passed over."""
    with pytest.raises(UsageError) as raised:
        endpoint({"GEMINI_API_KEY": "k", "ROWMILL_SDK": "Public"}, base_url=None)
    assert raised.value.message == "`ROWMILL_SDK` is `Public`"
