"""Rows of very different lengths, in English and Korean, for runs that tokens bound.

Lengths are drawn log-uniformly from 20 to 4,000 tokens: as many rows between 20 and 40 as between 2,000 and
4,000, a mean of about 750. The text is then made to be about that long; the server counts what it is.
"""

import random
from collections.abc import Iterator
from math import exp, log

from benchmarks.ground import ENDS, MIDDLES, OPENINGS

FEWEST, MOST = 20, 4_000
_INSTRUCTIONS = 20  # tokens of the prompt besides the text
_CHARACTERS = {"en": 4.4, "ko": 1.5}  # of a token, about
_KOREAN = [
    "배송이 빨라서 좋았어요",
    "색상이 화면과 달라서 조금 실망했습니다",
    "두 달째 쓰고 있는데 아직 튼튼합니다",
    "포장이 찢어져서 왔지만 교환은 친절했어요",
    "가격에 비해 품질이 훌륭합니다",
    "소리가 커서 밤에는 쓰기 어렵네요",
]


def lengthy(tokens: int, *, korean: bool) -> Iterator[tuple[str, str]]:
    """Yield ids and texts that have about so many tokens together; with `korean`, half of the texts are."""
    dice = random.Random(1)
    number = 0
    while tokens > 0:
        size = exp(dice.uniform(log(FEWEST), log(MOST)))
        language = "ko" if korean and dice.random() < 0.5 else "en"
        yield str(number), _text(dice, number, size - _INSTRUCTIONS, language)
        tokens -= round(size)
        number += 1


def _text(dice: random.Random, number: int, tokens: float, language: str) -> str:
    """Put sentences together up to a length; the number makes each text another."""
    wanted = max(0, round(tokens * _CHARACTERS[language]))
    text = f"No {number}."
    while len(text) < wanted:
        text += " " + _sentence(dice, language)
    return text[: max(wanted, len(f"No {number}."))]


def _sentence(dice: random.Random, language: str) -> str:
    if language == "ko":
        return dice.choice(_KOREAN) + "."
    return f"{dice.choice(OPENINGS)} {dice.choice(MIDDLES)}, {dice.choice(ENDS)}"
