"""Where tiles lie and what is sent of them: nothing past the limit, every wanted tile once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import polarindex as pi
from polarindex.gpu.residence import BUFFERS, RESIDENT, Residence, parts, residence, runs

homes = st.builds(
    Residence, tiles=st.just(10_000), resident=st.integers(0, 300), block=st.integers(1, 90)
) | st.just(Residence(10_000, 10_000, 0))
wanted = st.sets(st.integers(0, 2000)).map(lambda found: np.array(sorted(found), np.int32))


@given(
    st.integers(1, 10**7), st.sampled_from([8, 16]), st.sampled_from([2048, 32_768, 524_288]), st.integers(1, 10**11)
)
def test_what_the_device_holds_is_within_its_limit(n, row_bytes, tile_bytes, limit):
    try:
        home = residence(n, row_bytes, tile_bytes, limit)
    except pi.GpuError as error:
        need = -(-n // 64) * 64 * row_bytes + BUFFERS * tile_bytes
        assert limit < need and f"{need:,}" in str(error)
        return
    assert home.rows >= n
    assert home.nbytes(row_bytes, tile_bytes) <= limit
    assert 0 <= home.resident <= home.tiles
    assert (home.block == 0) == (home.resident == home.tiles)
    if home.block:  # it would not have fitted, and little of the limit is left unused
        assert -(-n // 64) * (64 * row_bytes + tile_bytes) > limit
        assert limit - home.nbytes(row_bytes, tile_bytes) < tile_bytes


@pytest.mark.parametrize(("limit", "resident"), [(1 << 34, 0.99), (1 << 26, 0.5)])
def test_buffers_take_little_of_a_large_limit_and_half_of_a_small_one(limit, resident):
    home = residence(10**9, 0, 32_768, limit)
    assert home.resident * 32_768 >= resident * limit
    assert home.block * 32_768 <= 1 << 26


@given(homes, wanted)
def test_every_wanted_tile_is_in_one_part_and_no_other_is(home, tiles):
    found = parts(home, tiles)
    np.testing.assert_array_equal(np.concatenate([np.empty(0, np.int32), *(tiles[a:b] for _, a, b in found)]), tiles)
    assert [block for block, _, _ in found] == sorted({block for block, _, _ in found})
    for block, start, stop in found:
        first = home.first(block)
        last = first + (home.resident if block == RESIDENT else home.block)
        assert start < stop
        assert (tiles[start:stop] >= first).all() and (tiles[start:stop] < last).all()
    assert home.blocks(int(tiles.max(initial=-1)) + 1) >= max((block + 1 for block, _, _ in found), default=0)


@given(wanted.filter(len))
def test_runs_are_the_tiles(tiles):
    found = runs(tiles)
    np.testing.assert_array_equal(np.concatenate([np.arange(start, start + count) for start, count in found]), tiles)
    assert all(a + count < b for (a, count), (b, _) in zip(found, found[1:], strict=False))  # no two could be one
