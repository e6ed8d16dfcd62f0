"""The gate: who may call, what the request asks, whether quotas admit it and which fault it meets."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipeline.emulator import bodies
from pipeline.emulator.faults import QUOTA_KINDS, REFUSAL_KINDS, Fault, Script
from pipeline.emulator.generation import Generation, read_generation
from pipeline.emulator.log import Log
from pipeline.emulator.quota import Ledger
from pipeline.emulator.refusals import refusal
from pipeline.emulator.settings import Settings
from pipeline.emulator.wire import MOST_INPUT, Call, Refused, Route, digest, read_call

Clock = Callable[[], float]
Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may be answered. Equal requests have equal digests; `fault` is no refusal.

    `tier` is the service tier that answers and is paid.
    """

    call: Call
    generation: Generation
    digest: bytes
    fault: Fault | None
    tier: str


class Gate:
    """Quotas and script of one emulator. Every refusal is raised as Refused."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        recall: Callable[[Call, Route], Call],
        *,
        clock: Clock,
        wall: Clock,
    ) -> None:
        self._settings, self._clock, self._wall, self._log = settings, clock, wall, log
        self._recall = recall
        self._script = Script(settings.faults, seed=settings.seed)
        self._in_flight = 0
        self.restart()

    def change(self, settings: Settings) -> None:
        """Go on with other limits and faults; counts and windows stay, and a new script begins its own."""
        for ledger in self._ledgers.values():
            ledger.limit(settings.rpm, settings.tpm, settings.rpd)
        if settings.faults != self._settings.faults:
            self._script = Script(settings.faults, seed=settings.seed)
        self._settings = settings

    def restart(self) -> None:
        """Forget what quotas and script have counted; what is in flight stays so."""
        told = self._settings
        self._ledgers = {model: Ledger(told.rpm, told.tpm, told.rpd) for model in told.models}
        self._script.restart()
        self._ordinal = 0

    def count(self, where: Route, headers: Headers, content: bytes) -> int:
        """Return the tokens of a countTokens request."""
        self.key(headers, where)
        return read_call(content, counting=True).tokens

    def admit(self, where: Route, headers: Headers, content: bytes) -> Admitted:
        """Admit a generateContent request, which is in flight until `leave`.

        Faults come before quotas, a refusal by a quota or for want of capacity uses up none.
        """
        now, tokens = self._clock(), 0
        try:
            key = self.key(headers, where)
            call = self._recall(read_call(content), where)
            tokens = call.tokens
            admitted = self._judge(now, where, key, call)
        except Refused as refused:
            self._log.write(now, refused.answer.status, tokens)
            raise
        self._log.write(now, 200, tokens)
        self._in_flight += 1
        return admitted

    def leave(self) -> None:
        """Take an admitted request out of flight."""
        self._in_flight -= 1

    def _judge(self, now: float, where: Route, key: str, call: Call) -> Admitted:
        generation, config = read_generation(call.config, where.model)
        if generation.refusal is not None:
            raise Refused(generation.refusal)
        if call.ends_with_model and not where.model.startswith("gemini-2"):
            raise Refused(bodies.invalid(bodies.INVALID))
        fault = self._fault(call)
        if fault is None or fault.kind not in QUOTA_KINDS:
            self._charge(now, where, call)
        if fault is not None and fault.kind in REFUSAL_KINDS:
            raise Refused(refusal(fault, where, key, self._settings))
        if call.tokens > MOST_INPUT:
            raise Refused(bodies.invalid(bodies.TOO_LONG))
        tier = "standard" if fault is not None and fault.kind == "downgrade" else call.tier
        return Admitted(call, generation, digest(where.model, call.prompt, config), fault, tier)

    def key(self, headers: Headers, where: Route | None) -> str:
        """Return the caller's key or token; where a model is asked, also see that it exists."""
        cloud = where is not None and where.cloud
        key = _credential(headers, b"authorization" if cloud else b"x-goog-api-key")
        if cloud:
            scheme, _, key = (key or "").partition(" ")
            if scheme.lower() != "bearer" or not key or key.startswith("bad"):
                raise Refused(bodies.no_bearer())
        elif key is None:
            raise Refused(bodies.error(403, "PERMISSION_DENIED", bodies.UNREGISTERED))
        elif not key or key.startswith("bad"):
            raise Refused(bodies.bad_key())
        if where is not None and where.model not in self._ledgers:
            raise Refused(_not_found(where))
        return key

    def _fault(self, call: Call) -> Fault | None:
        self._ordinal += 1
        return self._script.pick(self._ordinal, call.prompt, call.tier) if self._script else None

    def _charge(self, now: float, where: Route, call: Call) -> None:
        if self._settings.capacity is not None and self._in_flight >= self._settings.capacity:
            raise Refused(bodies.exhausted(bodies.VERTEX_EXHAUSTED))
        broken = self._ledgers[where.model].admit(now, self._wall(), call.tokens)
        if broken and where.cloud:  # the cloud names no quota
            raise Refused(bodies.exhausted(bodies.VERTEX_EXHAUSTED))
        if broken:
            raise Refused(bodies.quota_exceeded(broken, where.model, self._settings.tier))


def _credential(headers: Headers, name: bytes) -> str | None:
    for header, value in headers:
        if header == name:
            return value.decode("latin-1")
    return None


def _not_found(where: Route) -> bodies.Answer:
    if where.cloud:
        return bodies.publisher_model_not_found(where.name)
    return bodies.model_not_found(where.name, where.version, where.method)
