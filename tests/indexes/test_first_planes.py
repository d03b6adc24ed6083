"""IVFIndex(scan_bits=...): a scan of the first planes, scored again by the whole codes.

The definition in NumPy: of the rows of the lists that are probed, the rerank * k best by (key of the first planes, id);
of these, the k best by (key of the whole code, id).
"""

import copy
import json
import pickle

import numpy as np
import pytest

import polarindex as pi
from polarindex import kernels
from polarindex.codebooks import integer_codebook, normal_codebook, prefix_levels
from polarindex.indexes.planning import predicted_bytes
from polarindex.indexes.probing import Defaults
from polarindex.indexes.scan import integer_queries
from polarindex.indexes.tuning import Tuning
from polarindex.quantizers import EDEN, Quantizer
from polarindex.quantizers.base import Centres

METRICS = ("l2", "ip", "cosine")
DIM, NLIST = 24, 12


def clustered(n, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((8, DIM)) * 2
    x = centres[rng.integers(0, 8, n)] + rng.standard_normal((n, DIM))
    return (x * rng.uniform(0.5, 1.5, (n, 1))).astype(np.float32)


def made(n=900, metric="l2", bits=4, scan_bits=1, ids=None, **options):
    index = pi.IVFIndex(DIM, metric, bits, nlist=NLIST, scan_bits=scan_bits, **options).fit(clustered(800, 77))
    index.add(clustered(n), ids)
    return index


def same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def unit(x):
    return (x / np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))[:, None]).astype(np.float32)


class Rows:
    """All rows of an index, by hand: words (n, width) in the order of ids."""

    def __init__(self, index):
        self.index, held = index, index._held.rows
        words = held.rows(held.used())
        self.lists = held.lists_of(held.used())
        self.first = words[:, :2].copy().view(np.float32)
        self.codes = np.ascontiguousarray(words[:, 2 : 2 + index.quantizer.words])
        self.whole = words[:, 2 + index.quantizer.words :][:, :2].copy().view(np.float32)
        stage = index.quantizer.stages[0]
        numbers = stage.layout.unpack(self.codes)[:, :DIM]
        self.levels = stage.table[numbers]
        bits = index.bits
        self.first_levels = prefix_levels(stage.thresholds, index.scan_bits)[numbers >> (bits - index.scan_bits)]

    def keys(self, q, levels, factors, bits):
        """(nq, n) float32 keys of the score law, without the queries' constants."""
        index, centroids = self.index, self.index._held.centroids
        queries = (unit(q) if index.metric == "cosine" else q).astype(np.float32)
        centred = queries - centroids.mu
        keys = np.tile(factors[:, 1], (len(q), 1))
        for piece in integer_queries(index.quantizer, centred, index._coding.factor, bits)[0]:
            dots = piece.levels.astype(np.int64) @ levels.astype(np.int64).T
            keys = keys + (dots.astype(np.float32) * piece.gains[:, None]) * factors[:, 0]
        relative = centroids.full - centroids.mu
        if index.metric == "l2":
            away = (relative[None] - centred[:, None]).astype(np.float64)
            return keys - (away**2).sum(-1).astype(np.float32)[:, self.lists]
        dots = centred.astype(np.float64) @ relative.T.astype(np.float64)
        along = (relative.astype(np.float64) @ centroids.mu.astype(np.float64)).astype(np.float32)
        return keys + (dots + along).astype(np.float32)[:, self.lists]

    def defined(self, q, k, rerank, nprobe=NLIST, bits=8, allowed=None):
        """Distances and ids (nq, k) by the definition; rerank 0 for the first planes' own order."""
        index, ids = self.index, self.index.ids
        first = self.keys(q, self.first_levels, self.first, bits)
        whole = self.keys(q, self.levels, self.whole, bits)
        queries = (unit(q) if index.metric == "cosine" else q).astype(np.float32)
        probed = index._held.scan.coarse.nearest(queries - index._held.centroids.mu, nprobe)
        constants = 0 * queries[:, 0].astype(np.float64)
        if index.metric != "l2":
            constants = queries.astype(np.float64) @ index._held.centroids.mu.astype(np.float64)
        sign = -1 if index.metric == "l2" else 1
        out = np.full((len(q), k), -sign * np.inf, np.float32), np.full((len(q), k), -1)
        for i in range(len(q)):
            rows = np.flatnonzero(np.isin(self.lists, probed[i]) & (True if allowed is None else allowed))
            rows = rows[np.lexsort((ids[rows], -first[i, rows]))][: max(rerank, 1) * k]
            keys = whole[i] if rerank else first[i]
            rows = rows[np.lexsort((ids[rows], -keys[rows]))][:k]
            distances = (keys[rows].astype(np.float64) + constants[i]).astype(np.float32)
            order = np.lexsort((ids[rows], -distances))
            out[0][i, : len(rows)], out[1][i, : len(rows)] = sign * distances[order], ids[rows][order]
        return out


