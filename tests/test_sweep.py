"""Calibrating a job against the emulator."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import cycle

import pytest

from pipeline.asking import Service
from pipeline.auto import auto_words, calibrate_command
from pipeline.errors import Exit, InputError, JobError, UsageError
from pipeline.job import load_job
from pipeline.ledger import Ledger
from pipeline.offline import offline_endpoint
from pipeline.plan import check_job, make_plan
from pipeline.store.advice import FILE, advice
from pipeline.sweep import Ended, Told, by_trial, calibrate
from tests.conftest import TODAY, Emulator, Project, emulating, unwatched
from tests.test_cli import started, wait_for

ROWS = 90
TOLD = Told(sample=80, sizes=(5, 20))
REQUESTS = 2 * (80 + 16 + 4)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator."""
    with emulating() as emulator:
        yield emulator


@pytest.fixture
def auto(project: Project) -> Project:
    """Return a project that leaves the size to calibration."""
    project.change("[output]", '[packing]\nrows = "auto"\n\n[output]')
    project.change(
        '"You label reviews."', f'"{"You label reviews. " * 30}"'
    )  # or packs cost more than rows alone
    project.rows([f"{'good' if n % 3 else 'terrible'} thing number {n}" for n in range(ROWS)])
    return project


def calibrating(
    project: Project,
    emulator: Emulator,
    told: Told = TOLD,
    *,
    free: bool = False,
    said: list[str] | None = None,
) -> Ended:
    """Calibrate the project's job; `said` gets what is told on the way."""
    service = Service(offline_endpoint(emulator.address), Ledger(None, "test"), free=free)
    heard: list[str] = [] if said is None else said
    return calibrate(project.plan(), service, told, watch=unwatched, say=heard.append)


def test_a_size_is_found_kept_and_used(auto: Project, emulator: Emulator) -> None:
    """Every trial is asked once; `auto` takes what was found, and a second calibration asks nothing."""
    ended = calibrating(auto, emulator)
    found = ended.calibration
    assert found is not None
    assert (ended.requests, ended.stop, ended.sample) == (REQUESTS, None, 80)
    assert [size.rows for size in found.sizes] == [1, 5, 20]
    assert [round(size.requests * 80) for size in found.sizes] == [80, 16, 4]
    assert found.sizes[2].prompt_tokens < found.sizes[0].prompt_tokens
    assert found.rows == 20
    assert auto.plan().pack == 20
    assert calibrating(auto, emulator).requests == 0
    report = auto.run(emulator.address)
    assert (report.exit_code, report.requests) == (Exit.OK, 5)


def test_an_input_without_rows_is_refused(auto: Project, emulator: Emulator) -> None:
    """With what to do, and without a folder for a run."""
    (auto.folder / "rows.csv").write_text("id,text\n")
    with pytest.raises(InputError, match="has no rows") as caught:
        calibrating(auto, emulator)
    assert "--input" in caught.value.hint
    assert not auto.plan().folder.path.exists()


def test_equal_rows_are_no_evidence(auto: Project, emulator: Emulator) -> None:
    """They share one answer, so that a sample of them would call any size safe; each prompt counts once."""
    auto.rows(["good", "bad", "good"] * 50)
    ended = calibrating(auto, emulator)
    assert (ended.sample, ended.requests) == (2, 4)
    assert ended.calibration is not None
    assert (ended.calibration.rows, len(ended.calibration.sizes)) == (1, 1)
    assert ended.calibration.reason.startswith("no larger size was tried")


def test_a_last_request_that_is_not_full_is_told(auto: Project, emulator: Emulator) -> None:
    """Before it is paid for and with the figures that it raises, with a sample that fills all."""
    said: list[str] = []
    ended = calibrating(auto, emulator, replace(TOLD, sample=50), said=said)
    words = "with 50 rows the last request of 20 has only 10 rows"
    assert words in said[1]
    assert said[1].endswith(": `--sample 60` has full ones")
    assert ended.notes[-1] == said[1]
    heard: list[str] = []
    less = calibrating(auto, emulator, Told(sample=500, sizes=(5, 20)), said=heard)
    assert "was to have 500 rows, but the input has only 90 different prompts" in heard[1]
    assert less.notes[-1].endswith(": `--sample 80` has full ones")
    assert not calibrating(auto, emulator).notes


def test_notes_name_the_trial_that_they_are_of() -> None:
    """What all of them say stands there once, by itself."""
    one, two, three = "each row alone", "5 in a request, in order", "5 in a request, shuffled"
    heard = {"slow": [one, two, three], "cached": [two, three], "late": [one]}
    assert by_trial(heard, 3) == ["slow", f"{two} and {three}: cached", f"{one}: late"]


@pytest.mark.parametrize("texts", [["good"], [""] * 9])
def test_a_single_prompt_can_be_tried(auto: Project, emulator: Emulator, texts: list[str]) -> None:
    """One row, or only nulls: nothing larger than one row a request."""
    auto.rows(texts)
    ended = calibrating(auto, emulator)
    assert (ended.stop, ended.sample, ended.requests) == (None, 1, 2)
    assert auto.plan().pack == 1


