"""What a scan of spectral lists is told and how it goes on: the order of lists, and how many segments are the head.

Whole searches are in indexes/test_spectral_lists.py."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from polarindex.kernels.segment_lists import LINES, PART, best_head, nearest_first


def pairs_of(lists, starts, members, offsets):
    """(list, query, offset) of each pair."""
    return list(zip(np.repeat(lists, np.diff(starts)).tolist(), members.tolist(), offsets.tolist(), strict=True))


@given(st.lists(st.lists(st.integers(0, 5), max_size=6, unique=True), max_size=7), st.integers(0, 99))
def test_a_query_first_meets_the_list_that_adds_most_to_its_keys(askers, seed):
    counts = [len(own) for own in askers]
    members, starts = np.array(sum(askers, []), np.int32), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    offsets = np.random.default_rng(seed).permutation(len(members)).astype(np.float32)
    jobs = np.arange(len(askers), dtype=np.int32), starts, members, offsets
    found = nearest_first.py_func(jobs, 6)
    pairs = pairs_of(*found)
    assert sorted(pairs) == sorted(pairs_of(*jobs))
    assert all(len(set(own)) == len(own) > 0 for own in np.split(found[2], found[1][1:-1]) if len(pairs))
    for q in range(6):
        added = [offset for _, asker, offset in pairs if asker == q]
        assert not added or added[0] == max(added)


def test_the_head_is_what_hits_make_cheapest():
    plan = np.zeros((4, PART), np.int64)
    plan[:, LINES] = 8, 24, 40, 16

    def head(*shares):
        return best_head.py_func(plan, np.array([*shares, 0], np.float32), 60)

    assert head(1, 1, 1) == 4
    assert head(0, 0, 0) == 1
    assert head(0.9, 0, 0) == 2
    assert head(0.5, 0.5, 0.1) == 3
    assert_array_equal([head(share, 0, 0) for share in (0.2, 0.4)], [1, 2])  # 24 lines, or a share of 24 + 60
