"""The best of what was offered are left, ties by the smaller id, and nothing is touched beside a query's room."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference
from polarindex.kernels.candidates import id_at, shrink, tighten

BY_PLACE = np.empty(0, np.int64), 0, 0, -1
SMALLEST, LARGEST = np.float32(1e-45), np.finfo(np.float32).max
KINDS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "few": lambda rng, n: rng.integers(0, 3, n),
    "equal": lambda rng, n: np.full(n, 3.25),
    "one better": lambda rng, n: np.where(np.arange(n) == rng.integers(n), 1, 0),
    "one worse": lambda rng, n: np.where(np.arange(n) == rng.integers(n), -1, 0),
    "zeros": lambda rng, n: rng.choice([0.0, -0.0], n),
    "far apart": lambda rng, n: rng.choice([-1, 1], n) * 10.0 ** rng.uniform(-44, 38, n),
    "one far away": lambda rng, n: np.where(np.arange(n) == rng.integers(n), -LARGEST, 1 + rng.random(n)),
    "at both ends": lambda rng, n: rng.choice([-LARGEST, LARGEST, 0, 1], n),
    "neighbours": lambda rng, n: np.float32(1e6) + np.float32(0.0625) * rng.integers(0, 3, n),
    "smallest": lambda rng, n: SMALLEST * rng.integers(-2, 3, n),
    "some infinite": lambda rng, n: rng.choice([-np.inf, np.inf, 1, 2, 3], n),
    "some nothing": lambda rng, n: np.where(rng.random(n) < 0.1, -np.inf, rng.normal(size=n)),
    "mostly nothing": lambda rng, n: np.where(rng.random(n) < 0.9, -np.inf, rng.normal(size=n)),
    "all nothing": lambda rng, n: np.full(n, -np.inf),
    "with the largest": lambda rng, n: rng.choice([np.inf, LARGEST, -LARGEST, -np.inf], n),
}


def best(scores, ids, keep):
    order = np.lexsort((ids, -scores))[:keep]
    return scores[order], ids[order]


class Three:
    """Room for three queries, the second of which holds candidates; ids are places."""

    def __init__(self, scores, places, keep):
        self.room, self.keep, self.held = kernels.candidate_room(keep), keep, len(scores)
        self.scores = np.full(3 * self.room + 16, np.nan, np.float32)
        self.places = np.full(3 * self.room + 16, -77, np.int32)
        self.scores[self.room :][: self.held], self.places[self.room :][: self.held] = scores, places

    def left(self, count):
        """Scores and places, after a look at what is beside."""
        mine = slice(self.room, 2 * self.room)
        assert np.isnan(np.delete(self.scores, mine)).all() and (np.delete(self.places, mine) == -77).all()
        return self.scores[mine][:count], self.places[mine][:count]

    def tightened(self):
        limit, count = tighten(self.scores, self.places, self.room, self.held, self.keep)
        return limit, *self.left(count)

    def shrunk(self, names=BY_PLACE):
        worst = shrink(self.scores, self.places, self.room, self.held, self.keep, names)
        return worst, *self.left(self.keep)


def check(scores, places, keep):
    wanted = best(scores, places, keep)
    worst, *left = Three(scores, places, keep).shrunk()
    assert worst == wanted[0][-1]
    for one, other in zip(best(*left, keep), wanted, strict=True):
        assert_array_equal(one, other)
    limit, left_scores, left_places = Three(scores, places, keep).tightened()
    assert limit <= wanted[0][-1]
    there = scores >= limit
    assert_array_equal(left_scores, scores[there])  # in their order
    assert_array_equal(left_places, places[there])
    tied = (scores == wanted[0][-1]).sum()
    assert keep <= len(left_scores) <= max(keep + keep // 4 + 4, keep + tied - 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [1, 2, 5, 16, 40, 97])
def test_the_best_are_left_whatever_the_scores(kind, keep):
    rng = np.random.default_rng(keep)
    room = kernels.candidate_room(keep)
    for held in sorted({keep + 1, keep + 2, room // 2 + 3, *range(room - 34, room + 1)}):
        if held > keep:
            check(KINDS[kind](rng, held).astype(np.float32), rng.permutation(held).astype(np.int32), keep)


SCORES = st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, np.inf, -np.inf])


@given(st.data(), st.integers(1, 12))
def test_the_best_are_left_of_any_scores(data, keep):
    room = kernels.candidate_room(keep)
    scores = np.array(data.draw(st.lists(SCORES, min_size=keep + 1, max_size=room)), np.float32)
    places = np.array(data.draw(st.permutations(range(len(scores)))), np.int32)
    check(scores, places, keep)


def test_very_many_may_be_kept(rng):
    keep = 10**6
    held = kernels.candidate_room(keep) - 3
    scores = np.where(rng.random(held) < 0.4, 0, rng.normal(size=held))
    check(scores.astype(np.float32), rng.permutation(held).astype(np.int32), keep)


@pytest.mark.parametrize("keep", [1, 2, 7, 8, 9, 15, 16, 17, 100])
def test_a_room_is_whole_registers_and_has_two_pages_for_each_of_two_looks(keep):
    room = kernels.candidate_room(keep)
    assert room == reference.candidate_room(keep)
    assert room % 16 == 0 and 2 * keep + 64 <= room < 2 * keep + 80


@pytest.mark.parametrize("page_bits", [0, 2])
def test_of_equal_scores_ids_decide_and_not_places(rng, page_bits):
    """Ids of one word and of two, of which either decides."""
    n, width = 120, 5
    for wide, ids in (
        (False, 2**32 - 1 - rng.permutation(n)),
        (True, (rng.permutation(n) << 32) + 2**32 - 1),
        (True, rng.permutation(n) + 2**32 - n // 2),
        (True, rng.integers(0, 2**63, n)),
    ):
        id_word = width - 1 - wide
        blocks = [np.zeros((2**page_bits, width, 16), np.uint32) for _ in range(8 // 2**page_bits)]
        for place, ident in enumerate(ids.tolist()):
            page, lane = divmod(place, 16)
            words = blocks[page >> page_bits][page % 2**page_bits, :, lane]
            words[:] = 0xFFFFFFFF
            words[id_word] = ident & 0xFFFFFFFF
            if wide:
                words[id_word + 1] = ident >> 32
        names = np.array([block.ctypes.data for block in blocks]), page_bits, width, id_word
        assert [id_at(*names, place) for place in range(n)] == ids.tolist()
        places = rng.permutation(n).astype(np.int32)
        for scores in (np.zeros(n), rng.integers(0, 3, n)):
            scores = scores.astype(np.float32)
            worst, *left = Three(scores, places, 40).shrunk(names)
            got = best(left[0], ids[left[1]], 40)
            for one, other in zip(got, best(scores, ids[places], 40), strict=True):
                assert_array_equal(one, other)


def test_without_a_word_for_ids_places_are_ids():
    assert id_at(*BY_PLACE, np.int32(2**31 - 1)) == 2**31 - 1
