"""Groups of centroids: whole pages of near ones, and how many a query looks into."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex.codes import PANEL
from polarindex.indexes.grouping import askers, checked_groups, group_size, grouped, one_group, with_looks

DIM = 256


def directions(nlist, kind, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "equal":
        return np.tile(rng.standard_normal((1, DIM)), (nlist, 1)).astype(np.float32)
    if kind == "zero":
        return np.zeros((nlist, DIM), np.float32)
    if kind == "line":
        return np.outer(rng.permutation(nlist), np.ones(DIM)).astype(np.float32)
    x = rng.standard_normal((nlist, DIM))
    if kind == "clustered":
        x = 0.3 * x + rng.standard_normal((nlist // 40, DIM))[rng.integers(0, nlist // 40, nlist)]
    return x.astype(np.float32)


def scored(x, centres):
    """Scores of rows as queries, l2."""
    return -((x[:, None].astype(np.float64) - centres[None]) ** 2).sum(axis=2).astype(np.float32)


def learned(x):
    groups, some = grouped(x), askers(len(x))
    return with_looks(groups, scored(x[some], x), scored(x[some], groups.centres(x)), some, DIM)


@pytest.mark.parametrize("kind", ["equal", "zero", "line", "clustered", "spread"])
@pytest.mark.parametrize("nlist", [300, 1000, 1024])
def test_every_list_is_in_one_group_of_whole_pages(kind, nlist):
    x = directions(nlist, kind)
    groups = grouped(x)
    assert groups.size == PANEL and groups.total == -(-nlist // PANEL) > 1
    assert groups.order.dtype == np.int32
    assert_array_equal(np.sort(groups.order), np.arange(nlist))
    for one, other in zip(groups, grouped(x.copy()), strict=True):
        assert_array_equal(one, other)


@pytest.mark.parametrize(("nlist", "d", "pages"), [(1024, 256, 1), (1024, 100, 4), (12_000, 256, 2), (65_536, 784, 4)])
def test_groups_are_larger_where_there_are_many_lists_or_few_dimensions(nlist, d, pages):
    assert group_size(nlist, d) == pages * PANEL
    if nlist * d < 2**18:
        groups = grouped(np.random.default_rng(0).standard_normal((nlist, d)).astype(np.float32))
        assert groups.size == pages * PANEL and groups.total == nlist // groups.size


@pytest.mark.parametrize("nlist", [1, 2, 15, 16, 17, 32])
def test_few_lists_are_one_group(nlist):
    groups = grouped(directions(nlist, "spread"))
    assert (groups.size, groups.total) == (nlist, 1)
    assert [groups.looked(nprobe) for nprobe in range(1, nlist + 1)] == [1] * nlist


def test_lists_in_few_dimensions_are_one_group():
    assert grouped(np.random.default_rng(0).standard_normal((256, 8)).astype(np.float32)).total == 1


def test_lists_that_lie_together_are_a_group():
    """Clusters of a page each, far apart, in any order of lists."""
    rng = np.random.default_rng(0)
    homes = rng.permutation(np.repeat(np.arange(32), PANEL))
    x = (10 * rng.standard_normal((32, DIM))[homes] + rng.standard_normal((512, DIM))).astype(np.float32)
    groups = grouped(x)
    for at in range(0, 512, PANEL):
        assert len(set(homes[groups.order[at : at + PANEL]])) == 1


def test_a_line_is_cut_into_its_parts():
    x = directions(320, "line")
    groups = grouped(x)
    parts = x[groups.order, 0].reshape(-1, PANEL)
    assert (parts.max(axis=1) - parts.min(axis=1) == PANEL - 1).all()


def test_a_groups_centre_is_the_mean_of_its_lists():
    x = directions(300, "clustered")
    groups = grouped(x)
    centres = groups.centres(x)
    assert centres.dtype == np.float32 and centres.shape == (19, DIM)
    for g, centre in enumerate(centres):
        mean = x[groups.order[PANEL * g : PANEL * (g + 1)]].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(centre, mean, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("nlist", [500, 1024])
def test_the_groups_looked_into_hold_the_neighbours_of_centroids(nlist):
    """.998 of them, and not with fewer groups; where few lists are probed, or a group less would not pay, more."""
    x = directions(nlist, "clustered")
    groups, some = learned(x), askers(nlist)
    assert 1 < groups.looked(1) < groups.total
    of_list = np.empty(nlist, int)
    of_list[groups.order] = np.arange(nlist) // PANEL
    scores, group_scores = scored(x[some], x), scored(x[some], groups.centres(x))
    levels = range((nlist // 8).bit_length())
    for level in levels:
        look, shares = groups.looked(2**level), {}
        for tried in {look, look - 1}:
            found = 0
            for q, asker in enumerate(some):
                others = np.delete(np.argsort(-scores[q], kind="stable"), 0)
                assert scores[q].argmax() == asker
                nearest = np.argsort(-group_scores[q], kind="stable")[:tried]
                found += np.isin(of_list[others[: 2**level]], nearest).sum()
            shares[tried] = found / (len(some) * 2**level)
        if look < groups.total:
            assert shares[look] >= 0.998 or look == groups.looked(2 ** (level + 1))
            least = (look - 2) * PANEL + nlist - (groups.total - 1) * PANEL < 2**level
            assert shares[look - 1] < 0.998 or least


@pytest.mark.parametrize("kind", ["equal", "zero", "line", "clustered"])
def test_the_groups_looked_into_hold_as_many_lists_as_are_probed(kind):
    """Whichever they are; all groups where more than an eighth of the lists are probed, and never fewer for more."""
    nlist = 1000
    groups = learned(directions(nlist, kind))
    if kind in ("line", "clustered"):
        assert groups.total > 1 and groups.looked(1) < groups.total
    last = nlist - (groups.total - 1) * groups.size
    looks = [groups.looked(nprobe) for nprobe in range(1, nlist + 1)]
    for nprobe, look in enumerate(looks, 1):
        assert 1 <= look <= groups.total
        assert look == groups.total or (look - 1) * groups.size + last >= nprobe
        assert look == groups.total or nprobe <= nlist // 8
    assert looks == sorted(looks)


def test_groups_that_save_nothing_are_one():
    """In all directions alike: every group holds neighbours."""
    assert learned(directions(512, "spread")).total == 1


def test_groups_of_a_file_are_checked():
    groups = learned(directions(1000, "clustered"))
    again = checked_groups(*groups)
    assert again.looked(5) == groups.looked(5)
    assert checked_groups(*one_group(17)).total == 1
    order, size, looks = groups
    twice = order.copy()
    twice[0] = twice[1]
    with pytest.raises(ValueError, match=r"groups\.npy"):
        checked_groups(twice, size, looks)
    for bad in (0, 17, 1001, 2000):
        with pytest.raises(ValueError, match="lists, wanted whole pages"):
            checked_groups(order, bad, looks)
    for bad in (looks[:-1], np.zeros_like(looks), looks + 1, np.ones_like(looks)):
        with pytest.raises(ValueError, match="looks must be"):
            checked_groups(order, size, bad)
