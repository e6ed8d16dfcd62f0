"""Every inconsistency of a job: its run folder, parts, journal and output, read again and compared."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import isclose
from pathlib import Path

import polars as pl

from pipeline.arrow import BOOKKEEPING
from pipeline.comparison import UNREAD, Columns, differences
from pipeline.disk import is_draft, is_set_aside
from pipeline.errors import Exit, StoreError, UsageError
from pipeline.input.survey import Survey
from pipeline.output import write_table
from pipeline.plan import Plan
from pipeline.progress import many
from pipeline.scratch import failed, temporary_file
from pipeline.status import JobStatus, job_status, with_reply
from pipeline.store.answers import FILE as CACHE
from pipeline.store.batches import check_batches
from pipeline.store.census import FILE, misleads, state_of
from pipeline.store.completion import FINISHED, completion, is_spoilt
from pipeline.store.folder import IDENTITY, changes, identity_fault, in_words, is_used, owner
from pipeline.store.inspection import FORGET, Finding, check_cache, check_journal, check_part, few
from pipeline.store.parts import Parts
from pipeline.store.reading import answers_in, part_files
from pipeline.store.salvage import INDEX, LOG
from pipeline.store.standing import stand

AGAIN = "`rowmill run JOB` writes the table anew and asks only what no part holds"
SPARE = "nothing is lost, since whole parts answer every row: `rowmill run JOB` mends it, or delete it"
CHANGED = "the input has changed since the last run, so the output is not compared row by row"
UPDATE = "`rowmill run JOB` brings the table up to date"
RESTORE = (
    "put the parts back if you have a copy of them; else `rowmill run JOB` takes what the journal and the "
    "cache hold, and asks and pays for the rest again"
)
CLEARED = "a killed process has left it; the next run removes it"
WRITTEN = "`rowmill run JOB` sets the file aside and writes it anew"
REMARKED = (
    "`rowmill run JOB` writes it anew; till then nobody knows whether answers that were finished are gone"
)
MISSING = "`rowmill run JOB` writes it anew, and keeps the answers beside it"
KEPT = "the run that set it aside has mended the damage; `rowmill clean --damaged` removes it"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was read and what is wrong; `compared` is False where there is no complete output to compare."""

    job: str
    folder: Path
    rows: int
    pending: int
    replied: int  # of the pending ones, in the journal
    replied_cost_usd: float
    parts: int
    replies: int | None  # None where the journal cannot be read
    compared: bool
    findings: list[Finding] = field(default_factory=list)

    @property
    def exit_code(self) -> Exit:
        """0 where all is well, 4 where it is not; notices do not count."""
        return Exit.STORE if self.faults else Exit.OK

    @property
    def faults(self) -> int:
        """How many findings are inconsistencies."""
        return sum(not finding.notice for finding in self.findings)

    def as_json(self) -> dict[str, object]:
        """Return the verdict as JSON values; `docs/reference.md` names the keys."""
        return {
            "job": self.job,
            "exit_code": int(self.exit_code),
            "run_folder": str(self.folder),
            "rows": self.rows,
            "pending": self.pending,
            "replied": self.replied,
            "replied_cost_usd": round(self.replied_cost_usd, 12),
            "parts": self.parts,
            "replies": self.replies,
            "output_compared": self.compared,
            "findings": [finding.as_json() for finding in self.findings],
        }

    def sentences(self) -> list[str]:
        """Return the verdict for people: what was read, in a line, then whether all is well."""
        read = f"{self.job}: {many(self.rows, 'row')}, {many(self.parts, 'part')}"
        if self.replies is not None:
            read += f", {self.replies:,} repl{'y' if self.replies == 1 else 'ies'} in the journal"
        read += " were read"
        lines = [f"{read}, and the output was compared with them" if self.compared else read]
        if self.pending:
            known = with_reply(self.replied, self.replied_cost_usd)
            asked = "1 row is" if self.pending == 1 else f"{self.pending:,} rows are"
            lines.append(f"  {asked} still to be asked{known}, so there is no output to compare yet")
        number, notices = self.faults, len(self.findings) - self.faults
        found = "1 inconsistency" if number == 1 else f"{number:,} inconsistencies, a line each"
        more = f"; {many(notices, 'notice')}" if notices else ""
        lines.append(f"  {found if number else 'all is well'}{more}")
        return lines


