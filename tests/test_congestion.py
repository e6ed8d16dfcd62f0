"""How many requests may be in flight, as the service answers."""

from collections import deque

import pytest

from pipeline.congestion import CALM, FIRST, Congestion


def steady(one: Congestion, seconds: float, now: float, *, trip: float = 0.3, fail: float = 0.0) -> float:
    """Keep all that may be in flight there for so long, of which a share fails; return the time."""
    owed, end, flying = 0.0, now + seconds, deque[float]()
    while now < end:
        while len(flying) < max(1, int(one.limit)) and now >= one.held_until:
            flying.append(now + trip + len(flying) * 1e-4)
            one.sent(len(flying))
        now = flying.popleft() if flying else one.held_until
        owed += fail
        if owed >= 1:
            owed -= 1
            one.overloaded(now)
        else:
            one.answered(trip, now)
    return now


def pressed(one: Congestion, seconds: float, capacity: int, *, now: float = 0.0) -> tuple[int, int]:
    """Ask a service that refuses at once what is above its capacity; count what it answered and refused."""
    answered, refused, end, flying = 0, 0, now + seconds, deque[float]()
    while now < end:
        while len(flying) < one.room and not (flying and flying[0] <= now):
            one.sent(len(flying) + 1)
            now += 0.001
            if len(flying) < capacity:
                flying.append(now + 0.5)
            else:
                refused += 1
                one.exhausted(now)
        now = max(now, flying.popleft())
        answered += 1
        one.answered(0.5, now)
    return answered, refused


def test_a_known_rate_is_not_bounded() -> None:
    """Where the limits are known, only the cap bounds what is in flight."""
    assert Congestion(500, paced=True).limit == 500


def test_an_unknown_service_is_tried_slowly() -> None:
    """The number begins small and doubles with each round trip, up to the cap."""
    one = Congestion(500, paced=False)
    assert one.limit == FIRST
    steady(one, 0.59, 0.0)
    assert 1.8 * FIRST <= one.limit <= 4 * FIRST
    steady(one, 5, 1.0)
    assert one.limit == 500


def test_the_cap_holds() -> None:
    """A cap below the first number is kept from the start."""
    assert Congestion(2, paced=False).limit == 2


@pytest.mark.parametrize("capacity", [1, 2, 12, 100, 400])
def test_a_capacity_that_nobody_names_is_found_and_used(capacity: int) -> None:
    """From ten seconds on 90 % of it is used; one place too many a round trip is refused, not more."""
    one = Congestion(1000, paced=False)
    pressed(one, 10, capacity)
    answered, refused = pressed(one, 60, capacity, now=10)
    assert answered >= 0.9 * capacity * 60 / 0.5
    assert refused <= max(0.04 * answered, 60 / 0.5)


def test_a_refused_place_stays_taken_until_the_round_ends() -> None:
    """A service that refuses at once is not asked again at once."""
    one = Congestion(100, paced=True)
    for sent in range(100):
        one.sent(sent + 1)
    for _ in range(30):
        one.exhausted(0.1)
    assert (one.limit, one.room) == (100, 70)
    for _ in range(70):
        one.answered(0.5, 0.15)
    one.answered(0.5, 0.7)  # the round is over: 30 of 100 too many, of which half go
    assert one.room == int(one.limit) == 85


def test_room_for_one_always_remains() -> None:
    """Without a request nothing would ever be heard again."""
    one = Congestion(4, paced=True)
    for _ in range(4):
        one.sent(4)
        one.exhausted(0.1)
    assert one.room == 1


def test_half_of_a_lost_capacity_is_given_up_soon() -> None:
    """Of a hundred places forty remain: three seconds later hardly one request in thirty is refused."""
    one = Congestion(1000, paced=False)
    pressed(one, 20, 100)
    pressed(one, 3, 40, now=20)
    answered, refused = pressed(one, 30, 40, now=23)
    assert refused < answered / 30


