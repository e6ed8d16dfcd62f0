"""Reviews that the emulator labels, each with a word of its own, and an instruction that is worth a cache."""

import hashlib

ROWS = 60  # where a test needs no other number
INSTRUCTION = "You label reviews. " + "A review that praises is positive, one that scolds is negative. " * 150


def word(row: int) -> str:
    """Return a word that stands in one row only."""
    return "w" + hashlib.blake2b(str(row).encode(), digest_size=4).hexdigest()


def texts(rows: int = ROWS) -> list[str]:
    """Return texts that the emulator labels."""
    return [f"{'good' if n % 3 else 'terrible'} {word(n)}" for n in range(rows)]


def labels(rows: int = ROWS) -> list[str]:
    """Return their labels."""
    return ["positive" if n % 3 else "negative" for n in range(rows)]
