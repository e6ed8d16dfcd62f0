"""What was sent lately, shared by all runs of a user: windows of a minute and of ten, and the Pacific day.

Limits are per project and model, so runs that share them share one budget. SQLite in the user's state folder
is the lock. Whatever may leave is counted in a transaction before it leaves, so that a killed process has
counted what it sent. At high rates a run takes room for several requests at once (a lease) and gives back
what it did not use.

The invariant: at no moment do leases that stand in a window hold more than its limit. A lease stands there
from the last moment at which it may be used.
"""

import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path

from pipeline.disk import make_folder
from pipeline.errors import StoreError
from pipeline.leases import Full, Lease, Moment
from pipeline.mounts import TABLE, network
from pipeline.quota import MINUTE, TEN_MINUTES, Allowance, Amount, Dimension
from pipeline.store.counts import BUSY_SECONDS, COUNT, opened
from pipeline.store.salvage import is_damage

LEASE_SECONDS = 0.1
POLL_SECONDS = 0.25  # how often who waits looks again, since others may give room back
PATIENCE = 2.0  # seconds after which a run that no longer asks has lost its place
LATELY = 10.0  # seconds over which the rate of other runs is taken
TIDY_SECONDS = 1.0
OLD_SECONDS = 1.5 * MINUTE + 1  # no minute is longer, whatever its margin
MOST_REFUSALS = 200  # in a row: something holds it that does not let go
KEPT_DAYS = 40
UNUSABLE = (
    "see that you may write there, and free some space if the disk is full, or set ROWMILL_STATE_DIR to "
    "another folder, for all jobs that share the limits; then run the same command again. Where nothing else "
    "helps, delete the file (today's requests are then counted from 0)"
)
BLOCKED = "another process holds this file, maybe a run that was stopped with Ctrl-Z: let it go on, or end it"
REPLACED = "run the same command again: the file is set aside then, and a new one is begun"


