"""What follows from a failure: one table from the kind of failure to the next step of its row.

The table answers three questions: may asking again cure it, in which way, and how often. What cannot be
cured by asking again is not asked again, since each call may cost money.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pipeline.flow import Failure, FailureKind, Unsent


class Act(StrEnum):
    """The next step of a row, or of the run."""

    AGAIN = "again"  # the same request, after a wait
    ENLARGE = "enlarge"  # with a larger cap of output tokens
    REPAIR = "repair"  # with the reason why the last answer was no good
    PAUSE = "pause"  # all of the run waits, then the same request
    GIVE_UP = "give up"  # the row has failed
    STOP = "stop"  # the run stops and can be continued later (exit 3)
    REFUSE = "refuse"  # the run stops: the API refuses every request of it (exit 5)


@dataclass(frozen=True, slots=True)
class Rule:
    """`act` while a row met the kind at most `tries` times, then the row is given up.

    Waits grow from `wait` by doubling up to `ceiling` (seconds), each drawn between half and all of it.
    """

    act: Act
    tries: int = 0
    wait: float = 0.0
    ceiling: float = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now, after `wait` seconds."""

    act: Act
    wait: float = 0.0


GIVE_UP = Rule(Act.GIVE_UP)
REFUSE = Rule(Act.REFUSE)

TABLE: Mapping[FailureKind, Rule] = {
    FailureKind.CONNECTION: Rule(Act.AGAIN, tries=5, wait=1.0, ceiling=30.0),
    FailureKind.TIMEOUT: Rule(Act.AGAIN, tries=2, wait=1.0),
    FailureKind.SERVER: Rule(Act.AGAIN, tries=4, wait=1.0),
    FailureKind.OVERLOADED: Rule(Act.AGAIN, tries=7, wait=2.0),
    FailureKind.DEADLINE: Rule(Act.AGAIN, tries=7, wait=2.0),
    FailureKind.GARBLED: Rule(Act.AGAIN, tries=2, wait=1.0),
    FailureKind.CACHE: Rule(Act.AGAIN, tries=8),
    FailureKind.SPEND_LIMITED: Rule(Act.PAUSE, tries=12, wait=30.0, ceiling=120.0),
    # A row that alone exceeds a token budget is answered 429 for ever: the tries end that.
    FailureKind.RATE_LIMITED: Rule(Act.PAUSE, tries=12, wait=4.0),
    FailureKind.QUOTA_DAY: Rule(Act.STOP),
    FailureKind.MAX_COST: Rule(Act.STOP),
    FailureKind.LEFT_OPEN: Rule(Act.STOP),
    FailureKind.NO_QUOTA: REFUSE,
    FailureKind.BILLING: REFUSE,
    FailureKind.KEY: REFUSE,
    FailureKind.LOCATION: REFUSE,
    FailureKind.MODEL: REFUSE,
    FailureKind.SCHEMA: REFUSE,
    FailureKind.CONFIG: REFUSE,
    FailureKind.BAD_REQUEST: GIVE_UP,
    FailureKind.TOO_LONG: GIVE_UP,
    FailureKind.BLOCKED: GIVE_UP,
    FailureKind.SAFETY: GIVE_UP,
    FailureKind.RECITATION: GIVE_UP,
    FailureKind.LANGUAGE: GIVE_UP,
    FailureKind.UNFINISHED: Rule(Act.AGAIN, tries=1),
    FailureKind.EMPTY: Rule(Act.AGAIN, tries=1),
    FailureKind.MAX_TOKENS: Rule(Act.ENLARGE, tries=1),
    FailureKind.MISSING: Rule(Act.AGAIN, tries=12),  # each time in a pack of half the size, in the end alone
    FailureKind.INVALID: Rule(Act.REPAIR, tries=1),
    FailureKind.TEMPLATE: GIVE_UP,
}

LONGEST_OUTAGE = 600.0  # seconds without any answer, once there was one, after which the run stops
LONGEST_PAUSE = 900.0  # seconds; when the API asks for more, the run stops and can be continued then

# Faults that a single row may cause as well: its prompt takes too long, or breaks the server each time.
ROWS_OWN = frozenset({FailureKind.TIMEOUT, FailureKind.DEADLINE, FailureKind.SERVER, FailureKind.GARBLED})
PACK_TRIES = 2  # of a pack that meets one of these, before it is asked in halves

PROBES = 20  # requests that fail before any answer until it looks like an outage, and
FEWER_PROBES = 12  # where the address or a proxy may be wrong
LONGEST_PROBE = 30.0  # seconds between two of them

