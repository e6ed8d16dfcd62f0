"""An estimate in words: for people line by line, for programs as JSON, and which way of asking to take."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from pipeline.estimate import Span, Way
from pipeline.forecast import Forecast
from pipeline.progress import many, span, usd
from pipeline.remarks import unread

HEAD = ("rows a request", "requests", "tokens in", "tokens out", "cost", "time")
NARROW = (0, 1, 4, 5)  # of these, where there is no room: tokens stand above the table, too
ROUGH = 0.1  # above this doubt the ends of a number are shown
HELD = {
    "rpm": "requests a minute",
    "tpm": "input tokens a minute",
    "rpd": "requests a day",
    "spend_10min_usd": "the spend limit of ten minutes",
    "batch_tokens": "tokens enqueued in the Batch API",
    "concurrency": "requests in flight",
}
SLOW = 60.0  # seconds from which on time matters
SAME = 1.01  # times the cheapest that counts as cheap, too
LESS = "; `--sample {rows}` takes less, and is the least that can call a size safe"
WORTH = 0.8  # of cost or time: below this another way is advised

AS_FAR = "though what was answered by then is not asked again"

FLEX = (
    "flex may answer late: what leaves before its first answers carries the instruction in full, so at worst "
    "it costs more than online, which has a cache within seconds"
)


def as_json(found: Forecast) -> dict[str, object]:
    """Return an estimate as JSON values; `docs/reference.md` names the keys."""
    return {
        "job": found.job,
        "model": found.model,
        "limited": found.limited,
        **asdict(found.scope) | {"enqueued_cost_usd": round(found.scope.enqueued_cost_usd, 6)},
        "left_out": found.left_out.as_json(),
        "sampled": found.sampled,
        "counted": found.counted,
        "not_counted": found.uncounted or None,
        "output_tokens_basis": found.basis,
        "ways": [_way_json(way) for way in found.ways],
        "calibration": {
            "requests": found.calibration.requests,
            "cost_usd": _span_json(found.calibration.usd, 6),
            "found": found.calibration.found or None,
        },
        "saved_usd": round(found.saved_usd, 6),
        "max_cost": found.max_cost,
        "auto": found.auto or None,
        "advice": list(recommended(found)),
    }


def head(found: Forecast) -> list[str]:
    """Return what is left to do and how it was measured, a line each."""
    scope = found.scope
    failed = f" ({scope.failed:,} of them failed)" if scope.failed else ""
    kept = f", {scope.replied:,} with a reply in the journal" if scope.replied else ""
    rows = f"the first {many(scope.rows, 'row')}" if found.limited else many(scope.rows, "row")
    cached = f", about {scope.cached:,} are in the response cache" if scope.cached else ""
    lines = [
        f"{found.job}: {rows}, {scope.done:,} done{failed}, {scope.pending:,} to do{kept}",
        *found.left_out.sentences(),
        f"  prompts to send: {scope.prompts:,} (equal ones share an answer{cached}), to {found.model}",
    ]
    if scope.batch_jobs:
        jobs, prompts = many(scope.batch_jobs, "batch job"), many(scope.enqueued, "prompt")
        cost = f"${scope.enqueued_cost_usd:,.4f}"
        lines.append(f"  {jobs} open with {prompts}, which may cost {cost}: not counted below")
    if scope.cancelled_jobs:
        jobs, prompts = many(scope.cancelled_jobs, "batch job"), many(scope.cancelled, "prompt")
        is_ = "is" if scope.cancelled_jobs == 1 else "are"
        lines.append(f"  {jobs} with {prompts} {is_} being cancelled: they are counted below, {AS_FAR}")
    lines += [f"  {note}" for note in unread(scope.damaged_parts, to_ask=scope.prompts + scope.cached)]
    if not scope.prompts:
        return lines
    whole = "all of them" if found.sampled == scope.prompts else f"a sample of {found.sampled:,}"
    if found.counted:
        who = "emulator" if found.emulated else "API"
        how = f"{found.counted:,} counted by the {who} (countTokens)"
    else:
        how = f"estimated from characters: {found.uncounted}"
    own = found.ways[0]
    lines.append(f"  tokens in: {_short(own.tokens_in)}, from {whole}, {how}")
    lines.append(f"  tokens out: {_short(own.tokens_out)}, {found.basis}")
    if found.again.requests >= 1:
        rows, requests = many(found.retried, "failed row"), many(round(found.again.requests), "request")
        lines.append(f"  {rows}: {requests} more if they fail as before, which the lower ends leave out")
    return [*lines, f"  {found.auto}"] if found.auto else lines


def cells(way: Way) -> tuple[str, ...]:
    """Return a line of the table, under HEAD; the job as it stands has a mark."""
    return (
        f"{'>' if way.current else ' '} {_name(way)}",
        f"{way.requests:,}",
        _short(way.tokens_in),
        _short(way.tokens_out),
        _usd(way),
        _time(way),
    )


def foot(found: Forecast) -> list[str]:
    """Return what explains the table, and the advice."""
    if not found.scope.prompts:
        return [_nothing(found)]
    lines = ["> is the job as it stands; flex and batch are given with the longest time that the API aims at"]
    own = found.ways[0]
    if own.held_by and own.seconds > SLOW:
        lines.append(f"what holds it up: {HELD[own.held_by]}{_sent(own)}")
    if own.service.name != "batch" and own.service.caches and own.saving.most:
        lines.append(_cache_of(own))
    if any(way.saving.tokens for way in found.ways if way.service.name == "batch"):
        lines.append("in a batch the instruction lies in a cache: its storage is counted for a day")
    if _dear_flex(found.ways):
        lines.append(FLEX)
    if found.unbatched:
        lines.append(found.unbatched)
    return [*lines, *recommended(found)]


def _nothing(found: Forecast) -> str:
    """Say that nothing is left to ask, and what a run would do all the same."""
    scope, words = found.scope, "nothing is left to ask"
    if scope.batch_jobs:
        return f"{words}, a run takes in what batch jobs answer"
    if not scope.pending:
        return words
    answers = "the answers are known"
    if scope.cached and not scope.replied:
        answers = "the answers are in the response cache"
    saved = f" and saves {usd(found.saved_usd)} with the cache" if found.saved_usd else ""
    return f"{words}: {answers}, so `rowmill run` writes the table without a request{saved}"


def recommended(found: Forecast) -> Iterator[str]:
    """Yield what would be cheaper or faster, and what would make the estimate better."""
    if not found.scope.prompts:
        return
    own, *others = found.ways
    alone = next((way for way in others if _alike(way, own) and way.rows == 1), None)
    if alone is not None and _cost(own) > _cost(alone) * SAME:
        yield f"packs cost more here: {_instead(alone, own)}"
    packed = next((way for way in others if _alike(way, own) and way.rows > own.rows), None)
    if packed is not None and _worth(packed, own) and _cost(packed) <= _cost(own):
        measures = f"`rowmill calibrate` measures {_measures(found)}"
        yield f"{_instead(packed, own)}; {found.calibration.found or measures}"
    cheapest = min((way for way in found.ways if way.service.price), key=_cost, default=None)
    if cheapest is not None and (own.service.price is None or _cost(cheapest) < _cost(own) * WORTH):
        word = "cheapest that is paid" if own.service.price is None else "cheapest"
        same = [way for way in found.ways if way.service.price and _cost(way) <= _cost(cheapest) * SAME]
        yield f"{word}: {' or '.join(f'{_name(way)} ({_time(way)})' for way in same)}, {_usd(cheapest)}"
    fastest = min(found.ways, key=lambda way: way.seconds)
    if fastest.seconds < own.seconds * WORTH and fastest is not cheapest and not _alike(fastest, own):
        yield f"fastest: {_name(fastest)}, {_time(fastest)}, {_usd(fastest)}"
    if packed is not None and _worth(packed, own) and _cost(packed) > _cost(own):
        yield f"faster: {_instead(packed, own)}"
    if found.max_cost is not None and own.usd.high > found.max_cost:
        share = min(1.0, found.max_cost / own.usd.expected) if own.usd.expected else 1.0
        yield (
            f"`max_cost` is ${found.max_cost:,.4f}: the run would stop after about {share:.0%} of this, "
            "and the same command goes on"
        )
    if found.guessed:
        yield "how long answers are is a guess: run `--limit 50` first, then this counts with what they took"


def _cache_of(own: Way) -> str:
    """Say what the cost of a run online has to do with a cache of the instruction."""
    low, high = _ends(own.usd)
    ends = f"all do at the lower end of the cost, {low}, the fewest at the upper one, {high}"
    return f"how many requests read the instruction from a cache depends on the pace of the run: {ends}"


def _dear_flex(ways: Sequence[Way]) -> bool:
    """Tell whether flex may cost more than the same requests do online, though its tokens cost half."""
    online = {way.rows: way.usd.high for way in ways if way.service.name == "online" and way.service.price}
    flex = [way for way in ways if way.service.name == "flex" and way.saving.most]
    return any(way.usd.high > online.get(way.rows, way.usd.high) for way in flex)


def _instead(way: Way, own: Way) -> str:
    """Compare two ways that differ in the rows of a request; what it takes more of comes last."""
    pairs = [
        (many(way.requests, "request"), f"{own.requests:,}", "more" if way.requests > own.requests else ""),
        (_usd(way), _usd(own), "dearer" if _cost(way) > _cost(own) else ""),
        (_time(way), _time(own), "slower" if way.seconds > own.seconds else ""),
    ]
    told = [(f"{new} instead of {old}", worse) for new, old, worse in pairs if new != old]
    words = ", ".join(said for said, worse in told if not worse)
    more = " and ".join(f"{worse}: {said}" for said, worse in told if worse)
    return f"`--pack {way.rows}` would take {words}" + (f", but {more}" if more else "")


def _worth(way: Way, own: Way) -> bool:
    """Tell whether a way costs less, or takes clearly less time where that matters."""
    cheaper = _cost(way) < _cost(own) * WORTH
    return cheaper or (own.seconds > SLOW and way.seconds < own.seconds * WORTH)


def _measures(found: Forecast) -> str:
    """Say what a calibration tells, and what it takes."""
    took, own = found.calibration, found.ways[0]
    cost = "" if own.service.price is None else f" for {_money(took.usd)}"
    dearer = took.requests > own.requests if own.service.price is None else took.usd.expected > _cost(own)
    more = ", more than this job takes" if dearer else ""
    more += LESS.format(rows=took.least) if dearer and took.least else ""
    return f"whether the answers stay as good, with about {many(took.requests, 'request')}{cost}{more}"


def _sent(own: Way) -> str:
    """Say what was sent today where the day's requests hold a job up; whichever tier that was in."""
    sent, limit = own.service.today.sent, own.service.limits.rpd
    if own.held_by != "rpd" or not sent or limit is None:
        return ""
    return f", {limit:,} of them, and {sent:,} were sent today"