def test_all_sizes_are_compared_at_one_price(auto: Project, emulator: Emulator) -> None:
    """A trial that was asked online is held against one as flex, or of the free tier, by its tokens."""
    calibrating(auto, emulator, replace(TOLD, sizes=(5,)))
    auto.change("max_output_tokens", 'service_tier = "flex"\nmax_output_tokens')
    ended = calibrating(auto, emulator)
    assert ended.calibration is not None
    assert (ended.price, ended.requests) == ("flex", 2 * 4)
    for size in ended.calibration.sizes:
        assert size.cost_usd == pytest.approx((size.prompt_tokens * 0.125 + size.output_tokens * 0.75) / 1e6)
    free = calibrating(auto, emulator, free=True)
    assert free.calibration is not None
    assert (free.price, {size.cost_usd for size in free.calibration.sizes}) == ("free", {0.0})


def test_the_name_of_a_job_does_not_matter_and_the_address_does(auto: Project, emulator: Emulator) -> None:
    """What was found for another job with the same identity is taken, and never that of another address."""
    calibrating(auto, emulator)
    auto.change('"labels"', '"again"')
    assert auto.plan().pack == 20
    elsewhere = auto.plan(endpoint="https://example.org")
    assert elsewhere.pack == 1
    note = auto_words(elsewhere)[0]
    assert f"rowmill calibrate {auto.job} --base-url https://example.org" in note
    assert "differs in `address`" in note


def test_the_command_that_calibrates_is_named_whole(auto: Project) -> None:
    """The job file as it was given, and the flags without which another identity would be calibrated."""
    loaded = load_job(auto.job, {"model": {"id": "gemini-2.5-flash-lite", "service_tier": None}})
    checked = check_job(loaded, TODAY)
    plan = make_plan(checked, endpoint="emulator", runs=auto.folder / "my runs", limit=None)
    said = calibrate_command(plan)
    assert said.startswith(
        f"rowmill calibrate {auto.job} --offline --model gemini-2.5-flash-lite --runs-dir '"
    )


def test_a_run_says_which_calibration_it_goes_by(auto: Project, emulator: Emulator) -> None:
    """The size, the day and the sample."""
    calibrating(auto, emulator)
    note = next(note for note in auto.run(emulator.address).notes if "`auto`" in note)
    assert "up to 20 rows share a request" in note
    assert f"{datetime.now(UTC):%F}" in note
    assert "80 rows" in note


def test_a_better_calibration_is_kept(auto: Project, emulator: Emulator) -> None:
    """A smaller sample or no pack at all replaces nothing, unless that is asked for, and says so."""
    calibrating(auto, emulator)
    smaller = calibrating(auto, emulator, replace(TOLD, sample=10, sizes=(5,)))
    assert "`--replace`" in smaller.better
    assert "80 rows" in smaller.better
    alone = calibrating(auto, emulator, replace(TOLD, sizes=(1,)))
    assert "sizes that this one did not" in alone.better
    assert auto.plan().pack == 20
    asked = calibrating(auto, emulator, replace(TOLD, sample=10, sizes=(5,), replace=True))
    assert (asked.better, asked.requests, auto.plan().pack) == ("", 0, 1)


def test_packs_are_asked_with_the_seed_of_the_floor(auto: Project, emulator: Emulator) -> None:
    """What a seed alone changes is the same between two one-row answers as between one and a pack."""
    schema = auto.folder / "schemas" / "label.py"
    schema.write_text(f"{schema.read_text()}    luck: int\n")
    found = calibrating(auto, emulator).calibration
    assert found is not None
    luck = next(one for one in found.findings if one.field.name == "luck")
    assert luck.floor.value < 1
    assert {share.value for share in luck.agreement.values()} == {luck.floor.value}


def test_each_trial_is_announced_with_the_time_left(auto: Project, emulator: Emulator) -> None:
    """What it is, in the words of the reference, and from the second on how long all of them take."""
    said: list[str] = []
    calibrating(auto, emulator, said=said)
    assert said[1] == "1 of 6: each row alone"
    assert said[2].startswith("2 of 6: each row alone again, with another seed; about ")
    assert said[2].endswith(" to go for all trials left")
    assert said[6].startswith("6 of 6: 20 in a request, shuffled; about ")


def test_an_old_result_is_not_used_for_another_prompt(auto: Project, emulator: Emulator) -> None:
    """Prompt, model or schema: any change of the identity leaves one row a request."""
    calibrating(auto, emulator)
    kept = auto.plan().folder
    auto.change("Review: {{ text }}", "Text: {{ text }}")
    assert auto.plan().pack == 1
    assert advice(kept, auto.plan().fingerprint) is None  # nor if the file were copied


def test_a_damaged_result_is_no_result(auto: Project, emulator: Emulator) -> None:
    """Half a file, or one from elsewhere, leaves one row a request."""
    calibrating(auto, emulator)
    path = auto.plan().folder.path / FILE
    whole = path.read_bytes()
    for content in (whole[:50], b"", b"[]", json.dumps(json.loads(whole) | {"rows": 0}).encode()):
        path.write_bytes(content)
        assert auto.plan().pack == 1


