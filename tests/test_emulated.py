"""Whoever has answers of the emulator in the table is told so, on whatever way they came there."""

import shutil
from collections.abc import Iterator

import pytest

from tests.conftest import Emulator, Project, emulating
from tests.test_batch_run import texts


@pytest.fixture(scope="module")
def api() -> Iterator[Emulator]:
    """Run an emulator for this file, at an address of its own."""
    with emulating("--tier", "paid") as emulator:
        yield emulator


def test_a_table_out_of_the_cache_is_told_to_be_emulated(project: Project, api: Emulator) -> None:
    """Also by later runs, which ask nothing, and when the cache is gone."""
    project.rows(texts(5))
    assert project.run(api.address).emulated
    shutil.rmtree(project.folder / ".rowmill" / "labels")
    assert project.run(api.address).emulated
    (project.folder / ".rowmill" / "cache.sqlite").unlink()
    later = project.run(api.address)
    assert (later.requests, set(project.table()["_source"]), later.emulated) == (0, {"cache"}, True)


def test_a_table_out_of_the_journal_is_told_to_be_emulated(project: Project, api: Emulator) -> None:
    """A row that takes another one's reply has it from the emulator, too."""
    project.rows(texts(5))
    project.run(api.address)
    shutil.rmtree(project.folder / ".rowmill" / "labels" / project.plan().folder.path.name / "parts")
    project.change('key = ["id"]', "")
    assert project.run(api.address).emulated


@pytest.mark.parametrize("detach", [True, False])
def test_a_table_out_of_batches_is_told_to_be_emulated(project: Project, api: Emulator, detach: bool) -> None:
    """A job's results say who has answered it."""
    project.change('name = "labels"', 'name = "labels"\nmode = "batch"')
    project.rows(texts(5))
    project.run(api.address, detach=detach)
    assert project.run(api.address).emulated
