"""What is said while a run goes on."""

import anyio
import pytest

from pipeline.executors.crew import Crew
from pipeline.executors.day import Day
from pipeline.executors.gate import Gate
from pipeline.executors.halt import Halt
from pipeline.flow import Failure, FailureKind
from pipeline.ledger import Ledger
from pipeline.limiter import Limiter
from pipeline.models import Limits
from pipeline.progress import MESSAGE, Watched, words_of
from pipeline.quota import NANO, Amount
from pipeline.tokens import CostEstimate, Costing, TokenEstimate
from pipeline.usage import Tally


def watched(limits: Limits) -> Watched:
    """Return a run that has asked nothing yet."""
    ledger, halt, crew = Ledger(None, "test"), Halt(), Crew(4)
    limiter = Limiter(limits, ledger, cap=4)
    day = Day(limiter, ledger, halt, wait=False)
    costing = Costing(TokenEstimate(""), CostEstimate(None), lambda _reply: 0.0)
    return Watched(Tally(total=9, started=0.0), Gate(limiter, day, halt, crew, costing=costing), halt)


@pytest.mark.anyio
async def test_a_run_held_by_the_spend_limit_says_so() -> None:
    """Whoever waits for money is told that it is money."""
    run = watched(Limits(spend_10min_usd=1.0))
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(run.gate.limiter.admit, lambda: Amount(1, 10, NANO // 2))
        await anyio.sleep(0.1)
        assert "held by the spend limit of $1.00 per ten minutes" in words_of(run)
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_what_the_api_said_is_cut_where_it_is_long() -> None:
    """The line stays readable, and shows that something was cut."""
    run = watched(Limits())
    run.tally.refused(Failure(FailureKind.SERVER, "x" * 500))
    said = words_of(run)[-1]
    assert said.endswith("x…")
    assert len(said) < MESSAGE + 20
