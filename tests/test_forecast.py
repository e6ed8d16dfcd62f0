"""`rowmill estimate` against the bill: what it says beforehand is what the run then takes."""

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.forecast import Forecast, forecast
from pipeline.gemini.counting import count_all
from pipeline.models import find_model
from pipeline.offline import offline_endpoint
from pipeline.progress import usd
from pipeline.services import Asking
from pipeline.sizing import Count
from pipeline.store.cache import Use
from tests.conftest import TODAY, Emulator, Project, emulating
from tests.test_cli import KEY, Shell, shell

__all__ = ["shell"]

NOW = 1_795_900_000.0
WORDS = [
    "good",
    "terrible",
    "coat",
    "arrived late",
    "전체관람가는",
    "아닌것",
    "42",
    "seam: broke",
    "für später",
]
PRICE = find_model("gemini-3.1-flash-lite", TODAY).price(TODAY, "standard")


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator without quotas."""
    with emulating() as running:
        yield running


def texts(rows: int, distinct: int) -> list[str]:
    """Return rows of very different lengths, some of them equal."""
    dice = random.Random(3)
    made = [" ".join(dice.choices(WORDS, k=dice.choice([2, 8, 30]))) + f" {n}" for n in range(distinct)]
    return [*made, *dice.choices(made, k=rows - distinct)]


def estimated(
    project: Project, count: Count | str, *, free: bool = False, again: bool = False, use: Use = Use.FULL
) -> Forecast:
    """Estimate the project's job."""
    asking = Asking(free=free, vertex=False, sent_today=0, now=NOW)
    return forecast(project.plan(), count, asking, retry_failed=again, use=use)


def counting(emulator: Emulator) -> Count:
    """Return the emulator's countTokens, through the SDK."""
    return lambda requests: count_all(offline_endpoint(emulator.address), "gemini-3.1-flash-lite", requests)


@pytest.mark.parametrize("rows", [1, 20])
def test_an_estimate_is_what_the_run_is_billed(project: Project, emulator: Emulator, rows: int) -> None:
    """Requests exactly, input tokens within 3 %, and the true bill within the ends that were named."""
    project.change("[output]", f"[packing]\nrows = {rows}\n\n[output]")
    project.rows(texts(3_000, 2_700))
    found = estimated(project, counting(emulator))
    emulator.reset()
    project.run(emulator.address)
    bill, own = emulator.stats(), found.ways[0]
    assert PRICE is not None
    usd = (bill["prompt_tokens"] * PRICE.input + bill["output_tokens"] * PRICE.output) / 1e6
    assert (found.counted, found.scope.prompts) == (100, 2_700)
    assert own.requests == bill["requests"]
    assert own.tokens_in.expected == pytest.approx(bill["prompt_tokens"], rel=0.03)
    assert own.tokens_in.low <= bill["prompt_tokens"] <= own.tokens_in.high
    assert own.usd.low <= usd <= own.usd.high


def test_lines_of_batches_are_as_many_as_estimated(project: Project) -> None:
    """Equal prompts leave no room in them: 202 distinct ones of 300 rows are eleven lines."""
    project.change('name = "labels"', 'name = "labels"\nmode = "batch"')
    project.change("[output]", "[packing]\nrows = 20\n\n[output]")
    project.rows(texts(300, 202))
    with emulating("--tier", "paid") as server:
        found = estimated(project, counting(server)).ways[0]
        assert (found.requests, project.run(server.address).requests) == (11, 11)


def test_answers_of_the_job_make_it_exact(project: Project, emulator: Emulator) -> None:
    """After some rows output tokens are no guess: within a tenth, and the rest only is estimated."""
    project.rows(texts(900, 900))
    project.run(emulator.address, limit=200)
    found = estimated(project, counting(emulator))
    emulator.reset()
    project.run(emulator.address)
    own, bill = found.ways[0], emulator.stats()
    assert not found.guessed
    assert "200 answers to this job" in found.basis
    assert (found.scope.done, found.scope.pending, own.requests) == (200, 700, 700)
    assert own.tokens_out.expected == pytest.approx(bill["output_tokens"], rel=0.1)


def test_a_few_answers_are_no_knowledge(project: Project, emulator: Emulator) -> None:
    """After one the ends stand far apart, however equal to itself it is."""
    project.rows(texts(200, 200))
    project.run(emulator.address, limit=1)
    found = estimated(project, "no key")
    own = found.ways[0].tokens_out
    assert found.basis == "as 1 answer to this job took"
    assert own.high > own.low * 2
    assert own.low < own.expected < own.high