class Ledger:
    """The leases and counts of one `scope` (project and model) in a file, or in memory where `path` is None.

    Every method raises StoreError when the file cannot be used.
    """

    def __init__(self, path: Path | None, scope: str, mounts: Path = TABLE) -> None:
        if path is not None and (kind := network(path, mounts)) is not None:
            raise StoreError(
                f"the count of today's requests in `{path}` would lie on a network file system ({kind}), "
                "where several runs cannot share it safely",
                "set ROWMILL_STATE_DIR to a folder on a local disk",
            )
        self._path = path
        self._scope = scope
        self._owner = uuid.uuid4().hex
        self._settled: dict[int, tuple[int, int]] = {}
        self._unsent: Counter[date] = Counter()
        self._tidied = float("-inf")
        self._refusals = 0
        with self._translated("opened"):
            if path is not None:
                make_folder(path.parent)
            self._db, self.notes = opened(path)

    def lease(
        self,
        each: Amount,
        count: int,
        allowed: list[Allowance],
        *,
        rpd: int | None,
        clock: Callable[[], Moment],
    ) -> Lease | Full:
        """Take room for 1 to `count` requests of `each`; what is larger than a limit takes all of it.

        The clock is read when the ledger is ours. Where another run has it, that is Full for a moment.
        """
        with self._translated("written"):
            if not self._begin():
                return Full(BUSY_SECONDS)
            with self._transaction():
                return self._leased(each, count, allowed, rpd=rpd, now=clock())

    def _leased(
        self, each: Amount, count: int, allowed: list[Allowance], *, rpd: int | None, now: Moment
    ) -> Lease | Full:
        self._settle()
        self._forget(now.at)
        left = None if rpd is None else rpd - self.count(now.day)
        if left is not None and left <= 0:
            return Full(0.0, day=True)
        ahead = self._ahead(now.at)
        rooms = [self._room(each, one, ahead, now.at) for one in allowed]
        fits = min([count, *(room for room, _ in rooms), *([] if left is None else [left])])
        if fits < 1:
            self._queue(each, now.at)
            wait, dimension = max(
                (wait, one.dimension) for one, (_, wait) in zip(allowed, rooms, strict=True)
            )
            return Full(wait, of=dimension)
        return self._take(each, fits, now)

    def give_back(self, lease: Lease) -> None:
        """Say that a lease will not be used any more, and when it was last.

        Where another run has the ledger, it stays counted, as if it had been used.
        """
        left, lease.left = lease.left, Amount(0)
        with self._translated("written"):
            if not self._begin():
                return
            with self._transaction():
                self._db.execute(
                    "UPDATE leases SET at = ?, requests = requests - ?, tokens = tokens - ?, "
                    "nano_usd = nano_usd - ? WHERE id = ?",
                    (lease.used, left.requests, left.tokens, left.nano_usd, lease.id),
                )
                self._db.execute(
                    "UPDATE sent SET requests = requests - ? WHERE scope = ? AND day = ?",
                    (left.requests, self._scope, lease.taken.day.isoformat()),
                )

    def settle(self, lease: int, tokens: int, nano_usd: int) -> None:
        """Add what the requests of a lease counted above the estimate; written with the next lease."""
        before = self._settled.get(lease, (0, 0))
        self._settled[lease] = (before[0] + tokens, before[1] + nano_usd)

    def unsent(self, day: date) -> None:
        """Take a request that certainly never left out of the count of its day; written with the next lease.

        It stays in the windows of minutes, which only spread what is tried.
        """
        self._unsent[day] += 1

    def count(self, day: date) -> int:
        """Return how many requests may have left on `day`."""
        with self._translated("read"):
            row = self._db.execute(COUNT, (self._scope, day.isoformat())).fetchone()
        return int(row[0]) if row else 0

    def refuse(self, day: date) -> None:
        """Remember that the API has refused requests for the rest of `day`."""
        self._note("INSERT OR IGNORE INTO refused VALUES (?, ?)", day)

    def welcome(self, day: date) -> None:
        """Forget that, since the API answers again."""
        self._note("DELETE FROM refused WHERE scope = ? AND day = ?", day)

    def _note(self, statement: str, day: date) -> None:
        """Change what is noted of a day; where another run has the ledger, it costs a request some time."""
        with self._translated("written"):
            if self._begin():
                with self._transaction():
                    self._db.execute(statement, (self._scope, day.isoformat()))

    def refused(self, day: date) -> bool:
        """Say whether a run was refused for the rest of `day`."""
        with self._translated("read"):
            found = self._db.execute(
                "SELECT 1 FROM refused WHERE scope = ? AND day = ?", (self._scope, day.isoformat())
            )
            return found.fetchone() is not None

    def close(self) -> None:
        """Write what was settled, forget days long past and close the file."""
        with closing(self._db) as db, suppress(sqlite3.Error):  # the next run tidies up
            self._settle()
            db.execute("DELETE FROM queue WHERE owner = ?", (self._owner,))
            last = db.execute("SELECT max(day) FROM sent").fetchone()[0]
            if last is not None:
                oldest = (date.fromisoformat(last) - timedelta(days=KEPT_DAYS)).isoformat()
                db.execute("DELETE FROM sent WHERE day < ?", (oldest,))
                db.execute("DELETE FROM refused WHERE day < ?", (oldest,))

    def _room(
        self, each: Amount, allowed: Allowance, ahead: Mapping[str, int], now: float
    ) -> tuple[int, float]:
        """Return how many requests fit into a window, and the seconds until one does."""
        wanted = min(each.of(allowed.dimension), allowed.limit)
        if not wanted:
            return 2**31, 0.0
        since = now - allowed.span
        total = f"SELECT COALESCE(SUM({allowed.dimension}), 0) FROM leases WHERE scope = ? AND at > ?"  # noqa: S608
        used = self._db.execute(total, (self._scope, since)).fetchone()[0] + ahead[allowed.dimension]
        room = (allowed.limit - used) // wanted
        return room, 0.0 if room > 0 else self._wait(allowed, used + wanted - allowed.limit, now)

    def _wait(self, allowed: Allowance, excess: int, now: float) -> float:
        """Return the seconds until so much of what stands in a window has left it."""
        column: Dimension = allowed.dimension
        oldest = f"SELECT at, {column} FROM leases WHERE scope = ? AND at > ? ORDER BY at"  # noqa: S608
        for at, amount in self._db.execute(oldest, (self._scope, now - allowed.span)):
            excess -= amount
            if excess <= 0:
                return max(0.001, float(at) + allowed.span - now)
        return POLL_SECONDS

    def _take(self, each: Amount, count: int, now: Moment) -> Lease:
        until = now.at + LEASE_SECONDS if count > 1 else now.at
        amount = each * count
        added = self._db.execute(
            "INSERT INTO leases (scope, owner, at, requests, tokens, nano_usd) VALUES (?, ?, ?, ?, ?, ?)",
            (self._scope, self._owner, until, amount.requests, amount.tokens, amount.nano_usd),
        )
        self._db.execute(
            "INSERT INTO sent VALUES (?, ?, ?) ON CONFLICT (scope, day) "
            "DO UPDATE SET requests = requests + excluded.requests",
            (self._scope, now.day.isoformat(), amount.requests),
        )
        self._db.execute("DELETE FROM queue WHERE scope = ? AND owner = ?", (self._scope, self._owner))
        others, runs = self._others(now.at)
        return Lease(added.lastrowid or 0, amount, until, now, now.at, others, runs)

    def _others(self, now: float) -> tuple[Amount, int]:
        """Return what other runs used lately, and how many runs there are with this one."""
        row = self._db.execute(
            "SELECT COALESCE(SUM(requests), 0), COALESCE(SUM(tokens), 0), COALESCE(SUM(nano_usd), 0), "
            "COUNT(DISTINCT owner) FROM leases WHERE scope = ? AND at > ? AND owner <> ?",
            (self._scope, now - LATELY, self._owner),
        ).fetchone()
        return Amount(*row[:3]), row[3] + 1

    def _ahead(self, now: float) -> Mapping[str, int]:
        """Return what runs that came before this one wait for, so that nobody's large request starves."""
        row = self._db.execute(
            "SELECT COALESCE(SUM(requests), 0), COALESCE(SUM(tokens), 0), COALESCE(SUM(nano_usd), 0) "
            "FROM queue WHERE scope = ?1 AND owner <> ?2 AND seen > ?3 AND since < COALESCE("
            "(SELECT since FROM queue WHERE scope = ?1 AND owner = ?2), ?4)",
            (self._scope, self._owner, now - PATIENCE, now),
        ).fetchone()
        return dict(zip(("requests", "tokens", "nano_usd"), row, strict=True))

    def _queue(self, each: Amount, now: float) -> None:
        """Take a place in the queue, or keep it."""
        self._db.execute(
            "INSERT INTO queue VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, owner) DO UPDATE SET "
            "since = CASE WHEN seen > ? THEN since ELSE excluded.since END, seen = excluded.seen, "
            "requests = excluded.requests, tokens = excluded.tokens, nano_usd = excluded.nano_usd",
            (
                *(self._scope, self._owner, now, now),
                *(each.requests, each.tokens, each.nano_usd),
                now - PATIENCE,
            ),
        )

    def _settle(self) -> None:
        settled, self._settled = self._settled, {}
        self._db.executemany(
            "UPDATE leases SET tokens = tokens + ?, nano_usd = nano_usd + ? WHERE id = ?",
            [(*amounts, lease) for lease, amounts in settled.items()],
        )
        unsent, self._unsent = self._unsent, Counter()
        self._db.executemany(
            "UPDATE sent SET requests = MAX(0, requests - ?) WHERE scope = ? AND day = ?",
            [(number, self._scope, day.isoformat()) for day, number in unsent.items()],
        )

    def _forget(self, now: float) -> None:
        """Drop what stands in no window; what is in the future is from before the machine started anew.

        What is older than any minute only counts for money: it is kept as one lease for each second.
        """
        self._db.execute("DELETE FROM leases WHERE scope = ? AND at > ?", (self._scope, now + 1))
        if now - self._tidied < TIDY_SECONDS:
            return
        self._tidied = now
        old = (self._scope, now - 2 * TEN_MINUTES, now - OLD_SECONDS)
        self._db.execute("DELETE FROM leases WHERE scope = ? AND at <= ?", old[:2])
        self._db.execute(
            "INSERT INTO leases (scope, owner, at, requests, tokens, nano_usd) "
            "SELECT scope, '', MAX(at), SUM(requests), SUM(tokens), SUM(nano_usd) FROM leases "
            "WHERE scope = ? AND at > ? AND at < ? AND owner <> '' GROUP BY CAST(at AS INTEGER)",
            old,
        )
        self._db.execute("DELETE FROM leases WHERE scope = ? AND at > ? AND at < ? AND owner <> ''", old)
        self._db.execute("DELETE FROM queue WHERE scope = ? AND seen < ?", old[:2])

    def _begin(self) -> bool:
        """Begin a transaction; False where another run has the ledger, unless it has had it for too long."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as exc:
            self._refusals += 1
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or self._refusals > MOST_REFUSALS:
                raise
            return False
        self._refusals = 0
        return True

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite itself rolls back when the disk is full
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _translated(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            hint = BLOCKED if getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY else UNUSABLE
            hint = REPLACED if is_damage(exc) else hint
            raise StoreError(
                f"the count of today's requests in `{self._path}` cannot be {verb}: {exc}", hint
            ) from exc
