"""An inverted file whose rows lie in two lists finds each row once, by the better of its codes in the lists probed."""

from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import polarindex as pi
from polarindex import kernels
from polarindex.indexes import lists as module
from polarindex.indexes.copies import Copies
from polarindex.indexes.planning import predicted_bytes
from polarindex.indexes.probing import Probes
from polarindex.indexes.scan import integer_queries

METRICS = ("l2", "ip", "cosine")
DIM, NLIST = 24, 12


def clustered(n, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((8, DIM)) * 2
    x = centres[rng.integers(0, 8, n)] + rng.standard_normal((n, DIM))
    return (x * rng.uniform(0.5, 1.5, (n, 1))).astype(np.float32)


def made(n=600, metric="l2", spill=1.0, quantizer="eden", nlist=NLIST, ids=None, **options):
    options = {"store": "float32", **options}
    index = pi.IVFIndex(DIM, metric, 4, quantizer, nlist, spill=spill, **options)
    index.fit(clustered(800, seed=77))
    index.add(clustered(n), ids)
    return index


def everything(index, q, k=None, **options):
    return index.search(q, k or max(1, len(index)), nprobe=index.nlist, **options)


def same(one, other):
    for a, b in zip(one, other, strict=True):
        assert_array_equal(a, b)


def unit(x):
    return (x / np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))[:, None]).astype(np.float32)


# --- the law


def keys_of(index, centred, rows):
    """Keys (nq, m), lists and words of the rows of first or second lists, by NumPy, as the score law has them."""
    places = rows.used()
    words, lists = rows.rows(places), rows.lists_of(places)
    factors, codes = rows.factors_of(words), np.ascontiguousarray(words[:, : index.quantizer.words])
    keys = np.tile(factors[:, -1], (len(centred), 1))
    prepared = integer_queries(index.quantizer, centred, 2.0 if index.metric == "l2" else 1.0, 8)
    for s, (stage, part) in enumerate(zip(index.quantizer.stages, index.quantizer.split(codes), strict=True)):
        levels = stage.levels(np.ascontiguousarray(part))[:, : stage.map.dims].astype(np.int64)
        for piece in prepared[s]:
            dots = piece.levels.astype(np.int64) @ levels.T
            keys = keys + (dots.astype(np.float32) * piece.gains[:, None]) * factors[:, s]
    centroids = index._held.centroids
    relative = centroids.relative.astype(np.float64)
    if index.metric == "l2":
        offsets = (-((centroids.relative[None] - centred[:, None]).astype(np.float64) ** 2).sum(-1)).astype(np.float32)
    else:
        along = (relative @ centroids.mu.astype(np.float64)).astype(np.float32)
        offsets = (centred.astype(np.float64) @ relative.T + along).astype(np.float32)
    return keys + offsets[:, lists], lists, words


def by_law(index, q, k, probes, rerank=0, mask=None):
    """Distances and ids (nq, k): of each row the larger of its keys in the lists that are probed."""
    held, queries = index._held, (unit(q) if index.metric == "cosine" else q)
    centred = queries - held.centroids.mu
    mine, lists, words = keys_of(index, centred, held.rows)
    others, second, copies = keys_of(index, centred, held.copies.rows)
    ids = np.concatenate([held.rows.ids_of(words), held.copies.ids_of(copies)])
    keys, lists = np.concatenate([mine, others], axis=1), np.concatenate([lists, second])
    allowed = np.isin(ids, index.ids if mask is None else index.ids[mask])
    sign, worst = (-1, np.inf) if index.metric == "l2" else (1, -np.inf)
    distances, found = np.full((len(q), k), worst, np.float32), np.full((len(q), k), -1)
    constants = index._coding.constants(queries, held.centroids)
    for i, probed in enumerate(held.scan.coarse.nearest(centred, *probes)):
        here = allowed & np.isin(lists, probed)
        order = np.lexsort((ids[here], -keys[i, here]))
        _, once = np.unique(ids[here][order], return_index=True)
        best = order[np.sort(once)][: max(rerank, 1) * min(k, len(index))]
        names = ids[here][best]
        scores = (keys[i, here][best] + constants[i]).astype(np.float32)
        if rerank:
            x = index.reconstruct(names).astype(np.float64)
            scores = -((q[i] - x) ** 2).sum(1) if index.metric == "l2" else x @ q[i].astype(np.float64)
            if index.metric == "cosine":
                scores = scores / np.sqrt((x**2).sum(1) * (q[i].astype(np.float64) ** 2).sum())
            scores = scores.astype(np.float32)
        order = np.lexsort((names, -scores))[:k]
        distances[i, : len(order)], found[i, : len(order)] = sign * scores[order], names[order]
    return distances, found


