"""Heads are the first bytes of digests, and equal keys lie in one bucket."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.heads import BUCKETS, bucket_of, heads, names

numbers = st.integers(0, 2**64 - 1)


@given(st.lists(st.binary(min_size=16, max_size=16)))
def test_a_head_is_the_first_half(digests: list[bytes]) -> None:
    """Little-endian, on every machine."""
    assert heads(digests).tolist() == [int.from_bytes(one[:8], "little") for one in digests]


@given(numbers, numbers, numbers)
def test_names_of_one_text_differ_by_key(key: int, other: int, text: int) -> None:
    """No key is lost in the mix, and the bucket is the key's alone."""
    both, texts = np.array([key, other], np.uint64), np.array([text, text], np.uint64)
    mixed = names(both, texts)
    assert (mixed[0] == mixed[1]) == (key == other)
    assert bucket_of(both).tolist() == [key % BUCKETS, other % BUCKETS]
