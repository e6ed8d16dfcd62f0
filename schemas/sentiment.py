"""What `jobs/sentiment.toml` asks about each review."""

from typing import Literal

from pydantic import BaseModel, Field


# Class docstrings are sent to the model. It writes the fields in order: first the evidence, then the verdict.
class Sentiment(BaseModel):
    """The opinion of one review."""

    reason: str = Field(
        description="One short sentence in English: which words of the review decide the label."
    )
    label: Literal["positive", "negative", "neutral", "mixed"] = Field(
        description="What the writer thinks of the product, as the instruction defines the four labels."
    )
    confidence: float = Field(
        ge=0,  # checked when the answer arrives, whatever the API makes of bounds
        le=1,
        description="How sure the label is: 1.0 is certain, 0.5 is a coin toss between two labels.",
    )
