"""Runs of several jobs that share what they have paid for."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.asking import Service
from pipeline.errors import Exit
from pipeline.gemini.call import Generation
from pipeline.ledger import Ledger
from pipeline.offline import offline_endpoint
from pipeline.posing import generation
from pipeline.report import RunReport
from pipeline.run import run_job
from pipeline.runs import find_runs
from pipeline.store.answers import FILE, stock
from pipeline.store.cache import Use
from tests.conftest import JOB, SCHEMA, Emulator, Project, emulating, unwatched
from tests.test_cli import started, wait_for

PAGE = 4_096  # bytes that SQLite reads at once
TEXTS = [f"{word} coat" for word in ("good", "bad", "fine", "awful", "cool", "dull")]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator in which some rows fail at first, and some always."""
    with emulating("--fault", "badjson~<once>#1", "--fault", "finish-safety~<never>") as emulator:
        yield emulator


def run(project: Project, emulator: Emulator, use: Use = Use.FULL) -> RunReport:
    """Run a job with the cache in this use."""
    service = Service(offline_endpoint(emulator.address), Ledger(None, "test"), free=False, use=use)
    return run_job(project.plan(), service, watch=unwatched)


def another(project: Project) -> None:
    """Make another job of this one, with a template that renders the same."""
    project.change('name = "labels"', 'name = "others"')
    project.change("Review: {{ text }}", "{{ 'Review' }}: {{ text }}")


def test_another_job_asks_nothing_twice(project: Project, emulator: Emulator) -> None:
    """A job of another name and template that renders the same texts takes the answers, and pays nothing."""
    project.rows([*TEXTS, "better <once>"])
    first = run(project, emulator)
    answers = project.table()
    another(project)
    second = run(project, emulator)
    table = project.table()
    assert (first.requests, second.requests, second.cost_usd) == (len(TEXTS) + 2, 0, 0.0)
    assert table.select("id", "label", "reason").equals(answers.select("id", "label", "reason"))
    assert (set(table["_source"]), table["_cost_usd"].sum(), table["_attempts"].sum()) == ({"cache"}, 0.0, 0)
    assert (second.saved.cached, second.saved.shared, second.emulated) == (len(TEXTS) + 1, 0, True)
    assert 0 < second.saved.cost_usd <= first.cost_usd
    assert "saved: 7 rows came from the cache, about $" in "\n".join(second.sentences())


def test_a_failed_row_is_asked_again(project: Project, emulator: Emulator) -> None:
    """Only good answers are shared."""
    project.rows(["good", "bad <never>"])
    run(project, emulator)
    another(project)
    report = run(project, emulator)
    assert (report.requests, report.saved.cached, report.table.failed) == (1, 1, 1)


def test_an_answer_that_is_not_good_enough_for_this_job_is_asked_again(
    project: Project, emulator: Emulator
) -> None:
    """A class that is stricter than the schema which is sent takes no answer that it refuses."""
    project.rows(["good"])
    run(project, emulator)
    strict = "    @field_validator('reason')\n    @classmethod\n    def short(cls, text: str) -> str:\n"
    strict += "        if len(text) > 5: raise ValueError('too long')\n        return text\n"
    schema = project.folder / "schemas" / "label.py"
    schema.write_text(SCHEMA.replace("import BaseModel", "import BaseModel, field_validator") + strict)
    another(project)
    report = run(project, emulator)
    assert (report.saved.cached, report.table.failed) == (0, 1)
    assert report.requests > 0


@pytest.mark.parametrize("rows", [1, 20])
def test_sums_are_exact_where_some_rows_are_known(project: Project, emulator: Emulator, rows: int) -> None:
    """The costs of the rows are the cost of the run, with rows asked, shared, and out of the cache."""
    project.change("[output]", f"[packing]\nrows = {rows}\n\n[output]")
    project.rows(TEXTS[:3])
    run(project, emulator)
    another(project)
    project.rows([*TEXTS, *TEXTS])
    report = run(project, emulator)
    table = project.table()
    assert table["_cost_usd"].sum() == pytest.approx(report.cost_usd, abs=1e-12)
    assert table["_prompt_tokens"].sum() == report.usage.prompt
    assert (report.saved.cached, report.saved.shared) == (6, 3)
    assert (report.requests, report.exit_code) == (3 if rows == 1 else 1, Exit.OK)


def test_no_cache_neither_reads_nor_writes(project: Project, emulator: Emulator) -> None:
    """With `--no-cache` and `cache.enabled = false` every row is asked and no file appears."""
    project.rows(["good"])
    run(project, emulator, Use.NONE)
    project.change("[output]", "[cache]\nenabled = false\n\n[output]")
    another(project)
    assert run(project, emulator).requests == 1
    assert not (project.folder / ".rowmill" / FILE).exists()


