"""A run from end to end: real SDK, real sockets, real files."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import anyio
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline.asking import Service
from pipeline.errors import Exit, InputError, OutputError, StoreError
from pipeline.flow import FailureKind
from pipeline.ledger import Ledger
from pipeline.offline import offline_endpoint
from pipeline.progress import Watched
from pipeline.retry import FEWER_PROBES, TABLE, Act, Rule
from pipeline.run import run_job
from pipeline.store import census, memo
from pipeline.store.compaction import MANY
from pipeline.store.folder import Folder
from pipeline.store.parts import Parts
from pipeline.verify import verify_job
from tests.conftest import Emulator, Project, emulating

SCRIPTED = [
    "finish-safety",
    "finish-recitation",
    "finish-language",
    "finish-max_tokens",
    "finish-whatever",
    "blocked",
    "empty",
    "nocandidates",
    "badjson",
    "wrongtype",
    "400-toolong",
    "thinking",
]
ONCE = [
    "500",
    "502-html",
    "503",
    "504",
    "408",
    "html200",
    "garbage200",
    "cut",
    "reset",
    "429-minute",
    "429-bare",
    "empty",
]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator without quotas; a row that holds a fault's name in brackets meets that fault."""
    faults = [f"{kind}~<{kind}>" for kind in [*SCRIPTED, "400-argument"]] + [
        f"{kind}~[{kind}]#1" for kind in ONCE
    ]
    with emulating(*(flag for fault in faults for flag in ("--fault", fault))) as running:
        yield running


def test_every_row_comes_out_in_order(project: Project, emulator: Emulator) -> None:
    """The table has the input's rows and columns, typed answers, and what each row took."""
    project.rows([f"great product number {n}" for n in range(300)])
    report = project.run(emulator.address)
    table = project.table()
    assert report.exit_code is Exit.OK
    assert table["text"].to_list() == [f"great product number {n}" for n in range(300)]
    assert table.columns[:4] == ["id", "text", "label", "reason"]
    assert set(table["label"]) == {"positive"}
    assert set(table["_status"]) == {"ok"}
    assert set(table["_source"]) == {"emulator"}
    assert table["_attempts"].sum() == report.requests == 300
    assert table["_cost_usd"].sum() == pytest.approx(report.cost_usd, abs=1e-12)
    assert table["_total_tokens"].to_list() == (table["_prompt_tokens"] + table["_output_tokens"]).to_list()


def test_the_same_command_again_asks_nothing(project: Project, emulator: Emulator) -> None:
    """A finished job writes the same table without a request."""
    project.rows(["good", "bad"])
    project.run(emulator.address)
    first = project.table()
    report = project.run(emulator.address)
    assert report.requests == 0
    assert project.table().equals(first)


@pytest.mark.parametrize(
    ("fault", "kind", "calls"),
    [
        ("finish-safety", FailureKind.SAFETY, 1),
        ("finish-recitation", FailureKind.RECITATION, 1),
        ("finish-language", FailureKind.LANGUAGE, 1),
        ("finish-max_tokens", FailureKind.MAX_TOKENS, 2),
        ("thinking", FailureKind.MAX_TOKENS, 2),
        ("finish-whatever", FailureKind.UNFINISHED, 2),
        ("blocked", FailureKind.BLOCKED, 1),
        ("empty", FailureKind.EMPTY, 2),
        ("nocandidates", FailureKind.EMPTY, 2),
        ("badjson", FailureKind.INVALID, 2),
        ("wrongtype", FailureKind.INVALID, 2),
        ("400-toolong", FailureKind.TOO_LONG, 1),
    ],
)
def test_a_row_that_cannot_be_cured_fails_alone(
    project: Project, emulator: Emulator, fault: str, kind: FailureKind, calls: int
) -> None:
    """The row ends as failed with its kind and the stated number of calls, its neighbours are answered."""
    project.rows(["good", f"<{fault}>", "fine"])
    report = project.run(emulator.address)
    table = project.table()
    assert table["_status"].to_list() == ["ok", "failed", "ok"]
    assert table["_error_kind"].to_list() == [None, kind, None]
    assert table["_attempts"].to_list() == [1, calls, 1]
    assert table["_error"][1]
    assert table["label"][1] is None
    assert report.exit_code is Exit.ROWS_FAILED


