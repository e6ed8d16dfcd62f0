"""Whoever has answers of the emulator in the table is told so, on whatever way they came there."""

import shutil

import pytest

from pipeline.errors import Exit
from tests.conftest import Emulator, Project
from tests.reviews import texts, word
from tests.test_cli import Shell, shell

__all__ = ["shell"]


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


BOUNDED = """
from decimal import Decimal
from typing import Literal
from pydantic import BaseModel, Field

class Part(BaseModel):
    phrase: str = Field(min_length=2, max_length=20)
    weight: float = Field(ge=0, le=1)

class Label(BaseModel):
    label: Literal["positive", "negative", "neutral"]
    share: float = Field(gt=0, lt=1)
    words: int = Field(ge=3, le=9)
    price: Decimal = Field(ge=1, le=5, decimal_places=2)
    code: str = Field(min_length=6, max_length=6)
    parts: list[Part] = Field(min_length=2, max_length=5)
"""


@pytest.mark.parametrize("rows", [1, 20])
def test_bounded_fields_are_filled_within_their_bounds(shell: Shell, project: Project, rows: int) -> None:
    """A first job with a schema of one's own runs through, alone and in packs."""
    (project.folder / "schemas" / "label.py").write_text(BOUNDED)
    project.change("[output]", f"[packing]\nrows = {rows}\n\n[output]")
    project.rows([*texts(40), "words: 70", "price 2.999 share: 3", "a"])
    assert shell("run", project.job, "--offline").code == 0
    assert set(project.table()["_status"]) == {"ok"}


@pytest.mark.parametrize("mode", ["batch", "online"])
def test_rows_that_the_emulator_has_refused_are_its_own(
    project: Project, emulator: Emulator, mode: str
) -> None:
    """A failure comes from somebody, too, and a later run says the same of it."""
    project.change('name = "labels"', f'name = "labels"\nmode = "{mode}"')
    project.rows(texts(5))
    emulator.change(faults=[f"{place}400-argument~{word(2)}" for place in ("", "line/")])
    for again in (False, True):
        report = project.run(emulator.address, retry_failed=again)
        assert (report.exit_code, report.emulated) == (Exit.ROWS_FAILED, True)
        assert set(project.table()["_source"]) == {"emulator"}
