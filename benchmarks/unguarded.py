"""The bare loop over google-genai's async client on a bad network; `faults.py` runs it beside Rowmill.

    python -m benchmarks.unguarded TABLE ADDRESS TIMEOUT_S

64 at a time with the SDK's own settings but for the time limit, without which a silent server would hold it
for ever. A row whose call raises is lost. Prints what became of the rows as JSON.
"""

import asyncio
import csv
import json
import sys
from collections import Counter

from google import genai
from google.genai import types

from benchmarks.ground import MODEL, PROMPT
from benchmarks.question import IN_FLIGHT, config
from benchmarks.review import Review

WRONG = "another row's answer"


async def asked(client: genai.Client, shared: types.GenerateContentConfig, text: str) -> str:
    """Return what became of a row: "" where it has its own answer."""
    prompt = PROMPT.format(text=text)
    try:
        response = await client.aio.models.generate_content(model=MODEL, contents=prompt, config=shared)
        reason = Review.model_validate_json(response.text or "").reason
    except Exception as error:  # noqa: BLE001 - whatever it is, the row is lost
        return type(error).__name__
    return "" if text.partition(":")[0] + ":" in reason else WRONG


async def loop(texts: list[str], address: str, timeout_s: float) -> Counter[str]:
    """Ask for all rows; return how many ended in which way."""
    options = types.HttpOptions(base_url=address, timeout=round(timeout_s * 1_000))
    client = genai.Client(api_key="no-key", http_options=options)
    turn, shared = asyncio.Semaphore(IN_FLIGHT), config()

    async def one(text: str) -> str:
        async with turn:
            return await asked(client, shared, text)

    try:
        return Counter(await asyncio.gather(*map(one, texts)))
    finally:
        await client.aio.aclose()


def main(path: str, address: str, timeout_s: str) -> int:
    """Ask for each row of the table."""
    with open(path, newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    print(json.dumps(asyncio.run(loop(texts, address, float(timeout_s)))))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