@pytest.mark.parametrize("fault", ONCE)
def test_a_passing_fault_is_asked_again(project: Project, emulator: Emulator, fault: str) -> None:
    """What a second call cures ends as an answer."""
    project.rows(["good", f"good {project.folder.name} [{fault}]"])
    report = project.run(emulator.address)
    assert project.table()["_status"].to_list() == ["ok", "ok"]
    assert report.exit_code is Exit.OK


def test_failed_attempts_are_paid_for(project: Project, emulator: Emulator) -> None:
    """Tokens and cost of a row count its failed attempts too."""
    project.rows(["good", "<badjson>"])
    project.run(emulator.address)
    table = project.table()
    assert table["_prompt_tokens"][1] > 1.5 * table["_prompt_tokens"][0]
    assert table["_cost_usd"][1] > table["_cost_usd"][0]


def test_a_cut_answer_gets_a_larger_cap(project: Project, emulator: Emulator) -> None:
    """A cap that is too small by less than four times is cured by the second call."""
    project.change("max_output_tokens = 200", "max_output_tokens = 8")
    project.rows(["good"])
    project.run(emulator.address)
    table = project.table()
    assert (table["_status"][0], table["_attempts"][0]) == ("ok", 2)


def test_equal_rows_share_an_answer(project: Project, emulator: Emulator) -> None:
    """Without key columns equal rows are asked once; the cost stands at the first."""
    project.change('key = ["id"]', "key = []")
    project.rows(["good", "bad", "good"])
    report = project.run(emulator.address)
    table = project.table()
    assert report.requests == 2
    assert table["_source"].to_list() == ["emulator", "emulator", "cache"]
    assert table["_cost_usd"][2] == 0
    assert table["label"][2] == table["label"][0]


def test_equal_prompts_of_different_rows_are_paid_once(project: Project, emulator: Emulator) -> None:
    """A prompt that was answered before is served from the journal."""
    project.rows(["good"])
    project.run(emulator.address)
    project.rows(["good", "good"])
    report = project.run(emulator.address)
    table = project.table()
    assert report.requests == 0
    assert table["_source"].to_list() == ["emulator", "cache"]
    assert table["_attempts"].to_list() == [1, 0]


def test_equal_prompts_in_flight_at_once_are_paid_once(project: Project) -> None:
    """Rows whose question is on its way wait for its answer."""
    project.rows(["good", "bad"] * 100)
    with emulating("--latency", "0.2") as emulator:
        assert project.run(emulator.address).requests == 2
        assert emulator.stats()["repeated"] == 0
    assert project.table()["_attempts"].sum() == 2
    assert set(project.table()["_status"]) == {"ok"}


@pytest.mark.parametrize("pack", [1, 5])
def test_twins_of_a_failed_question_ask_for_themselves(
    project: Project, emulator: Emulator, pack: int
) -> None:
    """What one row was refused without an answer is asked by the others, and none is left out."""
    project.change("[output]", f"[packing]\nrows = {pack}\n\n[output]")
    project.rows([f"good twin {project.folder.name} [503]"] * 20)
    assert project.run(emulator.address).exit_code is Exit.OK
    assert set(project.table()["_status"]) == {"ok"}


@pytest.mark.parametrize("pack", [1, 5])
def test_twins_do_not_wait_for_each_other_at_a_closed_gate(
    project: Project, emulator: Emulator, pack: int
) -> None:
    """The first row alone is refused; its twins, who wait for it, let others try the API meanwhile."""
    project.change("[output]", f"[packing]\nrows = {pack}\n\n[output]")
    project.rows(["<400-argument> twin", "good"] * 2 + ["good"] * 8)
    report = project.run(emulator.address)
    assert (report.table.ok, report.table.failed) == (10, 2)


def test_bad_rows_in_the_first_pack_are_no_bad_job(project: Project, emulator: Emulator) -> None:
    """A pack is refused with its rows: only rows that are refused alone put the job in doubt."""
    project.change("[output]", "[packing]\nrows = 16\n\n[output]")
    project.rows([f"{'<400-argument>' if n in (1, 14) else 'good'} {n}" for n in range(16)])
    report = project.run(emulator.address)
    assert (report.table.ok, report.table.failed) == (14, 2)


