"""Runs in which many rows share a request."""

from collections.abc import Iterator

import anyio
import pytest

from pipeline.asking import Service
from pipeline.errors import Exit
from pipeline.ledger import Ledger
from pipeline.offline import offline_endpoint
from pipeline.progress import Watched
from pipeline.run import run_job
from pipeline.status import job_status
from tests.conftest import Emulator, Project, emulating
from tests.reviews import labels, texts, word
from tests.test_cli import started, wait_for

ROWS = 200


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator that refuses rows which say so."""
    with emulating("--fault", "400-argument~<400-argument>") as emulator:
        yield emulator


@pytest.fixture
def packed(project: Project) -> Project:
    """Return a project whose rows are asked twenty at a time, each with words of its own."""
    project.change("[output]", "[packing]\nrows = 20\n\n[output]")
    project.rows(texts(ROWS))
    return project


def test_rows_share_requests_and_sums_are_exact(packed: Project, emulator: Emulator) -> None:
    """A twentieth of the requests, each row its own answer, and not one token or cent more or less."""
    report = packed.run(emulator.address)
    table = packed.table()
    assert (report.exit_code, report.requests) == (Exit.OK, ROWS // 20)
    assert table["label"].to_list() == labels(ROWS)
    assert set(table["_pack"]) == {20}
    assert table["_prompt_tokens"].sum() == report.usage.prompt
    assert table["_output_tokens"].sum() == report.usage.output
    assert table["_cost_usd"].sum() == pytest.approx(report.cost_usd, abs=1e-12)
    again = packed.run(emulator.address)
    assert again.requests == 0


def test_rows_count_while_others_of_their_pack_are_asked_again(packed: Project) -> None:
    """What has its answer is shown as done, and is written, though one row of the pack still waits."""
    packed.rows(["good at first", "good then", "good now"])
    with emulating("--fault", "pack-missing~first#1", "--fault", "503~first") as trouble:
        counted = []

        async def watch(run: Watched) -> None:
            while run.tally.finished < 2:  # noqa: ASYNC110 - a tally has no events
                await anyio.sleep(0.01)
            counted.append(run.tally.finished)
            trouble.change(faults=[])

        service = Service(
            offline_endpoint(trouble.address), Ledger(None, "test"), free=False, longest_outage=3.0
        )
        report = run_job(packed.plan(), service, watch=watch)
    assert counted == [2]
    assert (report.exit_code, report.table.ok) == (Exit.OK, 3)


def test_a_long_instruction_makes_no_pack_smaller(packed: Project, emulator: Emulator) -> None:
    """What is sent once for all rows of a pack does not count for each of them."""
    packed.change('"You label reviews."', f'"{"You label reviews. " * 300}"')
    assert packed.run(emulator.address).requests == ROWS // 20


def test_packs_that_a_budget_cuts_are_full_all_the_same(packed: Project, emulator: Emulator) -> None:
    """Some fifteen rows fit into one: what is left over of twenty is asked with the next."""
    packed.change("[packing]", "[packing]\nprompt_tokens = 300")
    report = packed.run(emulator.address)
    table = packed.table()
    assert (report.exit_code, table["label"].to_list()) == (Exit.OK, labels(ROWS))
    assert 10 < max(table["_pack"].to_list()) < 20
    assert report.requests <= 16


def test_a_kill_costs_no_more_than_what_was_in_flight(packed: Project) -> None:
    """What a pack's reply brought is kept row by row: the next run finds it in whatever pack."""
    packed.rows([f"good {word(n)}" for n in range(600)])
    with emulating("--latency", "0.1") as slow:
        with started(packed, slow, "--concurrency", "4", "--pack", "20") as process:
            wait_for(lambda: slow.stats()["answered"] >= 10)
            process.kill()
            process.communicate()
        answered = slow.stats()["answered"]
        with started(packed, slow, "--concurrency", "4", "--pack", "20") as last:
            last.communicate(timeout=60)
        requests = slow.stats()["requests"]
    assert last.returncode == 0
    assert packed.table()["_status"].to_list() == ["ok"] * 600
    assert requests <= 600 // 20 + 4 + 1, f"{answered} were answered when it was killed"


@pytest.mark.parametrize("rows", [1, 20])
def test_equal_prompts_in_flight_share_one_request(packed: Project, rows: int) -> None:
    """Rows with keys of their own and one text are asked once, also where all of them come at once."""
    packed.change("rows = 20", f"rows = {rows}")
    packed.rows([f"good {word(n % 10)}" for n in range(ROWS)])
    with emulating("--latency", "0.3") as slow:
        report = packed.run(slow.address)
        assert slow.stats()["repeated"] == 0
    table = packed.table()
    assert report.requests == (10 if rows == 1 else 1)
    assert table["_prompt_tokens"].sum() == report.usage.prompt
    assert (table["_source"] == "cache").sum() == ROWS - 10
    assert set(table["_status"]) == {"ok"}