def marked(project: Project, marks: Sequence[str]) -> None:
    """Give the input a column of right labels, these in turn."""
    head, *lines = (project.folder / "rows.csv").read_text().splitlines()
    lines = [f"{line},{mark}" for line, mark in zip(lines, cycle(marks), strict=False)]
    (project.folder / "rows.csv").write_text("\n".join([f"{head},right", *lines]))
    project.change("[output]", '[gold]\nlabel = "right"\n\n[output]')


def test_gold_is_compared(auto: Project, emulator: Emulator) -> None:
    """The share of right answers is of the rows that have one; what cannot be one is named."""
    marked(auto, ["negative", "positive", '""', "", "grey"])
    said: list[str] = []
    ended = calibrating(auto, emulator, said=said)
    assert ended.calibration is not None
    gold = {one.field.name: one.gold for one in ended.calibration.findings}
    assert gold["reason"] == {}
    assert set(gold["label"]) == {1, 5, 20}
    assert 40 <= gold["label"][20].rows <= 56
    assert 0.15 < gold["label"][20].value < 0.55
    assert "can be no answer of `label` and count as wrong, such as `grey`" in said[1]
    assert said[1] in ended.notes


def test_gold_that_no_answer_can_be_is_refused(auto: Project, emulator: Emulator) -> None:
    """Before anything is paid for, with what a right value looks like."""
    marked(auto, ["grey", "blue"])
    with pytest.raises(JobError, match="no value of the column `right`") as caught:
        calibrating(auto, emulator)
    assert "one of `positive`, `negative`, `neutral`" in caught.value.hint
    assert not auto.plan().folder.path.exists()


def test_what_is_not_there_is_refused(auto: Project, emulator: Emulator) -> None:
    """Fields, columns, sizes, and a prompt that shows the answer."""
    for told in (Told(chosen=("labl",)), Told(sizes=(0,)), Told(sizes=(500,))):
        with pytest.raises(UsageError):
            calibrating(auto, emulator, told)
    auto.change("[output]", '[gold]\nlabel = "nothing"\n\n[output]')
    with pytest.raises(JobError, match="no column `nothing`"):
        calibrating(auto, emulator)
    auto.change('"nothing"', '"text"')
    with pytest.raises(JobError, match="shows the column `text`"):
        calibrating(auto, emulator)


def test_the_cost_limit_is_of_all_trials(auto: Project, emulator: Emulator) -> None:
    """It stops with 3, keeps what it has, and the same command with more goes on."""
    auto.change("[limits]", "[limits]\nmax_cost = 0.002")
    ended = calibrating(auto, emulator)
    assert ended.stop is not None
    assert ended.stop.exit_code is Exit.STOPPED
    assert ended.calibration is None
    assert (ended.done, ended.trials) == ([], 6)
    assert f"raise `max_cost` under [limits] in `{auto.job}`" in ended.stop.hint
    auto.change("max_cost = 0.002", "max_cost = 1.0")
    assert ended.requests + ended.to_go == REQUESTS
    assert calibrating(auto, emulator).requests == ended.to_go


def test_a_stop_says_what_was_spent_and_what_is_left(auto: Project, emulator: Emulator) -> None:
    """The finished trials, the cost, and how many requests are still to be sent."""
    with started(
        auto, emulator, "--max-cost", "0.014", "--sample", "80", "--sizes", "5,20", command="calibrate"
    ) as run:
        _, said = run.communicate(timeout=60)
    assert run.returncode == Exit.STOPPED, said
    (spent,) = re.findall(r"this run: \d+ requests, (\$0\.01\d+)", said)
    assert f"the run has spent {spent}, and `max_cost` stops it at $0.014" in said
    assert "raise `--max-cost`" in " ".join(said.split())
    assert re.search(r"finished, [12] of 6 trials: each row alone(; each row alone again|\n)", said)
    assert re.search(r"left: about \d+ requests", said)


def test_a_killed_calibration_goes_on(auto: Project) -> None:
    """What was answered is not paid for again."""
    flags = ("--sample", "80", "--sizes", "5,20", "--concurrency", "4")
    with emulating("--latency", "0.05") as slow:
        with started(auto, slow, *flags, command="calibrate") as process:
            wait_for(lambda: slow.stats()["answered"] >= 95)
            process.kill()
            process.communicate()
        with started(auto, slow, *flags, command="calibrate") as last:
            said, _ = last.communicate(timeout=60)
        stats = slow.stats()
    assert last.returncode == 0
    assert "recommended: 20 rows a request" in said
    assert stats["answered"] <= REQUESTS + 4


def test_a_run_is_not_disturbed(auto: Project, emulator: Emulator) -> None:
    """Calibration leaves a job's table, its rows and their state alone."""
    calibrating(auto, emulator)
    plan = auto.plan()
    assert not plan.output.exists()
    auto.run(emulator.address)
    before = auto.output.read_bytes()
    calibrating(auto, emulator, replace(TOLD, sample=70))
    assert auto.output.read_bytes() == before
