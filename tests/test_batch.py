"""What a batch needs next."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch import (
    AT_WORK,
    FINAL,
    Batch,
    Do,
    Pace,
    Seen,
    Stage,
    is_over,
    is_stuck,
    later,
    moved,
    next_step,
    plain_state,
    room,
    seen,
    unfound,
)
from pipeline.models import Limits

PACE = Pace(spill=600.0, first=1.0, longest=60.0, settle=20.0, patience=300.0)
LIMITS = Limits(batch_tokens=1_000)


NEXT = {
    Do.UPLOAD: Stage.UPLOADED,
    Do.FETCH: Stage.FETCHED,
    Do.INGEST: Stage.INGESTED,
    Do.DROP: Stage.INGESTED,
    Do.REMOVE: Stage.CLOSED,
}


@dataclass
class World:
    """An API that creates, works and answers; its list lags behind for some seconds."""

    created: list[float] = field(default_factory=list)
    lag: float = 10.0
    ends: float = 0.0
    state: str = "SUCCEEDED"
    cancelled: float | None = None

    def listed(self, now: float) -> bool:
        """Tell whether the list has the job."""
        return any(now - at >= self.lag for at in self.created)

    def look(self, now: float) -> Seen:
        """Tell how far the job is."""
        if self.cancelled is not None:
            return Seen("batches/1", "name", "CANCELLED", done=True, results="files/r")
        over = now >= self.ends
        return Seen(
            "batches/1",
            "name",
            self.state if over else "RUNNING",
            done=over,
            results="files/r" if over else "",
        )


def step(batch: Batch, world: World, now: float, *, loses: bool) -> Batch:
    """Take the next step of a batch; with `loses` the process is killed before it hears what came of it."""
    act = next_step(batch, now, PACE)
    if act is Do.CREATE:
        batch = moved(batch, Stage.CREATING, now)
        world.created.append(now)
    if act in (Do.CREATE, Do.FIND, Do.LOOK):
        if act is Do.FIND and not world.listed(now):
            return unfound(batch, now, PACE)
        if loses and act is not Do.LOOK:
            return batch
        after = seen(batch, world.look(now), now, PACE)
        if is_stuck(after, now, PACE):
            return moved(after, Stage.INGESTED, now)
        if after.stage is Stage.CANCELLING and not loses:
            world.cancelled = now
        return after
    return batch if act is None or loses else moved(batch, NEXT[act], now)


@given(st.lists(st.booleans(), max_size=40), st.floats(0, 2_000), st.sampled_from(sorted(FINAL)))
def test_a_batch_is_created_once_and_closes(kills: list[bool], ends: float, state: str) -> None:
    """However often the process dies, one job comes of a batch, and the batch comes to its end."""
    world, batch, now = World(ends=ends, state=state), Batch(1, "name"), 0.0
    for number in range(4_000):
        loses = number < len(kills) and kills[number]
        batch = step(batch, world, now, loses=loses)
        if batch.stage is Stage.CLOSED:
            break
        now += 1.0
    assert batch.stage is Stage.CLOSED
    assert len(world.created) <= 1


@given(st.floats(0, 1e6))
def test_a_creation_that_nobody_knows_of_is_looked_for_first(now: float) -> None:
    """From the intent no way leads to a second creation but over a look at the list."""
    batch = moved(Batch(1, "name", planned=now), Stage.CREATING, now)
    assert next_step(batch, now, PACE) is Do.FIND
    assert unfound(batch, now + PACE.settle / 2, PACE).stage is Stage.CREATING
    assert unfound(batch, now + PACE.settle + 0.01, PACE).stage is Stage.UPLOADED


@pytest.mark.parametrize("prefix", ["", "BATCH_STATE_", "JOB_STATE_"])
@pytest.mark.parametrize(
    ("state", "over"),
    [
        ("SUCCEEDED", True),
        ("PARTIALLY_SUCCEEDED", True),
        ("FAILED", True),
        ("CANCELLED", True),
        ("EXPIRED", True),
        ("PENDING", False),
        ("QUEUED", False),
        ("RUNNING", False),
        ("PAUSED", False),
        ("UPDATING", False),
        ("CANCELLING", False),
        ("SOMETHING_NEW", False),
    ],
)
def test_states_are_known_with_each_prefix(prefix: str, state: str, over: bool) -> None:
    """REST and SDK spell states differently; one that nobody knows is waited out, unless the job is done."""
    what = Seen("batches/1", "name", plain_state(prefix + state), done=False)
    assert is_over(what) is over
    assert is_over(replace(what, done=True))


def test_a_job_that_has_ended_is_never_cancelled() -> None:
    """A run that comes back after the deadline looks first, and takes what is there."""
    batch = Batch(1, "name", Stage.CREATED)
    late = PACE.spill + 1
    ended = seen(batch, Seen("batches/1", "name", "SUCCEEDED", done=True, results="files/r"), late, PACE)
    assert (ended.stage, ended.spilled) == (Stage.OVER, False)
    going = seen(batch, Seen("batches/1", "name", "RUNNING", done=False), late, PACE)
    assert (going.stage, going.spilled) == (Stage.CANCELLING, True)


@given(st.lists(st.tuples(st.sampled_from(Stage), st.integers(0, 500), st.booleans(), st.floats(0, 4e5))))
def test_room_is_never_more_than_the_limit(batches: list[tuple[Stage, int, bool, float]]) -> None:
    """What is at work counts with its tokens, and so does a cancelled job for two days."""
    known = [
        Batch(
            n, str(n), stage, tokens=tokens, since=since, spilled=spilled, job="batches/1", state="CANCELLED"
        )
        for n, (stage, tokens, spilled, since) in enumerate(batches)
    ]
    now = 4e5
    held = sum(batch.tokens for batch in known if batch.stage in AT_WORK)
    found = room(known, LIMITS, None, now)
    assert found.tokens is not None
    assert found.tokens <= max(0, 1_000 - held)
    fresh = sum(one.tokens for one in known if one.spilled and now - one.since < 172_800)
    assert found.tokens <= max(0, 1_000 - fresh)


def test_pauses_grow_and_are_bounded() -> None:
    """Looks become rare, and never rarer than the longest pause."""
    pauses = [PACE.pause(n) for n in range(60)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (1.0, 60.0)
    assert later(Batch(1, "name"), 10.0, PACE, least=90.0).due == 100.0