def test_a_grown_input_asks_for_the_new_rows_only(project: Project, emulator: Emulator) -> None:
    """Rows that were answered are not asked again, a changed row is."""
    project.rows(["good", "bad"])
    project.run(emulator.address)
    project.rows(["good", "changed", "new"])
    report = project.run(emulator.address)
    assert report.requests == 2
    assert project.table()["text"].to_list() == ["good", "changed", "new"]


def test_a_changed_prompt_asks_everything_anew_and_says_so(project: Project, emulator: Emulator) -> None:
    """Another system instruction has its own run folder; going back finds the old answers."""
    project.rows(["good", "bad"])
    first = project.run(emulator.address)
    project.change("You label reviews.", "You judge reviews.")
    second = project.run(emulator.address)
    project.change("You judge reviews.", "You label reviews.")
    third = project.run(emulator.address)
    assert (first.requests, second.requests, third.requests) == (2, 2, 0)
    assert first.folder != second.folder
    assert "`system` changed" in second.notes[0]
    assert not first.notes
    assert not third.notes


def test_failed_rows_are_asked_again_on_request(project: Project, emulator: Emulator) -> None:
    """`--retry-failed` asks only for failed rows and adds to what they took; without it nothing is asked."""
    project.rows(["good", "<finish-safety>"])
    project.run(emulator.address)
    assert project.run(emulator.address).requests == 0
    report = project.run(emulator.address, retry_failed=True)
    assert report.requests == 1
    assert project.table()["_attempts"].to_list() == [1, 2]
    assert project.table()["_prompt_tokens"][1] > 1.5 * project.table()["_prompt_tokens"][0]


