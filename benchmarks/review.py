"""The answer that all benchmarks ask for: small and typed, like most first schemas."""

from typing import Literal

from pydantic import BaseModel, Field


class Review(BaseModel):
    """What a review says."""

    sentiment: Literal["positive", "negative", "neutral"]
    score: int = Field(ge=1, le=5, description="1 is the worst, 5 the best")
    reason: str = Field(description="one short sentence")