def _alike(way: Way, own: Way) -> bool:
    return way.service == own.service


def _cost(way: Way) -> float:
    return way.usd.expected


def _name(way: Way) -> str:
    service = "" if way.service.name == "online" else f", {way.service.name}"
    return f"{many(way.rows, 'row')}, {way.service.label}{service}"


def _usd(way: Way) -> str:
    if way.service.price is None:
        return "$0"
    return _money(way.usd)


def _money(usd: Span) -> str:
    if _rough(usd):
        return " to ".join(_ends(usd))
    return f"${usd.expected:,.{_digits(usd)}f}"


def _ends(usd: Span) -> tuple[str, str]:
    return f"${usd.low:,.{_digits(usd)}f}", f"${usd.high:,.{_digits(usd)}f}"


def _digits(usd: Span) -> int:
    return 4 if usd.expected < 1 else 2


def _time(way: Way) -> str:
    return f"{'up to ' if way.at_most else ''}{span(way.seconds).removesuffix(' 0 h')}"


def _rough(value: Span) -> bool:
    return value.high - value.low > 2 * ROUGH * value.expected


def _short(value: Span) -> str:
    """Return a number as exactly as it is known: both ends where they are far apart."""
    if _rough(value):
        return f"{_number(value.low)} to {_number(value.high)}"
    return _number(value.expected)


def _number(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            scaled = value / (1e3 if unit == "k" else size)
            return f"{scaled:,.0f}{unit}" if scaled >= 100 else f"{scaled:.1f}{unit}"
    return f"{value:,.0f}"


def _way_json(way: Way) -> dict[str, object]:
    return {
        "current": way.current,
        "rows_a_request": way.rows,
        "tier": way.service.label,
        "service": way.service.name,
        "requests": way.requests,
        "input_tokens": _span_json(way.tokens_in, 0),
        "output_tokens": _span_json(way.tokens_out, 0),
        "cached_input_tokens": round(way.saving.tokens),
        "cost_usd": _span_json(way.usd, 6),
        "seconds": round(way.seconds, 1),
        "seconds_at_most": way.at_most,
        "held_by": way.held_by or None,
    }


def _span_json(value: Span, digits: int) -> dict[str, float]:
    return {name: round(number, digits) for name, number in asdict(value).items()}
