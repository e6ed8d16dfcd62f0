"""What the emulator bills for gemini-3.1-flash-lite, in picodollars."""

import json
import urllib.request

from tests.conftest import Emulator

BILL = {  # fresh, cached and output tokens
    "standard": (250_000, 25_000, 1_500_000),
    "flex": (125_000, 25_000, 750_000),
    "priority": (450_000, 25_000, 2_700_000),
    "batch": (125_000, 25_000, 750_000),
}
STORAGE = 10**6 / 3600  # for a token and a second


def billed(emulator: Emulator) -> int:
    """Return what answers cost without storage; before a batch a first one may have come online."""
    cost = 0
    for tier, bill in emulator.stats()["billed"].items():
        fresh, cached, output = BILL[tier]
        cost += (bill["prompt_tokens"] - bill.get("cached_tokens", 0)) * fresh
        cost += bill.get("cached_tokens", 0) * cached + bill["output_tokens"] * output
    return cost


def stored(emulator: Emulator) -> float:
    """Return what storage cost by the emulator's count."""
    return float(emulator.stats()["cache_token_seconds"]) * STORAGE


def caches(emulator: Emulator) -> list[dict[str, str]]:
    """Return the caches that there are now."""
    request = urllib.request.Request(
        f"{emulator.address}/v1beta/cachedContents", headers={"x-goog-api-key": "test"}
    )
    with urllib.request.urlopen(request) as answer:
        found: list[dict[str, str]] = json.load(answer).get("cachedContents", [])
    return found
