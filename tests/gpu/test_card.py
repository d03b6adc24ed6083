"""On a card: what the GPU finds is what the CPU finds, to the bit. `pytest -m gpu` where there is one."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import polarindex as pi
from polarindex import kernels
from polarindex.gpu import encode as gpu_encode
from polarindex.gpu import search as gpu_search
from polarindex.gpu.build import build
from polarindex.gpu.device import device
from polarindex.gpu.encode import coder
from polarindex.gpu.layout import Layout
from polarindex.gpu.places import Form
from polarindex.gpu.search import Search, chosen, sent
from polarindex.gpu.shapes import Sample, instructions, shape
from polarindex.gpu.source import scan_source, source
from polarindex.quantizers import make_quantizer

pytestmark = pytest.mark.gpu

CASES = range(*map(int, os.environ.get("POLARINDEX_GPU_CASES", "0:100").split(":")))
WIDTHS = (1, 2, 3, 4, 8)


def rows(rng, n, dim, kind):
    """Vectors of one kind: plain, of very unlike lengths, many equal, some zero."""
    x = rng.standard_normal((n, dim)).astype(np.float32)
    if kind == "skewed":
        x *= np.exp(2 * rng.standard_normal((n, 1))).astype(np.float32)
    if kind == "equal":
        x = x[rng.integers(0, max(1, n // 50), n)]
    if kind == "sorted":
        x = x[np.argsort(x[:, 0])] + 3 * np.sort(rng.standard_normal((n, 1)).astype(np.float32), axis=0)
    if kind == "zero":
        x[rng.random(n) < 0.3] = 0
    return x


def pair(rng, n, dim, kind="plain", **arguments):
    """A CPU index and the GPU's with its rows."""
    index = pi.FlatIndex(dim, **arguments)
    if n:
        index.add(rows(rng, n, dim, kind))
    return index, index.to_gpu()


def check(cpu, gpu, q, k, **options):
    distances, ids = cpu.search(q, k, exact_scan=True, **options)
    found_distances, found_ids = gpu.search(q, k, **options)
    np.testing.assert_array_equal(found_ids, ids)
    np.testing.assert_array_equal(found_distances, distances)


@pytest.fixture
def rng(request):
    return np.random.default_rng(abs(hash(request.node.name)) % 2**32)


def dots_on_device(gpu, queries, instruction=None):
    (mirror,) = gpu._copies
    with mirror.current(gpu._arena) as held, mirror.device.use("testing") as cp:
        prepare = sent(cp, queries, held.layout.padded)
        which = chosen(cp, None, held.n)
        return Search(mirror.device, cp, held, prepare, len(queries.levels), 1, which, instruction).dots()


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("instruction", ["wgmma", "mma", "dp4a"])
def test_integer_dots_are_the_cpus_with_every_instruction(bits, instruction, rng):
    if instruction not in instructions(device(0).card):
        pytest.skip(f"{device(0).name} has no {instruction}")
    for dim, n, nq in ((100, 70, 5), (256, 1000, 40), (1000, 333, 130)):
        cpu, gpu = pair(rng, n, dim, bits=bits)
        (queries,) = cpu._integer_queries(rng.standard_normal((nq, dim)).astype(np.float32))[0]
        stage = cpu.quantizer.stages[0]
        levels = stage.levels(cpu._coding.words(cpu._arena, np.arange(n)))[:, :dim].astype(np.int64)
        expected = queries.levels.astype(np.int64) @ levels.T
        np.testing.assert_array_equal(dots_on_device(gpu, queries, instruction), expected)


def warm(dims):
    """Compile what the random cases need, on all cores."""
    card = device(0).card
    wanted = {}
    for bits in WIDTHS:
        for dim in dims:
            layout = Layout(bits, dim)
            for nq in (1, 16, 64, 128, 300):
                form = shape(card, layout, nq)
                text = scan_source(form.instruction, form.queries)
                wanted[text, tuple(sorted(form.macros(layout).items()))] = None
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda case: build(case[0], card.architecture, dict(case[1])), wanted))