WAYS = [{"nprobe": 1}, {"nprobe": 4}, {"nprobe": 6, "gap": 20.0}, {"nprobe": NLIST}]


@pytest.mark.parametrize("isa", [kernels.available()[0], "generic"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spill", [0.4, 1.0])
def test_a_rows_key_is_the_larger_of_its_codes_in_the_lists_probed(spill, metric, isa):
    """Bit for bit; alone and together, few of all and all, with filters and without, scored again or not."""
    index = made(700, metric, spill, ids=np.random.default_rng(0).permutation(700))
    q, mask = clustered(9, seed=1), np.random.default_rng(2).random(700) < 0.3
    with kernels.using(isa):
        assert index.info()["scan"] == ("in steps" if isa == "generic" else f"in registers ({isa})")
        for way in WAYS:
            probes = Probes(way["nprobe"], np.float32(way.get("gap", np.inf)))
            for k, rerank, allowed in ((20, 0, None), (700, 0, None), (20, 0, mask), (5, 3, None), (5, 3, mask)):
                wanted = by_law(index, q, k, probes, rerank, allowed)
                found = index.search(q, k, rerank=rerank, filter=allowed, **way)
                assert_array_equal(found[1], wanted[1])
                if rerank:
                    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6)
                else:
                    assert_array_equal(found[0], wanted[0])
                singles = [index.search(row, k, rerank=rerank, filter=allowed, **way) for row in q[:3]]
                same([part[:3] for part in found], [np.stack(parts) for parts in zip(*singles, strict=True)])


@pytest.mark.isa
@pytest.mark.parametrize("isa", kernels.available())
def test_every_instruction_set_answers_the_same(isa):
    index = pi.IVFIndex(DIM, "l2", 4, nlist=NLIST, store="float32", spill=0.6).fit(clustered(800, 77))
    index.add(clustered(900))
    q = clustered(40, seed=1)
    with kernels.using(isa):
        for options in ({"rerank": 0}, {"rerank": 2}, {"rerank": 0, "filter": np.arange(900) % 3 == 0}):
            found = index.search(q, 15, nprobe=4, **options)
            with kernels.using("generic"):
                same(found, index.search(q, 15, nprobe=4, **options))


@pytest.mark.parametrize("quantizer", ["polarquant", "turboquant-prod"])
def test_codes_that_are_read_in_steps_obey_the_law(quantizer):
    index = made(400, "l2", 0.5, quantizer)
    q = clustered(5, seed=1)
    for nprobe in (2, NLIST):
        same(index.search(q, 15, nprobe=nprobe, rerank=0), by_law(index, q, 15, Probes(nprobe)))


def test_a_batch_is_its_queries_one_by_one_on_any_number_of_threads():
    index = made(1500, spill=0.7)
    q = clustered(300, seed=1)
    for options in ({"nprobe": 3}, {"nprobe": 5, "rerank": 0, "gap": 30.0}):
        wanted = index.search(q, 12, num_threads=1, **options)
        for threads in (None, 2, 7):
            same(wanted, index.search(q, 12, num_threads=threads, **options))
        singles = [index.search(row, 12, **options) for row in q[:40]]
        same([part[:40] for part in wanted], [np.stack(parts) for parts in zip(*singles, strict=True)])


@pytest.mark.parametrize("isa", [kernels.available()[0], "generic"])
def test_ties_go_to_the_smaller_id_also_among_copies(isa):
    """Far more equal rows than candidates have room, found through second lists alone, too."""
    index = made(0)
    ids = np.random.default_rng(0).permutation(1000)[:700]
    index.add(np.tile(clustered(1), (700, 1)), ids=ids)
    index.add(clustered(50, 5), ids=1000 + np.arange(50))
    own, second = index._held.rows.sizes.argmax(), index._held.copies.rows.sizes.argmax()
    near_second = index.centroids[second]
    probed = index._held.scan.coarse.nearest((near_second - index._held.centroids.mu)[None], 1)[0]
    assert probed.tolist() == [second] and own != second
    with kernels.using(isa):
        for k in (1, 5, 20):
            for rerank in (0, 1):
                assert everything(index, clustered(1)[0], k, rerank=rerank)[1].tolist() == sorted(ids)[:k]
        through = index.search(near_second, 40, nprobe=1, rerank=0)
        order = by_law(index, near_second[None], 40, Probes(1))
        same(through, [part[0] for part in order])
        assert np.isin(sorted(ids)[:20], through[1]).all()


# --- what it is for


def test_more_is_found_in_as_many_lists():
    x, q = clustered(3000, 3), clustered(100, 4)
    truth = np.argsort(((q[:, None] - x) ** 2).sum(-1), axis=1)[:, :10]
    found = []
    for spill in (0.0, 0.5, 1.0):
        index = pi.IVFIndex(DIM, nlist=60, store="float32", spill=spill).fit(x)
        index.add(x)
        ids = index.search(q, 10, nprobe=3)[1]
        found.append(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, truth, strict=True)]))
        assert (np.diff(np.sort(ids, axis=1), axis=1) > 0).all(), "no id comes twice"
    assert found[2] > found[0] + 0.05 and found[0] < found[1] <= found[2] + 0.01


