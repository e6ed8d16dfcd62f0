"""Packed runs of rows with equal prompts: full packs, and none who waits for another for ever."""

import random
import signal
from collections.abc import Iterator

import pytest

from pipeline.errors import Exit
from tests.conftest import Emulator, Project, emulating
from tests.reviews import word
from tests.test_cli import started, wait_for
from tests.test_forecast import estimated
from tests.test_packed_run import packed

__all__ = ["packed"]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator whose answers take a moment."""
    with emulating("--latency", "0.05") as emulator:
        yield emulator


def shuffled(rows: int, distinct: int) -> list[str]:
    """Return texts of which so many differ, in an order of chance."""
    dice = random.Random(5)
    made = [f"good {word(n)}" for n in range(distinct)]
    made += dice.choices(made, k=rows - distinct)
    dice.shuffle(made)
    return made


@pytest.mark.parametrize("distinct", [30, 283, 560, 590])
def test_packs_are_full_of_different_prompts(packed: Project, emulator: Emulator, distinct: int) -> None:
    """However many rows repeat another, and the estimate has said so."""
    packed.rows(shuffled(600, distinct))
    wanted = -(-distinct // 20)
    assert estimated(packed, "nobody counts").ways[0].requests == wanted
    report = packed.run(emulator.address)
    table = packed.table()
    assert (report.exit_code, report.requests) == (Exit.OK, wanted)
    assert (table["_source"] == "cache").sum() == 600 - distinct
    assert set(table.filter(table["_source"] == "cache")["_cost_usd"]) == {0.0}
    assert set(table["_pack"]) <= {20, distinct % 20}
    assert table["_cost_usd"].sum() == pytest.approx(report.cost_usd, abs=1e-12)


def test_one_prompt_alone_is_asked_as_one_row_is(packed: Project, emulator: Emulator) -> None:
    """Not in the form of a pack, which has more tokens and which the cache might take for it."""
    packed.change("[output]", "[cache]\nenabled = false\n\n[output]")
    packed.rows(["good coat"] * 50)
    together = packed.run(emulator.address)
    packed.change("rows = 20", "rows = 1")
    packed.change('name = "labels"', 'name = "alone"')
    alone = packed.run(emulator.address)
    assert (together.requests, alone.requests) == (1, 1)
    assert together.usage == alone.usage


def test_what_another_worker_has_asked_meanwhile_is_not_asked_again(
    packed: Project, emulator: Emulator
) -> None:
    """A worker whose rows take several packs asks one after the other, and others have the same prompts."""
    packed.change("rows = 20", "rows = 20\nprompt_tokens = 150")
    packed.rows(shuffled(600, 200))
    report = packed.run(emulator.address)
    assert report.exit_code is Exit.OK
    assert (packed.table()["_source"] != "cache").sum() == 200


@pytest.mark.parametrize("fault", ["pack-missing%0.7", "503%0.3", "badjson%0.5"])
def test_workers_that_wait_for_each_other_come_to_an_end(packed: Project, fault: str) -> None:
    """Each has prompts to ask again that others have, too, and asks for its own before it waits.

    The emulator draws by prompt: a row for which it draws a bad answer alone and when repaired fails.
    """
    packed.change("rows = 20", "rows = 4")
    packed.rows([f"good {word(n % 7 if n % 2 else 6 - n % 7)}" for n in range(280)])
    with emulating("--latency", "0.02", "--fault", fault) as slow:
        report = packed.run(slow.address)
    table = packed.table()
    assert report.pending == 0
    assert table["_prompt_tokens"].sum() == report.usage.prompt
    assert set(table["label"]) <= {"positive", None}
    assert set(table["_error_kind"]) - {None} <= ({"invalid"} if "badjson" in fault else set())


def test_who_waits_for_another_is_stopped_at_once(packed: Project) -> None:
    """What is in flight is waited for; the rows with the same prompt take its answer in the next run."""
    packed.rows(["good coat"] * 900)
    with emulating("--latency", "4") as slow:
        with started(packed, slow) as process:
            wait_for(lambda: slow.stats()["requests"] == 1)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        assert process.returncode == Exit.STOPPED
        with started(packed, slow) as last:
            last.communicate(timeout=60)
        assert (last.returncode, slow.stats()["requests"]) == (Exit.OK, 1)
    assert set(packed.table()["_status"]) == {"ok"}
