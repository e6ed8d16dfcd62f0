"""A checked job: everything about a run that is known, and could be wrong, before the first request."""

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow as pa

from pipeline.arrow import Layout
from pipeline.calibration import fields
from pipeline.disk import obstacle
from pipeline.errors import InputError, JobError, OutputError, StoreError
from pipeline.input.files import would_read
from pipeline.input.recode import Decoding
from pipeline.input.source import Source, open_source
from pipeline.job import LoadedJob, asked, identity, job_limits, job_model, model_settings, resolve
from pipeline.keys import fingerprint
from pipeline.models import Limits, Model, Settings
from pipeline.output import check_types
from pipeline.schema import json_schema
from pipeline.schema_file import nearest
from pipeline.shape import shape_of
from pipeline.store.advice import Advice, advice
from pipeline.store.folder import CONTINUE, Folder, check_run, run_folder
from pipeline.template import Template, check_columns
from pipeline.tiers import check_tier, patient

RUNS = ".rowmill"  # the folder of run folders, in the project


@dataclass(frozen=True, slots=True)
class CheckedJob:
    """What is asked, without the rows: enough for `rowmill schema`."""

    loaded: LoadedJob
    model: Model
    settings: Settings
    limits: Limits
    json_schema: dict[str, object]
    layout: Layout
    template: Template


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked job, its rows and where everything goes. Nothing was written to make it.

    `fingerprint` names the job's identity, `question` what its requests share: equal texts of two jobs that
    have the same one are the same request.
    """

    checked: CheckedJob
    source: Source
    output: Path
    identity: dict[str, object]
    fingerprint: str
    question: str
    folder: Folder
    limited: bool  # only the first rows of the input are taken
    pack: int  # how many rows may share a request
    advice: Advice | None  # what calibration has found about that

    @property
    def bad_rows(self) -> Path:
        """Where a run writes down what it leaves out."""
        return self.folder.bad_rows(self.input_path)

    @property
    def input_path(self) -> str:
        """The path of the input from the project, so that it is the same where that was moved."""
        project = self.checked.loaded.project
        return os.path.relpath(resolve(project, self.checked.loaded.job.input.path), project)


def check_job(loaded: LoadedJob, today: date, *, vertex: bool = False) -> CheckedJob:
    """Check model, limits, schema and template of a job; raises JobError."""
    job = loaded.job
    model = job_model(job.model, today)
    check_tier(job.model, model, vertex=vertex, free=job.limits.free)
    if job.mode == "batch":
        job = job.model_copy(update={"model": patient(job.model, model)})
        loaded = replace(loaded, job=job)
    return CheckedJob(
        loaded=loaded,
        model=model,
        settings=model_settings(job.model, model),
        limits=job_limits(job.limits, model, vertex=vertex),
        json_schema=json_schema(loaded.schema),
        layout=Layout(loaded.schema, job.output.prefix),
        template=Template(job.prompt.row),
    )


def check_batches(checked: CheckedJob, *, vertex: bool) -> None:
    """Check that the job may ask by batches, where it does; raises JobError."""
    if checked.loaded.job.mode != "batch":
        return
    tier = checked.loaded.job.limits.tier
    if vertex:
        raise JobError(
            "batch mode needs the Developer API: on Vertex AI batches work another way",
            "set GEMINI_API_KEY and unset GOOGLE_GENAI_USE_VERTEXAI, or run with `--online`",
        )
    if checked.limits.batch_tokens == 0:
        raise JobError(
            f"the Batch API is not offered in usage tier `{tier}`",
            "say which paid tier the project has (`--tier 1`), or run with `--online`",
        )


def make_plan(checked: CheckedJob, *, endpoint: str, runs: Path | None, limit: int | None) -> Plan:
    """Check the input and the output against the job.

    `endpoint` tells answers of different origin apart; `limit` takes the first rows only. Raises
    InputError, JobError, OutputError, and StoreError where the run folder cannot be made.
    """
    job, project = checked.loaded.job, checked.loaded.project
    path, output = resolve(project, job.input.path), resolve(project, job.output.path)
    _check_apart(output, path, job.input.format)
    source = open_source(
        path,
        key=job.input.key,
        used=checked.template.columns,
        limit=limit,
        kind=job.input.format,
        separator=job.input.separator,
        decoding=Decoding(job.input.encoding, job.input.encoding_errors),
        skip=job.input.bad_rows == "skip",
    )
    check_columns(checked.template, source.columns)
    check_gold(checked, source.columns)
    columns = checked.layout.output(_columns(source))
    _check_target(output, source)
    check_types(columns, output)
    who = identity(checked.loaded, checked.json_schema, endpoint)
    print_ = fingerprint(who)
    folder = run_folder(runs or project / RUNS, job.name, print_)
    _check_folder(folder)
    question = fingerprint(asked(who, checked.settings))
    found = advice(folder, print_)
    return Plan(
        checked=checked,
        source=source,
        output=output,
        identity=who,
        fingerprint=print_,
        question=question,
        folder=folder,
        limited=limit is not None,
        pack=_pack(job.packing.rows, found),
        advice=found,
    )


def check_gold(checked: CheckedJob, columns: Collection[str]) -> None:
    """Check that `[gold]` names fields of the answer and columns of the input; raises JobError."""
    names = [field.name for field in fields(shape_of(checked.loaded.schema))]
    for name, column in checked.loaded.job.gold.items():
        if name not in names:
            known = nearest(name, names) or "fields: " + ", ".join(f"`{one}`" for one in names)
            raise JobError(f"the answer has no field `{name}`, which [gold] names", known)
        if column not in columns:
            known = nearest(column, columns) or "name one of the input's columns under [gold]"
            raise JobError(f"the input has no column `{column}`, which [gold] names", known)


def _pack(told: int | Literal["auto"], found: Advice | None) -> int:
    """Return how many rows may share a request: where calibration is to say and has not, one."""
    if told != "auto":
        return told
    return 1 if found is None else found.rows


def _columns(source: Source) -> pa.Schema:
    try:
        return pl.DataFrame(schema=source.types).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    except (pa.ArrowException, pl.exceptions.PolarsError) as exc:
        raise InputError(
            f"a column of the input has a type of Polars' own: {exc}", "cast it, then run again"
        ) from exc


def _check_apart(target: Path, path: Path, kind: str | None) -> None:
    """Refuse a target that the next run would take for one of the files of its input."""
    if would_read(path, kind, target):
        hint = "name a path outside of it under [output] or with `--output`"
        if target.exists():
            hint += f", and take `{target}` out of there if an earlier run has written it"
        said = f"the output `{target}` lies among the files of the input `{path}`"
        raise OutputError(f"{said}, and the next run would read it", hint)


def _check_target(target: Path, source: Source) -> None:
    """Refuse a target that cannot be written, or that is the input itself."""
    if (said := obstacle(target)) is not None:
        raise OutputError(
            f"the output `{target}` cannot be written: {said}",
            "name another path under [output] or with `--output`",
        )
    if any(target.exists() and file.samefile(target) for file in source.files):
        raise OutputError(f"the output `{target}` is the input itself", "name another path under [output]")
    if target.is_dir():
        raise OutputError(f"the output `{target}` is a folder", "name a file in it, such as `out.parquet`")
    if target.exists() and not target.is_file():
        raise OutputError(
            f"the output `{target}` is no file that can be replaced", "name another path under [output]"
        )


def _check_folder(folder: Folder) -> None:
    """Refuse a run folder that is not there and cannot be made; `owned` finds out whether one may be used."""
    check_run(folder)
    if not os.path.isdir(folder.path) and (said := obstacle(folder.path)) is not None:
        raise StoreError(f"the run folder `{folder.path}` cannot be made: {said}", CONTINUE)
