"""How a text feels: TextBlob's English lexicon, with a few words of our own for goods and other languages."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pipeline.emulator.vocabulary import FACES, NEGATIONS, PIECES, PLAIN, TURNING_PIECES, TURNS, WORDS

_Assess = Callable[[Iterable[tuple[str, None]]], list[tuple[list[str], float, float, Any]]]

_WORD = re.compile(r"[^\W\d_]+|!")
_EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")
_UNSPACED = re.compile("[\u0590-\u06ff\u0900-\u097f\u0e00-\u0e7f\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")

_LONGEST = 20_000  # characters of a text that are read; the mood of a book shows in its first pages


_STARS = re.compile(
    r"(?i)\b(?:stars?|rating|sterne?|note)\s*[:=]\s*([1-5])\b"
    r"|\b([1-5])\s*(?:/\s*5\b|out of 5\b|stars?\b|sterne?\b)"
)


@dataclass(frozen=True, slots=True)
class Mood:
    """The polarity of a text in [-1, 1], if it leans both ways, and its telling words, strongest first."""

    polarity: float
    mixed: bool
    words: tuple[str, ...]


@lru_cache(maxsize=1)
def assessor() -> _Assess:
    """Load TextBlob's lexicon, which takes about a second; the server does it before it listens."""
    from textblob.en import sentiment  # noqa: PLC0415 - slow, and only servers need it

    sentiment.assessments([("good", None)])
    assess: _Assess = sentiment.assessments
    return assess


def mood(text: str) -> Mood:
    """Judge a text by its words, emoji and stated stars."""
    text = text[:_LONGEST]
    plain = text.lower().replace("’", "'").replace("n't", " not")
    words = _WORD.findall(plain)
    found = _english(words) + _ours(words)
    turns = not TURNS.isdisjoint(words)
    if not plain.isascii():
        found += [(face, FACES[face]) for face in _EMOJI.findall(plain) if face in FACES]
        if _UNSPACED.search(plain):
            found += [(piece, score) for piece, score in PIECES.items() if piece in plain]
            turns = turns or any(piece in plain for piece in TURNING_PIECES)
    stars = _STARS.search(text)
    if stars is not None:
        found.append((stars[0], (int(stars[1] or stars[2]) - 3) / 2))
    return _summed(found, turns=turns)


def _english(words: list[str]) -> list[tuple[str, float]]:
    """Return the chunks that TextBlob scores, without the words that only describe."""
    chunks = assessor()((word, None) for word in words)
    return [(" ".join(chunk), score) for chunk, score, *_ in chunks if score and chunk[-1] not in PLAIN]


def _ours(words: list[str]) -> list[tuple[str, float]]:
    """Return our own words; after a negation they mean half of the opposite."""
    found = []
    for place, word in enumerate(words):
        score = WORDS.get(word)
        if score is not None:
            denied = not NEGATIONS.isdisjoint(words[max(0, place - 2) : place])
            found.append((f"not {word}", -score / 2) if denied else (word, score))
    return found


def _summed(found: list[tuple[str, float]], *, turns: bool) -> Mood:
    """Take the mean; a text that says `but` is mixed where its words lean to one side only a little."""
    if not found:
        return Mood(0.0, mixed=False, words=())
    polarity = sum(score for _, score in found) / len(found)
    best, worst = max(score for _, score in found), min(score for _, score in found)
    found.sort(key=lambda pair: -abs(pair[1]))
    mixed = (best >= 0.3 and worst <= -0.3 and abs(polarity) < 0.3) or turns
    telling = dict.fromkeys(word.strip(" !") for word, _ in found)
    return Mood(max(-1.0, min(1.0, polarity)), mixed, tuple(telling)[:3])
