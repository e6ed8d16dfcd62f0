"""What a run did: the figures for people and for programs."""

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path

from pipeline.errors import Exit
from pipeline.flow import FailureKind, Usage
from pipeline.input.bad import LeftOut
from pipeline.output import Written
from pipeline.progress import many, span, usd
from pipeline.usage import Saved, Shipped

EMULATED = "the answers come from the local emulator, not from a model: they show the way, not the quality"
UNANSWERED = "{requests} left and had no answer: the API may bill them, and the cost here is without them"
UNWRITTEN = "{replies} arrived and could not be written: {they} asked again{billed}"
BILLED = "; the API bills what has arrived, and the cost here is without it"
SHOWN_USD = 5e-5  # what a cost shown with four places may hide


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run ended early, and what to do next; one that was `asked` for is no error (`--detach`).

    `kind` is that of the failure, or `signal`, `input` (which has changed) or `disk`.
    """

    message: str
    hint: str
    exit_code: Exit
    kind: str
    asked: bool = False

    def as_json(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {"kind": self.kind, "message": self.message, "hint": self.hint}


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did and where its job stands now.

    `requests` that left this machine (`unsent` never did, and of those that did `unanswered` ended without an
    answer, so that nobody knows whether they are billed; to `unwritten` more there was a reply that the disk
    did not take), the rows `asked` with them, `usage`, `cost_usd`
    (USD) and `seconds` are of this run, of which `shipped` tells apart what batch jobs have to do with;
    `table` is of all rows of the input that have an answer. `limited` says that only the first rows were
    taken, `free` that the free tier was assumed, where tokens cost nothing. `output` is None when no
    table was written because rows are pending or the disk failed; `target` is where it will stand;
    `tiers` counts the replies of this run by the service tier that served them. `replied` of the pending
    rows have a reply in the journal; it is counted where the disk failed or the input changed, and 0
    otherwise.
    """

    job: str
    folder: Path
    rows: int
    limited: bool
    pending: int
    table: Written
    output: Path | None
    target: Path
    requests: int
    asked: int
    usage: Usage
    cost_usd: float
    seconds: float
    failures: Mapping[FailureKind, int]
    tiers: Mapping[str, int] = field(default_factory=dict)
    unsent: int = 0
    unanswered: int = 0
    unwritten: int = 0
    free: bool = False
    saved: Saved = field(default_factory=Saved)
    shipped: Shipped = field(default_factory=Shipped)
    offline: bool = False  # the emulator was asked, or has answered before
    replied: int = 0
    notes: list[str] = field(default_factory=list)
    stop: Stop | None = None
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def emulated(self) -> bool:
        """Whether answers in the table come from the emulator and not from a model."""
        return "emulator" in self.table.sources or self.saved.emulated or self.offline

    @property
    def exit_code(self) -> Exit:
        """The exit code of the command."""
        if self.stop is not None:
            return self.stop.exit_code
        return Exit.ROWS_FAILED if self.table.failed or self.left_out.rows else Exit.OK

    def as_json(self) -> dict[str, object]:
        """Return the report as JSON values; the keys are documented in `docs/reference.md`."""
        return {
            "job": self.job,
            "exit_code": int(self.exit_code),
            "rows": self.rows,
            "limited": self.limited,
            "ok": self.table.ok,
            "failed": self.table.failed,
            "pending": self.pending,
            "left_out": self.left_out.as_json(),
            "replied": self.replied,
            "output": None if self.output is None else str(self.output),
            "run_folder": str(self.folder),
            "emulated": self.emulated,
            "free_tier": self.free,
            "this_run": {
                "requests": self.requests,
                "unsent": self.unsent,
                "unanswered": self.unanswered,
                "unwritten": self.unwritten,
                "rows_asked": self.asked,
                "batches": {
                    "jobs": len(self.shipped.numbers),
                    "requests": self.shipped.requests,
                    "rows": self.shipped.rows,
                },
                "earlier_batches": {
                    "rows": self.shipped.earlier_rows,
                    "tokens": asdict(self.shipped.earlier_usage),
                    "cost_usd": round(self.shipped.earlier_usd, 12),
                },
                "tokens": asdict(self.usage),
                "cost_usd": round(self.cost_usd, 12),
                "seconds": round(self.seconds, 3),
                "saved": {
                    "shared_rows": self.saved.shared,
                    "cached_rows": self.saved.cached,
                    "cost_usd": round(self.saved.cost_usd, 12),
                },
                "failures": {str(kind): number for kind, number in self.failures.items()},
                "tiers": dict(self.tiers),
            },
            "table": {
                "prompt_tokens": self.table.prompt_tokens,
                "output_tokens": self.table.output_tokens,
                "cost_usd": round(self.table.cost_usd, 12),
            },
            "notes": self.notes,
            "stopped": None if self.stop is None else self.stop.as_json(),
        }

    def sentences(self) -> list[str]:
        """Return the report for people, a line each."""
        rows = f"the first {many(self.rows, 'row')} (--limit)" if self.limited else many(self.rows, "row")
        kept = f" ({self.replied:,} of them with a reply in the journal)" if self.replied else ""
        pending = f", {self.pending:,} pending{kept}" if self.pending else ""
        lines = [f"{self.job}: {rows}, {self.table.ok:,} ok, {self.table.failed:,} failed{pending}"]
        lines += self.left_out.sentences()
        lines.append(self._this_run())
        if self.unanswered and not self.free:
            lines.append("  " + UNANSWERED.format(requests=many(self.unanswered, "request")))
        if self.unwritten:
            lines.append(self._unwritten())
        if self.shipped.earlier_rows:
            lines.append(self._earlier())
        if self.saved.shared or self.saved.cached:
            lines.append(self._saved())
        took = self.requests or self.shipped.earlier_rows
        if took and not self.replied and abs(self.table.cost_usd - self.cost_usd) > SHOWN_USD:
            whole = "the whole table" if self.output is not None else "all answers so far"
            lines.append(f"  {whole}: {usd(self.table.cost_usd)}")
        if self.failures:
            kinds = ", ".join(f"{number:,} {kind}" for kind, number in self.failures.items())
            lines.append(f"  failed in this run: {kinds}")
        if self.table.shared not in (0, self.saved.shared + self.saved.cached):
            earlier = "" if took or self.saved.shared or self.saved.cached else ", asked in an earlier run"
            shared = many(self.table.shared, "row")
            lines.append(f"  in the table: {shared} took the answer to an equal prompt{earlier}")
        if self.output is not None:
            lines.append(f"  written: {self.output}")
        else:
            lines.append(f"  not written{' while rows are pending' if self.pending else ''}: {self.target}")
        if self.emulated and self.rows:
            lines.append(f"  {EMULATED}")
        return lines

    def _saved(self) -> str:
        """Say what was not asked, and why: `1,000 rows shared a request, 204 came from the cache`."""
        shared, cached = self.saved.shared, self.saved.cached
        rows = many(shared or cached, "row")
        words = f"{rows} shared a request" if shared else f"{rows} came from the cache"
        words += f", {cached:,} came from the cache" if shared and cached else ""
        cost = usd(self.saved.cost_usd)
        about = cost if cost.startswith("less") else f"about {cost}"
        return f"  saved: {words}{'' if self.free else f', {about} at what their answers cost when asked'}"

    def _this_run(self) -> str:
        never = f", {self.unsent:,} {'more ' if self.requests else ''}never left this machine"
        unsent = never if self.unsent else ""
        if not self.requests:
            return f"  this run: no request was made{unsent or self._known()}"
        earlier = self.shipped.earlier_usage
        took = self._took(_without(self.usage, earlier), self.cost_usd - self.shipped.earlier_usd)
        waiting = self.requests == self.shipped.requests and self.usage.total == earlier.total
        answered = "not answered yet" if waiting else took
        return f"  this run: {self._asked()}{unsent}, {answered}, {span(self.seconds)}"

    def _known(self) -> str:
        """Say why a run made no request, where every row that there is had been answered before it."""
        taken = self.saved.shared or self.saved.cached or self.shipped.earlier_rows
        return (
            ", every row had its answer" if self.rows and not (self.pending or self.failures or taken) else ""
        )

    def _unwritten(self) -> str:
        one = self.unwritten == 1
        replies, they = ("1 reply", "it is") if one else (f"{self.unwritten:,} replies", "they are")
        return "  " + UNWRITTEN.format(replies=replies, they=they, billed="" if self.free else BILLED)

    def _earlier(self) -> str:
        """Say what came in from jobs that this run has not created: its own requests have no part in it."""
        shipped = self.shipped
        took = self._took(shipped.earlier_usage, shipped.earlier_usd)
        return f"  taken in from batches of earlier runs: {many(shipped.earlier_rows, 'row')}, {took}"

    def _asked(self) -> str:
        """Say how many requests went how, and for how many rows where these are not as many."""
        shipped, told = self.shipped, []
        if shipped.requests:
            jobs = many(len(shipped.numbers), "batch job")
            told = [f"{many(shipped.requests, 'request')} in {jobs}{_rows(shipped.rows, shipped.requests)}"]
        if online := self.requests - shipped.requests:
            asked = _rows(self.asked - shipped.rows, online)
            told.append(f"{many(online, 'request')}{' online' if told else ''}{asked}")
        return " and ".join(told)

    def _took(self, usage: Usage, cost_usd: float) -> str:
        cached = f" ({usage.cached:,} cached)" if usage.cached else ""
        cost = "$0 (free tier)" if self.free else usd(cost_usd)
        return f"{usage.prompt:,} tokens in{cached}, {usage.output + usage.thoughts:,} out, {cost}"


def _rows(rows: int, requests: int) -> str:
    return f" for {many(rows, 'row')}" if rows not in (0, requests) else ""


def _without(usage: Usage, part: Usage) -> Usage:
    """Return the tokens without a part of them."""
    return Usage(*(whole - some for whole, some in zip(astuple(usage), astuple(part), strict=True)))