def test_replies_of_a_run_that_wrote_no_part_are_known(project: Project, emulator: Emulator) -> None:
    """They lie in the journal, of this run folder or of another job's with the same question."""
    project.rows(texts(100, 100))
    project.change("[output]", "[cache]\nenabled = false\n\n[output]")
    project.run(emulator.address, limit=40)
    shutil.rmtree(project.plan().folder.parts)
    assert estimated(project, "no key").basis == "as 40 answers to this job took"
    project.change('name = "labels"', 'name = "others"')
    found = estimated(project, "no key")
    assert (found.basis, found.guessed) == ("as 40 answers to another job with the same question took", False)


def test_answers_in_the_response_cache_are_known(project: Project, emulator: Emulator) -> None:
    """What it has to some prompts tells what the others will take."""
    made = texts(100, 100)
    project.rows(made[:40])
    project.run(emulator.address)
    shutil.rmtree(project.plan().folder.path)
    project.rows(made)
    found = estimated(project, "no key")
    assert found.basis == "as 40 answers to its prompts in the response cache took"
    assert found.ways[0].tokens_out.low > 0


def test_answers_to_another_prompt_are_better_than_none(project: Project, emulator: Emulator) -> None:
    """A changed prompt asks every row anew, and the old answers tell how long the new ones will be."""
    project.rows(texts(60, 60))
    project.run(emulator.address)
    project.change("You label reviews.", "You label reviews of a shop.")
    found = estimated(project, counting(emulator))
    assert found.scope.pending == 60
    assert "60 answers to this job with other settings" in found.basis


def test_a_failure_to_count_falls_back_and_says_why(project: Project, emulator: Emulator) -> None:
    """Whatever the API says, there is an estimate, with its reason and a wide range."""
    project.rows(texts(50, 50))
    found = estimated(
        project, lambda requests: count_all(offline_endpoint(emulator.address), "no-model", requests)
    )
    own = found.ways[0]
    assert found.counted == 0
    assert "404" in found.uncounted
    assert own.tokens_in.high > own.tokens_in.low * 1.5


def test_the_free_tier_is_compared_with_a_paid_one(project: Project) -> None:
    """It costs nothing and takes days; the paid ways stand beside it, and a batch is of theirs only."""
    project.change('tier = "1"\nrpm = 600000\ntpm = 600000000\n', 'tier = "free"\n')
    project.rows(texts(1_600, 1_600))
    found = estimated(project, "no key", free=True)
    own, packed, *paid = found.ways
    assert (own.usd.high, own.held_by) == (0.0, "rpd")
    assert own.seconds > 2 * 86_400 > packed.seconds
    assert {way.service.name for way in paid} == {"online", "flex", "batch"}
    assert all(way.usd.low > 0 for way in paid)
    assert "free tier offers neither batch nor flex" in found.unbatched


@pytest.mark.parametrize(
    ("line", "service", "factor"),
    [
        ("", "online", 1.0),
        ('mode = "batch"', "batch", 0.5),
        ("flex", "flex", 0.5),
        ("priority", "priority", 1.8),
    ],
)
def test_the_first_way_is_the_jobs_own(project: Project, line: str, service: str, factor: float) -> None:
    """What it asks for by `mode` or `service_tier` comes first, at its price, and has the mark."""
    project.rows(texts(300, 300))
    standard = estimated(project, "no key").ways[0].usd.expected
    if line in ("flex", "priority"):
        project.change("max_output_tokens = 200\n", f'max_output_tokens = 200\nservice_tier = "{line}"\n')
    elif line:
        project.change('name = "labels"', f'name = "labels"\n{line}')
    own, *others = estimated(project, "no key").ways
    assert (own.service.name, own.current, own.at_most) == (service, True, service in ("flex", "batch"))
    assert own.usd.expected == pytest.approx(standard * factor)
    assert not any(way.current for way in others)
    assert {"online", "flex", "batch"} <= {way.service.name for way in (own, *others)}