def test_random_indexes_answer_as_on_the_cpu():
    dims = (1, 17, 100, 128, 200, 256, 300, 960, 1024)
    warm(dims)
    for case in CASES:
        rng = np.random.default_rng([7, case])
        n = int(rng.choice([1, 5, 63, 64, 65, 1000, 5000, 20_000]))
        dim, bits = int(rng.choice(dims)), int(rng.choice(WIDTHS))
        kind = str(rng.choice(["plain", "skewed", "equal", "sorted", "zero"]))
        metric = str(rng.choice(["l2", "ip"] if kind == "zero" else ["l2", "ip", "cosine"]))
        nq, k = int(rng.choice([1, 3, 16, 40, 130, 300])), int(rng.choice([1, 10, 100, 700]))
        arguments = dict(metric=metric, bits=bits, center=bool(rng.integers(2)), seed=case)
        cpu, gpu = pair(rng, n, dim, kind, **arguments)
        q = rows(rng, nq, dim, "plain" if kind == "zero" else kind)
        filter = rng.random(n) < rng.choice([0.001, 0.5, 0.99]) if rng.integers(2) else None
        try:
            check(cpu, gpu, q, k, filter=filter)
        except AssertionError as error:
            raise AssertionError(f"case {case}: n={n} dim={dim} kind={kind} nq={nq} k={k} {arguments}") from error


def cards():
    """Devices to put an index on: one, the same twice, and all there are."""
    count = pytest.importorskip("cupy").cuda.runtime.getDeviceCount()
    return [0, [0, 0], *([list(range(count))] if count > 1 else [])]


