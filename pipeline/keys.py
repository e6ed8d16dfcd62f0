"""Names for rows, prompts and jobs: blake2b digests that are the same on every machine and for ever.

Values are encoded before hashing so that no two different sequences of values share an encoding: each
value is a tag for its type, the length of its payload and the payload. Changing any of this would make
every finished run ask again, so the tests hold golden values.
"""

import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b

SIZE = 16  # bytes of a digest

_blank = blake2b(digest_size=SIZE)  # copying it is faster than making a new one
_double = struct.Struct(">d")
_NAN = _double.pack(float("nan"))  # of the many bit patterns of "not a number" one stands for all


def digest(values: Iterable[object]) -> bytes:
    """Return 16 bytes that name this sequence of values.

    Takes what a table cell can hold: None, bool, int, float, str, bytes, date, datetime, time, timedelta,
    Decimal, and lists and mappings of these; the order inside a mapping does not count. Raises TypeError
    for anything else. Values of different types differ (`1`, `1.0` and `"1"`).
    """
    state = _blank.copy()
    state.update(encode(values))
    return state.digest()


def digests(columns: Sequence[Sequence[object]]) -> list[bytes]:
    """Return `digest` of each row of a table given as columns of equal length, at twice the speed."""
    cells = [_column(column) for column in columns]
    rows = cells[0] if len(cells) == 1 else map(b"".join, zip(*cells, strict=True))
    named = []
    for row in rows:
        state = _blank.copy()
        state.update(row)
        named.append(state.digest())
    return named


def encode(values: Iterable[object]) -> bytes:
    """Return the encoding that `digest` hashes: different sequences have different encodings."""
    return b"".join([(_ENCODERS.get(type(value)) or _encoder(type(value)))(value) for value in values])


def fingerprint(identity: Mapping[str, object]) -> str:
    """Return 32 hex characters that name a job's identity, a mapping of JSON values."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return blake2b(text.encode("ascii"), digest_size=SIZE).hexdigest()


def cache_name(fingerprint: str, system: str) -> str:
    """Return the name under which a job's instruction is found again among a project's caches."""
    return f"rowmill-{fingerprint}-{digest([system]).hex()[:16]}"


def request_id(
    fingerprint: str,
    text: str,
    max_output_tokens: int | None,
    round: int,  # noqa: A002 - the word of `flow.Outcome`
    *,
    reply: int = 0,
) -> bytes:
    """Return the 16 bytes that name one request: equal ids may share one answer.

    `round` counts how often the row was given up and asked again, `reply` the replies that this prompt
    has had in this round: a repeated question is a new request.
    """
    state = _named(fingerprint).copy()  # all that `digest` does, but what most requests share is encoded once
    state.update(_str(text) + _counted(max_output_tokens, round, reply))
    return state.digest()


@lru_cache
def _named(fingerprint: str) -> blake2b:
    return blake2b(encode((fingerprint,)), digest_size=SIZE)


@lru_cache(typed=True)
def _counted(*numbers: int | None) -> bytes:
    return encode(numbers)


def _framed(tag: bytes, payload: bytes) -> bytes:
    return tag + len(payload).to_bytes(8, "little") + payload


def _column(column: Sequence[object]) -> list[bytes]:
    """Encode each value; text and integers, which most columns hold, without a call for each."""
    kinds = set(map(type, column))
    if kinds == {str}:
        with suppress(UnicodeEncodeError):  # half a surrogate pair
            return [b"s" + len(raw).to_bytes(8, "little") + raw for raw in map(str.encode, column)]  # type: ignore[arg-type]
    if kinds == {int}:
        return [b"i" + len(raw).to_bytes(8, "little") + raw for raw in map(b"%x".__mod__, column)]
    return [(_ENCODERS.get(type(cell)) or _encoder(type(cell)))(cell) for cell in column]


def _encoder(kind: type) -> Callable[..., bytes]:
    """Find the encoder of a subclass, such as an enum of strings."""
    for base in kind.__mro__:
        if base in _ENCODERS:
            return _ENCODERS[base]
    raise TypeError(f"a cell of type {kind.__name__} has no digest")


def _str(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"s" + len(raw).to_bytes(8, "little") + raw  # `_framed` written out: most cells are text


def _int(value: int) -> bytes:
    return _framed(b"i", b"%x" % value)


def _float(value: float) -> bytes:
    return _framed(b"f", _NAN if value != value else _double.pack(value))  # noqa: PLR0124 - the test for NaN


def _timedelta(value: timedelta) -> bytes:
    return _framed(b"l", b"%d:%d:%d" % (value.days, value.seconds, value.microseconds))


def _mapping(value: Mapping[object, object]) -> bytes:
    pairs = sorted((encode((name,)), encode((cell,))) for name, cell in value.items())
    return _framed(b"m", b"".join([part for pair in pairs for part in pair]))


_ENCODERS: dict[type, Callable[..., bytes]] = {
    str: _str,
    type(None): lambda _: _framed(b"n", b""),
    bool: lambda value: _framed(b"b", b"1" if value else b"0"),
    int: _int,
    float: _float,
    bytes: lambda value: _framed(b"y", value),
    date: lambda value: _framed(b"d", value.isoformat().encode()),
    datetime: lambda value: _framed(b"w", value.isoformat().encode()),
    time: lambda value: _framed(b"t", value.isoformat().encode()),
    timedelta: _timedelta,
    Decimal: lambda value: _framed(b"c", str(value).encode()),
    list: lambda value: _framed(b"a", encode(value)),
    tuple: lambda value: _framed(b"a", encode(value)),
    dict: _mapping,
}
