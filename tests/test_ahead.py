"""Items are worked on ahead of time, in order, and no more of them are taken than are worked on."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ahead import THREADS, ahead


@given(st.lists(st.integers(0, 3), max_size=12))
def test_results_come_in_the_order_of_the_items(waits: list[int]) -> None:
    """Whichever is done first."""

    def work(item: tuple[int, int]) -> int:
        time.sleep(item[1] / 10_000)
        return item[0]

    assert list(ahead(work, enumerate(waits))) == list(range(len(waits)))


def test_no_more_items_are_taken_than_are_worked_on() -> None:
    """Or memory would grow with them."""
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = ahead(lambda number: number, items())
    for number in range(10):
        assert next(results) == number
        assert len(taken) <= number + THREADS


def test_what_the_work_raises_is_raised_in_its_turn() -> None:
    """After the results before it."""
    results = ahead(lambda number: 1 // number, [1, 1, 0, 1])
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
