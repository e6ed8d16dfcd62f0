"""Rows of an input and rows of parts find each other, whatever their order and number."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline.arrow import Layout
from pipeline.flow import Failure, FailureKind, Outcome, Spent
from pipeline.input.survey import NAMES, Survey
from pipeline.pending import pending_rows
from pipeline.scratch import SLICE, Column
from pipeline.store.parts import Parts
from pipeline.store.standing import stand

shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
names = st.tuples(st.integers(0, 5), st.integers(0, 2))  # of a row: its key and its text
answers = st.tuples(names, st.booleans(), st.integers(0, 3))


class Answer(BaseModel):
    """The least there is."""

    label: str


LAYOUT = Layout(Answer)


def digest(number: int) -> bytes:
    """Return 16 bytes for a number, of which the first differ."""
    return (number * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "little") * 2


def part(found: list[tuple[tuple[int, int], bool, int]]) -> pa.Table:
    """Return a part of these answers; each holds its number."""
    failed = Failure(FailureKind.INVALID, "no")
    return LAYOUT.table(
        [
            Outcome(digest(key), digest(text), Answer(label=str(n)) if ok else failed, Spent(), round_)
            for n, ((key, text), ok, round_) in enumerate(found)
        ]
    )


def surveyed(rows: list[tuple[int, int]]) -> Survey:
    """Return the survey of rows with these names."""
    column = Column(NAMES)
    found = [tuple(int.from_bytes(digest(one)[:8], "little") for one in row) for row in rows]
    column.add(np.array(found, NAMES))
    return Survey(column)


@shared_folder
@given(st.lists(names, max_size=12), st.lists(st.lists(answers, min_size=1, max_size=6), max_size=4))
def test_the_last_answer_to_a_text_counts(
    tmp_path: Path, rows: list[tuple[int, int]], found: list[list[tuple[tuple[int, int], bool, int]]]
) -> None:
    """Each row has the place of the last of its answers, which `take` finds there."""
    for old in tmp_path.iterdir():
        old.unlink()
    parts = Parts(tmp_path, LAYOUT.part)
    for some in found:
        parts.write(part(some))
    stood = stand(surveyed(rows), parts)
    index, standing = stood.index, stood.rows.read()
    written = [one for some in found for one in some]
    last = {name: (place, round_, ok) for place, (name, ok, round_) in enumerate(written)}
    expected = [last.get(row, (-1, 0, False)) for row in rows]
    assert standing[["place", "round", "ok"]].tolist() == expected
    assert index.last_round == max((round_ for _, _, round_ in written), default=0)
    places = standing["place"][standing["place"] >= 0]
    taken = parts.take(index, places).select(["_key", "_digest"]).to_pylist()
    assert [(one["_key"], one["_digest"]) for one in taken] == [
        (digest(key), digest(text)) for key, text in rows if (key, text) in last
    ]


@shared_folder
@given(
    st.lists(st.integers(0, 5).map(lambda text: (text, text)), max_size=12),
    st.lists(answers, max_size=6),
    st.none() | st.integers(0, 4),
)
def test_of_equal_rows_the_first_is_asked(
    tmp_path: Path,
    rows: list[tuple[int, int]],
    found: list[tuple[tuple[int, int], bool, int]],
    turn: int | None,
) -> None:
    """Unless it is answered, and in a round of `--retry-failed` answered well or in that round."""
    for old in tmp_path.iterdir():
        old.unlink()
    parts = Parts(tmp_path, LAYOUT.part)
    parts.write(part(found))
    last = {name: (ok, round_) for name, ok, round_ in found}
    done = {name for name, (ok, round_) in last.items() if turn is None or ok or round_ >= turn}
    pending = pending_rows(stand(surveyed(rows), parts), turn)
    assert pending.tolist() == [
        row not in done and row not in rows[:number] for number, row in enumerate(rows)
    ]


def test_more_rows_than_are_in_memory_at_once_keep_their_order(tmp_path: Path) -> None:
    """Rows are put back in order over several slices."""
    count = SLICE + 1_000
    keys = np.random.default_rng(1).permutation(count).astype("<u8")
    names = np.empty(count, NAMES)
    names["key"] = names["digest"] = keys
    survey = Survey(Column(NAMES))
    survey.names.add(names)
    parts = Parts(tmp_path, LAYOUT.part)
    wanted = {0: 2, 1: 0, SLICE - 1: 3, SLICE: 1, count - 1: 4}  # row → place
    heads = [int(keys[row]).to_bytes(8, "little") * 2 for row in sorted(wanted, key=wanted.__getitem__)]
    parts.write(LAYOUT.table([Outcome(one, one, Answer(label="x"), Spent()) for one in heads]))
    standing = stand(survey, parts)
    place = standing.rows.read()["place"]
    assert {int(row): int(place[row]) for row in np.flatnonzero(place >= 0)} == wanted
    assert standing.rows.read()["first"].all()
    assert pending_rows(standing).sum() == count - len(wanted)
