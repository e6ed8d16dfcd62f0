"""What a job will take before it runs: requests, tokens, money and time, for each way of asking.

A way is how many rows share a request, the usage tier, and the service: online, flex or batch. Everything
follows from a sample of prompts, from what answers took so far, and from prices and limits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.flow import Usage
from pipeline.models import Limits, Price
from pipeline.packing import Budget, packs
from pipeline.rates import cost_usd
from pipeline.reuse import Pace, Saving, by_itself, in_batch, online
from pipeline.usage import Need, Today, seconds_by_limit

ECHO_ROOM = 12  # tokens that the id and the commas of an element may take, as a run reserves them
BATCH_SECONDS = 86_400.0  # the target of the Batch API, which is often faster
FLEX_SECONDS = 900.0  # the upper end of what the API aims at for a flex request
CALL_SECONDS = 2.0  # of a request while none has been seen
MOST_IN_FLIGHT = 4_096
REPAIR = 50.0  # tokens of the words that ask again after an answer that was no good
UNSAVED = Saving()


@dataclass(frozen=True, slots=True)
class Span:
    """A number that is not known for sure: what is expected, and between what it should lie."""

    expected: float
    low: float
    high: float

    def __mul__(self, factor: float) -> "Span":
        """Scale it."""
        return Span(self.expected * factor, self.low * factor, self.high * factor)

    def __add__(self, other: "Span") -> "Span":
        """Add both; their errors are taken to be of one kind."""
        return Span(self.expected + other.expected, self.low + other.low, self.high + other.high)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Input tokens: what is sent with each request about one row and about several, and what a row adds.

    `tags` is what a row's prompt has more in a pack; `rows` are prompts of a sample in an order of chance.
    `error` is the share by which their mean may be off, `doubt` that by which any number here may be.
    """

    fixed: float
    fixed_packed: float
    tags: float
    rows: Sequence[float]
    error: float
    doubt: float

    @property
    def row(self) -> float:
        """The mean of a prompt."""
        return sum(self.rows) / len(self.rows) if self.rows else 0.0


@dataclass(frozen=True, slots=True)
class Answers:
    """Output tokens of an answer, alone and in a pack, and the seconds of a call where they are known."""

    alone: Span
    packed: Span
    seconds: float = CALL_SECONDS


@dataclass(frozen=True, slots=True)
class Service:
    """Who answers at what price: `name` is `online`, `flex`, `batch` or `priority`.

    Price None costs nothing. `label` names the tier for people, `margin` is the share by which windows are
    counted longer. An instruction of at least `cache_tokens` may be cached by the API, with None it is not;
    where this `caches`, a run puts it into a cache as soon as that is known to pay.
    """

    name: str
    label: str
    price: Price | None
    limits: Limits
    today: Today
    margin: float = 0.0
    in_flight: int = MOST_IN_FLIGHT
    cache_tokens: int | None = None
    caches: bool = True


@dataclass(frozen=True, slots=True)
class Way:
    """A way of asking and what it takes; `rows` share a request at most.

    `seconds` is an upper end for flex and batch; `held_by` is the limit that decides it, empty where none
    does. `saving` is what caches of the instruction save, which `usd` counts with.
    """

    rows: int
    service: Service
    requests: int
    tokens_in: Span
    tokens_out: Span
    usd: Span
    seconds: float
    held_by: str
    saving: Saving = UNSAVED
    current: bool = False

    @property
    def at_most(self) -> bool:
        """Whether the time is an upper end, and not what is expected."""
        return self.service.name in ("flex", "batch")


@dataclass(frozen=True, slots=True)
class Again:
    """What rows take that have failed, beyond one answer each, should they fail again as they did before.

    The requests are about one row each; `output` is in tokens.
    """

    requests: float = 0.0
    output: float = 0.0

    def __mul__(self, factor: float) -> "Again":
        """Scale it."""
        return Again(self.requests * factor, self.output * factor)

    def __add__(self, other: "Again") -> "Again":
        """Add both."""
        return Again(self.requests + other.requests, self.output + other.output)


