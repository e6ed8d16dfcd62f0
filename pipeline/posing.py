"""How a run poses its question: what its requests share, how rows are packed, and what replies cost."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from pipeline.billing import billing
from pipeline.executors.asker import Question
from pipeline.executors.halt import Halt
from pipeline.executors.packed import Packing
from pipeline.executors.purse import Purse
from pipeline.flow import Reply
from pipeline.gemini.call import Generation
from pipeline.packing import Budget, id_name, packed_schema, packed_system
from pipeline.plan import Plan
from pipeline.tiers import STANDARD, wire_tier
from pipeline.tokens import CostEstimate, Costing, TokenEstimate
from pipeline.usage import Tally

OUTPUT_TOKENS = 65_535  # the cap of every Flash-Lite model so far; for models of unknown limits


def generation(plan: Plan) -> Generation:
    """Return what requests about one row share."""
    settings = plan.checked.settings
    return Generation(
        model=settings.model,
        system=plan.checked.loaded.job.prompt.system,
        json_schema=plan.checked.json_schema,
        thinking_level=settings.thinking_level,
        thinking_budget=settings.thinking_budget,
        seed=settings.seed,
        temperature=settings.temperature,
        safety=settings.safety,
        service_tier=wire_tier(plan.checked.loaded.job.model.service_tier),
    )


def packed(plan: Plan) -> Generation:
    """Return what requests about several rows share."""
    alone, schema = generation(plan), plan.checked.json_schema
    return replace(alone, system=packed_system(alone.system, schema), json_schema=packed_schema(schema))


def question(plan: Plan, *, free: bool) -> Question:
    """Return what is asked about a row, and how its answer is judged; tokens may be `free`."""
    checked, packs = plan.checked, plan.pack > 1
    told = checked.loaded.job.packing
    return Question(
        template=checked.template,
        answer=checked.loaded.schema,
        fingerprint=plan.question,
        max_output_tokens=checked.settings.max_output_tokens,
        bound=told.output_tokens if packs else None,
        output_ceiling=checked.model.output_tokens or OUTPUT_TOKENS,
        price=_price(plan, free=free),
    )


def packing(plan: Plan, costs: Costing) -> Packing:
    """Return how many rows share a request, and what bounds it."""
    checked = plan.checked
    told = checked.loaded.job.packing
    minute = checked.limits.tpm
    most = told.prompt_tokens if minute is None else min(told.prompt_tokens, minute - costs.tokens.most(""))
    return Packing(
        Budget(plan.pack, most, told.output_tokens),
        id_name(checked.json_schema),
        checked.settings.max_output_tokens,
        checked.model.output_tokens or OUTPUT_TOKENS,
    )


def costing(plan: Plan, *, free: bool) -> Costing:
    """Return what requests will count and cost; the cost only where a limit of the spending holds."""
    checked = plan.checked
    counts = checked.limits.spend_10min_usd is not None and not free
    tier = checked.loaded.job.model.service_tier
    price = checked.model.price(datetime.now(UTC).date(), tier) if counts else None
    return Costing(
        TokenEstimate(checked.loaded.job.prompt.system), CostEstimate(price), _price(plan, free=free)
    )


def purse(plan: Plan, costs: Costing, tally: Tally, halt: Halt, *, free: bool) -> Purse | None:
    """Return what keeps a run from spending more than `max_cost`; None where the job sets none."""
    checked, most = plan.checked, plan.checked.loaded.job.limits.max_cost
    if most is None:
        return None
    tier, today = checked.loaded.job.model.service_tier, datetime.now(UTC).date()
    price = checked.model.price(today, tier) or checked.model.price(today, STANDARD)
    price = None if free else price
    return Purse(most, lambda text, rows: costs.expected_usd(text, rows, price), tally, halt)


def _price(plan: Plan, *, free: bool) -> Callable[[Reply], float]:
    checked, today = plan.checked, datetime.now(UTC).date()
    return billing(checked.loaded.job.model, checked.model, free=free, today=today)