def test_a_pack_and_single_rows_are_one_job(packed: Project, emulator: Emulator) -> None:
    """How rows are asked is no part of the job's identity: what is answered stays answered."""
    packed.run(emulator.address)
    packed.change("rows = 20", "rows = 1")
    assert packed.run(emulator.address).requests == 0


FAULTS = ["pack-missing", "pack-doubled", "pack-foreign", "pack-cut", "pack-loop", "badjson"]


@pytest.fixture(params=FAULTS)
def damaged(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """Return an emulator that damages a third of the packs."""
    with emulating("--fault", f"{request.param}%0.3") as emulator:
        yield emulator


def test_damaged_packs_cost_no_row(packed: Project, damaged: Emulator) -> None:
    """What is good is kept, the rest is asked again in smaller packs; every row has its own answer."""
    report = packed.run(damaged.address)
    table = packed.table()
    assert report.exit_code is Exit.OK
    assert table["label"].to_list() == labels(ROWS)
    assert table["_prompt_tokens"].sum() == report.usage.prompt
    assert report.requests > ROWS // 20


def test_one_row_that_is_refused_fails_alone(packed: Project, emulator: Emulator) -> None:
    """A row for which the whole pack is refused is found by halving, and the others are answered."""
    packed.rows([f"good {word(n)}" if n != 33 else "<400-argument>" for n in range(60)])
    report = packed.run(emulator.address)
    table = packed.table()
    assert report.exit_code is Exit.ROWS_FAILED
    assert table["_error_kind"].to_list() == [None if n != 33 else "bad_request" for n in range(60)]


def test_a_row_that_is_blocked_fails_alone(packed: Project) -> None:
    """A row for which the whole prompt is blocked is found by halving, also where the answer is."""
    packed.rows([f"good {word(n)}" if n not in (7, 33) else f"<{n}>" for n in range(60)])
    with emulating("--fault", "blocked~<7>", "--fault", "finish-safety~<33>") as emulator:
        report = packed.run(emulator.address)
    table = packed.table()
    assert report.exit_code is Exit.ROWS_FAILED
    wanted = {7: "blocked", 33: "safety"}
    assert table["_error_kind"].to_list() == [wanted.get(n) for n in range(60)]
    assert table["_prompt_tokens"].sum() == report.usage.prompt


def test_a_pack_that_takes_too_long_is_asked_in_parts(packed: Project) -> None:
    """After a second 504 a pack is halved; the row that alone takes too long as well fails alone."""
    packed.rows([f"good {word(n)}" if n != 33 else "<33>" for n in range(60)])
    with emulating("--fault", "504~<33>#5") as emulator:
        report = packed.run(emulator.address)
    assert report.exit_code is Exit.OK
    assert report.requests <= 3 + 5 + 6


def test_a_loop_is_cut_where_the_job_sets_no_cap(packed: Project) -> None:
    """No pack may take more output than its budget, be it the first or a later one."""
    packed.change("max_output_tokens = 200\n", "")
    with emulating("--fault", "pack-loop@1") as emulator:
        report = packed.run(emulator.address, limit=20)
    assert report.exit_code is Exit.OK
    with emulating() as calm:
        packed.change('path = "rows.csv"', 'path = "rows.csv"\nformat = "csv"')
        packed.change('name = "labels"', 'name = "calm"')
        useful = packed.run(calm.address, limit=20).usage.output
    assert report.usage.output <= 8_000 + 2 * useful


def test_auto_is_one_row_a_request_until_it_is_calibrated(packed: Project, emulator: Emulator) -> None:
    """The summary says so, and how to find out."""
    packed.change("rows = 20", 'rows = "auto"')
    packed.rows(["good", "terrible", "it came"])
    report = packed.run(emulator.address)
    assert report.requests == 3
    assert any(f"`rowmill calibrate {packed.job}`" in note for note in report.notes)


def test_rows_and_requests_are_counted_apart(packed: Project, emulator: Emulator) -> None:
    """Summary, JSON and status name both."""
    before = job_status(packed.plan(), None, 0.0)
    assert f"{ROWS} pending: about {ROWS // 20} requests of up to 20 rows" in before.sentences()[0]
    report = packed.run(emulator.address)
    assert f"{ROWS // 20} requests for {ROWS} rows" in "\n".join(report.sentences())
    assert (report.requests, report.asked) == (ROWS // 20, ROWS)
    assert job_status(packed.plan(), None, 0.0).as_json()["requests_to_go"] == 0


def test_a_long_instruction_does_not_fill_packs(packed: Project, emulator: Emulator) -> None:
    """The budget of a pack is of its rows: what all requests share is sent once with each."""
    packed.change('system = "You label reviews."', f'system = "{"You label reviews. " * 1500}"')
    assert packed.run(emulator.address).requests == ROWS // 20
