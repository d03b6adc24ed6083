"""Other libraries' indexes: the same ids, vectors and nearest neighbours, streamed; what is lost is asked for first."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import polarindex as pi
from polarindex import convert

D, N = 8, 300


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((N, D), np.float32)


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(1).permutation(10 * N)[:N].astype(np.int64)


def assert_holds(index, x, ids, **parameters):
    """All vectors under their ids, exactly, and found."""
    assert len(index) == len(ids)
    assert_array_equal(np.sort(index.ids), np.sort(ids))
    assert_array_equal(index.reconstruct(ids), x)
    assert_array_equal(index.search(x[:20], 1)[1][:, 0], ids[:20])
    assert {name: index.parameters()[name] for name in parameters} == parameters


# --- FAISS


@pytest.fixture(scope="module")
def faiss():
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    return faiss


def made(faiss, factory, x, ids=None, metric=None):
    index = faiss.index_factory(D, factory, faiss.METRIC_L2 if metric is None else metric)
    index.train(x)
    index.add(x) if ids is None else index.add_with_ids(x, ids)
    return index


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "NSG8", "PQ2x4,RFlat", "IVF4,Flat"])
def test_faiss_indexes_that_number_their_vectors(faiss, factory, x):
    assert_holds(pi.from_faiss(made(faiss, factory, x), store="float32"), x, np.arange(N), metric="l2", bits=4)


@pytest.mark.parametrize("factory", ["IDMap,Flat", "IDMap2,Flat", "IVF4,Flat", "IDMap,IVF4,Flat", "IDMap,HNSW8"])
def test_faiss_indexes_with_ids(faiss, factory, x, ids, monkeypatch):
    monkeypatch.setattr("polarindex.checks.CHUNK_ROWS", 32)  # slices that begin and end in the midst of lists
    source = made(faiss, factory, x, ids, faiss.METRIC_INNER_PRODUCT)
    index = pi.from_faiss(source, store="float32", bits=4)
    assert_array_equal(np.sort(index.ids), np.sort(ids))
    assert_array_equal(index.reconstruct(ids), x)
    assert index.metric == "ip" and source.ntotal == N


def test_faiss_indexes_from_which_vectors_were_removed(faiss, x, ids):
    for factory in ("IDMap,Flat", "IVF4,Flat"):
        source = made(faiss, factory, x, ids)
        source.remove_ids(ids[:100])
        assert_holds(pi.from_faiss(source, store="float32"), x[100:], ids[100:])


def test_empty_faiss_indexes(faiss, x):
    for factory in ("Flat", "IDMap,Flat", "IVF4,Flat"):
        source = faiss.index_factory(D, factory)
        source.train(x)
        assert len(pi.from_faiss(source)) == 0


@pytest.mark.parametrize("factory", ["SQ8", "PQ4x4", "IVF4,SQ8", "IDMap,PCA8,Flat", "HNSW8,SQ8"])
def test_codes_and_transforms_of_faiss_are_taken_only_with_lossy(faiss, factory, x, ids):
    with_ids = ids if factory.startswith(("IDMap", "IVF")) else None
    source, ids = made(faiss, factory, x, with_ids), np.arange(N) if with_ids is None else ids
    with pytest.raises(
        TypeError, match="which holds no vectors, but codes or transforms of them; build from the vectors"
    ):
        pi.from_faiss(source)
    index = pi.from_faiss(source, lossy=True, store="float32")
    assert_array_equal(np.sort(index.ids), np.sort(ids))
    error = np.abs(index.reconstruct(ids) - x).mean() / np.abs(x).mean()
    assert error < (1e-5 if "PCA8" in factory else 0.02 if "SQ8" in factory else 0.6)
    if with_ids is None and "HNSW" not in factory:
        assert_array_equal(index.reconstruct(ids), source.reconstruct_n(0, N))


def test_what_faiss_does_not_give_back_is_said(faiss, x):
    with pytest.raises(TypeError, match="IndexPreTransform, which does not give vectors back: .*not implemented"):
        pi.from_faiss(made(faiss, "ITQ8,LSH", x), lossy=True)
    other = faiss.IndexFlat(D, faiss.METRIC_L1)
    other.add(x)
    with pytest.raises(TypeError, match="index has FAISS metric 2, which this library lacks; give metric="):
        pi.from_faiss(other)
    assert pi.from_faiss(other, metric="l2", store="float32").metric == "l2"
    for wrong in (x, None, faiss.IndexBinaryFlat(D)):
        with pytest.raises(TypeError, match="index must be a faiss.Index, got"):
            pi.from_faiss(wrong)


def test_ids_that_cannot_be_are_named(faiss, x):
    with pytest.raises(ValueError, match=r"ids\[1\] must be from 0 to 2\*\*63 - 2, got -5"):
        pi.from_faiss(made(faiss, "IDMap,Flat", x[:2], np.array([3, -5])))
    with pytest.raises(ValueError, match="ids must be unique, got 3 at positions 0 and 1"):
        pi.from_faiss(made(faiss, "IDMap,Flat", x[:2], np.array([3, 3])))


def test_an_index_of_ones_own_is_added_to_all_or_nothing(faiss, x, ids):
    into = pi.FlatIndex(D, "cosine", 4, store="float32")
    into.add(x[:5], ids[:5])
    source = made(faiss, "IDMap,Flat", x[5:], ids[5:])
    assert pi.from_faiss(source, into=into) is into
    assert_holds(into, x, ids, metric="cosine")
    bad = x[:9].copy()
    bad[7] = np.nan
    for source, message in (
        (made(faiss, "IDMap,Flat", x[:9], ids[:9] + np.arange(9) % 2 * 10**6), "which is in the index already"),
        (made(faiss, "IDMap,Flat", bad, np.arange(9) + 10**6), r"x\[7\] is not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            pi.from_faiss(source, into=into)
        assert len(into) == N
    with pytest.raises(TypeError, match="into has its own bits; leave them out"):
        pi.from_faiss(source, into=into, bits=2)
    with pytest.raises(ValueError, match="x has 8 columns but dim=4 is wanted"):
        pi.from_faiss(source, into=pi.FlatIndex(4))


def test_a_faiss_index_is_read_in_parts(faiss, monkeypatch):
    x = np.random.default_rng(0).standard_normal((9000, D), np.float32)
    source, asked = made(faiss, "Flat", x), []

    class Rows(convert._Rows):
        def __getitem__(self, rows):
            asked.append(rows.stop - rows.start)
            return super().__getitem__(rows)

    monkeypatch.setattr(convert, "_Rows", Rows)
    assert len(pi.from_faiss(source)) == 9000
    assert max(asked) <= 4096 and sum(asked) >= 9000


# --- hnswlib and usearch


@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
def test_hnswlib(space, x, ids):
    hnswlib = pytest.importorskip("hnswlib")
    source = hnswlib.Index(space, D)
    source.init_index(2 * N)
    source.add_items(x, ids)
    index = pi.from_hnswlib(source, store="float32")
    held = x / np.linalg.norm(x, axis=1, keepdims=True) if space == "cosine" else x
    assert index.metric == space
    np.testing.assert_allclose(index.reconstruct(ids), held, rtol=1e-5 if space == "cosine" else 0)
    for label in ids[[0, 7, 299]]:
        source.mark_deleted(int(label))
    kept = np.delete(np.arange(N), [0, 7, 299])
    index = pi.from_hnswlib(source, bits=4, store="float16")
    assert_array_equal(index.ids, np.sort(ids[kept]))
    assert len(pi.from_hnswlib(hnswlib_empty(hnswlib))) == 0


def hnswlib_empty(hnswlib):
    index = hnswlib.Index("l2", D)
    index.init_index(5)
    return index


def test_what_hnswlib_does_not_give_back_is_said(x):
    hnswlib = pytest.importorskip("hnswlib")
    with pytest.raises(TypeError, match="index must be an hnswlib.Index, which gives its vectors back, got BFIndex"):
        pi.from_hnswlib(hnswlib.BFIndex("l2", D))
    with pytest.raises(TypeError, match="got ndarray"):
        pi.from_hnswlib(x)
    large = hnswlib_empty(hnswlib)
    large.add_items(x[:1], [2**63 + 5])
    with pytest.raises(ValueError, match=rf"ids\[0\] must be from 0 to 2\*\*63 - 2, got {2**63 + 5}"):
        pi.from_hnswlib(large)


@pytest.mark.parametrize("metric", ["l2sq", "ip", "cos"])
@pytest.mark.parametrize("dtype", ["f64", "f32", "f16", "bf16"])
def test_usearch(metric, dtype, x, ids):
    usearch = pytest.importorskip("usearch.index")
    source = usearch.Index(ndim=D, metric=metric, dtype=dtype)
    source.add(ids.astype(np.uint64), x)
    index = pi.from_usearch(source, store="float32")
    assert index.metric == {"l2sq": "l2", "ip": "ip", "cos": "cosine"}[metric]
    assert_array_equal(np.sort(index.ids), np.sort(ids))
    tolerance = {"f64": 0, "f32": 0, "f16": 1e-3, "bf16": 8e-3}[dtype]
    np.testing.assert_allclose(index.reconstruct(ids), x, rtol=tolerance)
    source.remove(int(ids[0]))
    assert_array_equal(pi.from_usearch(source, store="none").ids, np.sort(ids[1:]))


def test_what_usearch_does_not_give_back_is_said(x):
    usearch = pytest.importorskip("usearch.index")
    with pytest.raises(TypeError, match="index holds its vectors as i8, which are not what it was given"):
        pi.from_usearch(usearch.Index(ndim=D, dtype="i8"))
    with pytest.raises(TypeError, match="index has multi=True"):
        pi.from_usearch(usearch.Index(ndim=D, dtype="f32", multi=True))
    with pytest.raises(TypeError, match="index has metric Pearson, which this library lacks"):
        pi.from_usearch(usearch.Index(ndim=D, metric="pearson", dtype="f32"))
    with pytest.raises(TypeError, match="index must be a usearch.index.Index, got ndarray"):
        pi.from_usearch(x)