def test_what_the_response_cache_has_is_taken_off(project: Project, emulator: Emulator) -> None:
    """Another job's answers to the same prompts cost nothing; a job without the cache pays for all."""
    made = texts(400, 400)
    project.rows(made[:150])
    project.run(emulator.address)
    project.change('name = "labels"', 'name = "others"')
    project.rows(made)
    found = estimated(project, "no key")
    assert (found.scope.pending, found.scope.prompts, found.scope.cached) == (400, 250, 150)
    assert found.ways[0].requests == 250
    emulator.reset()
    project.run(emulator.address)
    assert emulator.stats()["requests"] == 250
    project.change('name = "others"', 'name = "third"')
    assert estimated(project, "no key").scope.prompts == 0
    for use in (Use.REFRESH, Use.NONE):
        assert (found := estimated(project, "no key", use=use)).scope.prompts == 400
        assert ("response cache" in found.basis) is (use is Use.REFRESH)
    project.change("[output]", "[cache]\nenabled = false\n\n[output]")
    assert estimated(project, "no key").scope.prompts == 400


def test_the_flags_of_the_cache_are_those_of_a_run(shell: Shell, project: Project) -> None:
    """Both are taken, and refused together."""
    project.rows(["good"])
    for flag in ("--no-cache", "--refresh"):
        assert shell("estimate", project.job, flag).code == 0
    assert shell("estimate", project.job, "--no-cache", "--refresh").code == 2


@pytest.mark.parametrize("mode", ["--batch", "--online"])
def test_what_lies_in_open_batch_jobs_is_taken_off(shell: Shell, project: Project, mode: str) -> None:
    """Their prompts are asked already: named with what they may cost, and only the others estimated."""
    made = texts(70, 70)
    project.rows(made[:50])
    project.change('name = "labels"', 'name = "labels"\nmode = "batch"')
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    with emulating("--tier", "paid", "--batch-wait", "60") as slow:
        at = ("--base-url", slow.address)
        assert shell("run", project.job, "--detach", *at).code == 3
        project.rows([*made, made[0]])
        said = shell("estimate", project.job, mode, "--json", *at).out
        lines = shell("estimate", project.job, mode, *at).out
        project.rows(made[:50])
        rest = shell("estimate", project.job, mode, *at).out
        jobs = json.loads(shell("status", project.job, "--json", *at).out)["batch_jobs"]
    found, cost = json.loads(said), jobs[0]["cost_usd_estimated"]
    assert (found["prompts"], found["ways"][0]["requests"]) == (20, 20)
    assert (found["batch_jobs"], found["enqueued"], found["enqueued_cost_usd"]) == (1, 50, round(cost, 6))
    assert f"1 batch job open with 50 prompts, which may cost ${cost:.4f}: not counted below" in lines
    assert rest.endswith("nothing is left to ask, a run takes in what batch jobs answer\n")


@pytest.mark.parametrize("ask", [["--batch"], ["--service-tier", "flex"], ["--service-tier", "priority"]])
def test_what_a_run_refuses_is_not_estimated(shell: Shell, project: Project, ask: list[str]) -> None:
    """The free tier has only the online service: both commands end with 2 and the same words."""
    project.rows(["good"])
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    told = (project.job, "--tier", "free", *ask, "--base-url", "http://127.0.0.1:9")
    estimate, run = shell("estimate", *told), shell("run", *told)
    assert (estimate.code, estimate.out) == (2, "")
    assert estimate.err == run.err
    assert "is not offered in usage tier `free`" in run.err
    assert shell("estimate", project.job, "--tier", "1", *ask).code == 0


def test_a_calibration_takes_what_is_said(shell: Shell, project: Project, emulator: Emulator) -> None:
    """Its requests and its price are named where it is recommended, and that it takes more than the job."""
    project.change("You label reviews.", "You label reviews. " + "Praise is positive. " * 60)
    project.rows(texts(70, 60))
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    told = (project.job, "--base-url", emulator.address)
    said = shell("estimate", *told)
    found = json.loads(shell("estimate", *told, "--json").out)["calibration"]
    took = json.loads(shell("calibrate", *told, "--json").out)["this_run"]
    done = json.loads(shell("estimate", *told, "--json").out)
    assert found["requests"] == took["requests"]
    assert shell("run", *told).code == 0
    after = json.loads(shell("estimate", *told, "--json").out)
    assert (after["prompts"], after["calibration"]["requests"]) == (0, found["requests"])
    assert after["calibration"]["cost_usd"]["expected"] > done["calibration"]["cost_usd"]["expected"] / 2
    assert found["cost_usd"]["low"] <= took["cost_usd"] <= found["cost_usd"]["high"]
    words = f"with about {found['requests']} requests for \\$[0-9.]+ to \\$[0-9.]+, more than this job takes"
    assert re.search(words, said.out)


