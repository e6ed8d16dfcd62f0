"""Estimates before a request, learned from replies."""

import random
from collections.abc import Callable

import pytest

from pipeline.flow import Usage
from pipeline.models import Price
from pipeline.tokens import CostEstimate, TokenEstimate

KOREAN = "정말 좋은 영화였습니다 다시 보고 싶어요 "
ENGLISH = "The film was a delight and I would watch it again "


def english(text: str) -> int:
    """Count 40 for the instructions and a token for 4.4 characters."""
    return 40 + round(len(text) / 4.4)


def mixed(text: str) -> int:
    """Count Korean at 1.4 characters to a token, English at 5."""
    wide = sum(letter > "\u1000" for letter in text)
    return 300 + round(wide / 1.4 + (len(text) - wide) / 5)


def learned(count: Callable[[str], int], texts: list[str]) -> TokenEstimate:
    """Return an estimate that has seen these."""
    estimate = TokenEstimate("You label reviews.")
    for text in texts:
        estimate.learn(text, count(text))
    return estimate


def several(*kinds: str, number: int = 60) -> list[str]:
    """Return texts of different lengths and kinds."""
    dice = random.Random(1)
    return [dice.choice(kinds) * dice.randint(1, 40) for _ in range(number)]


def test_the_first_guess_is_four_characters_a_token() -> None:
    """Before any reply English counts a quarter of its characters, and so do the instructions."""
    assert TokenEstimate("a" * 400).tokens("b" * 400) == 200


def test_a_foreign_script_counts_more_from_the_start() -> None:
    """A character of Korean is not a quarter of a token."""
    assert TokenEstimate("").tokens(KOREAN * 10) > 2 * TokenEstimate("").tokens("a" * 10 * len(KOREAN))


@pytest.mark.parametrize(
    ("count", "kinds"), [(english, [ENGLISH]), (mixed, [KOREAN]), (mixed, [KOREAN, ENGLISH])]
)
def test_after_some_replies_the_estimate_is_within_five_percent(
    count: Callable[[str], int], kinds: list[str]
) -> None:
    """One script or two in a run: each gets its own weight."""
    estimate = learned(count, several(*kinds))
    for kind in kinds:
        for text in (kind * 3, kind * 30):
            assert estimate.tokens(text) == pytest.approx(count(text), rel=0.05)


def test_the_estimate_of_a_long_text_learned_from_short_ones() -> None:
    """What short prompts count does not make a long one look short or too long."""
    short = ["word " * (n % 7 + 1) for n in range(50)]
    estimate = learned(lambda text: 300 + round(len(text) / 4.5), short)
    assert 4_500 <= estimate.tokens("word " * 5_000) <= 7_500


def test_the_estimate_follows_a_change() -> None:
    """When the rows become different ones the old ones are forgotten."""
    estimate = learned(english, several(ENGLISH))
    for text in several(ENGLISH, number=1_500):
        estimate.learn(text, 2 * english(text))
    assert estimate.tokens(ENGLISH * 20) == pytest.approx(2 * english(ENGLISH * 20), rel=0.05)


def test_money_follows_the_typical_answer() -> None:
    """Input at its price and the output that answers have had."""
    cost = CostEstimate(Price(0.25, 1.50, 0.025))
    for _ in range(200):
        cost.learn(Usage(prompt=100, output=15, thoughts=5), 1)
    assert cost.amount(1_000, 1).nano_usd == pytest.approx(1_000 * 250 + 20 * 1_500, rel=0.01)


def test_replies_without_an_answer_do_not_make_the_others_cheap() -> None:
    """Blocked and empty ones say nothing of how long an answer is."""
    cost = CostEstimate(Price(0.25, 1.50, 0.025))
    for output in (0, 80, 0, 0):
        cost.learn(Usage(prompt=10, output=output), 1)
    assert (cost.output, cost.seen) == (80, 1)


def test_without_a_price_money_does_not_count() -> None:
    """On the free tier only requests and tokens do."""
    assert CostEstimate(None).amount(1_000, 1).nano_usd == 0


def test_what_is_reserved_is_mostly_enough_and_hardly_too_much() -> None:
    """Where equal texts count up to a tenth more or less, few are reserved much too little."""
    dice = random.Random(2)
    texts, above, reserved, counted = several(KOREAN, ENGLISH, number=1_050), 0, 0, 0
    estimate = TokenEstimate("")
    for place, text in enumerate(texts):
        tokens, room = round(mixed(text) * dice.uniform(0.9, 1.1)), estimate.most(text)
        if place >= 50:
            above, reserved, counted = above + (tokens > room), reserved + room, counted + tokens
        estimate.learn(text, tokens)
    assert above <= 250
    assert reserved <= 1.08 * counted


def test_doubt_is_greatest_before_the_first_reply() -> None:
    """A third more is reserved while nobody knows the tokenizer, and hardly any more later."""
    assert TokenEstimate("").most("a" * 4_000) == 1_300
    estimate = learned(english, several(ENGLISH, number=400))
    assert estimate.most(ENGLISH * 30) <= 1.02 * english(ENGLISH * 30)


def test_what_is_sent_besides_does_not_blow_up_the_reserve() -> None:
    """Two thousand tokens that nobody knew of: after a few replies hardly more than they is reserved."""
    estimate = TokenEstimate("")
    for place in range(6):
        estimate.learn("a" * (20 + 7 * place), 2_006)
        assert estimate.most("a" * 40) <= 1.35 * 2_006
    assert estimate.tokens("a" * 40) == pytest.approx(2_006, rel=0.02)