def test_as_many_rows_spill_as_were_asked_for():
    for spill in (0.25, 0.5):
        index = made(4000, spill=spill)
        assert abs(index.info()["spilled"] - spill) < 0.1
    assert made(300, spill=1.0).info()["spilled"] == 1
    assert made(300, spill=0.0).info()["spilled"] == 0 == made(300, spill=1.0, nlist=1).info()["spilled"]


@pytest.mark.parametrize("isa", [kernels.available()[0], "generic"])
def test_one_list_and_no_rows_are_searched_like_any(isa):
    with kernels.using(isa):
        one, plain = made(40, nlist=1), made(40, nlist=1, spill=0.0)
        same(one.search(clustered(3, 1), 9), plain.search(clustered(3, 1), 9))
        assert (made(0).search(clustered(2), 3)[1] == -1).all()
        assert made(0).search(clustered(2)[0], 3, filter=[1])[1].tolist() == [-1] * 3


def test_a_range_search_tells_each_row_once():
    index = made(500, "l2", 0.6)
    q = clustered(7, seed=1)
    for nprobe in (2, NLIST):
        distances, ids = by_law(index, q, 500, Probes(nprobe))
        radius = float(np.median(distances[np.isfinite(distances)]))
        mask = np.random.default_rng(0).random(500) < 0.5
        for filter, allowed in ((None, np.ones(500, bool)), (mask, mask)):
            lims, got, names = index.range_search(q, radius, nprobe=nprobe, filter=filter)
            for i in range(len(q)):
                mine = (distances[i] <= radius) & np.isin(ids[i], index.ids[allowed])
                assert_array_equal(names[lims[i] : lims[i + 1]], ids[i, mine])
                assert_array_equal(got[lims[i] : lims[i + 1]], distances[i, mine])


