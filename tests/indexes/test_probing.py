"""Searches that skip the checks, and searches at once on an index that none has asked before."""

import gc
import threading
import weakref

import numpy as np
import pytest

import polarindex as pi
from polarindex import kernels

DIM = 24


def filled(rng, n=300, **settings):
    x = rng.standard_normal((n, DIM)).astype(np.float32)
    index = pi.IVFIndex(DIM, nlist=4, **settings).fit(x)
    index.add(x)
    return index


@pytest.mark.parametrize("warm", [False, True])
def test_arguments_are_refused_alike_whether_like_ones_were_seen_or_not(rng, warm):
    index, q = filled(rng), rng.standard_normal(DIM).astype(np.float32)
    if warm:
        index.search(q, 1)
    for bad in (q[:1].reshape(()), q.reshape(1, 1, -1), q[:-1]):
        with pytest.raises((TypeError, ValueError), match="^q "):
            index.search(bad, 1)
    for k in (1.0, True, [1], None, "1"):
        with pytest.raises(TypeError, match="^k must"):
            index.search(q, k)


def test_numbers_without_a_hash_are_numbers(rng):
    index, q = filled(rng), rng.standard_normal((3, DIM)).astype(np.float32)
    wanted = index.search(q, 5, nprobe=2)
    for _ in range(2):
        found = index.search(q, np.array(5), nprobe=np.array(2))
        for a, b in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(kernels.selected() == kernels.GENERIC, reason="plain loops are told no addresses")
def test_what_a_search_was_told_outlives_that_the_index_is_told_anew(rng):
    """Kernels are given addresses: arrays must live until the slowest search is done with them."""
    scan = filled(rng, store="float32")._held.scan
    told = scan.told()
    coarse, *parts = told.held
    arrays = [weakref.ref(part) for part in parts if isinstance(part, np.ndarray)]
    pages = [weakref.ref(block["rows"]) for block in coarse.arena.blocks]
    del coarse, parts
    scan._told = scan.coarse._lists = None
    assert scan.told() is not told
    gc.collect()
    assert len(arrays) > 10 and pages and all(kept() is not None for kept in arrays + pages)


def test_first_searches_of_many_threads_agree(rng, tmp_path):
    index, q = filled(rng, store="float32"), rng.standard_normal((20, DIM)).astype(np.float32)
    wanted = index.search(q, 5, nprobe=3)
    index.save(tmp_path / "index")
    for _ in range(10):
        fresh, ready, results = pi.load(tmp_path / "index"), threading.Barrier(4), []

        def search(fresh=fresh, ready=ready, results=results):
            ready.wait()
            results.append(fresh.search(q, 5, nprobe=3, num_threads=1))

        threads = [threading.Thread(target=search) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 4
        for found in results:
            for a, b in zip(wanted, found, strict=True):
                np.testing.assert_array_equal(a, b)
