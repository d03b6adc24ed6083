"""On a card: a search of lists there is the CPU's, to the bit. `pytest -m gpu` where there is one."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import polarindex as pi
from polarindex.gpu import lists, probing
from polarindex.gpu.build import build
from polarindex.gpu.device import device
from polarindex.gpu.layout import Layout
from polarindex.gpu.lists import Pinned
from polarindex.gpu.probing import scan_shape
from polarindex.gpu.source import lists_source
from polarindex.indexes.grouping import Groups

pytestmark = pytest.mark.gpu

CASES = range(*map(int, os.environ.get("POLARINDEX_GPU_CASES", "0:100").split(":")))
WIDTHS = (1, 2, 3, 4, 8)
STORES = ("none", "float32", "float16", "int8")


def rows(rng, n, dim, kind):
    """Vectors in clusters: plain, of very unlike lengths, many equal, some zero, all in one place."""
    centres = 2 * rng.standard_normal((1 if kind == "together" else 12, dim))
    x = (centres[rng.integers(0, len(centres), n)] + rng.standard_normal((n, dim))).astype(np.float32)
    if kind == "skewed":
        x *= np.exp(2 * rng.standard_normal((n, 1))).astype(np.float32)
    if kind == "equal":
        x = x[rng.integers(0, max(1, n // 50), n)]
    if kind == "zero":
        x[rng.random(n) < 0.3] = 0
    return x


def pair(rng, n, dim, kind="plain", *, nlist=16, **arguments):
    """A CPU index and the GPU's with its rows."""
    index = pi.IVFIndex(dim, nlist=nlist, **arguments).fit(rows(rng, max(n, 2 * nlist), dim, kind))
    if n:
        index.add(rows(rng, n, dim, kind))
    return index, index.to_gpu()