@pytest.mark.parametrize("isa", [kernels.available()[0], "generic"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scan_bits", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_search_is_its_definition_bit_for_bit(scan_bits, metric, isa):
    index = made(900, metric, scan_bits=scan_bits, ids=np.random.default_rng(0).permutation(900))
    rows, q = Rows(index), clustered(30, 1)
    mask = np.random.default_rng(2).random(900) < 0.3
    with kernels.using(isa):
        for k, rerank, nprobe in ((10, 1, NLIST), (10, 3, NLIST), (7, 2, 3), (10, 0, NLIST), (5, 0, 4), (40, 4, 5)):
            wanted = rows.defined(q, k, rerank, nprobe)
            same(index.search(q, k, nprobe=nprobe, rerank=rerank), wanted)
            singles = [index.search(row, k, nprobe=nprobe, rerank=rerank) for row in q]
            same([np.stack(parts) for parts in zip(*singles, strict=True)], wanted)
            found = index.search(q, k, nprobe=nprobe, rerank=rerank, filter=mask)
            same(found, rows.defined(q, k, rerank, nprobe, allowed=mask))
        same(index.search(q, 10, nprobe=5, rerank=3, query_bits=16), rows.defined(q, 10, 3, 5, 16))


@pytest.mark.isa
@pytest.mark.parametrize("isa", [name for name in kernels.available() if not name.endswith("vnni")])  # kernels have all
@pytest.mark.parametrize(("bits", "scan_bits"), [(3, 2), (4, 1)])
def test_every_instruction_set_answers_the_same(bits, scan_bits, isa):
    index = made(900, "cosine", bits, scan_bits)
    rows, q = Rows(index), clustered(30, 1)
    with kernels.using(isa):
        for k, rerank, nprobe in ((10, 2, NLIST), (10, 3, 4), (10, 0, 4)):
            same(index.search(q, k, nprobe=nprobe, rerank=rerank), rows.defined(q, k, rerank, nprobe))


@pytest.mark.parametrize("isa", [kernels.available()[0], "generic"])
@pytest.mark.parametrize("metric", METRICS)
def test_an_exact_scan_is_that_of_the_plain_index_bit_for_bit(metric, isa):
    """With the same lists; and so is a search that scores every row again."""
    index, plain = made(900, metric), made(900, metric, scan_bits=None)
    mask = np.arange(0, 900, 7)
    with kernels.using(isa):
        for q in (clustered(40, 1), clustered(1, 2)):
            for options in ({"nprobe": NLIST}, {"nprobe": 3}, {"filter": mask}, {"query_bits": 16, "nprobe": 4}):
                wanted = plain.search(q, 15, **options)
                for _ in range(2):  # the second time its arguments are remembered
                    same(index.search(q, 15, exact_scan=True, **options), wanted)
                    same(index.search(q, 15, rerank=60, **options), wanted)
                same(index.search(q, 15, exact_scan=True, rerank=1, **options), wanted)
            wanted = plain.search(q, 15, nprobe=NLIST, return_error=True)
            same(index.search(q, 15, nprobe=NLIST, exact_scan=True, return_error=True), wanted)
            same(index.search(q, 15, nprobe=NLIST, rerank=60, return_error=True), wanted)
        radius = float(np.median(wanted[0]))
        same(index.range_search(clustered(9, 3), radius), plain.range_search(clustered(9, 3), radius))
    np.testing.assert_array_equal(index.reconstruct([5, 0, 899]), plain.reconstruct([5, 0, 899]))


def test_searches_by_planes_and_by_whole_codes_do_not_take_each_others_arguments():
    index = made()
    q = clustered(1, 1)[0]
    by_planes, exactly = index.search(q, 30, rerank=0), index.search(q, 30, rerank=0, exact_scan=True)
    assert not np.array_equal(by_planes[0], exactly[0])
    for true, false in ((True, False), (np.True_, np.False_), (True, False)):
        same(index.search(q, 30, rerank=0, exact_scan=false), by_planes)
        same(index.search(q, 30, rerank=0, exact_scan=true), exactly)


@pytest.mark.parametrize("metric", METRICS)
def test_a_batch_is_its_queries_on_any_number_of_threads(metric):
    index, q = made(1500, metric), clustered(300, 1)
    for options in ({"nprobe": 3}, {"nprobe": 5, "rerank": 2, "gap": 30.0}):
        wanted = index.search(q, 12, num_threads=1, **options)
        for threads in (None, 3, 7):
            same(index.search(q, 12, num_threads=threads, **options), wanted)


def test_equal_rows_go_by_their_ids():
    index = made(0)
    ids = np.random.default_rng(0).permutation(1000)[:90]
    index.add(np.tile(clustered(1), (90, 1)), ids=ids)
    for isa in (kernels.available()[0], "generic"):
        with kernels.using(isa):
            for k, rerank in ((1, 1), (5, 0), (5, 3), (20, 1)):
                assert index.search(clustered(1)[0], k, nprobe=NLIST, rerank=rerank)[1].tolist() == sorted(ids)[:k]


@pytest.mark.parametrize("metric", METRICS)
def test_the_first_planes_have_an_unbiased_scale_and_the_metrics_shift(metric):
    """scale = |r|^2 / <R r, levels>; shift by the score law, from the vectors themselves."""
    for quantizer, scan_bits in (("eden", 1), ("eden", 2), ("turboquant", 1), ("eden-biased", 3)):
        index = made(300, metric, scan_bits=scan_bits, quantizer=quantizer)
        rows, centroids = Rows(index), index._held.centroids
        x = clustered(300)[index.ids]
        x = (unit(x) if metric == "cosine" else x).astype(np.float64)
        c, relative = (part.astype(np.float64)[rows.lists] for part in (centroids.full, centroids.relative))
        r, forward = x - c, index.quantizer.stages[0].map.forward
        y, mapped = (forward(part.astype(np.float32)).astype(np.float64) for part in (r, relative))
        levels = rows.first_levels.astype(np.float64)
        scales = (r**2).sum(1) / (y * levels).sum(1)
        crosses = scales * (mapped * levels).sum(1)
        shifts = -(r**2).sum(1) - 2 * crosses if metric == "l2" else (c * r).sum(1) - crosses
        np.testing.assert_allclose(rows.first[:, 0], scales, rtol=1e-5)
        np.testing.assert_allclose(rows.first[:, 1], shifts, rtol=1e-4, atol=1e-4 * np.abs(shifts).max())


def test_quantizers_without_the_fused_kernel_tell_the_same_of_first_planes():
    x, lists = clustered(50), np.arange(50, dtype=np.int32) % 3
    for rotation in ("hadamard", "haar"):
        quantizer = EDEN(DIM, 4, rotation=rotation)
        mapped = quantizer.stages[0].map.forward(clustered(3, 5))
        centres = Centres(clustered(3, 5), [mapped])
        levels = np.repeat(prefix_levels(quantizer.stages[0].thresholds, 2), 4)
        fused = quantizer.encode_in_lists(x, centres, lists, prefix=levels)
        plain = Quantizer.encode_in_lists(quantizer, x, centres, lists, prefix=levels)
        for one, other in zip(fused.prefix, plain.prefix, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())
        assert quantizer.encode_in_lists(x, centres, lists).prefix is None


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_levels_of_first_planes_are_means_of_their_cells(bits):
    """Of a million normal values, to a level and a half; 127 for the outermost."""
    grid = integer_codebook(normal_codebook(bits))
    y = np.random.default_rng(bits).standard_normal(1_000_000)
    codes = np.searchsorted(grid.thresholds, y, side="right")
    for planes in range(1, bits):
        levels = prefix_levels(grid.thresholds, planes)
        means = np.array([y[codes >> (bits - planes) == one].mean() for one in range(2**planes)])
        np.testing.assert_allclose(levels, 127 * means / means[-1], atol=1.5)
        assert levels.dtype == np.int8 and (np.diff(levels.astype(int)) > 0).all()
        assert levels[0] == -127 and levels[-1] == 127


def test_more_candidates_find_more_and_the_default_nearly_all():
    x, q = clustered(4000, 5), clustered(150, 6)
    for scan_bits in (1, 2):
        index = pi.IVFIndex(DIM, nlist=NLIST, scan_bits=scan_bits).fit(x)
        index.add(x)
        wanted = index.search(q, 10, nprobe=NLIST, exact_scan=True)[1]
        with kernels.using("generic"):
            found = [
                np.mean([np.isin(a, b).mean() for a, b in zip(wanted, ids, strict=True)])
                for ids in (index.search(q, 10, nprobe=NLIST, rerank=m)[1] for m in (0, 1, 2, 4, None))
            ]
        assert found[0] == found[1] < found[2] < found[3] and found[4] > 0.97
        assert index.info()["rerank"] > 1


# --- a life


def test_changes_copies_files_and_merges_leave_what_adding_would(tmp_path):
    index, q = made(700), clustered(20, 1)
    index.remove(np.arange(0, 700, 3))
    index.add(clustered(40, 9), ids=2**33 + np.arange(40))
    index.update([1, 2], clustered(2, 8))
    index.save(tmp_path / "index")
    other = index.empty_like()
    other.merge(index)
    again = index.empty_like()
    order = np.random.default_rng(1).permutation(index.ids)
    x = dict(enumerate(clustered(700))) | dict(zip((2**33 + np.arange(40)).tolist(), clustered(40, 9), strict=True))
    x |= {1: clustered(2, 8)[0], 2: clustered(2, 8)[1]}
    again.add(np.stack([x[int(one)] for one in order]), ids=order)
    copies = [copy.deepcopy(index), pickle.loads(pickle.dumps(index)), other, again]
    copies += [pi.load(tmp_path / "index", mmap=mmap) for mmap in (False, True)]
    for options in ({}, {"nprobe": 4, "rerank": 3}, {"exact_scan": True}, {"rerank": 0}):
        wanted = index.search(q, 12, **options)
        for one in copies:
            same(one.search(q, 12, **options), wanted)
    assert pi.load(tmp_path / "index").parameters() == index.parameters() and index.parameters()["scan_bits"] == 1
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert manifest["parameters"]["scan_bits"] == 1
    made(5, scan_bits=None).save(tmp_path / "plain")
    assert "scan_bits" not in json.loads((tmp_path / "plain" / "manifest.json").read_text())["parameters"]


def test_rebalancing_keeps_the_planes():
    index, q = made(700), clustered(20, 1)
    index.rebalance(clustered(700)[index.ids], nlist=9)
    fresh = pi.IVFIndex(DIM, nlist=9, scan_bits=1)
    fresh._take(index._held.centroids)
    fresh.add(clustered(700))
    same(index.search(q, 12, nprobe=4), fresh.search(q, 12, nprobe=4))
    assert index.info()["drift"] < 1.5


def test_indexes_of_other_planes_do_not_merge():
    index, plain = made(50), made(50, scan_bits=None)
    twin = pi.IVFIndex(DIM, nlist=NLIST, scan_bits=2)
    twin._take(index._held.centroids)
    for one, other, values in ((index, plain, "None, .*=1"), (plain, index, "1, .*=None"), (index, twin, "2, .*=1")):
        with pytest.raises(ValueError, match=f"other has scan_bits={values}"):
            one.merge(other)


def test_two_words_a_row_are_counted():
    index, plain = made(900), made(900, scan_bits=None)
    assert index.bytes_per_vector == plain.bytes_per_vector + 8 and index.nbytes > plain.nbytes
    assert index.info()["scan_bits"] == 1 and "scan_bits" not in plain.info()
    x = np.random.default_rng(0).standard_normal((20_000, DIM)).astype(np.float32)
    large = pi.IVFIndex(DIM, scan_bits=2).fit(x[:10_000], n=20_000)
    large.add(x)
    parts = predicted_bytes(20_000, DIM, "l2", 4, "none", large.nlist, 2)
    assert parts["scales and shifts"] == 20_000 * 16
    assert abs(sum(parts.values()) / large.nbytes - 1) < 0.1


def test_neighbours_of_all_rows_are_found_by_whole_codes():
    index = made(300)
    x = index._decoded_at(index._rows_to_visit()[0])
    for scoring in ("symmetric", "asymmetric"):
        graph = index.knn_graph(5, scoring=scoring, include_self=True)
        distances, ids = index.search(x, 5)
        np.testing.assert_array_equal(graph.distances, distances[ids >= 0])
        np.testing.assert_array_equal(index.ids[graph.indices], ids[ids >= 0])


# --- tuning


def test_tuning_foresees_and_chooses_what_is_scored_again():
    x = clustered(4000, 3)
    index = pi.IVFIndex(DIM, nlist=40, scan_bits=1).fit(x)
    index.add(x)
    q = clustered(300, 4)
    for neighbors in (None, np.argsort(((x[None] - q[:, None]) ** 2).sum(-1), axis=1)[:, :10]):
        tuning = Tuning(index, q, 0.9, 10, neighbors, None, 64)
        for setting in (Defaults(3, None, 1), Defaults(10, None, 2), Defaults(40, None, 8), Defaults(10, 20.0, 32)):
            searched = tuning._recalls(setting, np.arange(len(q))).mean()
            assert abs(tuning._foresight.recalls(*setting).mean() - searched) < 0.01
    tuned = index.tune(q, 0.95)
    assert index.info()["rerank"] == tuned.rerank >= 1
    other = clustered(300, 8)
    wanted = index.search(other, 10, nprobe=40, exact_scan=True)[1]
    found = np.mean([np.isin(a, b).mean() for a, b in zip(wanted, index.search(other, 10)[1], strict=True)])
    assert found > 0.94
    with pytest.raises(ValueError, match="rerank=32 .* scan more bits, use more bits"):
        index.tune(q, 0.9, neighbors=np.roll(wanted, 1, axis=0))


# --- what a caller may do wrong


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (dict(scan_bits=0), ValueError, "scan_bits must be at least 1"),
        (dict(scan_bits=1.0), TypeError, "scan_bits must be an integer"),
        (dict(scan_bits=True), TypeError, "scan_bits must be an integer"),
        (dict(scan_bits=4), ValueError, "scan_bits=4 must be less than bits=4"),
        (dict(scan_bits=1, bits=1), ValueError, "scan_bits=1 needs a code of 2 to 4 bits"),
        (dict(scan_bits=1, bits=8), ValueError, "scan_bits=1 needs a code of 2 to 4 bits"),
        (dict(scan_bits=1, bits=5), ValueError, "scan_bits=1 needs a code of 2 to 4 bits"),
        (dict(scan_bits=1, quantizer="polarquant"), ValueError, "scan_bits=1 needs a code .* got PolarQuant"),
        (dict(scan_bits=1, quantizer="turboquant-prod"), ValueError, "scan_bits=1 needs a code .* got TurboQuant"),
        (dict(scan_bits=1, store="float16"), ValueError, "store='float16' the originals re-rank"),
    ],
)
def test_planes_that_cannot_be_scanned_are_named(arguments, error, words):
    with pytest.raises(error, match=words) as caught:
        pi.IVFIndex(DIM, **arguments)
    assert "\n" not in str(caught.value)


def test_bad_search_arguments_are_named():
    index = made(30)
    q = clustered(2)
    for arguments, error, words in (
        (dict(rerank=-1), ValueError, "rerank"),
        (dict(rerank=1.5), TypeError, "rerank"),
        (dict(rerank=-1, exact_scan=True), ValueError, "rerank"),
        (dict(exact_scan=1), TypeError, "exact_scan"),
        (dict(rerank=0, return_error=True), ValueError, "return_error is that of whole codes"),
    ):
        with pytest.raises(error, match=words):
            index.search(q, **arguments)
    assert index.search(q, rerank=0, return_error=True, exact_scan=True)[2].shape == (2, 10)