@pytest.mark.parametrize("metric", METRICS)
def test_the_larger_of_two_standard_errors_is_told(metric):
    index = made(300, metric, 0.5)
    held, q = index._held, clustered(4, seed=1)
    _, ids, errors = everything(index, q, 50, rerank=0, return_error=True)
    assert (index.search(q, 5, return_error=True)[2] == 0).all()
    plain = pi.IVFIndex(DIM, metric, 4, nlist=NLIST, store="float32")
    plain._take(held.centroids)
    plain.add(clustered(300))
    query = unit(q) if metric == "cosine" else q
    larger = 0
    for i in range(len(q)):
        places = held.ids.positions(ids[i])
        own, at = plain._errors_at(query[i], plain._id_map.positions(ids[i])), held.copies.of(places)
        words, scales, lists = index._codes_at(at[at >= 0], held.copies.rows)
        decoded = index._coding.decoded(words, scales)
        other = np.zeros(50, np.float32)
        other[at >= 0] = index._coding.errors(query[i], decoded, lists, held.centroids)
        assert_array_equal(errors[i], np.maximum(own, other))
        larger += (other > own).sum()
    assert 0 < larger < errors.size


def test_the_graph_of_neighbours_is_what_searches_find():
    index = made(300, spill=0.5)
    graph = index.knn_graph(5)
    ids = index.ids
    found = index.search(index.reconstruct(ids), 6)[1]
    for i in range(0, 300, 17):
        mine = [one for one in found[i] if one != ids[i] and one >= 0][:5]
        assert ids[graph.indices[graph.indptr[i] : graph.indptr[i + 1]]].tolist() == mine


def test_filters_of_every_kind_allow_the_same_rows_and_follow_the_index():
    index, q = made(500, spill=0.6), clustered(6, seed=1)
    ids = index.ids
    mask = np.random.default_rng(1).random(500) < 0.5
    wanted = index.search(q, 9, nprobe=4, filter=mask)
    assert np.isin(wanted[1], ids[mask]).all()
    held = pi.IdFilter(ids[mask])
    for one in (ids[mask], held, held, [held] * 6, [mask, ids[mask]] * 3):
        same(index.search(q, 9, nprobe=4, filter=one), wanted)
    index.remove(ids[mask][::2])
    found = index.search(q, 9, nprobe=4, filter=held)
    assert np.isin(found[1], ids[mask][1::2]).all()
    few = index.search(q, 9, filter=held)  # the default, which looks into more lists
    assert (few[1] >= 0).all()


# --- one index after another


def test_merged_shards_are_the_index_of_all_rows():
    index, q = made(0, spill=0.6), clustered(20, seed=1)
    x, parts = clustered(900), [index.empty_like(), index.empty_like()]
    parts[0].add(x[:400], np.arange(400))
    parts[1].add(x[400:], np.arange(400, 900))
    parts[1].remove(np.arange(401, 900, 7))
    index.add(np.delete(x, np.arange(401, 900, 7), 0), np.delete(np.arange(900), np.arange(401, 900, 7)))
    wanted = [everything(index, q, 15, rerank=0), index.search(q, 15, nprobe=3)]
    parts[0].merge(parts[1])
    same(everything(parts[0], q, 15, rerank=0), wanted[0])
    same(parts[0].search(q, 15, nprobe=3), wanted[1])
    assert len(parts[0]._held.copies) == len(index._held.copies) > len(parts[1]._held.copies)
    other = index.empty_like()
    other._held.centroids.limit  # noqa: B018
    other._take(index._coding.centroids(*(getattr(index._held.centroids, n) for n in ("full", "mu", "spread")), 1.01))
    with pytest.raises(ValueError, match="centroids"):
        index.merge(other)
    with pytest.raises(ValueError, match=r"spill=0\.5, this index spill=0\.6"):
        index.merge(made(10, spill=0.5))


