"""As many workers as are needed."""

from contextlib import ExitStack

from pipeline.executors.crew import READY, Crew


def test_a_few_are_ready_at_the_start() -> None:
    """Not one worker for each request that may ever be in flight."""
    started: list[None] = []
    Crew(1_000).begin(lambda: started.append(None))
    assert len(started) == READY


def test_who_waits_for_an_answer_is_replaced() -> None:
    """So many are in flight as there are answers to wait for, and some stay ready."""
    crew, started, away = Crew(1_000), list[None](), ExitStack()
    crew.begin(lambda: started.append(None))
    with away:
        for _ in range(100):
            away.enter_context(crew.away())
        assert len(started) == 100 + READY
    with crew.away():
        assert len(started) == 100 + READY  # those who came back are ready again


def test_there_are_never_more_than_the_most() -> None:
    """The cap holds."""
    crew, started, away = Crew(10), list[None](), ExitStack()
    crew.begin(lambda: started.append(None))
    with away:
        for _ in range(10):
            away.enter_context(crew.away())
    assert len(started) == 10


def test_none_is_started_after_the_end() -> None:
    """When there are no more rows nobody is needed."""
    crew, started = Crew(10), list[None]()
    crew.begin(lambda: started.append(None))
    crew.end()
    with crew.away():
        assert len(started) == READY