def test_trouble_lowers_the_number_by_the_cube_of_its_share() -> None:
    """A fifth of 503 hardly cuts, nine tenths of them to a third, once a round trip."""
    limits = []
    for fail in (0.2, 0.9):
        one = Congestion(100, paced=True)
        steady(one, 0.65, 0.0, fail=fail)
        limits.append(one.limit)
    assert 97 <= limits[0] < 100
    assert limits[1] <= 35


def test_a_fifth_of_503_leaves_most_of_the_rate() -> None:
    """Half a minute of it: the number stays where 0.3 s take 80 % of 4,000 requests a minute."""
    one = Congestion(1000, paced=True)
    now = 0.0
    for second in range(1, 31):
        now = steady(one, second - now, now, fail=0.2)
        assert one.limit > 0.8 * 4_000 / 60 * 0.3


def test_idle_room_does_not_grow() -> None:
    """A number that nobody uses is no proof that more would do."""
    one = Congestion(500, paced=False)
    for step in range(200):
        one.sent(1)
        one.answered(0.3, step * 0.3)
    assert one.limit == FIRST


def test_after_trouble_the_old_number_is_back_within_ten_seconds() -> None:
    """Half a minute with half of 503, then none: 150 in flight again."""
    one = Congestion(150, paced=True)
    now = steady(one, 30, 0.0, fail=0.5)
    assert one.limit < 30
    steady(one, 10, now)
    assert one.limit == 150


def test_when_all_fails_everything_is_held_back_longer_and_longer() -> None:
    """Each probe that fails doubles the wait, up to a minute."""
    one, now, holds = Congestion(100, paced=True), 0.0, []
    for _ in range(9):
        for _ in range(4):
            now += 0.25
            one.sent(4)
            one.overloaded(now)
        holds.append(one.held_until - now)
        now = one.held_until
    assert holds[0] <= 1
    assert holds == sorted(holds)
    assert 59 <= holds[-1] <= 60
    assert one.limit == 1


def test_an_answer_ends_the_hold() -> None:
    """When the service answers again there is nothing to wait for, and the number grows again."""
    one = Congestion(100, paced=True)
    for step in range(10):
        one.sent(10)
        one.overloaded(step * 0.1)
    assert one.held_until > 0.9
    one.answered(0.3, 1.0)
    assert one.held_until == 0.0
    steady(one, CALM + 3, 1.0)
    assert one.limit == 100


def test_few_that_are_left_are_not_held_back() -> None:
    """The hold ends at once, and the next one is short again."""
    one, now = Congestion(100, paced=True), 0.0
    for _ in range(8):
        now = max(now + 0.25, one.held_until)
        one.sent(1)
        one.overloaded(now)
    assert one.held_until > now + 4
    one.forgive()
    assert one.held_until == 0.0
    one.sent(1)
    one.overloaded(now + 0.25)
    assert now < one.held_until <= now + 1.25


def test_what_left_before_the_hold_does_not_lengthen_it() -> None:
    """Requests in flight that fail late say nothing new."""
    one = Congestion(100, paced=True)
    for step in range(4):
        one.sent(50)
        one.overloaded(step * 0.1)
    held = one.held_until
    for step in range(40):
        one.overloaded(0.4 + step * 0.01)
    assert one.held_until == held


def test_a_few_503_at_a_long_latency_cost_little() -> None:
    """Six seconds to an answer, and one in thirty is a 503: the number stays near what it was."""
    one = Congestion(600, paced=True)
    now = steady(one, 30, 0.0, trip=6.0)
    steady(one, 60, now, trip=6.0, fail=0.03)
    assert one.limit > 400


def test_a_jump_of_the_latency_is_no_failure_of_the_service() -> None:
    """While answers of six seconds are still to come, a few 503 do not count as all that came back."""
    one = Congestion(1_000, paced=True)
    now = steady(one, 5, 0.0, trip=0.3)
    for step in range(200):
        one.sent(100 + step)
        if step % 30 == 29:
            one.overloaded(now + step * 0.015)
    assert one.limit > 90
    assert one.held_until == 0.0