def test_rebalanced_rows_lie_where_a_new_index_has_them():
    index, q = made(600, spill=0.6), clustered(20, seed=1)
    index.remove(np.arange(0, 600, 5))
    ids = index.ids
    new = pi.IVFIndex(DIM, nlist=7, store="float32", spill=0.6).fit(index.reconstruct(ids))
    new.add(index.reconstruct(ids), ids)
    index.rebalance(nlist=7)
    assert index._held.centroids.limit == new._held.centroids.limit
    same(everything(index, q, 15, rerank=0), everything(new, q, 15, rerank=0))
    same(index.search(q, 15, nprobe=2), new.search(q, 15, nprobe=2))


@pytest.mark.parametrize("step", ["stage", "put"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_add_or_merge_that_fails_among_copies_changes_nothing(monkeypatch, step, error):
    index, q = made(300), clustered(9, seed=1)
    other = index.empty_like()
    other.add(clustered(100, 6), 1000 + np.arange(100))
    wanted, sizes = everything(index, q, 20, rerank=0), index.nbytes

    def fail(*arguments):
        raise error

    for change in (lambda: index.add(clustered(20_000, 8)), lambda: index.merge(other)):
        with monkeypatch.context() as patch, pytest.raises(error):
            patch.setattr(Copies, step, fail)
            change()
        same(everything(index, q, 20, rerank=0), wanted)
        assert len(index) == 300 and index.nbytes <= sizes + 200_000
    index.add(clustered(100, 6))
    assert len(index._held.copies) == 400


def test_indexes_copy_and_pickle():
    index, q = made(400, spill=0.5), clustered(5, seed=1)
    wanted = index.search(q, 9, nprobe=3)
    for other in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        same(other.search(q, 9, nprobe=3), wanted)
        other.remove(np.arange(0, 400, 2))
        other.add(clustered(300, 9))
        assert len(other) == 500 and other._held.copies.own is other._held.rows
    same(index.search(q, 9, nprobe=3), wanted)


def test_tuning_knows_that_rows_are_found_through_either_list():
    x, q = clustered(3000, 3), clustered(200, 4)
    settings = {}
    for spill in (0.0, 1.0):
        index = pi.IVFIndex(DIM, nlist=60, store="float32", spill=spill).fit(x)
        index.add(x)
        settings[spill] = index.tune(q, 0.9)
        ids = index.search(q, 10)[1]
        truth = np.argsort(((q[:, None] - x) ** 2).sum(-1), axis=1)[:, :10]
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, truth, strict=True)]) >= 0.89
    assert settings[1.0].nprobe < settings[0.0].nprobe


def test_searches_from_many_threads_agree():
    index, q = made(1000, spill=0.7), clustered(64, seed=1)
    wanted = index.search(q, 9, nprobe=4)
    index._changed()
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: index.search(q, 9, nprobe=4), range(20)):
            same(found, wanted)


# --- what it says of itself


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"spill": 0.5}, ValueError, "spill=0.5 needs the original vectors, .* store='float32'"),
        ({"spill": 1.5, "store": "float32"}, ValueError, "spill must be from 0 to 1"),
        ({"spill": -0.1, "store": "float32"}, ValueError, "spill must be"),
        ({"spill": np.nan, "store": "float32"}, ValueError, "spill must be"),
        ({"spill": "half", "store": "float32"}, TypeError, "spill must be"),
        ({"spill": None, "store": "float32"}, TypeError, "spill must be"),
    ],
)
def test_bad_construction_is_one_line_naming_the_argument(arguments, error, words):
    with pytest.raises(error, match=words) as caught:
        pi.IVFIndex(8, **arguments)
    assert "\n" not in str(caught.value)


def test_bytes_count_copies():
    plain, index = made(4000, spill=0.0), made(4000, spill=0.5)
    share = index.info()["spilled"]
    row = 4 * (index.quantizer.words + 3)
    assert index.bytes_per_vector == plain.bytes_per_vector + share * row
    assert made(0, spill=0.5).bytes_per_vector == plain.bytes_per_vector + 0.5 * row
    assert index.info()["spill"] == 0.5 == index.parameters()["spill"] == index.empty_like().spill
    copies = index.nbytes - plain.nbytes
    assert share * 4000 * row < copies < 1.3 * share * 4000 * row + 12 * NLIST + 20_000


