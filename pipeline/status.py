"""How far a job is, read from its run folder without asking anything."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pipeline.batch import Batch, state_of
from pipeline.billing import billing
from pipeline.errors import DamagedError, StoreError
from pipeline.executors.parting import jobs_of, price_of
from pipeline.flow import Reply
from pipeline.input.bad import LeftOut
from pipeline.input.survey import Survey
from pipeline.output import Written, count
from pipeline.pending import Paid, paid, pending_rows, replied, waiting_rows
from pipeline.plan import Plan
from pipeline.progress import many, span, usd
from pipeline.quota import day_reset
from pipeline.remarks import gone, unread, unsound
from pipeline.store.batches import open_batches_of
from pipeline.store.census import census
from pipeline.store.census import state_of as input_state
from pipeline.store.completion import completion
from pipeline.store.folder import changes, in_words, is_offline, owner
from pipeline.store.parts import Parts
from pipeline.store.standing import Standing, stand

PATIENCE = 5.0  # seconds in which a run may be merging parts
GLANCE = 0.1


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Rows by state, what they took, and the day's quota.

    `replied` of the `pending` rows have a reply in the journal, which the next run takes before it asks;
    `paid` is what these replies took, which is not in `table` yet.
    `to_ask` of the others need a request, of which `pack` may share one; the rest are equal to one of these.
    `differs` names what was different in the last run, where there was none with these settings;
    `batches` are the open jobs of the Batch API, `damaged` the names of parts whose answers do not count,
    `damage` says what else is missing or cannot be read.
    `sent_today` is None when the key, and with it the project, is not known, or the count
    cannot be read; `rpd` None is no limit. `offline` says that jobs end with the run that created them.
    """

    job: str
    folder: Path
    running: str | None
    rows: int
    pending: int
    replied: int
    paid: Paid
    to_ask: int
    pack: int
    table: Written
    sent_today: int | None
    rpd: int | None
    resets: datetime
    differs: list[str]
    batches: list[Batch]
    damaged: list[str]
    now: float
    left_out: LeftOut = field(default_factory=LeftOut)
    offline: bool = False
    damage: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Return the status as JSON values; `docs/reference.md` names the keys."""
        return {
            "job": self.job,
            "run_folder": str(self.folder),
            "running": self.running,
            "rows": self.rows,
            "ok": self.table.ok,
            "failed": self.table.failed,
            "pending": self.pending,
            "left_out": self.left_out.as_json(),
            "replied": self.replied,
            "requests_to_go": self._requests,
            "prompt_tokens": self.table.prompt_tokens,
            "output_tokens": self.table.output_tokens,
            "cost_usd": round(self.table.cost_usd, 12),
            "replied_cost_usd": round(self.paid.cost_usd, 12),
            "requests_today": self.sent_today,
            "requests_per_day": self.rpd,
            "quota_resets": self.resets.isoformat(),
            "differs": self.differs,
            "damaged_parts": self.damaged,
            "damage": self.damage,
            "batch_jobs": [
                {
                    "job": batch.job or None,
                    "stage": str(batch.stage),
                    "state": batch.state or None,
                    "requests": batch.lines,
                    "prompts": batch.rows,
                    "cost_usd_estimated": round(batch.cost_usd, 12),
                    "planned": datetime.fromtimestamp(batch.planned, UTC).isoformat(),
                }
                for batch in self.batches
            ],
        }

    def sentences(self) -> list[str]:
        """Return the status for people, a line each."""
        table = self.table
        replied = with_reply(self.replied, self.paid.cost_usd)
        packs = (
            f": about {many(self._requests, 'request')} of up to {self.pack} rows" if self._requests else ""
        )
        packs = packs if self.pack > 1 else ""
        lines = [
            f"{self.job}: {self.rows:,} rows, {table.ok:,} ok, {table.failed:,} failed, "
            f"{self.pending:,} pending{replied}{packs}",
            *self.left_out.sentences(),
            *self._took(),
            f"  {self._quota()}",
            f"  run folder: {self.folder}",
        ]
        lines += [f"  {note}" for note in [*unread(self.damaged, to_ask=self.to_ask), *self.damage]]
        lines += self._open()
        if self.differs:
            names = ", ".join(f"`{name}`" for name in in_words(self.differs))
            lines.append(f"  not run with these settings yet: the last run of this job differs in {names}")
            if "endpoint" in self.differs:
                lines.append("  (give `--offline` or `--base-url` here, too, where the run had it)")
        return [*lines, f"  running now: {self.running}"] if self.running else lines

    def _took(self) -> list[str]:
        """Say what the answers took; nothing where there are only replies in the journal, named already."""
        table = self.table
        if self.replied and not (table.ok or table.failed):
            return []
        return [
            f"  all answers so far: {table.prompt_tokens:,} tokens in, {table.output_tokens:,} out, "
            f"{usd(table.cost_usd)}"
        ]

    @property
    def _requests(self) -> int:
        """About how many requests the rest takes: as if all rows differed and all packs were full."""
        return -(-self.to_ask // self.pack)

    def _open(self) -> list[str]:
        if not self.batches:
            return []
        if self.offline and not self.running:
            return [
                f"  {jobs_of(self.batches)} ended with the emulator: the next run asks for the rows again"
            ]
        states = Counter(map(state_of, self.batches))
        told = ", ".join(f"{number:,} {state}" for state, number in sorted(states.items()))
        age = span(max(0.0, self.now - min(batch.planned for batch in self.batches)))
        price = price_of(self.batches)
        return [f"  {jobs_of(self.batches)} open at the API ({told}){price}, the oldest for {age}"]

    def _quota(self) -> str:
        resets = f"the daily quota resets at {self.resets.astimezone():%a %d %b %H:%M %Z}"
        if self.sent_today is None:
            return f"requests today: not known; {resets}"
        limit = "" if self.rpd is None else f" of {self.rpd:,}"
        return f"requests today: {self.sent_today:,}{limit}; {resets}"


def with_reply(rows: int, cost_usd: float) -> str:
    """Say how many of the pending rows have a reply in the journal, and for what; nothing where none has."""
    cost = f", for {usd(cost_usd)}" if cost_usd else ""
    have = "has its" if rows == 1 else "have their"
    return f" ({rows:,} of them {have} reply already{cost})" if rows else ""


def job_status(
    plan: Plan, sent_today: int | None, now: float, survey: Survey | None = None, *, vertex: bool = False
) -> JobStatus:
    """Return how far the plan's job is at the Unix time `now`. Changes nothing on disk.

    On `vertex` AI there is no free tier. A `survey` that is not given is taken from the run folder where that
    has one, else made.
    """
    survey = survey or census(plan.source, plan.folder).survey
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends and owner(plan.folder) is not None:
        with suppress(StoreError):  # small parts may be becoming a large one
            return _seen(plan, survey, sent_today, now, vertex=vertex)
        time.sleep(GLANCE)
    return _seen(plan, survey, sent_today, now, vertex=vertex)


def _seen(plan: Plan, survey: Survey, sent_today: int | None, now: float, *, vertex: bool) -> JobStatus:
    parts = Parts(plan.folder.parts, plan.checked.layout.part, plan.fingerprint)
    parts.pass_over()
    standing, table = _counted(survey, parts)
    pending, to_ask = waiting_rows(standing), pending_rows(standing)
    lost = [] if parts.set_aside else gone(completion(plan.folder), standing, input_state(plan.source))
    return JobStatus(
        job=plan.checked.loaded.job.name,
        folder=plan.folder.path,
        running=owner(plan.folder),
        rows=survey.rows,
        pending=int(pending.sum()),
        replied=replied(survey, pending, plan.folder),
        paid=paid(survey, pending, plan.folder, _price(plan, now, vertex=vertex)),
        to_ask=int(to_ask.sum()) - replied(survey, to_ask, plan.folder),
        pack=plan.pack,
        table=table,
        sent_today=sent_today,
        rpd=plan.checked.limits.rpd,
        resets=day_reset(now),
        differs=changes(plan.folder, plan.identity),
        batches=open_batches_of(plan.folder.path),
        damaged=parts.set_aside,
        now=now,
        left_out=plan.source.left_out,
        offline=is_offline(plan.folder),
        damage=lost + unsound(plan.folder, waiting=bool(pending.any())),
    )


def _price(plan: Plan, now: float, *, vertex: bool) -> Callable[[Reply], float]:
    job = plan.checked.loaded.job
    today = datetime.fromtimestamp(now, UTC).date()
    return billing(job.model, plan.checked.model, free=job.limits.free and not vertex, today=today)


def _counted(survey: Survey, parts: Parts) -> tuple[Standing, Written]:
    while True:
        standing = stand(survey, parts)
        with suppress(DamagedError):  # each time a part fewer
            return standing, count(parts, standing)