_OF_SERVICE = frozenset({FailureKind.DEADLINE, FailureKind.SERVER})  # and hardly of a wrong address

# Faults of the network or of the whole service: they end the run when nothing at all is answered any more.
OUTAGE = ROWS_OWN | {FailureKind.CONNECTION, FailureKind.OVERLOADED}

MORE_MONEY = (
    "run the same command again to spend as much again, or raise {limit}: it goes on where it stopped"
)
COUNTED = (
    "; what open batch jobs may cost counts as long as they are open, in the next run, too, which takes in "
    "what they answer"
)
AGAIN = "then run the same command again: it goes on where it stopped"

HINTS: Mapping[FailureKind, str] = {
    FailureKind.CONNECTION: "check the network, the proxy settings and the address (`--base-url`), then run "
    "the same command again: it goes on where it stopped",
    FailureKind.TIMEOUT: "check the network (a firewall may drop what is sent) and `timeout` under "
    "[model], then run the same command again: it goes on where it stopped",
    FailureKind.OVERLOADED: "run the same command again later: it goes on where it stopped",
    FailureKind.DEADLINE: "run the same command again later: it goes on where it stopped; fewer rows in a "
    "request (`--pack`) and shorter answers are ready sooner",
    FailureKind.SERVER: "run the same command again later: it goes on where it stopped; where a proxy or a "
    "gateway answers in place of the API, check its settings and the address (`--base-url`)",
    FailureKind.GARBLED: "something else than the API answers: check the address (`--base-url`), and whether "
    "this network wants a login or has a proxy, then run the same command again: it goes on where it stopped",
    FailureKind.RATE_LIMITED: "run the same command again then: it goes on where it stopped",
    FailureKind.SPEND_LIMITED: "run the same command again then: it goes on where it stopped; "
    "`spend_10min_usd` under [limits] keeps a run below the limit",
    FailureKind.QUOTA_DAY: "run the same command again after the reset: it goes on where it stopped; with "
    "`--wait` it waits for the reset by itself",
    FailureKind.MAX_COST: MORE_MONEY.format(limit="`max_cost`"),
    FailureKind.LEFT_OPEN: "run the same command again later, for example from cron: it takes in what was "
    "answered by then; without `--detach` it waits",
    FailureKind.NO_QUOTA: "this tier has no quota for the model: choose another model id in [model], or "
    "see https://aistudio.google.com/rate-limit",
    FailureKind.BILLING: "add credit or raise the spending cap at https://ai.studio/projects, then run the "
    "same command again",
    FailureKind.KEY: "check the key at https://aistudio.google.com/apikey (it may be mistyped, restricted "
    "or deleted), set GEMINI_API_KEY anew and run the same command again",
    FailureKind.LOCATION: "the Gemini API is not offered at this location without billing: switch billing "
    "on, or use Vertex AI with GOOGLE_GENAI_USE_VERTEXAI=true",
    FailureKind.MODEL: "choose a model that this project may use under [model] id, or with `--model`",
    FailureKind.SCHEMA: "make the schema simpler: fewer and shorter enum values, less nesting, no bounds; "
    "`rowmill schema JOB.toml` prints what was sent",
    FailureKind.CONFIG: "check [model] and the schema: `rowmill schema JOB.toml` prints what is sent; an "
    "API that is not reached at its own address may also want another GOOGLE_GENAI_API_VERSION",
}

UNSENT_HINTS: Mapping[Unsent, str] = {
    Unsent.NETWORK: f"this machine has no network, or its DNS does not answer: check both, {AGAIN}",
    Unsent.NAME: "the name of the host (or of the proxy) is unknown: check the network, its DNS and the "
    f"address (`--base-url`), {AGAIN}",
    Unsent.REFUSED: "no connection came about: check that the address (`--base-url`) and its port are right, "
    f"that a server runs there and that no firewall rejects it, {AGAIN}",
    Unsent.TLS: "the encrypted connection failed: where a proxy inspects traffic, set SSL_CERT_FILE to a "
    "file with its certificate; where the server speaks no TLS, let the address (`--base-url`) begin with "
    f"`http://`; check the clock, too, {AGAIN}",
    Unsent.PROXY: "the proxy does not let requests through: check HTTPS_PROXY and HTTP_PROXY, with the user "
    f"and password that it may want, and NO_PROXY, {AGAIN}",
}


SELDOM = "change the row or the prompt, since `--retry-failed` asks the same again and seldom cures it"
UNCURED = "mend the row or `prompt.row`, then run the same command again; `--retry-failed` does not cure it"


