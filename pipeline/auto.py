"""What `packing.rows = "auto"` means for a job now, in words, and the command that finds out."""

import shlex

from pipeline.plan import RUNS, Plan
from pipeline.progress import many
from pipeline.store.advice import Advice, differences
from pipeline.store.folder import in_words

NEAR = 2  # things in which the nearest calibration may differ and still be worth a word
FOUND = "`packing.rows` is `auto`: {packs}, as the calibration of {day} found with {rows}"
UNKNOWN = (
    "`packing.rows` is `auto` and no calibration with this prompt, schema, model, settings and address is "
    "known, so each row has a request of its own: `{command}` finds out how many may share one"
)
OTHER = "; the nearest one that is known differs in {names}"
KEPT = (
    "not taken: `auto` keeps to the calibration of {day}, {packs}, since {why} ({rows}; {sizes} in a "
    "request); `--replace` takes this one instead, and asks nothing again"
)


def auto_words(plan: Plan) -> list[str]:
    """Return a note where calibration says how many rows share a request, or does not yet."""
    if plan.checked.loaded.job.packing.rows != "auto":
        return []
    found = plan.advice
    if found is not None:
        return [FOUND.format(packs=_packs(found), day=_day(found), rows=many(found.sample, "row"))]
    names = differences(plan.folder, plan.identity)
    near = ", ".join(f"`{name}`" for name in in_words(names)) if len(names) <= NEAR else ""
    words = UNKNOWN.format(command=calibrate_command(plan))
    return [words + (OTHER.format(names=near) if near else "")]


def kept_words(kept: Advice, why: str) -> str:
    """Say that an earlier calibration is kept, and why."""
    sizes = ", ".join(map(str, kept.sizes))
    return KEPT.format(
        day=_day(kept), packs=_packs(kept), why=why, rows=many(kept.sample, "row"), sizes=sizes
    )


def found_words(found: Advice) -> str:
    """Say what a calibration recommends, and why."""
    rows, sample = many(found.rows, "row"), many(found.sample, "row")
    return f"the calibration of {_day(found)} with {sample} recommends {rows} a request: {found.reason}"


def calibrate_command(plan: Plan) -> str:
    """Return the command that calibrates this: the job file as it was named, and the flags that count."""
    loaded, endpoint = plan.checked.loaded, str(plan.identity["endpoint"])
    words = ["rowmill", "calibrate", str(loaded.given)]
    words += ["--offline"] if endpoint == "emulator" else []
    words += ["--base-url", endpoint] if "://" in endpoint else []
    words += ["--model", loaded.job.model.id] if ("model", "id") in loaded.replaced else []
    words += ["--input", loaded.job.input.path] if ("input", "path") in loaded.replaced else []
    runs = plan.folder.path.parent.parent
    words += ["--runs-dir", str(runs)] if runs != loaded.project / RUNS else []
    return shlex.join(words)


def _packs(found: Advice) -> str:
    return (
        f"up to {found.rows} rows share a request" if found.rows > 1 else "each row has a request of its own"
    )


def _day(found: Advice) -> str:
    return f"{found.at:%F}"
