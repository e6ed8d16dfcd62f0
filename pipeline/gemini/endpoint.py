"""Where the API is and who asks: the Developer API with a key, or Vertex AI with a project."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pipeline.errors import UsageError

_KEY_NAMES = ("GOOGLE_API_KEY", "GEMINI_API_KEY")
_VERTEX_NAMES = ("GOOGLE_GENAI_USE_ENTERPRISE", "GOOGLE_GENAI_USE_VERTEXAI")
_SDK_NAME = "ROWMILL_SDK"
_RESOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]*")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_ANY_KEY = "for `rowmill emulate` any text is a key: put `GEMINI_API_KEY=any` before the command"
_WAYS_OUT = (
    "set `GEMINI_API_KEY` (get one at https://aistudio.google.com/apikey), "
    "or run with `--offline --tier 1` for the local emulator"
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An API and the identity that calls it.

    The Developer API has an `api_key`; Vertex AI has `project` and `location` and takes Application
    Default Credentials. `base_url` is None for the SDK's own address. `public_sdk` keeps to the call that
    the SDK documents, where a shorter one is known.
    """

    api_key: str | None = field(repr=False)
    base_url: str | None
    vertex: bool
    project: str | None
    location: str | None
    api_version: str
    public_sdk: bool = False

    def scope(self, project: str | None = None) -> str:
        """Return what the API counts limits for: the project, or a short hash that stands for the key.

        The API does not tell which project a key belongs to, so the user may name it.
        """
        if self.project:
            return f"{self.project}/{self.location}"
        identity = f"{project or self.api_key}\0{self.base_url or ''}".encode()
        return hashlib.blake2b(identity, digest_size=8).hexdigest()


def endpoint(env: Mapping[str, str], *, base_url: str | None) -> Endpoint:
    """Read the endpoint from environment variables by the SDK's own rules; `base_url` is the flag.

    A value of blanks counts as unset. Raises UsageError, which never holds the key.
    """
    values = {name: value.strip() for name, value in env.items() if value.strip()}
    version = values.get("GOOGLE_GENAI_API_VERSION", "beta")
    if _wants_vertex(values):
        return Endpoint(
            api_key=None,
            base_url=_address(base_url, values, "GOOGLE_VERTEX_BASE_URL"),
            vertex=True,
            project=_resource(values, "GOOGLE_CLOUD_PROJECT", None),
            location=_resource(values, "GOOGLE_CLOUD_LOCATION", "global"),
            api_version="v1beta1" if version == "beta" else version,
            public_sdk=wants_public_sdk(env),
        )
    address = _address(base_url, values, "GOOGLE_GEMINI_BASE_URL")
    return Endpoint(
        api_key=_key(values, address),
        base_url=address,
        vertex=False,
        project=None,
        location=None,
        api_version="v1beta" if version == "beta" else version,
        public_sdk=wants_public_sdk(env),
    )


def origin(env: Mapping[str, str], *, base_url: str | None) -> str:
    """Name who answers: `google`, or the address of another server. Needs no key.

    Google's two APIs serve the same models. What stands at another address may be anything, so its
    answers are kept apart.
    """
    values = {name: value.strip() for name, value in env.items() if value.strip()}
    name = "GOOGLE_VERTEX_BASE_URL" if _wants_vertex(values) else "GOOGLE_GEMINI_BASE_URL"
    return (_address(base_url, values, name) or "google").rstrip("/")


def is_vertex(env: Mapping[str, str]) -> bool:
    """Tell whether the environment asks for Vertex AI."""
    return _wants_vertex({name: value.strip() for name, value in env.items() if value.strip()})


def wants_public_sdk(env: Mapping[str, str]) -> bool:
    """Tell whether `ROWMILL_SDK` asks for the SDK's public call; raises UsageError for another word."""
    value = env.get(_SDK_NAME, "").strip()
    if value not in ("", "public"):
        raise UsageError(f"`{_SDK_NAME}` is `{value}`", "set it to `public`, or unset it")
    return value == "public"


def _wants_vertex(values: Mapping[str, str]) -> bool:
    """Tell whether the first of the two switches that is set says yes."""
    for name in _VERTEX_NAMES:
        if name in values:
            return values[name].lower() in ("true", "1")
    return False


def _key(values: Mapping[str, str], address: str | None) -> str:
    name = next((name for name in _KEY_NAMES if name in values), None)
    if name is None:
        raise UsageError(
            "no API key: neither `GOOGLE_API_KEY` nor `GEMINI_API_KEY` is set", _way_out(address)
        )
    key = values[name]
    if not all("!" <= letter <= "~" for letter in key):  # it travels in a header
        raise UsageError(
            f"`{name}` holds blanks, line breaks or other characters that no key has",
            "copy the key again, in one piece, from https://aistudio.google.com/apikey",
        )
    return key


def _way_out(address: str | None) -> str:
    here = address is not None and urlsplit(address).hostname in _LOOPBACK
    return f"{_ANY_KEY}; else {_WAYS_OUT}" if here else _WAYS_OUT


def _resource(values: Mapping[str, str], name: str, default: str | None) -> str:
    """Return a name that becomes a part of the URL."""
    value = values.get(name, default)
    if value is None:
        raise UsageError(
            f"Vertex AI is switched on, but `{name}` is not set",
            f"set `{name}` to your project id, or unset `{'` and `'.join(_VERTEX_NAMES)}` to use a key",
        )
    if not _RESOURCE.fullmatch(value):
        raise UsageError(f"`{name}` is `{value!r}`", "use letters, digits and hyphens only")
    return value


def _address(flag: str | None, values: Mapping[str, str], name: str) -> str | None:
    """Return the flag, else the variable of the backend in use, checked."""
    address = (flag or "").strip() or values.get(name)
    if address is None:
        return None
    hint = "give the address without user, query and path of a method, like `https://gateway.example.com`"
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as exc:
        raise UsageError("the base URL cannot be read", hint) from exc
    # a password or a key in the address would be printed and stored with it
    if not usable or "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError("the base URL is not an `http://` or `https://` address of a host", hint)
    return address
