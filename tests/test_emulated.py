"""Whoever has answers of the emulator in the table is told so, on whatever way they came there."""

import shutil

import pytest

from tests.conftest import Emulator, Project
from tests.reviews import texts


def test_a_table_out_of_the_cache_is_told_to_be_emulated(project: Project, server: Emulator) -> None:
    """Also by later runs, which ask nothing, and when the cache is gone."""
    project.rows(texts(5))
    assert project.run(server.address).emulated
    shutil.rmtree(project.folder / ".rowmill" / "labels")
    assert project.run(server.address).emulated
    (project.folder / ".rowmill" / "cache.sqlite").unlink()
    later = project.run(server.address)
    assert (later.requests, set(project.table()["_source"]), later.emulated) == (0, {"cache"}, True)


def test_a_table_out_of_the_journal_is_told_to_be_emulated(project: Project, server: Emulator) -> None:
    """A row that takes another one's reply has it from the emulator, too."""
    project.rows(texts(5))
    project.run(server.address)
    shutil.rmtree(project.folder / ".rowmill" / "labels" / project.plan().folder.path.name / "parts")
    project.change('key = ["id"]', "")
    assert project.run(server.address).emulated


@pytest.mark.parametrize("detach", [True, False])
def test_a_table_out_of_batches_is_told_to_be_emulated(
    project: Project, server: Emulator, detach: bool
) -> None:
    """A job's results say who has answered it."""
    project.change('name = "labels"', 'name = "labels"\nmode = "batch"')
    project.rows(texts(5))
    project.run(server.address, detach=detach)
    assert project.run(server.address).emulated