def regrouped(rng, index):
    """Lists in groups of no reason, of which a query looks into few: scores decide, whatever the groups."""
    nlist, size = index.nlist, 16
    total = -(-nlist // size)
    least = [min(total, 1 + -(-(1 << level) // size)) for level in range((nlist - 1).bit_length() + 1)]
    order = rng.permutation(nlist).astype(np.int32)
    index._take(index._held.centroids, Groups(order, size, np.array(least, np.int32)))


def check(cpu, gpu, q, k, **options):
    distances, ids = cpu.search(q, k, exact_scan=True, **options)
    found_distances, found_ids = gpu.search(q, k, **options)
    np.testing.assert_array_equal(found_ids, ids)
    np.testing.assert_array_equal(found_distances.view(np.uint32), distances.view(np.uint32))


@pytest.fixture
def rng(request):
    return np.random.default_rng(abs(hash(request.node.name)) % 2**32)


def warm(dims):
    """Compile what the random cases need, on all cores."""
    card = device(0).card
    wanted = {(lists_source("probe"), (("BITS", 8), ("DIM", 128)))}
    for bits in WIDTHS:
        for dim in dims:
            layout = Layout(bits, dim)
            wanted.add((lists_source("best"), (("BITS", bits), ("DIM", layout.padded))))
            for queries in (1, 16, 32):
                form = scan_shape(card, layout, queries)
                wanted.add((lists_source("scan", form.queries), tuple(sorted(form.macros(layout).items()))))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda case: build(case[0], card.architecture, dict(case[1])), sorted(wanted)))


def test_random_lists_answer_as_on_the_cpu(monkeypatch):
    dims = (1, 17, 100, 128, 200, 256, 960)
    warm(dims)
    for case in CASES:
        rng = np.random.default_rng([11, case])
        n = int(rng.choice([1, 5, 40, 300, 3000, 20_000]))
        dim, bits, nlist = int(rng.choice(dims)), int(rng.choice(WIDTHS)), int(rng.choice([1, 2, 9, 40, 150, 400]))
        kind = str(rng.choice(["plain", "skewed", "equal", "zero", "together"]))
        metric = str(rng.choice(["l2", "ip"] if kind == "zero" else ["l2", "ip", "cosine"]))
        nq, k = int(rng.choice([1, 3, 16, 100, 400])), int(rng.choice([1, 10, 10, 100, 700]))
        store = str(rng.choice(STORES, p=[0.55, 0.15, 0.15, 0.15]))
        arguments = dict(metric=metric, bits=bits, center=bool(rng.integers(2)), seed=case, store=store)
        if store == "none" and bits in (2, 3, 4) and rng.random() < 0.2:
            arguments["scan_bits"] = 1
        index = pi.IVFIndex(dim, nlist=nlist, **arguments).fit(rows(rng, max(n, nlist), dim, kind))
        if nlist > 32 and rng.random() < 0.5:
            regrouped(rng, index)
        index.add(rows(rng, n, dim, kind), rng.permutation(3 * n)[:n])
        gpu = index.to_gpu()
        q = rows(rng, nq, dim, "plain" if kind == "zero" else kind)
        options = dict(nprobe=int(rng.integers(1, nlist + 1)) if rng.random() < 0.8 else None)
        if rng.random() < 0.3:
            options["gap"] = float(rng.choice([0, 0.1, 3, 30]))
        if store != "none" and rng.random() < 0.5:
            options["rerank"] = int(rng.choice([0, 1, 2, 9]))
        monkeypatch.setattr(probing, "_BATCH_BYTES", int(rng.choice([1 << 29, 1 << 20])))
        try:
            check(index, gpu, q, k, **options)
            share = rng.choice([0.001, 0.1, 0.5, 0.99])
            check(index, gpu, q, k, filter=rng.random(n) < share, **options)
            gone = rng.permutation(index.ids)[: int(n * rng.choice([0.1, 0.9]))]
            for one in (index, gpu):
                one.remove(gone)
                one.upsert(np.arange(0, n, 7), rows(np.random.default_rng(case), len(range(0, n, 7)), dim, "plain"))
            check(index, gpu, q, k, **options)
        except AssertionError as error:
            raise AssertionError(
                f"case {case}: n={n} dim={dim} kind={kind} nlist={nlist} nq={nq} k={k} {arguments} {options}"
            ) from error


@pytest.mark.parametrize("bits", WIDTHS)
def test_dp4a_answers_as_on_the_cpu(bits, rng, monkeypatch):
    """On a card that would take mma."""
    monkeypatch.setattr(probing, "scan_shape", lambda card, layout, asked: scan_shape(card, layout, asked, False))
    for metric, dim in (("l2", 200), ("ip", 384)):
        cpu, gpu = pair(rng, 4000, dim, "skewed", metric=metric, bits=bits, nlist=30)
        for nq, k in ((1, 10), (40, 100), (150, 300)):
            q = rows(rng, nq, dim, "skewed")
            check(cpu, gpu, q, k, nprobe=7)
            check(cpu, gpu, q, k, nprobe=9, filter=rng.random(4000) < 0.1)


@pytest.mark.parametrize("kind", ["equal", "plain"])
@pytest.mark.parametrize("shared", [True, False])
def test_what_is_held_is_cut_and_changes_no_result(kind, shared, rng, monkeypatch):
    """Room for one round beyond what is kept, with many ties and with none, in shared memory and outside."""
    monkeypatch.setattr(probing, "room_of", lambda keep: 256)
    monkeypatch.setattr(probing, "_SHARED_ROOM", 2048 if shared else 0)
    cpu, gpu = pair(rng, 9000, 64, kind, metric="ip", store="float16")
    q = rows(rng, 30, 64, "plain")
    for k, rerank in ((10, 0), (10, 4), (100, 1)):
        check(cpu, gpu, q, k, nprobe=6, rerank=rerank)


def test_rows_that_are_all_equal_come_by_their_ids(rng):
    """More ties than there is room for, and lists of equal centroids."""
    row = rng.standard_normal((1, 48)).astype(np.float32)
    cpu = pi.IVFIndex(48, nlist=20, metric="ip").fit(rng.standard_normal((60, 48)), centroids=np.tile(row, (20, 1)))
    cpu.add(np.tile(row, (15_000, 1)), rng.permutation(15_000))
    check(cpu, cpu.to_gpu(), rng.standard_normal((5, 48)).astype(np.float32), 10, nprobe=3)


@pytest.mark.parametrize("nlist", [300, 13_000])  # scores looked through in shared memory, and where they are
def test_ties_of_lists_go_to_the_smaller_number(nlist, rng):
    centroids = rng.standard_normal((nlist // 10, 16)).astype(np.float32)[rng.integers(0, nlist // 10, nlist)]
    cpu = pi.IVFIndex(16, nlist=nlist).fit(centroids[:500], centroids=centroids)
    cpu.add(rows(rng, 5000, 16, "plain"))
    for nprobe in (1, 4, 33, nlist):
        check(cpu, cpu.to_gpu(), centroids[:9] + np.float32(0.01), 10, nprobe=nprobe)


def test_longer_answers_than_shared_memory_holds(rng):
    cpu, gpu = pair(rng, 6000, 32, store="float32")
    for k, rerank in ((700, 4), (5000, 1), (9000, 0)):
        check(cpu, gpu, rows(rng, 4, 32, "plain"), k, nprobe=16, rerank=rerank)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("store", STORES[1:])
def test_originals_are_read_in_pinned_memory_too(store, metric, rng, monkeypatch):
    monkeypatch.setattr(lists, "_LEFT", 1 << 60)
    cpu, gpu = pair(rng, 3000, 50, store=store, metric=metric)
    q = rows(rng, 20, 50, "plain")
    check(cpu, gpu, q, 10)
    assert gpu.info()["device"]["originals"] == "host"
    for index in (cpu, gpu):
        index.add(q + 1)
        index.remove(np.arange(0, 3000, 3))
    check(cpu, gpu, q, 10)
    assert isinstance(gpu._mirror._pages.originals, Pinned)
    monkeypatch.undo()
    for index in (cpu, gpu):  # they grow, and move to where there is room now
        index.add(rows(np.random.default_rng(1), 4000, 50, "plain"))
    check(cpu, gpu, q, 10)
    assert gpu.info()["device"]["originals"] == "device"


def test_the_copy_follows_every_change(rng):
    cpu, gpu = pair(rng, 500, 80, store="int8")
    q = rows(rng, 9, 80, "plain")
    for step in range(12):
        x = rows(rng, int(rng.integers(1, 900)), 80, "plain")
        for index in (cpu, gpu):
            index.add(x)
        check(cpu, gpu, q, 20, nprobe=5)
        some = np.random.default_rng(step).choice(cpu.ids, len(cpu) // 3, replace=False)
        for index in (cpu, gpu):
            index.update(some[::2], -x[np.arange(len(some[::2])) % len(x)])
            index.remove(some[1::2])
        check(cpu, gpu, q, 20, nprobe=5, filter=cpu.ids[cpu.ids % 3 == 0])
    for index in (cpu, gpu):  # ids of two words are other columns
        index.add(x, np.arange(len(x)) + 2**40)
    check(cpu, gpu, q, 20, nprobe=16)
    for index in (cpu, gpu):
        index.remove(index.ids)
    check(cpu, gpu, q, 20)


def test_other_lists_are_sent_anew(rng):
    cpu, gpu = pair(rng, 3000, 40, metric="ip", store="float16")
    q = rows(rng, 30, 40, "plain")
    check(cpu, gpu, q, 10, nprobe=3)
    gpu.rebalance(nlist=25)
    check(gpu.to_cpu(), gpu, q, 10, nprobe=3)
    other = gpu.empty_like()
    assert type(other) is pi.gpu.GpuIVFIndex
    other.add(rows(rng, 700, 40, "skewed"), np.arange(700) + 10_000)
    gpu.merge(other)
    gpu.merge(cpu_like := gpu.to_cpu().empty_like())
    assert len(gpu) == 3700 and len(cpu_like) == 0
    check(gpu.to_cpu(), gpu, q, 10, nprobe=3)
    gpu.remove(gpu.ids)
    gpu.fit(rows(rng, 500, 40, "plain"))
    gpu.add(rows(rng, 500, 40, "plain"))
    check(gpu.to_cpu(), gpu, q, 10, nprobe=3)


def test_a_saved_gpu_index_is_an_inverted_file(rng, tmp_path):
    cpu, gpu = pair(rng, 2000, 64, store="float16")
    q = rows(rng, 7, 64, "plain")
    gpu.save(tmp_path / "index")
    loaded = pi.load(tmp_path / "index")
    assert type(loaded) is pi.IVFIndex
    check(loaded, gpu, q, 10)
    check(cpu, loaded.to_gpu().to_cpu().to_gpu(), q, 10)
    check(cpu, pi.load(tmp_path / "index", mmap=True).to_gpu(), q, 10)


def test_arrays_of_the_gpu_are_taken(rng):
    cp = pytest.importorskip("cupy")
    torch = pytest.importorskip("torch")
    x, q = rows(rng, 1500, 32, "plain"), rows(rng, 4, 32, "plain")
    gpu = pi.gpu.GpuIVFIndex(32, nlist=9).fit(torch.from_numpy(x).cuda())
    gpu.add(torch.from_numpy(x).cuda())
    cpu = gpu.to_cpu()
    for there in (torch.from_numpy(q).cuda(), cp.asarray(q)):
        np.testing.assert_array_equal(gpu.search(there, 10)[1], cpu.search(q, 10)[1])


def test_every_kind_of_filter_is_kept_to(rng):
    cpu, gpu = pair(rng, 5000, 48, metric="cosine")
    q = rows(rng, 4, 48, "plain")
    some = rng.choice(5000, 300, replace=False)
    for filter in (some, pi.IdFilter(some), [None, some, pi.IdFilter(some[:5]), np.arange(0)], np.zeros(5000, bool)):
        check(cpu, gpu, q, 10, filter=filter)


def test_errors_and_ranges_are_the_hosts(rng):
    cpu, gpu = pair(rng, 800, 24, store="float32")
    q = rows(rng, 3, 24, "plain")
    for one, two in zip(cpu.search(q, 5, return_error=True), gpu.search(q, 5, return_error=True), strict=True):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(cpu.range_search(q, 60.0), gpu.range_search(q, 60.0), strict=True):
        np.testing.assert_array_equal(one, two)


def test_an_index_without_rows_finds_nothing(rng):
    distances, ids = pi.gpu.GpuIVFIndex(16, nlist=4).fit(rows(rng, 50, 16, "plain")).search(np.ones((2, 16)), 3)
    assert (ids == -1).all() and np.isinf(distances).all()
    with pytest.raises(pi.NotFittedError):
        pi.gpu.GpuIVFIndex(16).search(np.ones((2, 16)), 3)


def test_copies_have_rows_and_a_device_copy_of_their_own(rng):
    cpu, gpu = pair(rng, 1500, 40)
    q = rows(rng, 4, 40, "plain")
    gpu.search(q, 5)
    for other in (copy.copy(gpu), copy.deepcopy(gpu), pickle.loads(pickle.dumps(gpu))):
        other.remove(other.ids[:700])
        check(other.to_cpu(), other, q, 10)
        other.add(-q)
        check(other.to_cpu(), other, q, 10)
    check(cpu, gpu, q, 10)


def test_threads_search_while_rows_are_added(rng):
    _, gpu = pair(rng, 2000, 32, metric="ip")
    q = rows(rng, 8, 32, "plain")
    done = threading.Event()

    def search():
        count = 0
        while not done.is_set() or count < 5:
            _, ids = gpu.search(q, 10, nprobe=16)
            assert (ids >= 0).all() and all(len(set(row)) == 10 for row in ids.tolist())
            count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        searches = [pool.submit(search) for _ in range(3)]
        try:
            for _ in range(20):
                gpu.add(rows(rng, 500, 32, "plain"))
                gpu.remove(gpu.ids[:200])
        finally:
            done.set()
        assert all(task.result() >= 5 for task in searches)
    check(gpu.to_cpu(), gpu, q, 10)


AS_LEVELS = [("polarquant", 4), ("turboquant", 2), ("qjl", 1), ("eden", 6), ("trellis", 2), ("trellis-12", 1)]


@pytest.mark.parametrize(("quantizer", "bits"), AS_LEVELS)
def test_other_quantizers_are_scanned_as_levels(quantizer, bits, rng):
    """Where no kernel of the host reads the codes, the host chooses the lists, by exact scores; trellis' are chosen on
    the card."""
    cpu, gpu = pair(rng, 3000, 96, quantizer=quantizer, bits=bits)
    check(cpu, gpu, rows(rng, 20, 96, "plain"), 10, nprobe=4)
    check(cpu, gpu, rows(rng, 20, 96, "plain"), 10, nprobe=4, gap=20)


def test_longer_rows_than_the_device_rotates(rng):
    cpu, gpu = pair(rng, 300, 8200, bits=1, nlist=5)
    check(cpu, gpu, rows(rng, 5, 8200, "plain"), 10, nprobe=2)


def test_what_a_gpu_index_has_not_is_refused(rng):
    with pytest.raises(ValueError, match="two stages"):
        pi.IVFIndex(64, bits=4, quantizer="turboquant-prod").to_gpu()
    with pytest.raises(ValueError, match="spill=0"):
        pi.IVFIndex(64, store="float16", spill=0.5).to_gpu()
    with pytest.raises(ValueError, match="spill=0"):
        pi.gpu.GpuIVFIndex(64, store="float16", spill=0.5)
    with pytest.raises(pi.GpuError, match="there is no GPU 99"):
        pi.IVFIndex(8).to_gpu(99)
    _, gpu = pair(rng, 100, 8, nlist=3)
    with pytest.raises(ValueError, match="8 bits"):
        gpu.search(np.ones((1, 8)), 3, query_bits=16)


def test_a_full_memory_is_said_and_mended(rng):
    cp = pytest.importorskip("cupy")
    cpu, gpu = pair(rng, 100, 64)
    q = rows(rng, 5, 64, "plain")
    check(cpu, gpu, q, 5)
    x = rows(rng, 200_000, 64, "plain")
    for index in (cpu, gpu):
        index.add(x)
    pool = cp.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(size=pool.total_bytes() + (1 << 20))
    try:
        with pytest.raises(pi.GpuError, match="memory is full while copying rows"):
            gpu.search(q, 5)
    finally:
        pool.set_limit(size=0)
    check(cpu, gpu, q, 5)
