"""The answer that all benchmarks ask for: small and typed, like most first schemas."""

from typing import Literal

from pydantic import BaseModel, Field


class Review(BaseModel):
    """What a review says."""

    sentiment: Literal["positive", "negative", "neutral"]
    topic: Literal["product", "delivery", "service"] = Field(description="what it is about most")
    reason: str = Field(description="one short sentence")