def test_how_a_large_input_stands_is_kept_while_the_run_goes_on(
    project: Project, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there before the end, so also after a kill; small inputs stand for large ones here."""
    monkeypatch.setattr(census, "WORTH", 1)
    monkeypatch.setattr(census, "SETTLED", 0.0)
    monkeypatch.setattr(memo, "OFTEN", 2)
    project.rows(["good", "bad"])
    report = project.run(emulator.address)
    taken = census.census(project.plan().source, Folder(report.folder))
    parts = Parts(report.folder / "parts", project.plan().checked.layout.part)
    found = memo.recall(taken, parts, Folder(report.folder))
    assert found is not None
    assert (found.rows.read()["place"] >= 0).all()


def test_a_damaged_round_is_named(project: Project, emulator: Emulator) -> None:
    """It is set aside, failed rows are asked in a new one, and the summary says so once."""
    project.rows(["<finish-safety>"])
    folder = project.run(emulator.address).folder
    (folder / "round").write_bytes(b"\xff")
    report = project.run(emulator.address, retry_failed=True)
    assert (folder / "round.damaged").read_bytes() == b"\xff"
    assert ["`round.damaged`" in note for note in report.notes] == [True]
    assert not project.run(emulator.address, retry_failed=True).notes


def test_new_rows_that_fail_do_not_keep_a_round_open(project: Project, emulator: Emulator) -> None:
    """Each `--retry-failed` asks for all failed rows, also where new ones came and failed in the last one."""
    project.rows(["good", "<finish-safety> first"])
    project.run(emulator.address)
    project.rows(["good", "<finish-safety> first", "<finish-safety> new"])
    asked = [project.run(emulator.address, retry_failed=True).requests for _ in range(3)]
    assert asked == [2, 2, 2]
    assert project.table()["_attempts"].to_list() == [1, 4, 3]


def test_a_limit_takes_the_first_rows(project: Project, emulator: Emulator) -> None:
    """The table has the first rows; without the limit the rest is asked and the first are not."""
    project.rows(["one", "two", "three"])
    assert project.run(emulator.address, limit=2).requests == 2
    assert project.table().height == 2
    assert project.run(emulator.address).requests == 1
    assert project.table().height == 3


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("400-key", "key"), ("403-echo", "key"), ("404-model", "model"), ("402", "credit"),
        ("429-prepay", "credit"), ("429-spendcap", "cap"), ("429-limit0", "model"), ("400-schema", "schema"),
        ("400-location", "Vertex"),
    ],
)  # fmt: skip
def test_a_refusal_stops_the_run_with_one_call(project: Project, fault: str, word: str) -> None:
    """Whatever the API refuses for every row is found with the first request, and the hint names the fix."""
    project.rows([f"good {n}" for n in range(100)])
    with emulating("--fault", f"{fault}@1+") as refusing:
        report = project.run(refusing.address)
        assert refusing.stats()["requests"] == 1
    assert report.exit_code is Exit.REFUSED
    assert report.stop is not None
    assert word.lower() in report.stop.hint.lower()
    assert not project.output.exists()


def test_three_bad_requests_at_the_start_are_the_request_itself(project: Project, emulator: Emulator) -> None:
    """When each of the first rows is refused as invalid, the run stops instead of failing every row."""
    project.rows([f"<400-argument> {n}" for n in range(50)])
    report = project.run(emulator.address)
    assert report.exit_code is Exit.REFUSED
    assert report.requests == 3


def test_one_bad_request_is_a_failed_row(project: Project, emulator: Emulator) -> None:
    """A row that alone is refused as invalid fails alone."""
    project.rows(["<400-argument>", "good", "fine"])
    assert project.run(emulator.address).exit_code is Exit.ROWS_FAILED
    assert project.table()["_error_kind"].to_list() == ["bad_request", None, None]


def test_the_daily_quota_stops_the_run_and_the_next_day_goes_on(project: Project) -> None:
    """At the day's limit the run stops with 3 and keeps what it has; with a new day it finishes."""
    project.change("rpm = 600000", "rpm = 600000\nrpd = 5")
    project.rows([f"good {n}" for n in range(8)])
    with emulating() as open_handed:
        report = project.run(open_handed.address)
        assert (report.exit_code, report.pending, report.requests) == (Exit.STOPPED, 3, 5)
        assert not project.output.exists()
        again = project.run(open_handed.address, ledger=Ledger(None, "test"))
        assert (again.exit_code, again.requests) == (Exit.OK, 3)
        assert open_handed.stats()["repeated"] == 0


def test_what_the_last_requests_of_the_day_bring_is_waited_for(project: Project) -> None:
    """They are paid for: a run that stops by itself drops nothing that is in flight."""
    project.rows([f"text {n}" for n in range(8)])
    project.change("rpm = 600000\n", "rpm = 600000\nrpd = 5\n")
    with emulating("--latency", "6") as emulator:
        report = project.run(emulator.address)
        assert emulator.stats()["answered"] == 5
    assert (report.table.ok, report.pending, report.exit_code) == (5, 3, 3)


def test_a_run_stops_where_it_has_spent_enough(project: Project) -> None:
    """About one request is paid beyond the limit, and the same command spends as much again."""
    project.rows([f"good {n}" for n in range(300)])
    project.change("rpm = 600000\n", "rpm = 600000\nmax_cost = 0.002\nconcurrency = 4\n")
    with emulating("--latency", "0.02") as emulator:
        report = project.run(emulator.address)
        each = report.cost_usd / report.requests
        assert report.exit_code is Exit.STOPPED
        assert report.stop is not None
        spent = f"the run has spent ${report.cost_usd:,.4f}, and `max_cost` stops it at $0.002"
        assert report.stop.message == f"{spent}; what is above that was in flight by then"
        assert 0.002 <= report.cost_usd <= 0.002 + each * 1.5
        assert project.run(emulator.address).cost_usd >= 0.002
        assert emulator.stats()["repeated"] == 0


@pytest.mark.parametrize("pack", [1, 20])
@pytest.mark.parametrize("flying", [1, 16])
def test_no_more_than_a_request_is_spent_beyond_the_limit(project: Project, pack: int, flying: int) -> None:
    """By the emulator's own bill, alone or packed, and the hint says what to do next."""
    each = 1e-4 * pack  # USD that no request of this job reaches
    project.rows([f"good {'and very ' * (n % 9)} {n}" for n in range(400 * pack)])
    told = f"rpm = 600000\nmax_cost = {10 * each}\nconcurrency = {flying}\n"
    project.change("rpm = 600000\n", told)
    project.change("[output]", f"[packing]\nrows = {pack}\n\n[output]")
    with emulating("--latency", "0.02") as emulator:
        report = project.run(emulator.address)
        bill = emulator.stats()
    usd = (bill["prompt_tokens"] * 0.25 + bill["output_tokens"] * 1.5) / 1e6
    assert report.exit_code is Exit.STOPPED
    assert usd == pytest.approx(report.cost_usd)
    assert usd / bill["answered"] < each
    assert 10 * each <= usd <= (10 + 1) * each
    assert report.pending > 0
    assert report.stop is not None
    assert f"raise `max_cost` under [limits] in `{project.job}`" in report.stop.hint


def test_a_daily_429_stops_the_run(project: Project) -> None:
    """A 429 whose quota id names the day stops the run although its delay says seconds."""
    project.rows([f"good {n}" for n in range(20)])
    with emulating("--rpd", "5") as limited:
        report = project.run(limited.address)
    assert report.exit_code is Exit.STOPPED
    assert any("allows 5 requests a day" in note for note in report.notes)
    assert report.stop is not None
    assert "resets at" in report.stop.message
    assert report.table.ok == 5


@pytest.mark.parametrize("ending", ["csv", "ndjson"])
def test_other_formats_hold_the_same_rows(project: Project, emulator: Emulator, ending: str) -> None:
    """CSV and NDJSON come out by the ending of the path."""
    project.change("out/labels.parquet", f"out/labels.{ending}")
    project.rows(['with "quotes"\nand a line', "good"])
    project.run(emulator.address)
    path = project.folder / "out" / f"labels.{ending}"
    read = pl.read_csv(path) if ending == "csv" else pl.read_ndjson(path)
    assert read["text"].to_list() == ['with "quotes"\nand a line', "good"]
    assert read["_status"].to_list() == ["ok", "ok"]


def test_an_old_output_stays_until_the_new_one_is_whole(project: Project) -> None:
    """A run that stops early leaves the old table as it was."""
    project.output.parent.mkdir()
    project.output.write_text("old")
    project.rows(["good", "bad"])
    with emulating("--fault", "400-key@2+") as refusing:
        project.run(refusing.address)
    assert project.output.read_text() == "old"


def test_nothing_is_written_for_bad_input(project: Project, emulator: Emulator) -> None:
    """Duplicate keys are found before the run folder is made."""
    (project.folder / "rows.csv").write_text("id,text\n1,good\n1,bad\n")
    with pytest.raises(InputError, match="1"):
        project.run(emulator.address)
    assert not (project.folder / ".rowmill").exists()
    assert not project.output.exists()


def test_a_damaged_part_is_set_aside_and_its_rows_served_from_the_journal(
    project: Project, emulator: Emulator
) -> None:
    """A part cut in the middle is named, kept, and costs nothing again."""
    project.rows(["good", "bad"])
    first = project.run(emulator.address)
    part = first.folder / "parts" / "part-0000001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    report = project.run(emulator.address)
    assert report.requests == 0
    assert "part-0000001.parquet" in report.notes[0]
    assert part.with_suffix(".damaged").exists()
    assert project.table()["_status"].to_list() == ["ok", "ok"]


def test_the_key_is_nowhere_on_disk(project: Project) -> None:
    """Neither the run folder nor the output holds the key, although the API echoes it."""
    project.rows(["good", "bad"])
    with emulating("--fault", "403-echo@2+") as echoing:
        report = project.run(echoing.address)
    assert report.stop is not None
    told = json.dumps(report.as_json())
    files = b"".join(path.read_bytes() for path in project.folder.rglob("*") if path.is_file())
    assert b"no-key-for-the-emulator" not in files
    assert "no-key-for-the-emulator" not in told


def test_part_files_are_plain_parquet(project: Project, emulator: Emulator) -> None:
    """A part can be read without us: keys, status, answer."""
    project.rows(["good"])
    report = project.run(emulator.address)
    part = pq.read_table(next(Path(report.folder, "parts").glob("*.parquet")))
    assert part["answer"].to_pylist()[0]["label"] == "positive"
    assert part["_status"].to_pylist() == ["ok"]


def test_an_api_out_of_reach_stops_the_run_and_fails_no_row(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nothing is answered at all the rows are not at fault: they stay pending."""
    quick = Rule(Act.AGAIN, tries=5, wait=0.01)
    monkeypatch.setitem(cast("dict[FailureKind, Rule]", TABLE), FailureKind.CONNECTION, quick)
    project.rows([f"good {n}" for n in range(20)])
    with emulating("--fault", "reset@1+") as gone:
        report = project.run(gone.address)
        assert gone.stats()["requests"] == FEWER_PROBES
    assert (report.exit_code, report.table.failed, report.pending) == (Exit.STOPPED, 0, 20)
    assert report.stop is not None
    assert "cannot be reached" in report.stop.message


def test_a_row_above_the_token_budget_fails_alone(project: Project, emulator: Emulator) -> None:
    """A prompt that alone exceeds the tokens of a minute is a failed row with the reason, not a hang."""
    project.change("tpm = 600000000", "tpm = 2000")
    project.rows(["good", "word " * 5_000])
    report = project.run(emulator.address)
    table = project.table()
    assert table["_error_kind"].to_list() == [None, "too_long"]
    assert "tpm" in table["_error"][1]
    assert report.requests == 1
    assert table["_attempts"].to_list() == [1, 0]


def test_an_interrupted_retry_goes_on_and_stays_stopped(project: Project) -> None:
    """Rows that a stopped `--retry-failed` has asked are not asked again; it stays a stop."""
    project.change("rpm = 600000", "rpm = 600000\nrpd = 4")
    project.rows([f"<finish-safety> {n}" for n in range(4)])
    with emulating("--fault", "finish-safety~<finish-safety>") as refusing:
        assert project.run(refusing.address).table.failed == 4
        project.change("rpd = 4", "rpd = 3")
        first = project.run(refusing.address, retry_failed=True)
        second = project.run(refusing.address, retry_failed=True)
        third = project.run(refusing.address, retry_failed=True)
    assert (first.exit_code, first.requests) == (Exit.STOPPED, 3)
    assert (second.exit_code, second.requests) == (Exit.ROWS_FAILED, 1)
    assert (third.exit_code, third.requests) == (Exit.STOPPED, 3)
    assert project.table()["_attempts"].sum() >= 4 + 4 + 3


def test_a_refused_retry_is_refused(project: Project) -> None:
    """A key that is refused in a retry ends with exit code 5, though every row has an (old) answer."""
    project.rows(["<finish-safety>", "good"])
    with emulating("--fault", "400-key@3+", "--fault", "finish-safety~<finish-safety>") as refusing:
        project.run(refusing.address)
        assert project.run(refusing.address, retry_failed=True).exit_code is Exit.REFUSED


def test_rows_suspected_wrongly_are_asked_again(project: Project) -> None:
    """After a run that was refused for its first rows the same command asks for them anew."""
    project.rows([f"good {n}" for n in range(6)])
    with emulating("--fault", "400-argument@1-3") as refusing:
        assert project.run(refusing.address).exit_code is Exit.REFUSED
        assert project.run(refusing.address).exit_code is Exit.OK


def test_another_input_and_back_finds_the_old_answers(project: Project) -> None:
    """The same keys with another text, and then with the first again: nothing is asked twice."""
    with emulating("--fault", "finish-safety~one#1") as emulator:
        project.rows(["one", "two"])
        project.run(emulator.address)
        project.run(emulator.address, retry_failed=True)
        first = project.table()
        project.rows(["other", "another"])
        project.run(emulator.address)
        project.rows(["one", "two"])
        assert project.run(emulator.address).requests == 0
    assert project.table().equals(first)


def test_a_part_damaged_inside_is_set_aside_when_it_is_read(project: Project, emulator: Emulator) -> None:
    """A flipped byte in an answer is found by its checksum; the same run mends it from the journal."""
    project.rows([f"good {n} and some more words" for n in range(50)])
    report = project.run(emulator.address)
    first = project.table()
    part = report.folder / "parts" / "part-0000001.parquet"
    where = pq.ParquetFile(part).metadata.row_group(0).column(len(pq.read_schema(part).names) + 1 - 2)
    raw = bytearray(part.read_bytes())
    raw[where.data_page_offset + where.total_compressed_size // 2] ^= 0xFF
    part.write_bytes(raw)
    again = project.run(emulator.address)
    assert (again.requests, again.exit_code) == (0, Exit.OK)
    assert any("part-0000001.parquet" in note for note in again.notes)
    assert part.with_suffix(".damaged").read_bytes() == raw
    assert project.table().drop("_latency_ms").equals(first.drop("_latency_ms"))


def test_a_part_that_is_damaged_while_its_run_goes_on_is_mended_by_it(
    project: Project, emulator: Emulator
) -> None:
    """Its rows come out of the journal at once: no run ends well without a table."""
    project.rows(["good", "bad"])
    plan = project.plan()

    async def cut(_run: Watched) -> None:
        try:
            await anyio.sleep_forever()
        finally:  # all parts are written; the second time it is put away
            part = plan.folder.parts / "part-0000001.parquet"
            if part.exists():
                part.write_bytes(part.read_bytes()[:-20])

    service = Service(offline_endpoint(emulator.address), Ledger(None, "test"), free=False)
    report = run_job(plan, service, watch=cut)
    assert (report.requests, report.pending, report.exit_code) == (2, 0, Exit.OK)
    assert [note for note in report.notes if "part-0000001.parquet" in note]
    assert project.table()["_status"].to_list() == ["ok", "ok"]


def test_a_signal_that_comes_before_the_first_request_stops_the_run(
    project: Project, emulator: Emulator
) -> None:
    """It is heard from the begin on, and raises nothing in the midst of what is being opened."""
    project.rows(["good", "bad"])

    def raised(_number: int, _frame: object) -> None:
        raise AssertionError("nobody hears it")

    async def stop(_run: Watched) -> None:
        signal.raise_signal(signal.SIGTERM)

    service = Service(offline_endpoint(emulator.address), Ledger(None, "test"), free=False)
    before = signal.signal(signal.SIGTERM, raised)
    try:
        report = run_job(project.plan(), service, watch=stop)
        assert signal.getsignal(signal.SIGTERM) is raised
    finally:
        signal.signal(signal.SIGTERM, before)
    assert report.exit_code is Exit.STOPPED
    assert project.run(emulator.address).exit_code is Exit.OK


@pytest.mark.parametrize("other", ["nothing", "another table", "another version"])
def test_a_part_that_is_none_of_ours_is_set_aside(project: Project, emulator: Emulator, other: str) -> None:
    """A part without bytes, of another schema, or without a column that a part has, costs nothing again."""
    project.rows(["good", "bad"])
    part = project.run(emulator.address).folder / "parts" / "part-0000001.parquet"
    table = pq.read_table(part)
    part.write_bytes(b"")
    if other == "another table":
        pl.DataFrame({"x": [1]}).write_parquet(part)
    if other == "another version":
        pq.write_table(table.drop_columns(["_tier" if "_tier" in table.column_names else "_model"]), part)
    report = project.run(emulator.address)
    assert (report.requests, report.exit_code) == (0, Exit.OK)
    assert "part-0000001.parquet" in report.notes[0]
    assert part.with_suffix(".damaged").exists()


def test_a_part_of_another_identity_is_no_answer(project: Project, emulator: Emulator) -> None:
    """A part that was copied in from another prompt is set aside; one that does not say counts."""
    project.rows(["good", "bad"])
    other = project.run(emulator.address).folder / "parts" / "part-0000001.parquet"
    project.change("Review:", "Opinion:")
    part = project.run(emulator.address).folder / "parts" / "part-0000001.parquet"
    whole = part.read_bytes()
    part.write_bytes(other.read_bytes())
    assert "written under another identity" in verify_job(project.plan()).findings[0].what
    report = project.run(emulator.address)
    assert "part-0000001.parquet" in report.notes[0]
    new = part.with_name("part-0000002.parquet")
    assert new.exists()
    part.write_bytes(whole)
    new.unlink()
    pq.write_table(pq.read_table(part).replace_schema_metadata(None), part)
    assert project.run(emulator.address).notes == []


def test_a_resumed_run_reads_only_new_parts(
    project: Project, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stop has left is added to what was known; the table is that of an unbroken run."""
    monkeypatch.setattr(census, "WORTH", 1)
    monkeypatch.setattr(census, "SETTLED", 0.0)
    project.rows([f"good {n}" for n in range(12)])
    project.change("rpm = 600000", "rpm = 600000\nrpd = 5")
    folder = project.run(emulator.address).folder
    assert (folder / "standing").exists()
    project.change("rpd = 5", "rpd = 50")
    report = project.run(emulator.address)
    assert (report.requests, report.exit_code) == (7, Exit.OK)
    assert verify_job(project.plan()).findings == []


def test_a_second_damaged_part_of_a_name_does_not_replace_the_first(
    project: Project, emulator: Emulator
) -> None:
    """What is set aside is never written over."""
    project.rows(["good", "bad"])
    part = project.run(emulator.address).folder / "parts" / "part-0000001.parquet"
    for content in (b"first", b"second"):
        part.write_bytes(content)
        project.run(emulator.address)
    kept = sorted(path.read_bytes() for path in part.parent.glob("*.damaged*"))
    assert kept == [b"first", b"second"]


@pytest.mark.parametrize("ending", ["csv", "ndjson"])
def test_bytes_for_a_text_format_are_refused_before_the_run(project: Project, ending: str) -> None:
    """A column that the output's format cannot hold is found before anything is paid for."""
    project.change("rows.csv", "rows.parquet")
    project.change("out/labels.parquet", f"out/labels.{ending}")
    frame = pl.DataFrame({"id": ["1"], "text": ["good"], "raw": [b"x"]})
    frame.write_parquet(project.folder / "rows.parquet")
    with pytest.raises(OutputError, match="`raw` holds bytes"):
        project.plan()


@pytest.mark.parametrize("where", ["pages", "footer"])
def test_no_flipped_byte_of_a_part_changes_the_table(
    project: Project, emulator: Emulator, where: str
) -> None:
    """Each byte in turn: what is read is what was written, or the part is found damaged."""
    project.rows(["good", "bad", "<finish-safety>"])
    folder = project.run(emulator.address).folder / "parts"
    part = folder / "part-0000001.parquet"
    raw, schema = part.read_bytes(), project.plan().checked.layout.part
    footer = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    places = range(0, footer, 5) if where == "pages" else range(footer, len(raw), 5)
    written, found = pq.read_table(part), 0
    for place in places:
        part.write_bytes(raw[:place] + bytes([raw[place] ^ 0x21]) + raw[place + 1 :])
        parts = Parts(folder, schema)
        try:
            parts.clean()
            index = parts.index()
            read = parts.take(index, np.arange(index.starts[-1]))
        except StoreError:
            found += 1
            continue
        found += bool(parts.set_aside)
        assert parts.set_aside or read.sort_by("_key").equals(written.sort_by("_key").cast(schema))
    assert found > len(places) / 2


def test_many_nights_leave_few_parts(project: Project, emulator: Emulator) -> None:
    """A job that asks for a few new rows each night does not gather parts, and asks nothing twice."""
    nights = MANY + 2
    project.rows([f"good {n}" for n in range(nights)])
    requests = [project.run(emulator.address, limit=night + 1).requests for night in range(nights)]
    assert requests == [1] * nights
    assert len(list((project.plan().folder.parts).iterdir())) == 3
    assert project.run(emulator.address).requests == 0
    assert project.table()["id"].to_list() == list(range(nights))
    assert verify_job(project.plan()).findings == []


def test_a_table_of_another_input_is_told(project: Project, emulator: Emulator) -> None:
    """Also one that is no shorter; the same input changed, or another output, is no matter."""
    project.rows(["good", "bad"])
    (project.folder / "in").mkdir()
    shutil.copy(project.folder / "rows.csv", project.folder / "in" / "later.csv")
    assert project.run(emulator.address).notes == []
    project.rows(["good", "bad", "fine"])
    assert project.run(emulator.address).notes == []
    project.change('path = "rows.csv"', 'path = "in/later.csv"')
    (note,) = project.run(emulator.address).notes
    assert note.startswith(
        f"the table of `rows.csv` in `{project.output}` gave way to that of `in/later.csv`"
    )
    assert "`--output`" in note
    assert project.run(emulator.address).notes == []
    project.change('path = "in/later.csv"', 'path = "rows.csv"')
    project.change("out/labels.parquet", "out/others.parquet")
    assert project.run(emulator.address).notes == []


def test_a_shorter_table_in_place_of_a_longer_one_is_told(project: Project, emulator: Emulator) -> None:
    """Neither `--limit` nor another input replaces the table of all rows silently, and verify says why."""
    project.rows(["good", "bad", "fine"])
    assert project.run(emulator.address).notes == []
    notes = project.run(emulator.address, limit=1).notes
    assert any(
        "`--limit` took 2 rows fewer than the last run" in note and "stay in the run folder" in note
        for note in notes
    )
    verdict = verify_job(project.plan())
    assert [finding.what for finding in verdict.findings] == [
        "the table holds only the first 1 row: the last run had `--limit`"
    ]
    assert verdict.exit_code == Exit.OK
    assert verify_job(project.plan(limit=1)).findings == []