def test_an_earlier_calibration_is_told(shell: Shell, project: Project, emulator: Emulator) -> None:
    """What it found stands where another one would be advised."""
    project.change("You label reviews.", "You label reviews. " + "Praise is positive. " * 60)
    project.rows(texts(70, 60))
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    at = (project.job, "--base-url", emulator.address)
    assert shell("calibrate", *at, "--sample", "20", "--sizes", "10").code == 0
    said = shell("estimate", *at).out
    assert re.search(
        r"`--pack 20` would take .*; the calibration of \S+ with 20 rows recommends 1 row a request: at 10",
        said,
    )
    assert "`rowmill calibrate` measures" not in said
    assert "recommends 1 row" in json.loads(shell("estimate", *at, "--json").out)["calibration"]["found"]


@pytest.mark.parametrize("pack", [1, 10])
def test_answers_of_a_calibration_are_known(
    shell: Shell, project: Project, emulator: Emulator, pack: int
) -> None:
    """Also those of another job with the same identity; each row of its sample counts once."""
    project.change("[output]", f"[packing]\nrows = {pack}\n\n[output]")
    project.rows(texts(70, 60))
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    at = (project.job, "--base-url", emulator.address)
    before = json.loads(shell("estimate", *at, "--json").out)["ways"][0]["output_tokens"]
    assert shell("calibrate", *at, "--sample", "40", "--sizes", "5,10").code == 0
    for name in ("labels", "others"):
        said = shell("estimate", *at).out
        assert "as 80 answers of its calibration took" in said
        assert "guess" not in said
        after = json.loads(shell("estimate", *at, "--json").out)["ways"]
        assert after[0]["output_tokens"]["high"] - after[0]["output_tokens"]["low"] < (
            (before["high"] - before["low"]) / 4
        )
        project.change(f'name = "{name}"', 'name = "others"')
    shell("run", *at, "--no-cache")
    took = project.table()["_output_tokens"].sum()
    assert after[0]["output_tokens"]["low"] <= took <= after[0]["output_tokens"]["high"]


def test_failed_rows_count_only_when_they_are_asked_again(project: Project) -> None:
    """They are done, unless `--retry-failed` is given."""
    project.rows(["good one", "<finish-safety> one", "good two"])
    with emulating("--fault", "finish-safety~<finish-safety>") as strict:
        project.run(strict.address)
    assert estimated(project, "no key").scope.failed == 1
    assert estimated(project, "no key").ways[0].requests == 0
    assert estimated(project, "no key", again=True).ways[0].requests == 1


def test_what_failed_after_a_second_request_may_do_so_again(
    shell: Shell, project: Project, emulator: Emulator
) -> None:
    """Rows whose answers were no good took two requests: the round is no dearer than its upper end."""
    strict = (
        'reason: str\n\n    @field_validator("reason")\n    def never(cls, said):\n        raise ValueError'
    )
    schema = project.folder / "schemas" / "label.py"
    text = schema.read_text().replace("import BaseModel", "import BaseModel, field_validator")
    schema.write_text(text.replace("reason: str", strict))
    project.change("[output]", "[packing]\nrows = 20\n\n[output]")
    project.rows([f"row number {n} " + "word " * (n % 7) for n in range(60)])
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    at = (project.job, "--base-url", emulator.address)
    shell("run", *at)
    for _ in range(2):
        said = shell("estimate", *at, "--retry-failed").out
        assert "60 failed rows: 60 requests more if they fail as before" in said
        found = json.loads(shell("estimate", *at, "--retry-failed", "--json").out)["ways"][0]
        took = json.loads(shell("run", *at, "--retry-failed", "--json").out)["this_run"]
        assert took["requests"] == found["requests"] == 63
        assert found["cost_usd"]["low"] < took["cost_usd"] * 0.8
        assert took["cost_usd"] * 0.9 < found["cost_usd"]["high"] < took["cost_usd"] * 1.3


def test_nothing_is_written_and_no_model_asked(shell: Shell, project: Project, emulator: Emulator) -> None:
    """The command asks for counts only, and leaves no run folder and no state behind."""
    project.rows(texts(300, 300))
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    emulator.reset()
    said = shell("estimate", project.job, "--base-url", emulator.address)
    assert (said.code, said.err) == (0, "")
    assert "100 counted by the emulator (countTokens)" in said.out
    assert "> 1 row, tier 1 " in said.out
    assert emulator.stats()["requests"] == 0
    assert not (project.folder / ".rowmill").exists()
    assert not list((project.folder / "state").glob("*"))


