"""Scripted faults: which request goes wrong, and how.

A spec is `[PLACE/]KIND[:PARAMETER]SELECTOR`. Selectors: `@3` the third request of the place, `@3-5`,
`@3+` from the third on, `%0.05` that share of prompts as the seed draws it, `~word` requests whose prompt
contains the word, `~word#2` only the first two of them. The parameter is in seconds. Without a place it is
about generateContent; `line/` is about the lines of batches, `batch/` about whole jobs, and an operation
such as `batch-create/` about requests for it, whose "prompt" is the display name or the resource.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace
from hashlib import blake2b

QUOTA_KINDS = frozenset(
    {
        "429-minute",
        "429-tokens",
        "429-day",
        "429-bare",
        "429-vertex",
        "429-limit0",
        "429-prepay",
        "429-spendcap",
        "429-spend",
        "402",
    }
)
"""Refusals at the gate: they use up no quota."""

REFUSAL_KINDS = QUOTA_KINDS | {
    "400-key",
    "400-argument",
    "400-cache",
    "400-schema",
    "400-toolong",
    "400-location",
    "403-cache",
    "403-echo",
    "404-model",
    "404-html",
    "408",
    "499",
    "500",
    "502-html",
    "503",
    "504",
    "503-shed",
}
"""Answers with another status than 200."""

TIER_KINDS = {"503-shed": "flex", "downgrade": "priority"}
"""Kinds that happen only to requests of one service tier: a 503, and an answer as `standard`."""

CONNECTION_KINDS = frozenset({"hang", "cut", "reset"})
"""The client gets no whole answer."""

ODD_KINDS = frozenset(
    {
        "slow",
        "trickle",
        "badjson",
        "wrongtype",
        "fenced",
        "html200",
        "garbage200",
        "empty",
        "nocandidates",
        "blocked",
        "thinking",
        "pack-missing",
        "pack-doubled",
        "pack-foreign",
        "pack-twice",
        "pack-swapped",
        "pack-shuffled",
        "pack-empty",
        "pack-text",
        "pack-badjson",
        "pack-cut",
        "pack-short",
        "pack-loop",
    }
)
"""Status 200, but late or not what was asked for; so is every `finish-REASON`."""

JOB_KINDS = frozenset({"fail", "stuck"})
"""A batch that ends FAILED, or that runs until it expires; neither answers a line."""

DONE_KINDS = frozenset({"done-hang", "done-reset"})
"""The operation is done, and the client never hears of it."""

OPERATIONS = frozenset(
    [
        *("upload-start", "upload-bytes", "file-get", "file-list", "file-download", "file-delete"),
        *("batch-create", "batch-get", "batch-list", "batch-cancel", "batch-delete"),
        *("cache-create", "cache-get", "cache-list", "cache-update", "cache-delete"),
    ]
)
"""Places of requests other than generateContent."""

_TIMED = frozenset({"slow", "trickle", "429-minute", "429-tokens", "429-day", "429-limit0"})
_PACES = frozenset({"slow", "trickle"})
_KINDS: dict[str, frozenset[str]] = {
    "": frozenset(TIER_KINDS) | REFUSAL_KINDS | CONNECTION_KINDS | ODD_KINDS,
    "line": REFUSAL_KINDS | ODD_KINDS - _PACES - {"html200", "garbage200"},
    "batch": JOB_KINDS,
} | dict.fromkeys(OPERATIONS, REFUSAL_KINDS | CONNECTION_KINDS | DONE_KINDS | {"slow"})
_SPEC = re.compile(
    r"(?:(?P<place>[a-z-]+)/)?(?P<kind>[a-z0-9_-]+)(?::(?P<parameter>[^@%~]*))?(?:@(?P<at>.*)|%(?P<share>.*)|~(?P<word>.*))",
    re.DOTALL,
)
_SPAN = re.compile(r"(?P<first>[1-9]\d*)(?:(?P<open>\+)|-(?P<last>[1-9]\d*))?")
_FINISH = re.compile(r"finish-[a-z][a-z_]*")


@dataclass(frozen=True, slots=True)
class Fault:
    """One spec, read. Exactly one of the selectors is set: `first`, `share` or `word`."""

    kind: str
    seconds: float | None = None
    first: int | None = None
    last: int | None = None
    share: float | None = None
    word: str | None = None
    times: int | None = None
    place: str = ""


def parse_fault(spec: str) -> Fault:
    """Read one spec; ValueError says what is wrong with it."""
    fault = _parsed(spec)
    place, slash, _ = spec.partition("/")
    return replace(fault, place=place) if slash and place in _KINDS else fault


def _parsed(spec: str) -> Fault:
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ValueError(f"fault `{spec}` is not KIND@N, KIND@N-M, KIND@N+, KIND%SHARE or KIND~WORD")
    kind, place = match["kind"], match["place"] or ""
    if place not in _KINDS:
        raise ValueError(f"fault `{spec}` is for the unknown place `{place}`")
    if kind not in _KINDS[place] and not (place in ("", "line") and _FINISH.fullmatch(kind)):
        raise ValueError(f"fault `{spec}` has the unknown kind `{kind}`")
    seconds = _seconds(spec, kind, match["parameter"])
    if match["at"] is not None:
        return _by_number(spec, kind, seconds, match["at"])
    if match["share"] is not None:
        return Fault(kind, seconds, share=_share(spec, match["share"]))
    return _by_word(spec, kind, seconds, match["word"])


def _seconds(spec: str, kind: str, parameter: str | None) -> float | None:
    if parameter is None:
        return None
    if kind not in _TIMED:
        raise ValueError(f"fault `{spec}`: `{kind}` takes no parameter")
    if not re.fullmatch(r"\d+(\.\d+)?", parameter):
        raise ValueError(f"fault `{spec}`: `{parameter}` is no number of seconds")
    return float(parameter)


def _by_number(spec: str, kind: str, seconds: float | None, at: str) -> Fault:
    match = _SPAN.fullmatch(at)
    if match is None:
        raise ValueError(f"fault `{spec}`: `{at}` is not N, N-M or N+ with N from 1")
    first = int(match["first"])
    if match["open"]:
        return Fault(kind, seconds, first=first)
    last = int(match["last"] or first)
    if last < first:
        raise ValueError(f"fault `{spec}`: {last} comes before {first}")
    return Fault(kind, seconds, first=first, last=last)


def _share(spec: str, text: str) -> float:
    if not re.fullmatch(r"\d*\.?\d+", text) or not 0 < float(text) <= 1:
        raise ValueError(f"fault `{spec}`: the share `{text}` is not above 0 and at most 1")
    return float(text)


def _by_word(spec: str, kind: str, seconds: float | None, text: str) -> Fault:
    word, hash_sign, times = text.rpartition("#")
    if not hash_sign:
        word, times = text, ""
    elif not re.fullmatch(r"[1-9]\d*", times):
        raise ValueError(f"fault `{spec}`: `{times}` is no count from 1")
    if not word:
        raise ValueError(f"fault `{spec}`: the word is empty")
    return Fault(kind, seconds, word=word, times=int(times) if times else None)


class Script:
    """The faults of one place and how far they have come."""

    def __init__(self, specs: tuple[str, ...], place: str = "", seed: int = 0) -> None:
        self._seed = seed
        faults = (parse_fault(spec) for spec in specs)
        self._faults = tuple(fault for fault in faults if fault.place == place)
        self._counts_attempts = any(fault.share is not None for fault in self._faults)
        self.restart()

    def restart(self) -> None:
        """Forget all counts."""
        self._seen: Counter[bytes] = Counter()
        self._used: Counter[int] = Counter()

    def __bool__(self) -> bool:
        """Tell if there is any fault to ask for."""
        return bool(self._faults)

    def pick(self, ordinal: int, text: str, tier: str = "standard") -> Fault | None:
        """Return the first fault that applies to the `ordinal`-th request, whose prompt is `text`.

        `tier` is the service tier that the request wants.
        """
        attempt, digest = 0, b""
        if self._counts_attempts:
            digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            attempt = self._seen[digest]
            self._seen[digest] += 1
        for place, fault in enumerate(self._faults):
            if TIER_KINDS.get(fault.kind, tier) == tier and self._applies(
                place, fault, ordinal=ordinal, text=text, attempt=(digest, attempt)
            ):
                return fault
        return None

    def _applies(
        self, place: int, fault: Fault, *, ordinal: int, text: str, attempt: tuple[bytes, int]
    ) -> bool:
        if fault.first is not None:
            return fault.first <= ordinal and (fault.last is None or ordinal <= fault.last)
        if fault.share is not None:
            return _lot(f"{self._seed or ''}{fault.kind}", *attempt) < fault.share
        if fault.word is None or fault.word not in text:
            return False
        self._used[place] += 1
        return fault.times is None or self._used[place] <= fault.times


def _lot(kind: str, digest: bytes, attempt: int) -> float:
    """Draw a number in [0, 1) that is the same for the same seed and kind, prompt and attempt."""
    lot = blake2b(digest + attempt.to_bytes(8, "big"), digest_size=8, key=kind.encode()[:64])
    return int.from_bytes(lot.digest(), "big") / 2**64
