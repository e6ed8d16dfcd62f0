"""The first 8 bytes of keys and digests, as numbers: enough to find rows by, not to tell them apart."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Heads: TypeAlias = NDArray[np.uint64]

BUCKETS = 64  # into which rows are sorted by their keys
MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no key is lost in the product


def heads(digests: Sequence[bytes]) -> Heads:
    """Return the first 8 bytes of 16-byte digests as little-endian numbers."""
    return np.frombuffer(b"".join(digests), dtype="<u8")[::2].astype(np.uint64)


def names(keys: Heads, digests: Heads) -> Heads:
    """Mix key and digest of each row into one number; wrapping around is meant."""
    return keys * MIX + digests


def bucket_of(keys: Heads) -> NDArray[np.uint8]:
    """Return the bucket of each row; equal keys are in one."""
    return (keys % np.uint64(BUCKETS)).astype(np.uint8)
