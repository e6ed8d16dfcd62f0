"""The question as one puts it to google-genai without Rowmill: what all requests share, and the prompts."""

import csv
from pathlib import Path

from google.genai import types

from benchmarks.ground import PROMPT, SYSTEM
from benchmarks.review import Review

IN_FLIGHT = 64


def config() -> types.GenerateContentConfig:
    """Return what all requests share; the schema goes as JSON, made once."""
    return types.GenerateContentConfig(
        system_instruction=SYSTEM,
        response_mime_type="application/json",
        response_json_schema=Review.model_json_schema(),
    )


def prompts_of(path: str) -> list[str]:
    """Return the prompt of each row of a table."""
    with Path(path).open(newline="") as file:
        return [PROMPT.format(text=row["text"]) for row in csv.DictReader(file)]