def test_refresh_asks_and_replaces(project: Project, emulator: Emulator) -> None:
    """With `--refresh` what the cache knows is asked once more, and the next job has the newer answer."""
    project.rows(["good"])
    run(project, emulator)
    another(project)
    before = stock(project.folder / ".rowmill" / FILE)
    assert run(project, emulator, Use.REFRESH).requests == 1
    after = stock(project.folder / ".rowmill" / FILE)
    assert (before.entries, after.entries) == (1, 1)


def test_the_folder_of_runs_copes_with_the_file(project: Project, emulator: Emulator) -> None:
    """A cache among the run folders is no run; a removed run folder costs nothing as long as it is there."""
    project.rows(TEXTS)
    report = run(project, emulator)
    assert [one.folder for one in find_runs(project.folder / ".rowmill")] == [project.plan().folder]
    shutil.rmtree(report.folder)
    assert run(project, emulator).requests == 0


def test_a_damaged_cache_is_named_and_stops_nothing(project: Project, emulator: Emulator) -> None:
    """The rows are asked, the summary says why."""
    project.rows(TEXTS)
    run(project, emulator)
    (project.folder / ".rowmill" / FILE).write_bytes(b"rubbish" * 1_000)
    another(project)
    report = run(project, emulator)
    assert (report.requests, report.exit_code) == (len(TEXTS), Exit.OK)
    assert any("set aside as `cache.sqlite.damaged`" in note for note in report.notes)
    assert stock(project.folder / ".rowmill" / FILE).entries == len(TEXTS)


@pytest.mark.parametrize("filling", [b"\0", b"rubbish "], ids=["zeros", "rubbish"])
def test_one_damaged_page_of_the_cache_changes_no_answer(
    project: Project, emulator: Emulator, filling: bytes
) -> None:
    """Whichever it is: what it held is asked again, and the summary names what was damaged."""
    project.rows([f"{word} {n}" for word in TEXTS for n in range(6)])
    run(project, emulator)
    answers = project.table().select("id", "label", "reason")
    another(project)
    cache = project.folder / ".rowmill" / FILE
    whole = cache.read_bytes()
    pages = len(whole) // PAGE
    assert pages > 5
    for page in range(pages):
        shutil.rmtree(project.folder / ".rowmill" / "others", ignore_errors=True)
        for left in cache.parent.glob(f"{FILE}*"):
            left.unlink()
        start = page * PAGE
        content = (filling * PAGE)[:PAGE]
        cache.write_bytes(whole[:start] + content + whole[start + PAGE :])
        report = run(project, emulator)
        assert project.table().select("id", "label", "reason").equals(answers)
        assert report.exit_code is Exit.OK
        assert report.requests + report.saved.cached == 36
        assert not report.requests or any("cache" in note for note in report.notes)


def test_kill_and_resume_fill_the_cache(project: Project) -> None:
    """What a killed run has paid for is in the cache once the run was continued."""
    texts = [f"good coat number {n}" for n in range(200)]
    project.rows(texts)
    with emulating("--latency", "0.02") as slow:
        with started(project, slow, "--concurrency", "4") as process:
            wait_for(lambda: slow.stats()["answered"] >= 60)
            process.kill()
            process.communicate()
        with started(project, slow, "--concurrency", "4") as last:
            last.communicate(timeout=60)
        asked = slow.stats()["requests"]
        another(project)
        with started(project, slow) as other:
            other.communicate(timeout=60)
        assert slow.stats()["requests"] == asked
    assert set(project.table()["_source"]) == {"cache"}


SETTINGS = {
    "model": ('id = "gemini-3.1-flash-lite"', 'id = "gemini-2.5-flash-lite"'),
    "system": ("You label reviews.", "You label reviews of coats."),
    "json_schema": None,
    "thinking_level": ("max_output_tokens", 'thinking = "low"\nmax_output_tokens'),
    "thinking_budget": ('id = "gemini-3.1-flash-lite"', 'id = "gemini-2.5-flash-lite"\nthinking = "low"'),
    "seed": ("max_output_tokens", "seed = 7\nmax_output_tokens"),
    "temperature": ('id = "gemini-3.1-flash-lite"', 'id = "gemini-2.5-flash-lite"\ntemperature = 0.5'),
    "safety": ("[limits]", '[model.safety]\nharassment = "off"\n[limits]'),
}
SERVED = {"service_tier", "cache"}  # how a request is served changes no answer