NEVER = Again()


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of one pack size: those about several rows, those about one, and the rows in the former."""

    packs: float
    packed_rows: float
    alone: float
    again: Again = NEVER

    @property
    def requests(self) -> float:
        """All of them."""
        return self.packs + self.alone + self.again.requests


def load(groups: Mapping[int, int], sizes: Sequence[float], each: float, budget: Budget) -> Load:
    """Return the requests that groups of rows become under the budgets of a pack.

    `groups` counts groups by the prompts in them, `sizes` are tokens of prompts in an order of chance, and
    `each` is what is reserved for an answer.
    """
    total = Load(0.0, 0.0, 0.0)
    for size, count in groups.items():
        one = _split(size, sizes, each, budget)
        total = Load(
            total.packs + one.packs * count,
            total.packed_rows + one.packed_rows * count,
            total.alone + one.alone * count,
        )
    return total


def way(rows: int, service: Service, load_: Load, sizes: Sizes, answers: Answers) -> Way:
    """Return what a way of asking takes."""
    fixed = load_.packs * sizes.fixed_packed + load_.alone * sizes.fixed
    texts = (load_.packed_rows + load_.alone) * sizes.row + load_.packed_rows * sizes.tags
    tokens_in = _around(fixed, sizes.doubt) + _around(texts, sizes.error + sizes.doubt)
    tokens_out = answers.packed * load_.packed_rows + answers.alone * load_.alone
    more = load_.again.requests * (sizes.fixed + sizes.row + REPAIR)
    tokens_in += Span(more, 0.0, more * (1 + sizes.error + sizes.doubt))
    tokens_out += Span(load_.again.output, 0.0, load_.again.output)
    bare = Span(
        _usd(tokens_in.expected, tokens_out.expected, service.price),
        _usd(tokens_in.low, tokens_out.low, service.price),
        _usd(tokens_in.high, tokens_out.high, service.price),
    )
    need = Need(load_.requests, tokens_in.expected, bare.expected)
    uses, shared = (load_.packs, sizes.fixed_packed) if rows > 1 else (load_.alone, sizes.fixed)
    pace = _pace(service, need, uses, answers.seconds)
    saving = _saving(service, pace, shared, whole=fixed, doubt=sizes.doubt)
    usd = bare + Span(-saving.expected, -saving.most, -saving.least)
    seconds, held_by = _seconds(replace(need, usd=usd.expected), service, answers.seconds)
    asked = round(load_.requests)
    return Way(rows, service, asked, tokens_in, tokens_out, usd, seconds, held_by, saving)


def _saving(service: Service, pace: Pace, tokens: float, *, whole: float, doubt: float) -> Saving:
    """Return what caches save of an instruction, of which all requests together have `whole` tokens.

    Tokens may be off by the share `doubt`: the ends are those of the least and the greatest cost.
    """
    price, least = service.price, service.cache_tokens
    if price is None or least is None or tokens * (1 + doubt) < least:
        return UNSAVED
    found = Saving(most=by_itself(price, whole * (1 - doubt)))
    if not service.caches or tokens < least:
        return found
    saves = in_batch if service.name == "batch" else online
    own = saves(price, tokens, pace)
    surely = saves(price, tokens * (1 + doubt), pace).least if tokens * (1 - doubt) >= least else 0.0
    return replace(found, expected=own.expected, least=surely, tokens=own.tokens)


def _pace(service: Service, need: Need, uses: float, call: float) -> Pace:
    """Return how a run will go."""
    call = max(call, FLEX_SECONDS) if service.name == "flex" else call
    limits = service.limits
    each = need.tokens / need.requests if need.requests else 0.0
    rates = [service.in_flight / call]
    rates += [limits.rpm / 60] if limits.rpm else []
    rates += [limits.tpm / 60 / each] if limits.tpm and each else []
    seconds, _ = seconds_until_done(need, replace(limits, rpd=None), service.today, service.margin)
    hours = (max(seconds, need.requests * call / service.in_flight) + call) / 3_600
    return Pace(uses, min(rates), call, service.in_flight, hours, limits.rpd)


def seconds_until_done(need: Need, limits: Limits, today: Today, margin: float = 0.0) -> tuple[float, str]:
    """Return for how long limits hold a need up, and which decides; the last day is not a whole one."""
    reasons = seconds_by_limit(need, limits, today)
    days = reasons.pop("rpd", 0.0)
    held_by = max(reasons, key=lambda name: reasons[name], default="")
    longest = reasons.get(held_by, 0.0) * (1 + margin)
    if not days or limits.rpd is None:
        return longest, held_by
    late = need.requests - max(0, limits.rpd - today.sent)
    last = need * ((late % limits.rpd or limits.rpd) / need.requests)
    bare = replace(limits, rpd=None)
    rest, _ = seconds_until_done(last, bare, today, margin)
    steady, _ = seconds_until_done(need * (late / need.requests), bare, today, margin)
    slowest = max(longest, today.resets_in + steady)  # where a day is shorter than what its requests take
    return (days + rest, "rpd") if days + rest >= slowest else (slowest, held_by)


def _seconds(need: Need, service: Service, call: float) -> tuple[float, str]:
    if not need.requests:
        return 0.0, ""
    if service.name == "batch":
        enqueued = service.limits.batch_tokens
        turns = -(-need.tokens // enqueued) if enqueued else 1
        return max(1.0, turns) * BATCH_SECONDS, "batch_tokens" if turns > 1 else ""
    call = max(call, FLEX_SECONDS) if service.name == "flex" else call
    seconds, held_by = seconds_until_done(need, service.limits, service.today, service.margin)
    waves = need.requests / service.in_flight
    flying = waves * call if waves > 1 else 0.0
    return max(seconds, flying) + call, held_by if seconds >= flying else "concurrency"


def _split(size: int, sizes: Sequence[float], each: float, budget: Budget) -> Load:
    """Return what a group of `size` prompts becomes on average, by trying it with the sample.

    What the budgets leave over of a group stands with the next one.
    """
    if not sizes:
        return Load(0.0, 0.0, float(size))
    tried = [round(tokens) for tokens in sizes]
    if len(tried) < size:
        tried = (tried * size)[:size]
    budget = replace(budget, rows=min(size, budget.rows))
    lengths = [len(pack) for pack in packs(tried, round(each) + ECHO_ROOM, budget)]
    if len(lengths) > 1:
        lengths.pop()  # it ends where the sample does
    alone = sum(length == 1 for length in lengths)
    share = size / sum(lengths)
    return Load((len(lengths) - alone) * share, (sum(lengths) - alone) * share, alone * share)


def _around(expected: float, error: float) -> Span:
    return Span(expected, expected * max(0.0, 1 - error), expected * (1 + error))


def _usd(tokens_in: float, tokens_out: float, price: Price | None) -> float:
    if price is None:
        return 0.0
    return cost_usd(Usage(prompt=round(tokens_in), output=round(tokens_out)), price)
