"""The device's algorithm in NumPy is right: everywhere, without a card."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polarindex.gpu import reference
from polarindex.gpu.layout import TILE, Layout, layout_of, table_words
from polarindex.gpu.shapes import ROOM, Card, instructions, room, sample, shape
from polarindex.kernels import reference as kernels
from polarindex.quantizers import make_quantizer

WIDTHS = (1, 2, 3, 4, 8)
H100, A100 = Card((9, 0), 132, 232_448), Card((8, 0), 108, 166_912)
TURING, SMALL = Card((7, 5), 40, 65_536), Card((12, 0), 84, 101_376)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("dim", [1, 100, 128, 300])
def test_what_is_packed_is_decoded_to_its_levels(bits, dim, rng):
    stage = make_quantizer("eden", dim, bits).stages[0]
    layout = layout_of(stage)
    assert layout == Layout(bits, dim)
    codes = rng.integers(0, 1 << bits, (130, dim)).astype(np.uint8)
    levels = stage.table[codes]
    tiles = reference.pack(layout, levels if bits == 8 else codes)
    assert len(tiles) == 3 * layout.tile_bytes
    found = reference.decode(layout, tiles, table_words(stage, layout))
    np.testing.assert_array_equal(found[:130, :dim], levels)


@pytest.mark.parametrize("bits", WIDTHS)
def test_each_code_lies_where_the_layout_says(bits, rng):
    """One code differs at a time, so that two places that are swapped cannot cancel out."""
    layout = Layout(bits, 256)
    table = np.arange(16, dtype=np.int8)
    table[1 << min(bits, 4) :] = 0
    empty = reference.decode(layout, reference.pack(layout, np.zeros((TILE, 256), np.uint8)), table.view(np.uint32))
    for row, column in zip(rng.integers(0, TILE, 40), rng.integers(0, 256, 40), strict=True):
        codes = np.zeros((TILE, 256), np.uint8)
        codes[row, column] = (1 << min(bits, 7)) - 1
        found = reference.decode(layout, reference.pack(layout, codes), table.view(np.uint32))
        assert np.argwhere(found != empty).tolist() == [[row, column]]


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_the_byte_shuffle_takes_bytes_by_their_numbers(a, b, selector):
    pool = a.to_bytes(4, "little") + b.to_bytes(4, "little")
    expected = bytes(pool[(selector >> (4 * i)) & 7] for i in range(4))
    found = reference.prmt(np.uint32(a), np.uint32(b), np.array([selector], np.uint32))[0]
    assert int(found).to_bytes(4, "little") == expected


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=50))
def test_ordered_keys_compare_as_their_floats(values):
    keys = np.array(values, np.float32)
    order = reference.ordered(keys)
    np.testing.assert_array_equal(order[:, None] > order, keys[:, None] > keys)
    np.testing.assert_array_equal(order[:, None] == order, keys[:, None] == keys)
    np.testing.assert_array_equal(reference.unordered(reference.ordered(keys)), keys)


@given(st.integers(0, 2**32 - 1), st.floats(-30, 30), st.floats(-30, 30), st.floats(-40, 12))
def test_a_first_look_overlooks_no_hit(seed, scale_power, shift_power, gain_power):
    """The hardest thresholds: the keys themselves."""
    rng = np.random.default_rng(seed)
    dots = rng.integers(-(2**24), 2**24, (4, 64)).astype(np.int32)
    gains = (np.exp2(gain_power) * rng.uniform(0.5, 1, 4)).astype(np.float32)
    scales = (np.exp2(scale_power) * rng.normal(size=64)).astype(np.float32)
    shifts = (np.exp2(shift_power) * rng.normal(size=64)).astype(np.float32)
    keys = kernels.add_scores(dots, gains, scales, np.tile(shifts, (4, 1)))
    for column in range(64):
        taus = keys[:, column]
        near = reference.looks_near(dots, gains, scales, shifts, taus)
        assert near[keys >= taus[:, None]].all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from(["plain", "ties", "sorted"]))
def test_lists_of_any_length_give_the_best(seed, k, kind):
    rng = np.random.default_rng(seed)
    n = 16 * int(rng.integers(4, 60))
    keys = rng.normal(size=n).astype(np.float32)
    if kind == "ties":
        keys = rng.integers(0, 3, n).astype(np.float32)
    if kind == "sorted":
        keys.sort()
    ids = rng.permutation(10 * n)[:n]
    sampled = np.arange(16 * int(rng.integers(1, n // 16 + 1)))
    first = int(rng.choice([0, n // 8]))
    found, scores, overflows = reference.best(keys, ids, k, 2 * k, sampled, rng.permutation(n), first)
    order = np.lexsort((ids, -keys))[:k]
    np.testing.assert_array_equal(found, ids[order])
    np.testing.assert_array_equal(scores, keys[order])
    assert overflows <= n  # it ends


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from(["plain", "ties", "sorted"]))
def test_parts_in_turn_give_the_best_of_all(seed, k, kind):
    rng = np.random.default_rng(seed)
    n = 16 * int(rng.integers(4, 60))
    keys = rng.normal(size=n).astype(np.float32)
    if kind == "ties":
        keys = rng.integers(0, 3, n).astype(np.float32)
    if kind == "sorted":
        keys.sort()
    ids = rng.permutation(10 * n)[:n]
    cuts = 16 * np.sort(rng.integers(1, n // 16, int(rng.integers(0, 5))))
    parts = [part for part in np.split(np.arange(n), cuts) if len(part)]
    sampled = parts[0][: 16 * int(rng.integers(1, len(parts[0]) // 16 + 1))]
    found, scores, overflows = reference.best_by_parts(keys, ids, k, 2 * k, parts, sampled, rng.permutation(n))
    order = np.lexsort((ids, -keys))[:k]
    np.testing.assert_array_equal(found, ids[order])
    np.testing.assert_array_equal(scores, keys[order])
    assert overflows <= n


def test_a_part_that_overflows_is_scanned_again_alone(rng):
    keys = np.sort(rng.normal(size=4096)).astype(np.float32)
    parts = np.split(np.arange(4096), 4)
    _, _, overflows = reference.best_by_parts(keys, np.arange(4096), 10, 64, parts, np.arange(16), np.arange(4096))
    assert overflows >= 4


def test_a_list_that_overflows_is_raised_and_filtered_again(rng):
    keys = np.sort(rng.normal(size=4096)).astype(np.float32)
    _, _, overflows = reference.best(keys, np.arange(4096), 10, 64, np.arange(16))
    assert overflows >= 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_a_threshold_is_a_lower_bound_of_the_kth_best(seed, k):
    rng = np.random.default_rng(seed)
    maxima = (rng.normal(size=(3, 30)) * 10.0 ** rng.integers(-30, 30)).astype(np.float32)
    taus = reference.thresholds(maxima, k)
    assert (taus <= -np.sort(-maxima, axis=1)[:, k - 1]).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(0, 60))
def test_a_tightened_threshold_is_a_lower_bound_too_and_no_lower_than_before(seed, k, count):
    rng = np.random.default_rng(seed)
    keys = (rng.normal(size=60) * 10.0 ** rng.integers(-30, 30)).astype(np.float32)
    before = np.sort(keys)[-k]
    tau = reference.tightened(before, keys[:count][keys[:count] >= before], k)
    assert before <= tau <= np.sort(keys)[-k]


@pytest.mark.parametrize("card", [H100, A100, TURING, SMALL])
@pytest.mark.parametrize("bits", WIDTHS)
def test_every_card_has_a_kernel_that_fits(card, bits):
    for dim in (1, 128, 384, 1024, 1536, 4096, 16_384):
        for nq in (1, 2, 9, 40, 65, 256, 1000, 5000):
            form = shape(card, Layout(bits, dim), nq)
            assert form.instruction in instructions(card)
            assert form.shared <= card.shared
            if form.instruction == "wgmma":
                assert Layout(bits, dim).chunks % form.depth == 0


def test_kernels_are_chosen_by_exact_capability():
    assert instructions(H100) == ["wgmma", "mma", "dp4a"]
    assert instructions(SMALL) == instructions(A100) == ["mma", "dp4a"]
    assert instructions(TURING) == ["dp4a"]
    assert H100.architecture == "sm_90a"
    assert SMALL.architecture == "sm_120"


def test_rows_too_long_for_any_kernel_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        shape(TURING, Layout(4, 100_000), 1)


@pytest.mark.parametrize("k", [1, 10, 100, 512, 513, 5000])
def test_lists_hold_twice_the_results_and_samples_are_inside(k):
    assert room(k) >= 2 * k
    assert room(k) == ROOM or k > 512
    for ntiles in (1, 2, 3, 17, 1000, 15_625, 200_000):
        found = sample(ntiles, k)
        assert 1 <= found.tiles <= ntiles
        assert (found.tiles - 1) * found.stride < ntiles