def memory_for(n, layout, share):
    """Bytes for the columns of n rows and a share of their tiles; two tiles at least."""
    return (n + n // 8 + 64) * 16 + max(2, int(share * n / 64)) * layout.tile_bytes


def test_random_indexes_that_are_streamed_or_on_several_devices_answer_as_on_the_cpu():
    dims = (17, 128, 300)
    warm(dims)
    streamed = 0
    for case in CASES:
        rng = np.random.default_rng([11, case])
        n = int(rng.choice([65, 1000, 5000, 20_000, 60_000]))
        dim, bits = int(rng.choice(dims)), int(rng.choice(WIDTHS))
        kind = str(rng.choice(["plain", "skewed", "equal", "sorted", "zero"]))
        nq, k = int(rng.choice([1, 16, 130, 300])), int(rng.choice([1, 10, 100, 700]))
        arguments = dict(metric=str(rng.choice(["l2", "ip"])), bits=bits, seed=case)
        cpu, _ = pair(rng, n, dim, kind, **arguments)
        devices = cards()
        device = devices[int(rng.integers(len(devices)))]
        share = float(rng.choice([0, 0.02, 0.3, 0.9]))
        gpu = cpu.to_gpu(device, memory_for(n, Layout(bits, dim), share))
        q = rows(rng, nq, dim, "plain" if kind == "zero" else kind)
        try:
            check(cpu, gpu, q, k)
            check(cpu, gpu, q, k, filter=rng.random(n) < rng.choice([0.001, 0.02, 0.9]))
            check(cpu, gpu, q[:3], k, filter=np.arange(n) // 100 % 7 == 3)
        except AssertionError as error:
            what = f"{n=} {dim=} {kind=} {nq=} {k=} {device=} {share=} {arguments}"
            raise AssertionError(f"case {case}: {what}") from error
        held = gpu.info()["device"]
        streamed += any(one["streamed"] for one in (held if isinstance(held, list) else [held]))
    assert streamed > len(CASES) // 2


@pytest.mark.parametrize("kind", ["equal", "sorted", "plain"])
def test_parts_that_overflow_change_no_result(kind, rng, monkeypatch):
    monkeypatch.setattr(gpu_search, "room", lambda k: 128)
    monkeypatch.setattr(gpu_search, "sample", lambda ntiles, k: Sample(1, ntiles))
    cpu, _ = pair(rng, 20_000, 96, kind, metric="ip")
    for nq in (20, 150):
        gpu = cpu.to_gpu(memory=memory_for(20_000, Layout(4, 96), 0.2))
        check(cpu, gpu, rows(rng, nq, 96, "plain"), 10)


@pytest.mark.parametrize("device", range(3))
def test_streamed_copies_follow_every_change(device, rng):
    if device >= len(cards()):
        pytest.skip("there is one GPU")
    cpu, _ = pair(rng, 3000, 80)
    gpu = cpu.to_gpu(cards()[device], 200_000)
    q = rng.standard_normal((9, 80)).astype(np.float32)
    for step in range(8):
        x = rng.standard_normal((int(rng.integers(1, 1500)), 80)).astype(np.float32)
        for index in (cpu, gpu):
            index.add(x)
        check(cpu, gpu, q, 20)
        some = np.random.default_rng(step).choice(cpu.ids, len(cpu) // 4, replace=False)
        for index in (cpu, gpu):
            index.update(some[::2], -x[np.arange(len(some[::2])) % len(x)])
            index.remove(some[1::2])
        check(cpu, gpu, q, 20, filter=cpu.ids % 3 == 0)


def test_large_blocks_are_streamed_whole_and_by_a_filter(rng):
    """Blocks of many tiles, filters of few and of very many runs."""
    n = 400_000
    cpu, _ = pair(rng, n, 128, metric="ip")
    gpu = cpu.to_gpu(memory=20_000_000)
    q = rng.standard_normal((5, 128)).astype(np.float32)
    check(cpu, gpu, q, 10)
    for filter in (rng.random(n) < 0.0005, rng.random(n) < 0.02, np.arange(n) > n - 70_000):
        check(cpu, gpu, q, 10, filter=filter)
    held = gpu.info()["device"]
    assert held["streamed"] > 10_000_000 and held["nbytes"] <= 20_000_000


def test_memory_that_cannot_be_pinned_is_named(rng, monkeypatch):
    cp = pytest.importorskip("cupy")
    cpu, _ = pair(rng, 10_000, 128)
    gpu = cpu.to_gpu(memory=200_000)

    def refuse(nbytes):
        return cp.cuda.runtime.hostAlloc(1 << 50, 0)

    with monkeypatch.context() as patch:
        patch.setattr(cp.cuda, "PinnedMemory", refuse)
        with pytest.raises(pi.GpuError, match="pinned memory cannot be had"):
            gpu.search(np.ones(128), 5)
    check(cpu, gpu, rng.standard_normal((2, 128)).astype(np.float32), 5)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("instruction", ["mma", "dp4a"])
def test_the_kernels_of_other_cards_answer_as_on_the_cpu(bits, instruction, rng, monkeypatch):
    """In full: sample, threshold, filter and overflow, on a card that would take another one."""
    if instruction not in instructions(device(0).card):
        pytest.skip(f"{device(0).name} has no {instruction}")
    monkeypatch.setattr(gpu_search, "shape", lambda card, layout, nq, _: shape(card, layout, nq, instruction))
    for kind, metric, dim in (("skewed", "l2", 200), ("equal", "ip", 384)):
        cpu, gpu = pair(rng, 9000, dim, kind, metric=metric, bits=bits)
        for nq, k in ((1, 10), (7, 100), (40, 10), (150, 600)):
            q = rows(rng, nq, dim, kind)
            check(cpu, gpu, q, k)
            check(cpu, gpu, q, k, filter=rng.random(9000) < 0.1)


@pytest.mark.parametrize("nq", [20, 150])  # hits by atomics, and by the warps' queues
@pytest.mark.parametrize("kind", ["equal", "sorted", "plain"])
def test_lists_that_overflow_change_no_result(kind, nq, rng, monkeypatch):
    """Lists of 128 places, samples of one tile: nearly every list overflows, with many ties and with none."""
    monkeypatch.setattr(gpu_search, "room", lambda k: 128)
    monkeypatch.setattr(gpu_search, "sample", lambda ntiles, k: Sample(1, ntiles))
    raised = []
    real = Search.raise_thresholds
    monkeypatch.setattr(Search, "raise_thresholds", lambda self: (raised.append(1), real(self)))
    cpu, gpu = pair(rng, 20_000, 96, kind, metric="ip")
    check(cpu, gpu, rows(rng, nq, 96, "plain"), 10)
    assert raised


def test_rows_that_are_all_equal_come_by_their_ids(rng):
    """More ties than a list has places."""
    cpu = pi.FlatIndex(64, metric="ip")
    ids = rng.permutation(30_000)
    cpu.add(np.tile(rng.standard_normal(64).astype(np.float32), (30_000, 1)), ids)
    check(cpu, cpu.to_gpu(), rng.standard_normal((3, 64)).astype(np.float32), 10)


def test_the_copy_follows_every_change(rng):
    cpu, gpu = pair(rng, 500, 80)
    q = rng.standard_normal((9, 80)).astype(np.float32)
    for step in range(12):
        x = rng.standard_normal((int(rng.integers(1, 900)), 80)).astype(np.float32)
        for index in (cpu, gpu):
            index.add(x)
        check(cpu, gpu, q, 20)
        some = np.random.default_rng(step).choice(cpu.ids, len(cpu) // 3, replace=False)
        for index in (cpu, gpu):
            index.update(some[::2], -x[np.arange(len(some[::2])) % len(x)])
            index.remove(some[1::2])
        np.testing.assert_array_equal(cpu.ids, gpu.ids)
        check(cpu, gpu, q, 20, filter=cpu.ids % 3 == 0)


def test_a_saved_gpu_index_is_a_flat_index(rng, tmp_path):
    cpu, gpu = pair(rng, 2000, 64, store="float16")
    gpu.save(tmp_path / "index")
    loaded = pi.load(tmp_path / "index")
    assert type(loaded) is pi.FlatIndex
    q = rng.standard_normal((7, 64)).astype(np.float32)
    check(loaded, gpu, q, 10)
    check(cpu, loaded.to_gpu().to_cpu().to_gpu(), q, 10)


def test_arrays_of_the_gpu_are_taken(rng):
    cp = pytest.importorskip("cupy")
    torch = pytest.importorskip("torch")
    cpu, gpu = pair(rng, 0, 32)
    x, q = (rng.standard_normal((n, 32)).astype(np.float32) for n in (1500, 4))
    cpu.add(x)
    gpu.add(torch.from_numpy(x).cuda())
    check(cpu, gpu, q, 10)
    for there in (torch.from_numpy(q).cuda(), cp.asarray(q)):
        np.testing.assert_array_equal(gpu.search(there, 10)[1], cpu.search(q, 10, exact_scan=True)[1])


def test_every_kind_of_filter_is_kept_to(rng):
    cpu, gpu = pair(rng, 5000, 48, metric="cosine")
    q = rng.standard_normal((4, 48)).astype(np.float32)
    some = rng.choice(5000, 300, replace=False)
    for filter in (some, pi.IdFilter(some), [None, some, pi.IdFilter(some[:5]), np.arange(0)], np.zeros(5000, bool)):
        check(cpu, gpu, q, 10, filter=filter)


def test_an_index_without_rows_finds_nothing():
    distances, ids = pi.gpu.GpuFlatIndex(16).search(np.ones((2, 16)), 3)
    assert (ids == -1).all() and np.isinf(distances).all()


def test_copies_have_rows_and_a_device_copy_of_their_own(rng):
    cpu, gpu = pair(rng, 1500, 40)
    q = rng.standard_normal((4, 40)).astype(np.float32)
    gpu.search(q, 5)
    for other in (copy.copy(gpu), copy.deepcopy(gpu), pickle.loads(pickle.dumps(gpu))):
        other.remove(other.ids[:700])
        check(other.to_cpu(), other, q, 10)
        other.add(-q)
        check(other.to_cpu(), other, q, 10)
    check(cpu, gpu, q, 10)


def test_threads_search_while_rows_are_added(rng):
    _, gpu = pair(rng, 2000, 32, metric="ip")
    q = rng.standard_normal((8, 32)).astype(np.float32)
    done = threading.Event()

    def search():
        count = 0
        while not done.is_set() or count < 5:
            _, ids = gpu.search(q, 10)
            assert (ids >= 0).all() and all(len(set(row)) == 10 for row in ids.tolist())
            count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        searches = [pool.submit(search) for _ in range(3)]
        try:
            for _ in range(20):
                gpu.add(rng.standard_normal((500, 32)).astype(np.float32))
                gpu.remove(gpu.ids[:200])
        finally:
            done.set()
        assert all(task.result() >= 5 for task in searches)
    check(gpu.to_cpu(), gpu, q, 10)


AS_LEVELS = [("polarquant", 4), ("turboquant", 2), ("qjl", 1), ("eden", 6), ("trellis", 2), ("trellis-12", 1)]


@pytest.mark.parametrize(("quantizer", "bits"), AS_LEVELS)
def test_other_quantizers_are_scanned_as_levels(quantizer, bits, rng):
    cpu, gpu = pair(rng, 3000, 96, quantizer=quantizer, bits=bits)
    check(cpu, gpu, rng.standard_normal((20, 96)).astype(np.float32), 10)


CODED = [(dim, 4) for dim in (1, 2, 3, 17, 33, 64, 128, 500, 768, 1000, 1536, 2048, 3000, 4096, 5000, 8192)]
CODED += [(dim, bits) for dim in (100, 1024) for bits in range(1, 9)]


@pytest.fixture(scope="module")
def coding_is_compiled():
    """On all cores."""
    card = device(0).card
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda case: build(source("encode"), card.architecture, macros_of(*case)), CODED))


def macros_of(dim, bits):
    return Form.of(dim, device(0).card).macros(device(0).card, bits)


def check_rows(cpu, gpu):
    for name in cpu._arena.columns:
        every = np.arange(len(cpu))
        np.testing.assert_array_equal(gpu._arena.take(name, every), cpu._arena.take(name, every), err_msg=name)


@pytest.mark.parametrize(("dim", "bits"), CODED)
def test_words_and_sums_are_the_cpus(dim, bits, rng, coding_is_compiled):
    """Of skewed, zero and tiny rows against a centre, in numbers that fill no block."""
    quantizer = make_quantizer("eden", dim, bits)
    book, mu = quantizer.integer_book, rng.standard_normal(dim).astype(np.float32)
    for n in (1, 7, 1111 if dim < 2000 else 130):
        x = rows(rng, n, dim, "skewed") + np.float32(1)
        x[n // 2] = mu
        x[n // 3] = mu + np.float32(1e-30)
        words, sums = np.empty((n, quantizer.words), np.uint32), np.empty((4, n))
        kernels.encode(x, mu, quantizer.stage.map.plan, (bits, *book[:3]), words, sums)
        with device(0).use("testing") as cp:
            found = coder(device(0), quantizer).code(cp, cp.asarray(x), cp.asarray(mu))
            np.testing.assert_array_equal(found.words.get(), words)
            np.testing.assert_array_equal(found.sums.get(), sums)


@pytest.mark.parametrize(("dim", "bits"), [(1, 4), (17, 4), (100, 5), (1024, 4), (1024, 8), (1536, 4), (5000, 4)])
def test_rows_are_coded_as_on_the_cpu(dim, bits, rng):
    """Words, scales and shifts, with the centre that is learned on the way."""
    x = rows(rng, 3000 if dim < 2000 else 1100, dim, "skewed") + 1
    x[5] = 0
    cpu, gpu = pi.FlatIndex(dim, bits=bits), pi.gpu.GpuFlatIndex(dim, bits=bits)
    assert gpu.info()["coding"] == "gpu"
    for part in (x[:100], x[100:]):
        cpu.add(part)
        gpu.add(part)
    check_rows(cpu, gpu)
    check(cpu, gpu, x[:40], 10)


def forms_of(x):
    """The same rows: of the GPU, also with gaps, other types there, in pinned memory, and not."""
    import cupyx

    pinned = cupyx.empty_pinned(x.shape, np.float32)
    pinned[...] = x
    cp, torch = pytest.importorskip("cupy"), pytest.importorskip("torch")
    wide = cp.zeros((2 * len(x), x.shape[1] + 1), np.float32)
    wide[::2, :-1] = cp.asarray(x)
    return {
        "cupy": cp.asarray(x),
        "gaps": wide[::2, :-1],
        "float64": cp.asarray(x).astype(np.float64),
        "torch": torch.from_numpy(x).cuda(),
        "pinned": pinned,
        "numpy": x,
        "float64 of NumPy": x.astype(np.float64),
    }


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("store", ["none", "float16"])
def test_rows_that_lie_anywhere_are_coded_as_on_the_cpu(metric, store, rng, monkeypatch):
    monkeypatch.setattr(gpu_encode, "_STEP_BYTES", 4 * 48 * 700)  # several parts
    first, x = rows(rng, 600, 48, "plain"), rows(rng, 3000, 48, "skewed")
    for name, given in forms_of(x).items():
        cpu, gpu = (kind(48, metric, store=store) for kind in (pi.FlatIndex, pi.gpu.GpuFlatIndex))
        for index, more in ((cpu, x), (gpu, given)):
            index.add(first)
            index.add(more)
            index.update(np.arange(100, 400), more[:300])
            index.upsert(np.arange(3000, 4000), more[1000:2000])
        check_rows(cpu, gpu)
        cpu, gpu = (kind(48, metric).fit(more) for kind, more in ((pi.FlatIndex, x), (pi.gpu.GpuFlatIndex, given)))
        np.testing.assert_array_equal(cpu._coding.centre.mu, gpu._coding.centre.mu, err_msg=name)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2e19, "zero"])
def test_the_first_bad_row_is_named_as_on_the_cpu(metric, bad, rng, monkeypatch):
    monkeypatch.setattr(gpu_encode, "_STEP_BYTES", 4 * 48 * 700)
    x = rows(rng, 3000, 48, "plain")
    if bad == "zero":
        x[1500] = x[2500] = 0
    else:
        x[1500, 7] = x[2500, 3] = bad
    for given in forms_of(x).values():
        cpu, gpu = (kind(48, metric) for kind in (pi.FlatIndex, pi.gpu.GpuFlatIndex))
        for index in (cpu, gpu):
            index.add(x[:1400])
        said = []
        for index, more in ((cpu, x), (gpu, given)):
            try:
                index.add(more)
                said.append(None)
            except ValueError as error:
                said.append(str(error))
        assert said[0] == said[1]
        assert (said[0] is None) == (bad == "zero" and metric == "l2" or bad == 2e19 and metric == "cosine")
        if said[0]:
            assert "x[1500]" in said[0]
        check_rows(cpu, gpu)


def test_the_first_removal_sends_no_row_again(rng, monkeypatch):
    cpu, gpu = pair(rng, 5000, 64)
    q = rng.standard_normal((4, 64)).astype(np.float32)
    gpu.search(q, 3)
    (mirror,) = gpu._copies
    sent_rows, real = [], type(mirror).pack

    def pack(self, cp, words, *where):
        sent_rows.append(len(words))
        return real(self, cp, words, *where)

    monkeypatch.setattr(type(mirror), "pack", pack)
    for index in (cpu, gpu):
        index.remove([17, 4000])
    check(cpu, gpu, q, 10)
    assert sum(sent_rows) == 2
    more = rng.standard_normal((3000, 64)).astype(np.float32)  # beyond the room that the device has
    for index in (cpu, gpu):
        index.add(more)
    check(cpu, gpu, q, 10)


def test_longer_rows_are_coded_on_the_host(rng):
    gpu = pi.gpu.GpuFlatIndex(8200, bits=1)
    cpu = pi.FlatIndex(8200, bits=1)
    x = rng.standard_normal((300, 8200)).astype(np.float32)
    assert gpu.info()["coding"] == "host"
    cpu.add(x)
    gpu.add(x)
    check(cpu, gpu, x[:5], 10)


def test_a_quantizer_of_two_stages_is_refused():
    with pytest.raises(ValueError, match="two stages"):
        pi.FlatIndex(64, bits=4, quantizer="turboquant-prod").to_gpu()


def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(pi.GpuError, match="there is no GPU 99"):
        pi.FlatIndex(8).to_gpu(99)


def test_a_full_memory_is_said(rng):
    cp = pytest.importorskip("cupy")
    cpu, gpu = pair(rng, 100, 64)
    pool = cp.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(size=pool.total_bytes() + (1 << 20))
    x = rng.standard_normal((200_000, 64)).astype(np.float32)
    try:
        with pytest.raises(pi.GpuError, match="memory is full while coding rows"):
            gpu.add(x)
        assert len(gpu) == 100
        cpu.add(x)
        with pytest.raises(pi.GpuError, match="memory is full while copying rows"):
            cpu.to_gpu().search(x[0], 5)
    finally:
        pool.set_limit(size=0)
    gpu.add(x)  # what failed left the index as it was
    check(cpu, gpu, x[:5], 5)