@pytest.mark.parametrize("name", [field.name for field in fields(Generation) if field.name not in SERVED])
def test_whatever_is_sent_has_a_part_in_the_id(project: Project, name: str) -> None:
    """Each setting that requests share changes their ids; a new one fails here until that is decided."""
    project.rows(["good"])
    plan = project.plan()
    if (change := SETTINGS[name]) is not None:
        project.change(*change)
    else:
        schema = project.folder / "schemas" / "label.py"
        schema.write_text(SCHEMA.replace("reason: str", "grounds: str"))
    changed = project.plan()
    assert getattr(generation(plan), name) != getattr(generation(changed), name)
    assert plan.question != changed.question


def test_endpoints_share_nothing_and_templates_do(project: Project) -> None:
    """Who answers is part of the id, what the text was made of is not."""
    project.rows(["good"])
    plan = project.plan()
    assert project.plan("another").question != plan.question
    another(project)
    changed = project.plan()
    assert (changed.question, changed.fingerprint == plan.fingerprint) == (plan.question, False)


@dataclass(frozen=True)
class Asked:
    """One run of one of two jobs."""

    name: str
    system: int
    model: int
    schema: int
    seed: int
    texts: Sequence[str]
    refresh: bool


SYSTEMS = ["You label reviews.", "You label reviews of a shop that sells coats."]
MODELS = ["gemini-3.1-flash-lite", "gemini-2.5-flash-lite"]
SCHEMAS = [SCHEMA, SCHEMA.replace("reason", "grounds")]
ROWS = {"labels": "Review: {{ text }}", "others": "{{ 'Review' }}: {{ text }}"}
RUNS = st.builds(
    Asked,
    name=st.sampled_from(sorted(ROWS)),
    system=st.integers(0, 1),
    model=st.integers(0, 1),
    schema=st.integers(0, 1),
    seed=st.integers(0, 1),
    texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=5),
    refresh=st.booleans(),
)


def write(project: Project, asked: Asked) -> None:
    """Write the job and its input."""
    job = JOB.replace("labels", asked.name, 1).replace(SYSTEMS[0], SYSTEMS[asked.system])
    job = job.replace(ROWS["labels"], ROWS[asked.name]).replace(MODELS[0], MODELS[asked.model])
    project.job.write_text(job.replace("[limits]", f"seed = {asked.seed}\n[limits]"))
    (project.folder / "schemas" / "label.py").write_text(SCHEMAS[asked.schema])
    project.rows(asked.texts)


def fresh(folder: Path, emulator: Emulator, asked: Asked) -> pl.DataFrame:
    """Return the answers of a run that knows nothing."""
    project = made(folder)
    write(project, asked)
    assert run(project, emulator, Use.NONE).exit_code is Exit.OK
    return project.table()


def made(folder: Path) -> Project:
    """Make a project."""
    for name in ("jobs", "schemas"):
        (folder / name).mkdir(parents=True)
    return Project(folder)


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(sequence=st.lists(RUNS, min_size=1, max_size=5))
def test_any_sequence_of_runs_gets_the_answers_of_fresh_ones(
    tmp_path_factory: pytest.TempPathFactory, emulator: Emulator, sequence: list[Asked]
) -> None:
    """Whatever changes between runs of two jobs, no other answer is served, and none is paid for twice."""
    folder = tmp_path_factory.mktemp("sequence")
    project = made(folder / "project")
    paid: set[tuple[object, ...]] = set()
    for number, asked in enumerate(sequence):
        write(project, asked)
        known = {(asked.system, asked.model, asked.schema, asked.seed, text) for text in asked.texts}
        report = run(project, emulator, Use.REFRESH if asked.refresh else Use.FULL)
        assert report.requests <= len(known if asked.refresh else known - paid)
        paid |= known
        table = project.table()
        assert table["_cost_usd"].sum() >= report.cost_usd - 1e-12  # more where the job was run before
        columns = [name for name in table.columns if not name.startswith("_")]
        wanted = fresh(folder / str(number), emulator, replace(asked, refresh=False))
        assert table.select(*columns, "_model").equals(wanted.select(*columns, "_model"))


def test_the_summary_in_json(project: Project, emulator: Emulator) -> None:
    """What was saved stands there, too."""
    project.rows(["good", "good"])
    saved = json.loads(json.dumps(run(project, emulator).as_json()))["this_run"]["saved"]
    assert (saved["shared_rows"], saved["cached_rows"]) == (1, 0)
    assert saved["cost_usd"] > 0
