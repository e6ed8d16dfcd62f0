"""Runs in which many rows share a request."""

import hashlib
from collections.abc import Iterator

import pytest

from pipeline.errors import Exit
from tests.conftest import Emulator, Project, emulating
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
    project.rows([f"{'good' if n % 3 else 'terrible'} {word(n)}" for n in range(ROWS)])
    return project


def word(row: int) -> str:
    """Return a word that stands in one row only."""
    return "w" + hashlib.blake2b(str(row).encode(), digest_size=4).hexdigest()


def test_rows_share_requests_and_sums_are_exact(packed: Project, emulator: Emulator) -> None:
    """A twentieth of the requests, each row its own answer, and not one token or cent more or less."""
    report = packed.run(emulator.address)
    table = packed.table()
    assert (report.exit_code, report.requests) == (Exit.OK, ROWS // 20)
    assert table["label"].to_list() == ["positive" if n % 3 else "negative" for n in range(ROWS)]
    assert set(table["_pack"]) == {20}
    assert table["_prompt_tokens"].sum() == report.usage.prompt
    assert table["_output_tokens"].sum() == report.usage.output
    assert table["_cost_usd"].sum() == pytest.approx(report.cost_usd, abs=1e-12)
    again = packed.run(emulator.address)
    assert again.requests == 0


def test_a_long_instruction_makes_no_pack_smaller(packed: Project, emulator: Emulator) -> None:
    """What is sent once for all rows of a pack does not count for each of them."""
    packed.change('"You label reviews."', f'"{"You label reviews. " * 300}"')
    assert packed.run(emulator.address).requests == ROWS // 20


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
    assert table["label"].to_list() == ["positive" if n % 3 else "negative" for n in range(ROWS)]
    assert table["_prompt_tokens"].sum() == report.usage.prompt
    assert report.requests > ROWS // 20


def test_one_row_that_is_refused_fails_alone(packed: Project, emulator: Emulator) -> None:
    """A row for which the whole pack is refused is found by halving, and the others are answered."""
    packed.rows([f"good {word(n)}" if n != 33 else "<400-argument>" for n in range(60)])
    report = packed.run(emulator.address)
    table = packed.table()
    assert report.exit_code is Exit.ROWS_FAILED
    assert table["_error_kind"].to_list() == [None if n != 33 else "bad_request" for n in range(60)]
