"""The values that travel from the input table to the output table; all frozen, none knows I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from pydantic import BaseModel

MISSING = "ROW_MISSING"  # the finish reason of a row that got nothing out of its pack; no reason of the API's


class FailureKind(StrEnum):
    """Why a request or a row has no answer. `pipeline.retry` says what follows from each kind."""

    # the way there and back
    CONNECTION = "connection"  # refused, reset, DNS, TLS, cut body
    TIMEOUT = "timeout"  # the request's own deadline passed
    SERVER = "server"  # 408, 499, 500, 502 and other unexpected statuses
    OVERLOADED = "overloaded"  # 503
    DEADLINE = "deadline"  # 504: the server's own deadline, which a shorter request may keep
    GARBLED = "garbled"  # a 200 whose body is not the API's JSON
    CACHE = "cache"  # the cache that held the instruction is gone; the request goes without it
    # quota
    RATE_LIMITED = "rate_limited"  # 429 for a minute's window, or without any detail
    SPEND_LIMITED = "spend_limited"  # 429 for the dollars of ten minutes
    QUOTA_DAY = "quota_day"  # 429 for the day
    MAX_COST = "max_cost"  # the run has spent what the user allowed
    LEFT_OPEN = "left_open"  # batch jobs go on at the API, and the run was told not to wait for them
    # the API refuses every request of the run
    NO_QUOTA = "no_quota"  # limit: 0, the tier has no quota for this model
    BILLING = "billing"  # 402, prepaid credit or spending cap
    KEY = "key"  # 400 API_KEY_INVALID, 401, 403
    LOCATION = "location"  # the API is not offered in this country
    MODEL = "model"  # 404, or a model closed to this project
    SCHEMA = "schema"  # the response schema is refused
    CONFIG = "config"  # the request itself is refused, whatever the row
    # this row
    BAD_REQUEST = "bad_request"  # 400 without a reason that concerns every row
    TOO_LONG = "too_long"  # more input tokens than the model takes or the budget allows
    BLOCKED = "blocked"  # the prompt was blocked (promptFeedback.blockReason)
    SAFETY = "safety"  # finish reasons SAFETY, PROHIBITED_CONTENT, BLOCKLIST, SPII, MODEL_ARMOR ...
    RECITATION = "recitation"
    LANGUAGE = "language"
    UNFINISHED = "unfinished"  # any other finish reason than STOP, also unknown ones
    EMPTY = "empty"  # no candidate, or one without text
    MAX_TOKENS = "max_tokens"
    MISSING = "missing"  # not among the answers of the pack that the row was asked in
    INVALID = "invalid"  # JSON that does not validate
    TEMPLATE = "template"  # the prompt of this row cannot be rendered


class Unsent(StrEnum):
    """Why a request certainly never left this machine for the API: no connection came about."""

    NETWORK = "network"  # this machine has no network for now
    NAME = "name"  # the host's name is unknown
    REFUSED = "refused"  # nobody listens, no way there, or hung up before anything was said
    TLS = "tls"  # the other side is not who it says, or speaks no TLS
    PROXY = "proxy"  # the proxy does not let it through
    STALE = "stale"  # a kept connection was not fit for use


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one reply or of several added up; `cached` is part of `prompt`.

    `audio` is the part of `prompt` that was sound, `cached_audio` what of that is part of `cached`, too.
    """

    prompt: int = 0
    cached: int = 0
    thoughts: int = 0
    output: int = 0
    total: int = 0
    audio: int = 0
    cached_audio: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """Add field by field."""
        if self is NO_USAGE:  # what most sums begin with
            return other
        return Usage(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.thoughts + other.thoughts,
            self.output + other.output,
            self.total + other.total,
            self.audio + other.audio,
            self.cached_audio + other.cached_audio,
        )

    @property
    def kinds(self) -> tuple[int, int, int, int]:
        """The prompt in four: text (as all but audio is called) and cached text, audio and cached audio."""
        cached, audio = min(self.cached, self.prompt), min(self.audio, self.prompt)
        # no more of both than of either, and as much as has no room outside of both
        both = min(max(self.cached_audio, cached + audio - self.prompt), cached, audio)
        return self.prompt - cached - audio + both, cached - both, audio - both, both


NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that did not come.

    `retry_after` is the server's wish in seconds; `quota_id` and `quota_value` name the quota that a
    429 reported, where it did. `unsent` is set where nothing reached the API; `source` is as in `Reply`.
    """

    kind: FailureKind
    message: str
    retry_after: float | None = None
    quota_id: str | None = None
    quota_value: int | None = None
    unsent: Unsent | None = None
    source: str = "api"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the input. `key` names it, `digest` is of the cells that the prompt uses (16 bytes each)."""

    index: int
    key: bytes
    digest: bytes
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Request:
    """One call: what makes it differ from the other calls of the run.

    `id` (16 bytes) is a digest of everything that changes the answer.
    """

    id: bytes
    text: str
    max_output_tokens: int | None


@dataclass(frozen=True, slots=True)
class Reply:
    """What the API answered with status 200, not yet judged.

    `finish` is the finish reason as sent (`""` without a candidate), `block` the block reason of the
    prompt, `model` and `tier` are as served, `source` is `api` or `emulator`, `rows` is how many shared the
    request (`text` and `usage` are then of one of them). `at` is the Unix time at which it came, which says
    what day's price holds (0: not known); `stored` are picodollars of cache storage that it has to bear.
    """

    text: str
    finish: str
    block: str
    usage: Usage
    model: str
    tier: str
    seconds: float
    source: str
    rows: int = 1
    at: float = 0.0
    stored: int = 0


@dataclass(frozen=True, slots=True)
class Spent:
    """What a row took in all its attempts; what is neither a sum nor a count is of the last one.

    `rows` is how many shared the request.
    """

    usage: Usage = NO_USAGE
    cost_usd: float = 0.0
    model: str | None = None
    attempts: int = 0
    latency_ms: int | None = None
    source: str = "api"
    rows: int = 1

    def after(self, earlier: "Spent") -> "Spent":
        """Return both together; what describes the last attempt is kept."""
        return replace(
            self,
            usage=self.usage + earlier.usage,
            cost_usd=self.cost_usd + earlier.cost_usd,
            attempts=self.attempts + earlier.attempts,
        )


NOTHING_SPENT = Spent()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a row: a validated answer or a Failure, and what it took.

    `round` counts how often the row was given up and asked again on request (`--retry-failed`);
    `spent` is what this round took, `earlier` what those before it did. `asked` says that a request of this
    run went out for it.
    """

    key: bytes
    digest: bytes
    answer: BaseModel | Failure
    spent: Spent
    round: int = 0
    earlier: Spent | None = None
    asked: bool = True

    @property
    def total(self) -> Spent:
        """What the row took in all its rounds."""
        return self.spent if self.earlier is None else self.spent.after(self.earlier)