def verify_job(plan: Plan, *, vertex: bool = False) -> Verdict:
    """Read everything that a job has stored and return what is wrong. Changes nothing in the project.

    The table as it should be is written to the system's folder for temporary files, and compared. On `vertex`
    AI there is no free tier. Raises UsageError where the job was never run with these settings, StoreError
    while it runs, and InputError.
    """
    _check_idle(plan)
    folder = plan.folder
    parts = part_files(folder.parts)
    findings = [*_folder(plan), *_leftovers(plan)]
    layout, print_ = plan.checked.layout, plan.fingerprint
    damaged = [found for path in parts for found in check_part(path, layout.part, print_)]
    findings += damaged
    replies, read = check_journal(folder.journal, folder.parts)
    findings += few(check_batches(folder.path))
    if plan.checked.loaded.job.cache.enabled:
        findings += check_cache(folder.path.parent.parent / CACHE)
    survey = plan.source.survey()
    if misleads(survey, plan.source, folder):
        findings.append(Finding(folder.path / FILE, "it is not the survey of this input", "delete it"))
    status = None if damaged else job_status(plan, None, time.time(), survey, vertex=vertex)
    compared = status is not None and not status.pending
    findings += [_spared(one) for one in replies] if compared else replies
    done, state = completion(folder), state_of(plan.source)
    if done is not None and status is not None:
        answers = answers_in(folder.parts).rows
        lost = done.gone(state, rows=survey.rows, waiting=status.pending, answers=answers)
        findings += [Finding(folder.parts, _gone(lost), RESTORE)] if lost else []
    if done is not None and done.limited and not plan.limited:
        what = (
            f"the table holds only the first {many(done.ok + done.failed, 'row')}: the last run had `--limit`"
        )
        hint = "`rowmill run JOB` without `--limit` writes all rows"
        findings.append(Finding(plan.output, what, hint, notice=True))
    elif status is not None and compared:
        findings += few(_output(plan, survey, status, changed=done is not None and not done.is_of(state)))
    _check_idle(plan)
    return Verdict(
        job=plan.checked.loaded.job.name,
        folder=folder.path,
        rows=survey.rows,
        pending=0 if status is None else status.pending,
        replied=0 if status is None else status.replied,
        replied_cost_usd=0.0 if status is None else status.paid.cost_usd,
        parts=len(parts),
        replies=read,
        compared=compared,
        findings=findings,
    )


def _spared(finding: Finding) -> Finding:
    """Say of a journal that no row needs that nothing is lost with it."""
    return replace(finding, hint=SPARE if finding.hint == FORGET else finding.hint, notice=True)


def _gone(rows: int) -> str:
    have = (
        "row that the last run had finished has" if rows == 1 else "rows that the last run had finished have"
    )
    return f"{rows:,} {have} no answer in the parts"


def _check_idle(plan: Plan) -> None:
    if not (plan.folder.path / IDENTITY).exists() and not is_used(plan.folder):
        names = ", ".join(f"`{name}`" for name in in_words(changes(plan.folder, plan.identity)))
        raise UsageError(
            "this job has never been run with these settings"
            + (f": the last run differs in {names}" if names else ""),
            "give the flags that the run had, such as `--offline`; `rowmill runs` lists what was run",
        )
    if (who := owner(plan.folder)) is not None:
        raise StoreError(
            f"this job is running: {who}",
            "wait until it ends or stop it, then verify; `rowmill status` looks on",
        )


def _folder(plan: Plan) -> Iterator[Finding]:
    path = plan.folder.path / IDENTITY
    if (fault := identity_fault(plan.folder)) is not None:
        yield Finding(path, f"it {fault}", WRITTEN if path.exists() else MISSING)
    if is_spoilt(plan.folder):
        yield Finding(plan.folder.path / FINISHED, "it cannot be read", REMARKED)


def _leftovers(plan: Plan) -> Iterator[Finding]:
    """Find drafts of killed processes, and what was set aside."""
    for path in sorted(plan.folder.path.rglob("*")):
        if is_draft(path):
            yield Finding(path, "half a file", CLEARED)
        elif is_set_aside(path) and not _belongs(path):
            yield Finding(path, "it was set aside because it is damaged", KEPT, notice=True)
    if plan.output.parent.is_dir():
        for path in sorted(plan.output.parent.iterdir()):
            if path.name.startswith(f"{plan.output.name}.") and is_draft(path):
                yield Finding(path, "half a table", CLEARED)


def _belongs(path: Path) -> bool:
    """Tell whether a file goes with a database that is beside it, which is named already."""
    ending = next((one for one in (LOG, INDEX) if path.name.endswith(one)), None)
    return ending is not None and path.with_name(path.name.removesuffix(ending)).exists()


def _output(plan: Plan, survey: Survey, status: JobStatus, *, changed: bool) -> Iterator[Finding]:
    """Compare the output with what a run would write now.

    One that differs from that is no fault where the input has `changed` since it was written.
    """
    if not plan.output.exists():
        yield Finding(plan.output, "the output is missing, and every row has an answer", AGAIN)
        return
    layout = plan.checked.layout
    parts = Parts(plan.folder.parts, layout.part, plan.fingerprint)
    escape = plan.checked.loaded.job.output.escape_formulas
    with temporary_file(f"wanted{plan.output.suffix}") as wanted:
        standing, ending = stand(survey, parts), plan.output.suffix
        try:
            written = write_table(
                plan.source, parts, standing, layout, wanted, ending=ending, escape_formulas=escape
            )
        except OSError as exc:
            raise failed("written", exc) from exc
        if not isclose(written.cost_usd, status.table.cost_usd, rel_tol=1e-9, abs_tol=1e-12):
            what = f"the parts cost ${status.table.cost_usd:.6f}, a table of them ${written.cost_usd:.6f}"
            yield Finding(plan.folder.parts, what, "please report it")
        try:
            for what in differences(plan.output, wanted, _columns(plan)):
                if changed:
                    yield Finding(plan.output, CHANGED, UPDATE, notice=True)
                    return
                yield Finding(plan.output, what, AGAIN)
        except UNREAD as exc:
            said = (str(exc) or type(exc).__name__).splitlines()[0]
            yield Finding(plan.output, f"the output cannot be read: {said}", AGAIN)


def _columns(plan: Plan) -> Columns:
    inputs = plan.source.columns
    table = pl.DataFrame(schema=dict.fromkeys(inputs, pl.String())).to_arrow().schema
    from_end = BOOKKEEPING.get_field_index("_cost_usd") - len(BOOKKEEPING)  # the name may have a prefix
    return Columns(inputs, plan.source.key, plan.checked.layout.output(table).names[from_end])
