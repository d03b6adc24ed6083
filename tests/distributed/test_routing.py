"""Where ids belong: the same for everybody, in equal shares, and few move when shards are added."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from polarindex.checks import LARGEST_ID
from polarindex.distributed.routing import mixed, shards_of

IDS = arrays(np.int64, st.integers(0, 40), elements=st.integers(0, LARGEST_ID))
SHARDS = st.integers(1, 300)
WORD = 2**64


def splitmix64(number: int) -> int:
    """The finaliser, in whole numbers."""
    z = (number + 0x9E3779B97F4A7C15) % WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def jump(key: int, shards: int) -> int:
    """The loop of the paper."""
    b, j = -1, 0
    while j < shards:
        b = j
        key = (key * 2862933555777941757 + 1) % WORD
        j = int((b + 1) * (float(1 << 31) / float((key >> 33) + 1)))
    return b


@given(IDS, SHARDS)
def test_routing_is_the_papers_one_id_at_a_time(ids, shards):
    assert mixed(ids).tolist() == [splitmix64(number) for number in ids.tolist()]
    assert shards_of(ids, shards).tolist() == [jump(splitmix64(number), shards) for number in ids.tolist()]


@given(IDS, SHARDS, SHARDS)
def test_an_id_stays_or_moves_to_a_shard_that_is_new(ids, few, many):
    few, many = sorted((few, many))
    before, after = shards_of(ids, few), shards_of(ids, many)
    assert ((before == after) | (after >= few)).all()


@pytest.mark.parametrize("shards", [2, 7, 64])
@pytest.mark.parametrize("step", [1, 1000, 2**40])
def test_shares_of_ids_that_count_are_equal_but_for_chance(shards, step):
    n = 64_000
    sizes = np.bincount(shards_of(np.arange(n) * step, shards), minlength=shards)
    assert len(sizes) == shards
    assert np.abs(sizes - n / shards).max() < 5 * np.sqrt(n / shards)


def test_where_some_ids_belong_never_changes():
    """What lies on disks depends on it."""
    ids = np.array([0, 1, 2, 3, 2**31, 2**32, 10**12, LARGEST_ID])
    assert shards_of(ids, 1).tolist() == [0] * 8
    assert shards_of(ids, 8).tolist() == [7, 3, 0, 4, 0, 0, 4, 3]
    assert shards_of(ids, 1000).tolist() == [258, 527, 19, 473, 968, 921, 950, 996]
