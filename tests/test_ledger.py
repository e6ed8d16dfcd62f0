"""Windows and days that several runs share."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.leases import Full, Lease, Moment
from pipeline.ledger import LEASE_SECONDS, Ledger
from pipeline.models import MARGIN, Limits
from pipeline.quota import MINUTE, TEN_MINUTES, Allowance, Amount, allowances
from pipeline.store.counts import sent_on

DAY = date(2026, 11, 22)
ONE = Amount(1, 10)


def per_minute(**limits: int) -> list[Allowance]:
    """Return what limits of a minute allow."""
    return list(allowances(Limits(rpm=limits.get("rpm"), tpm=limits.get("tpm")), MARGIN))


def granted(found: Lease | Full) -> Lease:
    """Return what must be a lease."""
    assert isinstance(found, Lease)
    return found


@contextmanager
def opened(path: Path | None, scope: str = "p/m") -> Iterator[Ledger]:
    """Open a ledger for the time of the block."""
    with closing(Ledger(path, scope)) as ledger:
        yield ledger


class Clock:
    """A run that asks one ledger for room and waits as long as it is told."""

    def __init__(self, ledger: Ledger, allowed: list[Allowance]) -> None:
        self.ledger, self.allowed, self.now = ledger, allowed, 100.0

    def take(self, amount: Amount, count: int = 1) -> Lease:
        """Return a lease once there is one."""
        while isinstance(found := self.ask(amount, count), Full):
            assert found.wait > 0
            self.now += found.wait
        return found

    def ask(self, amount: Amount, count: int = 1) -> Lease | Full:
        """Ask once."""
        return self.ledger.lease(amount, count, self.allowed, rpd=None, clock=lambda: Moment(self.now, DAY))


def heaviest(left: list[tuple[float, int]], span: float) -> int:
    """Return the most that any span of seconds holds."""
    return max(sum(amount for at, amount in left if start <= at < start + span) for start, _ in left)


@given(
    limit=st.integers(1, 500),
    requests=st.lists(st.tuples(st.integers(1, 500), st.floats(1.0, 3.0)), min_size=1, max_size=40),
)
def test_no_minute_holds_more_than_the_limit(limit: int, requests: list[tuple[int, float]]) -> None:
    """Whatever the sizes, and estimates that were too high and settled: no 60 seconds exceed the limit."""
    left = []
    with opened(None) as ledger:
        clock = Clock(ledger, per_minute(tpm=limit))
        for wanted, error in requests:
            amount = min(wanted, limit)
            estimate = min(limit, round(amount * error))
            lease = clock.take(Amount(1, estimate))
            left.append((clock.now, amount))
            clock.now += 0.1
            ledger.settle(lease.id, amount - estimate, 0)
    assert heaviest(left, MINUTE) <= limit


@given(
    limit=st.integers(2, 200), counts=st.lists(st.integers(1, 50), min_size=1, max_size=20), data=st.data()
)
def test_leases_keep_the_limit_wherever_in_them_requests_leave(
    limit: int, counts: list[int], data: st.DataObject
) -> None:
    """Requests may leave at the start or at the end of a lease, and what is not used comes back."""
    left = []
    with opened(None) as ledger:
        clock = Clock(ledger, per_minute(rpm=limit))
        for count in counts:
            lease = clock.take(Amount(1), count)
            clock.now += data.draw(st.sampled_from([0.0, LEASE_SECONDS / 2]))
            wanted = data.draw(st.integers(0, lease.left.requests))
            left.append((clock.now, sum(lease.use(Amount(1), clock.now) for _ in range(wanted))))
            clock.now += 0.001
            ledger.give_back(lease)
    assert heaviest(left, MINUTE) <= limit


@given(limit=st.integers(1, 60), count=st.integers(1, 150))
def test_next_to_none_of_the_limit_is_wasted(limit: int, count: int) -> None:
    """With enough work `limit` requests leave in every minute and its margin."""
    with opened(None) as ledger:
        clock = Clock(ledger, per_minute(rpm=limit))
        for _ in range(count):
            clock.take(Amount(1))
    assert clock.now - 100 <= (count - 1) // limit * (MINUTE * (1 + MARGIN) + 0.01)


def test_money_is_counted_over_ten_minutes() -> None:
    """A spend limit of a dollar lets no more than a dollar through in ten minutes."""
    with opened(None) as ledger:
        clock = Clock(ledger, list(allowances(Limits(spend_10min_usd=1.0), MARGIN)))
        left = []
        for _ in range(12):
            clock.take(Amount(1, 0, 300_000_000))
            left.append((clock.now, 300_000_000))
    assert heaviest(left, TEN_MINUTES) <= 1_000_000_000
    assert left[-1][0] - 100 <= 3 * TEN_MINUTES * (1 + MARGIN) + 1


def test_a_request_above_the_limit_waits_for_an_empty_window_only() -> None:
    """Nothing waits for ever."""
    with opened(None) as ledger:
        clock = Clock(ledger, per_minute(tpm=100))
        clock.take(Amount(1, 60))
        began = clock.now
        clock.take(Amount(1, 1_000))
    assert clock.now - began == pytest.approx(MINUTE * (1 + MARGIN), abs=0.3)


def test_what_was_overestimated_is_free_again() -> None:
    """Settling makes room at once."""
    with opened(None) as ledger:
        clock = Clock(ledger, per_minute(tpm=100))
        lease = clock.take(Amount(1, 90))
        assert isinstance(clock.ask(Amount(1, 50)), Full)
        ledger.settle(lease.id, -60, 0)
        assert isinstance(clock.ask(Amount(1, 50)), Lease)


def test_what_was_underestimated_takes_room() -> None:
    """Settling works in both directions."""
    with opened(None) as ledger:
        clock = Clock(ledger, per_minute(tpm=100))
        ledger.settle(clock.take(Amount(1, 10)).id, 80, 0)
        assert isinstance(clock.ask(Amount(1, 20)), Full)


def test_what_a_lease_did_not_use_comes_back() -> None:
    """Room that was given back is there for others, and does not count for the day."""
    with opened(None) as ledger:
        clock = Clock(ledger, per_minute(rpm=10))
        lease = clock.take(ONE, 10)
        assert lease.use(ONE, clock.now)
        ledger.give_back(lease)
        assert ledger.count(DAY) == 1
        assert clock.take(ONE, 10).left.requests == 9


def test_a_lease_ends() -> None:
    """Nobody uses room that is counted as gone by."""
    with opened(None) as ledger:
        lease = Clock(ledger, per_minute(rpm=10)).take(ONE, 5)
    assert not lease.use(ONE, lease.until + 0.001)


def test_two_runs_share_one_minute(tmp_path: Path) -> None:
    """Runs of the same project count together; another project counts for itself."""
    path = tmp_path / "state" / "ledger.sqlite"
    with opened(path) as one, opened(path) as other, opened(path, "p/other") as foreign:
        first, second, third = (Clock(ledger, per_minute(rpm=3)) for ledger in (one, other, foreign))
        assert granted(first.ask(ONE, 2)).left.requests == 2
        assert granted(second.ask(ONE, 2)).left.requests == 1
        assert isinstance(first.ask(ONE), Full)
        assert granted(third.ask(ONE, 3)).left.requests == 3


def test_the_minute_survives_the_process(tmp_path: Path) -> None:
    """What a run that ended has sent still stands in the window."""
    with opened(tmp_path / "ledger.sqlite") as first:
        Clock(first, per_minute(rpm=1)).take(ONE)
    with opened(tmp_path / "ledger.sqlite") as second:
        assert isinstance(Clock(second, per_minute(rpm=1)).ask(ONE), Full)


def test_a_large_request_of_one_run_is_not_starved_by_another(tmp_path: Path) -> None:
    """Who came first is served first: room that would do for the second run is left for the first."""
    path = tmp_path / "ledger.sqlite"
    with opened(path) as one, opened(path) as other:
        first, second = (Clock(ledger, per_minute(tpm=100)) for ledger in (one, other))
        first.take(Amount(1, 90))
        assert isinstance(first.ask(Amount(1, 80)), Full)
        second.now += 0.1
        assert isinstance(second.ask(Amount(1, 5)), Full)
        second.now += 10  # the first has not asked again: it is gone
        assert isinstance(second.ask(Amount(1, 5)), Lease)


def test_runs_know_of_each_other(tmp_path: Path) -> None:
    """A lease tells what other runs used lately."""
    path = tmp_path / "ledger.sqlite"
    with opened(path) as one, opened(path) as other:
        Clock(one, per_minute(rpm=100)).take(ONE, 7)
        found = Clock(other, per_minute(rpm=100)).take(ONE)
    assert (found.others, found.runs) == (Amount(7, 70), 2)


def test_times_from_before_a_restart_of_the_machine_are_forgotten() -> None:
    """A clock that began anew does not make the first minutes wait."""
    with opened(None) as ledger:
        clock = Clock(ledger, per_minute(rpm=1))
        clock.take(ONE)
        clock.now = 5.0
        assert isinstance(clock.ask(ONE), Lease)


def test_the_limit_of_a_day_holds() -> None:
    """Exactly as many requests may leave as the limit says, also in leases of several."""
    with opened(None) as ledger:
        moment = Moment(1.0, DAY)
        first = granted(ledger.lease(ONE, 5, [], rpd=7, clock=lambda: moment))
        second = granted(ledger.lease(ONE, 5, [], rpd=7, clock=lambda: moment))
        assert (first.left.requests, second.left.requests) == (5, 2)
        assert ledger.lease(ONE, 5, [], rpd=7, clock=lambda: moment) == Full(0.0, day=True)


def test_what_never_left_makes_room_in_its_day(tmp_path: Path) -> None:
    """It is given back with the next lease, also at the end, and to the day on which it was counted."""
    path = tmp_path / "ledger.sqlite"
    with opened(path) as ledger:
        for number in range(2):
            found = ledger.lease(ONE, 1, [], rpd=2, clock=lambda: Moment(1.0, DAY))
            assert isinstance(found, Lease), number
        ledger.unsent(DAY)
        granted(ledger.lease(ONE, 1, [], rpd=2, clock=lambda: Moment(2.0, DAY)))
        assert isinstance(ledger.lease(ONE, 1, [], rpd=2, clock=lambda: Moment(3.0, DAY)), Full)
        granted(ledger.lease(ONE, 1, [], rpd=2, clock=lambda: Moment(4.0, DAY + timedelta(1))))
        ledger.unsent(DAY)
    assert (sent_on(path, "p/m", DAY), sent_on(path, "p/m", DAY + timedelta(1))) == (1, 1)


def test_the_next_day_starts_anew() -> None:
    """A used-up day does not hold back the next."""
    with opened(None) as ledger:
        ledger.lease(ONE, 1, [], rpd=1, clock=lambda: Moment(1.0, DAY))
        assert isinstance(
            ledger.lease(ONE, 1, [], rpd=1, clock=lambda: Moment(1.0, date(2026, 11, 23))), Lease
        )


def test_the_count_survives_the_process(tmp_path: Path) -> None:
    """A new ledger on the same file goes on counting, and old days are forgotten."""
    path = tmp_path / "ledger.sqlite"
    with opened(path) as first:
        for day in (date(2026, 1, 1), DAY):
            moment = Moment(1.0, day)
            first.lease(ONE, 1, [], rpd=None, clock=partial(lambda one: one, moment))
    with opened(path) as second:
        assert (second.count(DAY), second.count(date(2026, 1, 1))) == (1, 0)
    assert sent_on(path, "p/m", DAY) == 1


def test_a_refusal_for_the_day_is_remembered_until_the_api_answers(tmp_path: Path) -> None:
    """The next run knows that the API said no for today, and for today only."""
    path = tmp_path / "ledger.sqlite"
    with opened(path) as first:
        first.refuse(DAY)
    with opened(path) as second:
        assert second.refused(DAY)
        assert not second.refused(date(2026, 11, 23))
        second.welcome(DAY)
        assert not second.refused(DAY)


def test_a_folder_that_is_a_file_is_an_error_with_a_hint(tmp_path: Path) -> None:
    """A state folder that cannot be used is named, with the way out."""
    (tmp_path / "state").write_text("")
    with pytest.raises(StoreError, match="today's requests") as caught:
        Ledger(tmp_path / "state" / "ledger.sqlite", "p/m")
    assert "ROWMILL_STATE_DIR" in caught.value.hint


def test_who_waits_for_another_run_does_not_stop_its_own(tmp_path: Path) -> None:
    """While another process has the ledger, there is no room for a moment; then all is as before."""
    path = tmp_path / "ledger.sqlite"
    with opened(path) as ledger:
        clock = Clock(ledger, per_minute(rpm=10))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert isinstance(clock.ask(ONE), Full)
            ledger.welcome(DAY)
            other.execute("ROLLBACK")
        assert isinstance(clock.ask(ONE), Lease)


def test_who_holds_the_ledger_for_ever_is_named(tmp_path: Path) -> None:
    """A stopped process is a reason to stop, and deleting the file would not be the way out."""
    path = tmp_path / "ledger.sqlite"
    with opened(path) as ledger, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ledger._refusals = 10_000
        with pytest.raises(StoreError) as caught:
            Clock(ledger, per_minute(rpm=10)).ask(ONE)
        assert "delete" not in caught.value.hint


def test_several_runs_may_start_at_once(tmp_path: Path) -> None:
    """The first runs of a machine make the file together."""
    for round_ in range(5):
        path, errors = tmp_path / str(round_) / "ledger.sqlite", list[Exception]()

        def start(path: Path = path, errors: list[Exception] = errors) -> None:
            try:
                Ledger(path, "p/m").close()
            except StoreError as exc:
                errors.append(exc)

        threads = [threading.Thread(target=start) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors


def test_old_leases_are_few_and_still_count_for_money() -> None:
    """After minutes of twenty leases a second there is one for each second, and no dollar is forgotten."""
    with opened(None) as ledger:
        clock = Clock(ledger, list(allowances(Limits(spend_10min_usd=1_000.0), MARGIN)))
        for _ in range(3_000):
            clock.take(Amount(1, 0, 1_000_000))
            clock.now += 0.1
        rows, money = ledger._db.execute("SELECT COUNT(*), SUM(nano_usd) FROM leases").fetchone()
        assert money == 3_000 * 1_000_000
        assert rows <= 1_000 + 2 * 215 + 10


@pytest.mark.parametrize("damage", ["head", "page", "other"])
def test_a_damaged_file_is_set_aside_and_the_days_go_on(tmp_path: Path, damage: str) -> None:
    """The next run begins a new file, takes over what it can read, and says so."""
    path = tmp_path / "ledger.sqlite"
    with opened(path) as ledger:
        Clock(ledger, per_minute(rpm=10)).take(Amount(1), 3)
    raw = bytearray(path.read_bytes())
    at = {"head": 0, "page": raw.rindex(b"CREATE TABLE leases") // 4_096 * 4_096 + 4 * 4_096}.get(damage, 0)
    raw[at : at + 4_096] = b"\xff" * 4_096 if damage != "other" else bytes(4_096)
    path.write_bytes(raw)
    path.with_name("ledger.sqlite.77.tmp").write_bytes(b"half of what a killed process began")
    with opened(path) as ledger:
        assert "`ledger.sqlite.damaged`" in ledger.notes[0]
        assert ledger.count(DAY) == (3 if damage == "page" else 0)
        Clock(ledger, per_minute(rpm=10)).take(Amount(1))
    assert (tmp_path / "ledger.sqlite.damaged").read_bytes() == raw
    assert not list(tmp_path.glob("*.tmp"))
    with opened(path) as ledger:
        assert ledger.notes == []


def test_a_network_file_system_is_refused(tmp_path: Path) -> None:
    """Runs on several machines could not share it, and SQLite's log is not safe there."""
    table = tmp_path / "mountinfo"
    table.write_text("21 1 0:40 / / rw - nfs4 server rw\n")
    with pytest.raises(StoreError, match="nfs4") as caught:
        Ledger(tmp_path / "ledger.sqlite", "p/m", table)
    assert "ROWMILL_STATE_DIR" in caught.value.hint
