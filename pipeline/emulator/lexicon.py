"""How a text feels: TextBlob's English lexicon, with a few words of our own for goods and other languages."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_Assess = Callable[[Iterable[tuple[str, None]]], list[tuple[list[str], float, float, Any]]]

_WORD = re.compile(r"[^\W\d_]+|!")
_EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")
_CJK = re.compile("[\u0600-\u06ff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")

_LONGEST = 20_000  # characters of a text that are read; the mood of a book shows in its first pages


def _scored(score: float, words: str) -> dict[str, float]:
    return dict.fromkeys(words.split(), score)


# What reviews say of goods and a lexicon of adjectives does not know, and other languages' plainest words.
_WORDS = (
    _scored(0.7, "loves recommend recommended flawless flawlessly delighted sturdy comfy gorgeous bargain")
    | _scored(0.5, "thanks thank durable reliable cosy cozy pleased impressed works")
    | _scored(-0.7, "refund scam defective faulty unusable rubbish junk crap avoid waste wasted scratched")
    | _scored(
        -0.6, "broke breaks leaked leaks leaking crashed crashes stopped died failed fails cracked missing"
    )
    | _scored(
        -0.4, "returned returning complaint complain peeling stains smells noisy flimsy delayed unanswered"
    )
    | _scored(
        0.7, "gut super toll klasse prima zufrieden begeistert empfehlenswert perfekt hervorragend besser"
    )
    | _scored(-0.7, "schlecht schlechte kaputt enttäuscht enttäuschend mangelhaft defekt reklamation leider")
    | _scored(0.7, "bon bonne excellent excellente parfait parfaite génial ravie ravi recommande")
    | _scored(-0.7, "mauvais mauvaise nul nulle déçu déçue décevant retard cassé cassée horrible odeur")
    | _scored(
        0.7, "bueno buena excelente perfecto perfecta encanta feliz contento recomiendo suave maravilla"
    )
    | _scored(-0.7, "malo mala peor pésimo roto rota decepción decepcionado decepcionada defectuoso")
    | _scored(0.7, "ottimo ottima perfetto perfetta buono ótimo ótima perfeito świetny świetnie polecam")
    | _scored(-0.7, "pessimo pessima rotto péssimo avariado zepsuty słaby zły niestety")
)
_PIECES = _scored(
    0.7,
    "좋아 좋은 훌륭 만족 추천 최고 好き 良い 最高 満足 おすすめ 很好 喜欢 满意 推荐 很棒"
    " مريح أنصح ممتاز رائع",
) | _scored(-0.7, "나쁜 별로 최악 실망 고장 불만 환불 悪い 最悪 残念 壊れ 很差 失望 坏了 سيء سيئ رديء")
_FACES = _scored(0.8, "😊 😀 😃 😄 😁 😍 🥰 😘 👍 🎉 💛 💚 💙 🧡 💜 ❤ ⭐ 🌟 ✨ 🙌 👌 🤩 💯") | _scored(
    -0.8, "😡 😠 🤬 👎 😞 😢 😭 😤 💔 🤮 🤢 😒 😩 🙄 ☹ 🚫 🗑"
)

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
    found = [(" ".join(chunk), score) for chunk, score, *_ in assessor()((word, None) for word in words)]
    found += [(word, _WORDS[word]) for word in words if word in _WORDS]
    if not plain.isascii():
        found += [(face, _FACES[face]) for face in _EMOJI.findall(plain) if face in _FACES]
        if _CJK.search(plain):
            found += [(piece, score) for piece, score in _PIECES.items() if piece in plain]
    return _summed(found, _STARS.search(text))


def _summed(found: list[tuple[str, float]], stars: re.Match[str] | None) -> Mood:
    found = [(word, score) for word, score in found if score]
    if stars is not None:
        found.append((stars[0], (int(stars[1] or stars[2]) - 3) / 2))
    if not found:
        return Mood(0.0, mixed=False, words=())
    polarity = sum(score for _, score in found) / len(found)
    best, worst = max(score for _, score in found), min(score for _, score in found)
    found.sort(key=lambda pair: -abs(pair[1]))
    mixed = best >= 0.3 and worst <= -0.3 and abs(polarity) < 0.3
    return Mood(max(-1.0, min(1.0, polarity)), mixed, tuple(word.strip(" !") for word, _ in found[:3]))