def test_a_limit_of_cost_that_will_be_reached_is_told(shell: Shell, project: Project) -> None:
    """A run that would stop early says so beforehand, and how far it would come."""
    project.rows(texts(400, 400))
    said = shell("estimate", project.job, "--max-cost", "0.001")
    assert "`max_cost` is $0.0010: the run would stop after about " in said.out
    assert "max_cost" not in shell("estimate", project.job, "--max-cost", "100").out


def test_days_and_hours_are_said_in_words(shell: Shell, project: Project) -> None:
    """What everybody asks: how many days on the free tier, and how long in packs."""
    project.change('tier = "1"\nrpm = 600000\ntpm = 600000000\n', 'tier = "free"\n')
    project.rows(texts(2_000, 2_000))
    said = shell("estimate", project.job).out
    words = r"`--pack 20` would take 100 requests instead of 2,000, 7 min instead of [23] days"  # it is now
    assert re.search(words, said)
    assert "what holds it up: requests a day" in said


def test_without_a_key_it_says_so(shell: Shell, project: Project) -> None:
    """An estimate needs no key; `--json` has the same numbers for programs."""
    project.rows(texts(40, 40))
    found = json.loads(shell("estimate", project.job, "--json").out)
    assert (found["prompts"], found["counted"]) == (40, 0)
    assert "no API key" in found["not_counted"]
    assert found["ways"][0]["current"]
    assert found["ways"][0]["input_tokens"]["low"] < found["ways"][0]["input_tokens"]["high"]


@pytest.mark.parametrize(("job", "repeated"), [("sentiment", 0.01), ("invoices", 0.15)])
def test_sample_jobs_cost_what_was_estimated(job: str, repeated: float, shell: Shell, tmp_path: Path) -> None:
    """The jobs that come with it, within 1 %; that some invoices are asked again nobody knows."""
    words = (f"jobs/{job}.toml", "--offline", "--tier", "1", "--runs-dir", tmp_path / "runs", "--json")
    own = json.loads(shell("estimate", *words).out)["ways"][0]
    took = json.loads(shell("run", *words, "--output", tmp_path / "out.parquet").out)["this_run"]
    assert own["requests"] == pytest.approx(took["requests"], rel=repeated)
    assert own["input_tokens"]["expected"] == pytest.approx(took["tokens"]["prompt"], rel=repeated)
    assert own["cost_usd"]["low"] <= took["cost_usd"] <= own["cost_usd"]["high"]


def test_a_finished_job_has_nothing_left(shell: Shell, project: Project, emulator: Emulator) -> None:
    """No table, no advice: one line says so."""
    project.rows(["good", "bad"])
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    at = ("--base-url", emulator.address)
    shell("run", project.job, *at)
    said = shell("estimate", project.job, *at)
    assert "2 rows, 2 done, 0 to do" in said.out
    assert said.out.endswith("nothing is left to ask\n")


def test_what_the_cache_answers_alone_is_said(shell: Shell, project: Project, emulator: Emulator) -> None:
    """A table is still to be written, and the money that it does not take is named."""
    project.rows(["good", "bad"])
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    at = ("--base-url", emulator.address)
    cost = json.loads(shell("run", project.job, "--json", *at).out)["this_run"]["cost_usd"]
    project.change('name = "labels"', 'name = "others"')
    said = shell("estimate", project.job, *at)
    assert "2 rows, 0 done, 2 to do" in said.out
    assert said.out.endswith(
        "nothing is left to ask: the answers are in the response cache, so `rowmill run` writes the table "
        f"without a request and saves {usd(cost)} with the cache\n"
    )
    assert json.loads(shell("estimate", project.job, "--json", *at).out)["saved_usd"] == round(cost, 6)


def test_an_estimate_says_what_auto_means_now(project: Project) -> None:
    """Not calibrated, it is one row a request; the command that finds out is named."""
    project.rows(texts(20, 20))
    assert not estimated(project, "no key").auto
    project.change("[output]", '[packing]\nrows = "auto"\n\n[output]')
    found = estimated(project, "no key")
    assert "each row has a request of its own" in found.auto
    assert f"rowmill calibrate {project.job}" in found.auto
    assert found.ways[0].rows == 1
