"""Candidates get the keys of their whole codes, to the bit, wherever they lie and in whatever order they stand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference
from polarindex.kernels.limits import INNER_PRODUCT, L2

SETS = [name for name in kernels.available() if name != "generic"]
EVERYDAY = [name for name in SETS if name in (SETS[0], "avx2")]
SIZES = (1, 15, 0, 16, 17, 90, 33)
pytestmark = pytest.mark.skipif(not SETS, reason="only plain loops can run here")


def tags():
    for name, bits in itertools.product(SETS, (2, 3, 4)):
        yield pytest.param(name, bits, marks=[] if name in EVERYDAY and bits == 4 else pytest.mark.isa)
    if "neon" not in SETS:
        yield pytest.param("neon", 4, marks=pytest.mark.isa)


@pytest.fixture
def paged(lay_pages, uneven_table):
    """(bits, dims, wide) -> rows in lists, behind two words of their own, and the list of each page."""

    def rows(bits, dims, wide):
        rng = np.random.default_rng([bits, dims])
        names = rng.permutation(sum(SIZES)) * (2**33 + 1 if wide else 1)
        lists, at = [], 0
        for n in SIZES:
            codes = rng.integers(0, 2**bits, (n, dims), dtype=np.uint8)
            factors = rng.random(n), 1e4 * rng.standard_normal(n)
            lists.append((codes, *factors, names[at : at + n], rng.standard_normal((n, 2))))
            at += n
        paged = lay_pages(bits, uneven_table(bits), lists, 1, wide)
        owners = np.full(paged.pages, -1, np.int32)
        for number, places in enumerate(paged.places):
            owners[places // 16] = number
        return paged, owners

    return rows


def random_candidates(rng, paged, keep, counts):
    places = np.concatenate(paged.places)
    room = kernels.candidate_room(keep)
    found = np.full(len(counts) * room + 16, 7e33, np.float32), np.full(len(counts) * room + 16, -77, np.int32)
    for q, count in enumerate(counts):
        mine = slice(q * room, q * room + count)
        found[0][mine] = rng.integers(-9, 9, count)  # many are equal
        found[1][mine] = np.sort(rng.permutation(places)[:count]) if q % 2 else rng.permutation(places)[:count]
    return (*found, np.array(counts), np.full(len(counts), -np.inf, np.float32))


@pytest.mark.parametrize("metric", [L2, INNER_PRODUCT])
@pytest.mark.parametrize(("name", "bits"), list(tags()))
def test_candidates_get_the_keys_of_their_whole_codes(paged, name, bits, metric):
    """None, fewer than are kept, as many, more; alone on a page and beside each other."""
    for dims, keep, wide in ((5, 1, False), (33, 7, True), (100, 40, False)):
        pages, owners = paged(bits, dims, wide)
        rng = np.random.default_rng(keep)
        counts = [0, 1, keep, keep + 1, min(2 * keep + 30, sum(SIZES)), keep]
        nq, padded = len(counts), -(-dims // 32) * 32
        levels = np.zeros((nq, padded + 4), np.int8)
        levels[:, :dims] = rng.integers(-127, 128, (nq, dims))
        centred, centres = (rng.standard_normal((n, dims)).astype(np.float32) for n in (nq, len(SIZES)))
        queries = centred, levels.view(np.int32), levels.sum(axis=1, dtype=np.int32), rng.random(nq, np.float32)
        centroids = metric, centres, rng.standard_normal(len(SIZES)).astype(np.float32)
        found = random_candidates(rng, pages, keep, counts)
        tag = kernels.Isa(name, 1, bits)
        wanted = reference.whole_keys(tag, pages.store, pages.code, owners, centroids, queries, found, keep)
        kernels.whole_keys(tag, pages.store, pages.code, owners, centroids, queries, found, keep)
        assert found[2].tolist() == [min(count, keep) for count in counts]
        for (keys, places), row, at in zip(reference._held_candidates(found), *wanted, strict=True):
            order, other = np.argsort(places), np.argsort(at[at >= 0])
            assert_array_equal(places[order], at[at >= 0][other], err_msg=f"{dims}")
            assert_array_equal(keys[order], row[at >= 0][other], err_msg=f"{dims}")


@pytest.mark.parametrize("name", EVERYDAY)
def test_a_candidate_whose_key_is_no_number_goes(paged, name):
    """And the others stay, in the lanes before and behind it; infinities are numbers."""
    pages, owners = paged(4, 20, False)
    rng = np.random.default_rng(0)
    places = pages.places[5]
    odd = np.array([np.nan, np.inf, -np.inf], np.float32).view(np.uint32)
    for place, value in zip(places[3:12:3], odd, strict=True):
        page, lane = divmod(int(place), 16)
        pages.blocks[page >> 1][page % 2, pages.code[3], lane] = value
    levels = rng.integers(-127, 128, (1, 36)).astype(np.int8)
    levels[0, 20:] = 0
    queries = (
        rng.standard_normal((1, 20)).astype(np.float32),
        levels.view(np.int32),
        levels.sum(axis=1, dtype=np.int32),
        np.ones(1, np.float32),
    )
    centroids = L2, rng.standard_normal((len(SIZES), 20)).astype(np.float32), np.zeros(len(SIZES), np.float32)
    room = kernels.candidate_room(40)
    found = np.zeros(room + 16, np.float32), np.zeros(room + 16, np.int32), np.array([40]), np.zeros(1, np.float32)
    found[1][:40] = places[:40]
    kernels.whole_keys(
        kernels.Isa(name, 1, 4), pages.store, pages.code, owners, centroids, queries, found, 40
    )
    assert found[1][: found[2][0]].tolist() == np.delete(places[:40], 3).tolist()
    assert found[0][5] == np.inf and found[0][8] == -np.inf
    assert np.isfinite(np.delete(found[0][:39], [5, 8])).all()
