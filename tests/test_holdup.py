"""What holds a run up is named after a moment, and keeps its name while requests wait for this and that."""

from pipeline.holdup import Holdup


def test_a_wait_is_named_after_a_moment_and_forgotten_after_some() -> None:
    """A short wait is the pace; a long one holds the run up."""
    one = Holdup()
    one.turn("requests", 100.0)
    assert one.named(100.5) is None
    assert one.named(102.0) == "requests"
    one.turn(None, 102.0)
    assert one.named(102.1) == "requests"
    assert one.named(110.0) is None


def test_the_name_does_not_flicker() -> None:
    """Where requests wait for two limits by turns, one of them keeps the name."""
    one, named = Holdup(), set()
    for step in range(2_000):
        now = 100 + step / 100
        one.turn("nano_usd" if step % 20 < 11 else "requests", now)
        if step > 500:
            named.add(one.named(now))
    assert len(named) == 1


def test_another_limit_takes_over() -> None:
    """When only the other one is waited for, it is named within seconds."""
    one = Holdup()
    one.turn("nano_usd", 100.0)
    assert one.named(105.0) == "nano_usd"
    one.turn("tokens", 105.0)
    assert one.named(109.0) == "tokens"
