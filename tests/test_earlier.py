"""What failed rows took before they are asked again."""

from pathlib import Path

import numpy as np

from pipeline.earlier import Earlier
from pipeline.flow import Row
from pipeline.heads import heads
from pipeline.input.survey import NAMES, Survey
from pipeline.scratch import Column
from pipeline.store.standing import stand
from tests.store.test_compaction import DIGEST, key, table
from tests.store.test_window import CHUNK, EACH, IN_ORDER, ONCE_MORE, ROWS, SHUFFLED, Counted

NEW = range(7, ROWS, 10)  # positions of rows that were never asked


def test_each_failed_row_of_a_shuffled_input_has_what_it_took(tmp_path: Path) -> None:
    """Rows that were never asked have nothing, and no part is read again for every few rows."""
    parts = Counted(tmp_path)
    for start in IN_ORDER[::EACH]:
        parts.write(table(list(range(start, start + EACH)), start))
    wanted = [ROWS + name if n in NEW else name for n, name in enumerate(SHUFFLED)]
    names = np.empty(ROWS, NAMES)
    names["key"], names["digest"] = heads([key(name) for name in wanted]), heads([DIGEST] * ROWS)
    survey = Survey(Column(NAMES))
    survey.names.add(names)
    earlier = Earlier(parts, stand(survey, parts), np.ones(ROWS, np.bool_))
    rows = [Row(n, key(name), DIGEST, {}) for n, name in enumerate(wanted)]
    found = [one for start in range(0, ROWS, CHUNK) for one in earlier.add(rows[start : start + CHUNK], 1)]
    cost = {name: (name - 1) // EACH * EACH + 1 for name in IN_ORDER}  # of a row: the first of its part
    assert [one.earlier and one.earlier.cost_usd for one in found] == [cost.get(name) for name in wanted]
    assert [one.turn for one in found] == [int(name <= ROWS) for name in wanted]
    assert parts.most <= ONCE_MORE