def more_money(limit: str, open_usd: float) -> str:
    """Return the hint where a run has spent what `limit` allows; open jobs may cost so much besides."""
    return MORE_MONEY.format(limit=limit) + (COUNTED if open_usd else "")


def hint_of(failure: Failure) -> str:
    """Return what to do about a failure that stops the run; KeyError for a kind that never does."""
    own = None if failure.unsent is None else UNSENT_HINTS.get(failure.unsent)
    return own or HINTS[failure.kind]


def hint_of_rows(kinds: Collection[str]) -> str:
    """Return what to do about rows that have failed in these ways; asking again does not cure them all."""
    final = {kind for kind in kinds if is_final(FailureKind(kind))}
    seldom = ", ".join(f"`{kind}`" for kind in sorted(final - {FailureKind.TEMPLATE}))
    steps = ["`_error_kind` and `_error` in the output say why rows failed"]
    steps += ["`--retry-failed` asks again"] if set(kinds) - final else []
    steps += [f"{seldom}: {SELDOM}"] if seldom else []
    steps += [f"`{FailureKind.TEMPLATE}`: {UNCURED}"] if FailureKind.TEMPLATE in final else []
    return "; ".join(steps)


def may_pass(failure: Failure, *, answered: bool) -> bool:
    """Tell whether a run waits until an outage has ended, however often it has tried.

    Before anybody was `answered` the address or a proxy may be wrong, which no wait cures. A machine without
    a network may just have been started.
    """
    return failure.kind in OUTAGE and (answered or failure.unsent is Unsent.NETWORK)


def next_step(failure: Failure, seen: int, draw: float) -> Step:
    """Say what follows from `failure`, which its row has now met `seen` times (1 for the first).

    `draw` is a random number in [0, 1) that spreads the waits. A wait that the server asked for is
    kept in full; the spread is then added, so that rows do not come back all at once.
    """
    rule = TABLE[failure.kind]
    if rule.act in (Act.STOP, Act.REFUSE, Act.GIVE_UP):
        return Step(rule.act)
    if seen > rule.tries:
        return Step(Act.GIVE_UP)
    backoff = min(rule.ceiling, rule.wait * 2 ** (seen - 1))
    if failure.retry_after is not None:
        return Step(rule.act, failure.retry_after + draw * min(1.0, rule.wait))
    if failure.kind is FailureKind.RATE_LIMITED and failure.quota_id is None:
        return Step(Act.AGAIN, backoff * (0.5 + draw / 2))  # no window is named: fewer in flight is the cure
    return Step(rule.act, backoff * (0.5 + draw / 2))


def may_be_own(failure: Failure) -> bool:
    """Tell whether a row may have caused a fault that otherwise is one of the network or the service."""
    reset = failure.kind is FailureKind.CONNECTION and failure.unsent is None
    return reset or failure.kind in ROWS_OWN


def next_probe(failure: Failure, failed: int, draw: float) -> float | None:
    """Return the seconds until another row is asked in place of one that failed before any answer.

    So many rows have `failed` by now, this one included; None where that looks like an outage. Waits grow
    slowly, since a few rows at the head may be to blame, and `draw` in [0, 1) spreads them.
    """
    rule = TABLE[failure.kind]
    if failed >= (PROBES if failure.kind in _OF_SERVICE else FEWER_PROBES):
        return None
    if failure.retry_after is not None:
        return min(failure.retry_after, LONGEST_PAUSE) + draw * min(1.0, rule.wait)
    return min(LONGEST_PROBE, rule.wait * 2 ** ((failed - 1) / 3)) * (0.5 + draw / 2)


def is_final(kind: FailureKind) -> bool:
    """Say whether asking again is never tried, so that the failure is worth keeping as an answer."""
    return TABLE[kind].act is Act.GIVE_UP


def is_of_cache(failure: Failure) -> bool:
    """Tell whether a refusal is about the cache of the instruction, and not about the row or the run."""
    refused = TABLE[failure.kind].act in (Act.REFUSE, Act.GIVE_UP) and "cache" in failure.message.lower()
    return failure.kind is FailureKind.CACHE or refused


def larger_cap(cap: int, thoughts: int, ceiling: int) -> int:
    """Return the cap of output tokens for the second try after MAX_TOKENS.

    Thinking counts against the cap, so what was thought comes on top of four times the old cap;
    `ceiling` is the model's own limit.
    """
    return min(ceiling, 4 * cap + thoughts)
