"""k-means: what holds for any sample, degenerate ones too; that it is good; that a seed decides everything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import polarindex
from polarindex.indexes import assign, kmeans
from polarindex.indexes.kmeans import FEWEST, OVERSIZE, PER_CENTROID, nearest, sample_rows
from polarindex.kernels.lanes import LANES


def blobs(count, each, dim, rng, spread=0.05):
    """Rows (count * each, dim) around `count` centres, and the centres."""
    centres = rng.normal(size=(count, dim)).astype(np.float32)
    noise = spread * rng.normal(size=(count, each, dim))
    return (centres[:, None] + noise).astype(np.float32).reshape(-1, dim), centres


def squares(x, centroids):
    """(n, nlist) squared distances in float64."""
    return np.stack([((x.astype(np.float64) - c.astype(np.float64)) ** 2).sum(axis=1) for c in centroids], axis=1)


def one_thread(monkeypatch):
    for module in (assign, kmeans):
        monkeypatch.setattr(module, "available_cores", lambda: 1)


def in_cells(monkeypatch, nlist):
    """From here on nlist clusters are made in cells; fewer are not, nor are the cells themselves."""
    monkeypatch.setattr(kmeans, "LARGE", nlist)


# --- the nearest centroid


@pytest.mark.parametrize(("n", "nlist", "dim"), [(1, 1, 1), (257, 17, 3), (300, 2100, 5), (9000, 40, 8)])
def test_nearest_is_the_least_of_all_squared_distances(n, nlist, dim):
    rng = np.random.default_rng(nlist)
    x, centroids = (rng.normal(size=(count, dim)).astype(np.float32) for count in (n, nlist))
    numbers, distances = nearest(x, centroids)
    wanted = squares(x, centroids)
    assert numbers.dtype == np.int32 and distances.dtype == np.float32
    assert_array_equal(numbers, wanted.argmin(axis=1))
    np.testing.assert_allclose(distances, wanted.min(axis=1), rtol=1e-6)


@pytest.mark.parametrize("scale", [3e-22, 1e-20, 1e-15, 1.0, 1e15, 1e18])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_nearest_is_exact_at_any_scale_and_far_from_the_origin(scale, offset):
    rng = np.random.default_rng(0)
    x = ((rng.normal(size=(400, 6)) + offset) * (scale / max(offset, 1))).astype(np.float32)
    numbers, distances = nearest(x[50:], x[:50])
    wanted = squares(x[50:], x[:50])
    assert_array_equal(numbers, wanted.argmin(axis=1))
    np.testing.assert_allclose(distances, wanted.min(axis=1).astype(np.float32), rtol=1e-6, atol=2e-45)


def test_nearest_tells_centroids_apart_that_products_do_not(rng):
    few = rng.normal(size=(40, 64)).astype(np.float32)
    centroids = np.repeat(few, 8, axis=0)
    centroids[:, 0] += np.tile(np.linspace(-4e-6, 4e-6, 8), 40).astype(np.float32)
    x = rng.normal(size=(500, 64)).astype(np.float32)
    assert_array_equal(nearest(x, centroids)[0], squares(x, centroids).argmin(axis=1))


def test_of_equal_centroids_the_smaller_number_is_nearest_in_every_tile(rng):
    few = rng.normal(size=(100, 4)).astype(np.float32)
    centroids = np.tile(few, (25, 1))  # 2,500: more than a tile
    numbers, distances = nearest(centroids, centroids)
    assert_array_equal(numbers, np.tile(np.arange(100), 25))
    assert not distances.any()


def test_no_rows_have_no_nearest_centroid():
    numbers, distances = nearest(np.empty((0, 3), np.float32), np.zeros((2, 3), np.float32))
    assert numbers.shape == distances.shape == (0,)


def test_nearest_takes_views_and_rows_that_cannot_be_written(rng):
    x = rng.normal(size=(60, 5)).astype(np.float32)
    wanted = nearest(x[::2], x[:7])
    x.flags.writeable = False
    for rows in (x[::2], np.asfortranarray(x[::2])):
        for got, want in zip(nearest(rows, x[:7]), wanted, strict=True):
            assert_array_equal(got, want)


# --- the sample


def test_a_sample_is_all_rows_or_a_fixed_number_a_list_none_twice():
    assert_array_equal(sample_rows(500, 10, 0), np.arange(500))
    for nlist, size in ((10, FEWEST), (1000, PER_CENTROID * 1000)):
        assert_array_equal(sample_rows(size, nlist, 0), np.arange(size))
        for n in (size + 1, 2 * size, 10**6):
            rows = sample_rows(n, nlist, 0)
            assert len(rows) == size and (np.diff(rows) > 0).all() and 0 <= rows[0] and rows[-1] < n


def test_every_row_is_as_likely_to_be_in_a_sample(monkeypatch):
    monkeypatch.setattr(kmeans, "FEWEST", 1)
    n, rounds = 3 * PER_CENTROID, 3000
    for nlist in (1, 2):  # a third of the rows, and two thirds: what is left out is drawn
        drawn = np.bincount(np.concatenate([sample_rows(n, nlist, seed) for seed in range(rounds)]), minlength=n)
        share = nlist / 3
        deviations = (drawn - share * rounds) / np.sqrt(rounds * share * (1 - share))
        assert abs(deviations).max() < 4.5 and deviations.std() == pytest.approx(1, abs=0.15)


def test_a_seed_draws_the_same_rows_everywhere():
    assert sample_rows(10**9, 1, 7)[:2].tolist() == [9284, 14953]


# --- clusters


@pytest.mark.parametrize(("m", "dim", "nlist"), [(1, 1, 1), (50, 3, 50), (400, 1, 30), (3000, 8, 100), (1000, 40, 1)])
def test_every_cluster_has_a_row_and_says_truly_how_many(m, dim, nlist, rng):
    x = rng.normal(size=(m, dim)).astype(np.float32)
    centroids, sizes, objective = kmeans.kmeans(x, nlist)
    numbers, distances = nearest(x, centroids)
    assert centroids.shape == (nlist, dim) and centroids.dtype == np.float32 and centroids.flags.c_contiguous
    assert sizes.dtype == np.int64 and sizes.min() >= 1
    assert_array_equal(sizes, np.bincount(numbers, minlength=nlist))
    assert isinstance(objective, float) and objective == pytest.approx(distances.mean(dtype=np.float64), rel=1e-6)


def test_as_many_clusters_as_rows_are_the_rows(rng):
    x = rng.normal(size=(300, 4)).astype(np.float32)
    centroids, sizes, objective = kmeans.kmeans(x, 300)
    assert objective == 0 and (sizes == 1).all()
    assert_array_equal(np.sort(centroids, axis=0), np.sort(x, axis=0))


def test_one_cluster_is_the_mean(rng):
    x = (rng.normal(size=(500, 6)) + 1e4).astype(np.float32)
    centroids, sizes, objective = kmeans.kmeans(x, 1)
    assert_array_equal(centroids[0], x.mean(axis=0, dtype=np.float64).astype(np.float32))
    assert sizes.tolist() == [500]
    assert objective == pytest.approx(x.var(axis=0, dtype=np.float64).sum(), rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_clusters_that_lie_apart_are_all_found(seed):
    x, centres = blobs(60, 40, 10, np.random.default_rng(seed))
    centroids, sizes, _ = kmeans.kmeans(x, 60, seed)
    assert_array_equal(sizes, 40)
    assert squares(centroids, centres).min(axis=1).max() < 0.05


def test_the_objective_is_below_that_of_lloyd_from_random_rows():
    x = np.random.default_rng(3).standard_t(4, size=(6000, 12)).astype(np.float32)
    centroids = x[:150]
    for _ in range(10):
        numbers = nearest(x, centroids)[0]
        centroids = np.stack([x[numbers == j].mean(axis=0) for j in range(150)])
    plain = float(nearest(x, centroids)[1].mean())
    assert kmeans.kmeans(x, 150).objective < 0.995 * plain


def test_looking_only_at_neighbours_costs_little(monkeypatch, rng):
    x = rng.normal(size=(12_000, 6)).astype(np.float32)
    every = kmeans.kmeans(x, 300).objective
    looked = []
    near = assign.Search.near
    monkeypatch.setattr(assign.Search, "near", lambda *arguments: looked.append(1) or near(*arguments))
    for module in (assign, kmeans):
        monkeypatch.setattr(module, "NEIGHBOURS", 32)
    few = kmeans.kmeans(x, 300)
    assert looked
    assert few.objective < 1.005 * every
    assert_array_equal(few.sizes, np.bincount(nearest(x, few.centroids)[0], minlength=300))


def test_dense_rows_are_spread_over_many_clusters(rng):
    """Four fifths of the rows in a spot so small that nothing is gained by splitting it."""
    x = rng.normal(size=(10_000, 5)).astype(np.float32)
    x[2000:] *= 1e-3
    sizes = kmeans.kmeans(x, 200).sizes
    assert 1 <= sizes.min() and sizes.max() <= OVERSIZE * 50


def test_without_balance_dense_rows_would_be_few_huge_clusters(rng, monkeypatch):
    monkeypatch.setattr(kmeans, "_ROUNDS", 0)
    x = rng.normal(size=(10_000, 5)).astype(np.float32)
    x[2000:] *= 1e-3
    assert kmeans.kmeans(x, 200).sizes.max() > 2 * OVERSIZE * 50


def test_identical_rows_stay_together_and_the_others_are_balanced(rng):
    x = rng.normal(size=(6000, 4)).astype(np.float32)
    x[::2] = x[0]
    _, sizes, _ = kmeans.kmeans(x, 200)
    largest = np.sort(sizes)[::-1]
    assert largest[0] >= 3000 and largest[1] <= OVERSIZE * 30 and sizes.min() >= 1


@pytest.mark.parametrize("cells", [False, True])
def test_fewer_different_rows_than_clusters_each_get_one(cells, monkeypatch):
    if cells:
        in_cells(monkeypatch, 64)
    x = np.repeat(np.arange(20, dtype=np.float32)[:, None], 50, axis=0)
    centroids, sizes, objective = kmeans.kmeans(x, 64)
    assert objective == 0 and sizes.sum() == 1000 and np.isfinite(centroids).all()
    assert (sizes > 0).sum() == 20


@pytest.mark.parametrize("nlist", [1, 2, 9, 100])
@pytest.mark.parametrize("value", [0.0, -3.5, 1e15, 1e-15])
def test_rows_that_are_all_equal_are_one_cluster(nlist, value):
    centroids, sizes, objective = kmeans.kmeans(np.full((100, 3), value, np.float32), nlist)
    assert_array_equal(centroids, np.float32(value))
    assert objective == 0 and sizes[0] == 100


def test_clusters_do_not_depend_on_scale():
    x, _ = blobs(20, 30, 6, np.random.default_rng(5), spread=0.5)
    plain = kmeans.kmeans(x, 35)
    for power in (-50, 50):  # 1e-15 and 1e15, as powers of two: the bits of a row stay the same
        scaled = kmeans.kmeans(np.ldexp(x, power), 35)
        assert_array_equal(scaled.centroids, np.ldexp(plain.centroids, power))
        assert_array_equal(scaled.sizes, plain.sizes)


def test_far_from_the_origin_clusters_are_as_good():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(4000, 8)).astype(np.float32)
    far = x + np.float32(1e4)
    assert kmeans.kmeans(far, 100).objective == pytest.approx(kmeans.kmeans(x, 100).objective, rel=0.01)


def test_clusters_are_given_up_only_where_their_rows_have_a_host_that_stays(rng):
    centroids = rng.normal(size=(300, 2)).astype(np.float32)
    sizes = rng.integers(0, 50, 300)
    some = rng.permutation(300)[:200]
    givers = kmeans._givers(centroids, sizes, some)
    given = [giver for giver, _ in givers]
    apart = squares(centroids, centroids) + np.diag(np.full(300, np.inf))
    assert set(given) <= set(some.tolist()) and not set(given) & set(apart[given].argmin(axis=1).tolist())
    costs = [apart[j].min() * sizes[j] * (n := sizes[apart[j].argmin()]) / max(sizes[j] + n, 1) for j in given]
    np.testing.assert_allclose([cost for _, cost in givers], costs, rtol=1e-9, atol=1e-12)
    assert costs == sorted(costs) and len(given) > 50


@pytest.mark.parametrize("nlist", [2, 40, 200])
def test_centroids_without_rows_go_to_rows_far_away_until_none_is_left(nlist, rng):
    x = rng.normal(size=(200, 3)).astype(np.float32)
    for start in (np.zeros(3), np.full(3, 100.0)):
        centroids, (numbers, _) = kmeans._balanced(assign.Search(x), np.tile(start, (nlist, 1)).astype(np.float32))
        assert np.bincount(numbers, minlength=nlist).min() >= 1


def test_identical_rows_far_away_get_one_empty_centroid():
    x = np.array([[0.0], [0.0], [9.0], [9.0], [9.0], [4.0]], np.float32)
    centroids = np.zeros((3, 1), np.float32)
    filled = kmeans._filled(x, centroids, assign.nearest_exactly(x, centroids))
    assert filled is not None and filled.ravel().tolist() == [0.0, 9.0, 4.0]
    assert not centroids.any()


# --- in cells


def test_clusters_made_in_cells_are_nearly_as_good(monkeypatch):
    x, _ = blobs(300, 60, 8, np.random.default_rng(7), spread=0.4)
    plain = kmeans.kmeans(x, 400)
    in_cells(monkeypatch, 400)
    centroids, sizes, objective = kmeans.kmeans(x, 400)
    exact = float(nearest(x, centroids)[1].mean(dtype=np.float64))
    assert centroids.shape == (400, 8) and sizes.sum() == len(x)
    assert 1 <= sizes.min() and sizes.max() <= OVERSIZE * len(x) / 400
    assert exact <= objective * (1 + 1e-6) and objective < 1.001 * exact  # rows miss their nearest centroid seldom
    assert objective < 1.03 * plain.objective


def test_in_cells_no_row_meets_all_centroids(monkeypatch, rng):
    in_cells(monkeypatch, 900)
    met = []
    exactly = assign._offered
    monkeypatch.setattr(assign, "_offered", lambda x, c: met.append(len(x) * len(c)) or exactly(x, c))
    x = rng.normal(size=(18_000, 4)).astype(np.float32)
    search = assign.Search(x, x[:30])
    met.clear()
    search.all(x[:900])
    assert sum(met) < 0.4 * len(x) * 900  # 8 of 30 cells


def test_a_row_around_which_no_cell_has_a_centroid_looks_at_all(monkeypatch):
    monkeypatch.setattr(assign, "CELLS", 1)
    coarse = np.array([[0.0], [10.0], [20.0]], np.float32)
    x = np.array([[0.0], [9.0], [11.0], [21.0]], np.float32)
    numbers, distances = assign.Search(x, coarse).all(np.array([[1.0], [19.0]], np.float32))
    assert numbers.tolist() == [0, 0, 1, 1] and distances.tolist() == [1.0, 64.0, 64.0, 4.0]


def test_of_equally_near_centroids_in_two_cells_a_row_takes_the_smaller_number():
    coarse = np.array([[-1.0], [1.0]], np.float32)
    x = np.zeros((3, 1), np.float32)
    for centroids in ([[1.0], [-1.0]], [[-1.0], [1.0]]):
        numbers, _ = assign.Search(x, coarse).all(np.array(centroids, np.float32))
        assert numbers.tolist() == [0, 0, 0]


# --- seeds, threads, progress, errors


@pytest.mark.parametrize("cells", [False, True])
def test_a_seed_decides_everything_and_threads_nothing(cells, monkeypatch, rng):
    x = rng.normal(size=(20_000, 5)).astype(np.float32)
    if cells:
        in_cells(monkeypatch, 100)
    monkeypatch.setattr(assign, "_PART", 1000)
    for module in (assign, kmeans):
        monkeypatch.setattr(module, "available_cores", lambda: 4)
    first, other = kmeans.kmeans(x, 100, seed=1), kmeans.kmeans(x, 100, seed=2)
    one_thread(monkeypatch)
    again = kmeans.kmeans(x, 100, seed=1)
    assert_array_equal(first.centroids, again.centroids)
    assert_array_equal(first.sizes, again.sizes)
    assert first.objective == again.objective
    assert (first.centroids != other.centroids).any()


CLUSTERED = """
import sys
import numpy as np
from polarindex.indexes.kmeans import kmeans
made = kmeans(np.random.default_rng(0).standard_normal((5_000, 48), np.float32), 60, seed=1)
sys.stdout.write(made.centroids.tobytes().hex())
"""


def test_threads_of_blas_change_no_bit():
    def clustered(threads):
        told = {"OPENBLAS_NUM_THREADS": str(threads), "PYTHONPATH": str(Path(polarindex.__file__).parents[1])}
        command = [sys.executable, "-c", CLUSTERED]
        return subprocess.run(command, env=os.environ | told, capture_output=True, text=True, check=True).stdout

    one, several = clustered(1), clustered(2)
    assert len(one) == 2 * 4 * 48 * 60 and one == several


def test_blocks_and_tiles_change_no_bit(monkeypatch, rng):
    x = rng.normal(size=(3000, 7)).astype(np.float32)
    wanted = kmeans.kmeans(x, 90)
    for name, value in (("_BLOCK", 13), ("_TILE", 48), ("_PART", 701)):
        monkeypatch.setattr(assign, name, value)
    assert_array_equal(kmeans.kmeans(x, 90).centroids, wanted.centroids)


def test_the_sample_is_left_as_it_was(rng):
    x = rng.normal(size=(500, 3)).astype(np.float32)
    before = x.copy()
    x.flags.writeable = False
    kmeans.kmeans(x, 20)
    assert_array_equal(x, before)


@pytest.mark.parametrize("cells", [False, True])
def test_progress_is_told_in_steps_to_the_end(cells, monkeypatch, rng):
    if cells:
        in_cells(monkeypatch, 50)
    told = []
    kmeans.kmeans(rng.normal(size=(900, 3)).astype(np.float32), 50, progress=lambda *step: told.append(step))
    done, totals = zip(*told, strict=True)
    assert len(set(totals)) == 1 and done[0] == 1 and list(done) == sorted(done) and done[-1] == totals[0]
    assert cells or totals[0] == 10


def test_iterations_end_when_nothing_changes(rng):
    told = []
    x, _ = blobs(20, 30, 4, rng, spread=0.01)
    kmeans.kmeans(x, 20, iterations=50, progress=lambda *step: told.append(step))
    assert len(told) < 12 and told[-1] == (50, 50)


def test_ctrl_c_in_an_iteration_comes_through(rng):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kmeans.kmeans(rng.normal(size=(900, 3)).astype(np.float32), 50, progress=stop)


@pytest.mark.parametrize(
    ("m", "nlist", "rows"), [(3, 4, "3 rows"), (1, 2, "1 row"), (0, 1, "0 rows"), (5, 0, "5 rows")]
)
def test_fewer_rows_than_lists_are_an_error_that_says_both(m, nlist, rows):
    with pytest.raises(ValueError, match=rf"^{rows} cannot make nlist={nlist} lists; nlist must be between 1 and"):
        kmeans.kmeans(np.zeros((m, 2), np.float32), nlist)


def test_products_are_padded_to_whole_registers_of_the_kernel():
    assert assign.LANES == LANES