@pytest.mark.skipif(kernels.selected() == kernels.GENERIC, reason="steps look ids up, and their table counts")
def test_planned_bytes_are_those_of_the_index():
    x = clustered(20_000)
    index = pi.IVFIndex(DIM, nlist=100, store="float32", spill=0.5).fit(x)
    index.add(x)
    index.search(x[:1])
    planned = predicted_bytes(20_000, DIM, "l2", 4, "float32", 100, spill=index.info()["spilled"])
    assert abs(sum(planned.values()) / index.nbytes - 1) < 0.02
    assert "copies" not in predicted_bytes(20_000, DIM, "l2", 4, "float32", 100)


# --- files


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("spill", [0.4, 1.0])
def test_a_loaded_index_answers_the_same_and_goes_on_alike(tmp_path, spill, mmap):
    index, q = made(500, spill=spill), clustered(9, seed=1)
    index.remove(np.arange(0, 500, 3))
    index.save(tmp_path / "index")
    other = pi.load(tmp_path / "index", mmap=mmap)
    assert other._held.centroids.limit == index._held.centroids.limit and other.spill == spill
    for one in (index, other):
        same(one.search(q, 9, nprobe=3), other.search(q, 9, nprobe=3))
        one.remove(np.arange(1, 500, 3))
        one.add(clustered(200, 5))
    for options in ({"nprobe": 3}, {"nprobe": NLIST, "rerank": 0}):
        same(index.search(q, 9, **options), other.search(q, 9, **options))


def test_files_are_as_specified_and_do_not_depend_on_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "block_rows", lambda row_bytes: 64)
    index = made(500, spill=0.5)
    once = index.empty_like()
    index.add(clustered(400, 6))
    index.remove(np.arange(500, 900))  # pages move
    kept = np.arange(500)
    for name, one in (("a", index), ("b", once)):
        if one is once:
            once.add(clustered(500), kept)
        one.save(tmp_path / name)
    folders = [next((tmp_path / name).glob("segment-*")) for name in "ab"]
    rows, copies, sizes = (np.load(folders[1] / f"{name}.npy") for name in ("rows", "spill_rows", "spill_sizes"))
    held = once._held
    assert_array_equal(sizes, held.copies.rows.sizes)
    words = copies.transpose(0, 2, 1).reshape(-1, copies.shape[1])
    filled = np.concatenate([np.arange(-(-size // 16) * 16) < size for size in sizes if size]) if sizes.any() else []
    first = np.concatenate([
        np.concatenate([np.arange(16) < (size - 1) % 16 + 1, np.ones((size - 1) // 16 * 16, bool)])
        for size in sizes if size
    ])
    assert len(filled) == len(first) == len(words) and not words[~first].any()
    ids = rows.transpose(0, 2, 1).reshape(-1, rows.shape[1])[words[first, -1], -1]
    own = held.copies.rows.places_of
    places = np.concatenate([own(number) for number in range(NLIST)])
    assert_array_equal(ids, held.copies.ids_of(held.copies.rows.rows(places)))
    again = pi.load(tmp_path / "a")
    again.save(tmp_path / "c")
    third = next((tmp_path / "c").glob("segment-*"))
    for path in folders[0].iterdir():
        assert (third / path.name).read_bytes() == path.read_bytes(), path.name


def test_without_second_lists_a_file_is_as_before(tmp_path):
    made(100, spill=0.0).save(tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert "spill" not in manifest["parameters"] and "spill" not in manifest["state"]
    assert not any("spill" in file for file in manifest["segments"][0]["files"])
    assert pi.load(tmp_path / "index").spill == 0
