"""Damaging the answers to packs."""

import json

import pytest

from pipeline.emulator.acts import bend
from pipeline.emulator.damage import DAMAGE
from pipeline.emulator.replies import Said

ROWS = [{"id": f"r{n}", "word": f"w{n}"} for n in range(9)]
PACK = json.dumps(ROWS, separators=(",", ":"))


def ids(kind: str) -> list[str]:
    """Return the ids of a damaged answer in their order."""
    return [one["id"] for one in json.loads(DAMAGE[kind](PACK))]


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("pack-missing", ["r1", "r2", "r4", "r5", "r7", "r8"]),
        ("pack-doubled", [*(f"r{n}" for n in range(9)), "r0", "r4"]),
        ("pack-twice", [*(f"r{n}" for n in range(9)), "r0", "r4", "r8"]),
        ("pack-foreign", ["zzzz", "r1", "r2", "r3", "zzzz", "r5", "r6", "r7", "zzzz"]),
        ("pack-swapped", ["r1", "r0", *(f"r{n}" for n in range(2, 9))]),
        ("pack-shuffled", ["r1", "r3", "r5", "r7", "r8", "r6", "r4", "r2", "r0"]),
        ("pack-empty", []),
    ],
)
def test_ids_are_damaged(kind: str, left: list[str]) -> None:
    """Each kind has its own way."""
    assert ids(kind) == left


@pytest.mark.parametrize(
    ("kind", "own"), [("pack-twice", True), ("pack-shuffled", True), ("pack-doubled", False)]
)
def test_words_of_a_row_stay_its_own_or_do_not(kind: str, own: bool) -> None:
    """A row answered twice has the same words or those of another; order alone changes none."""
    answered = json.loads(DAMAGE[kind](PACK))
    assert all(one["word"][1:] == one["id"][1:] for one in answered) == own


@pytest.mark.parametrize("kind", ["pack-text", "pack-badjson", "pack-cut"])
def test_json_is_broken(kind: str) -> None:
    """What comes is no JSON any more."""
    with pytest.raises(json.JSONDecodeError):
        json.loads(DAMAGE[kind](PACK))


@pytest.mark.parametrize("kind", sorted(DAMAGE.keys() - {"pack-cut"}))
@pytest.mark.parametrize("text", ['{"label":"good"}', "plain words", ""])
def test_an_answer_to_one_row_stays_whole(kind: str, text: str) -> None:
    """There is no pack in it to damage."""
    assert DAMAGE[kind](text) == text


@pytest.mark.parametrize("kind", sorted(DAMAGE))
def test_an_answer_that_was_cut_before_is_no_mistake(kind: str) -> None:
    """Its cap may have cut it; a fault does not stumble over that."""
    assert len(DAMAGE[kind](PACK[: len(PACK) // 2])) <= len(PACK)


def test_a_loop_is_of_packs_only() -> None:
    """A row alone is answered as ever, so that all rows of damaged packs can have an answer in the end."""
    alone = Said('{"sentiment": "positive"}', "STOP", 10, 9, [])
    assert bend("pack-loop", alone, 500) == alone


@pytest.mark.parametrize(("kind", "output"), [("pack-short", 60), ("pack-loop", 500)])
def test_an_answer_ends_at_its_cap(kind: str, output: int) -> None:
    """With the reason MAX_TOKENS, and what was written is billed."""
    bent = bend(kind, Said(PACK, "STOP", 10, 90, []), 500)
    assert (bent.finish, bent.output) == ("MAX_TOKENS", output)
    with pytest.raises(json.JSONDecodeError):
        json.loads(bent.text or "")
