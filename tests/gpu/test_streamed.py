"""Indexes larger than a device's memory, on an emulated device: what the CPU finds, whatever is resident."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import polarindex as pi
from polarindex.gpu import search as gpu_search
from polarindex.gpu import streamed
from polarindex.gpu.layout import Layout
from polarindex.gpu.mirror import Mirror
from polarindex.gpu.shapes import Sample


def check(cpu, gpu, q, k, **options):
    distances, ids = cpu.search(q, k, exact_scan=True, **options)
    found_distances, found_ids = gpu.search(q, k, **options)
    np.testing.assert_array_equal(found_ids, ids)
    np.testing.assert_array_equal(found_distances, distances)


def memory_for(n, dim, bits, tiles):
    """Bytes for scales and shifts of n rows, with room for an eighth more, and so many tiles."""
    return -(-(n + n // 8) // 64) * 64 * 8 + tiles * Layout(bits, dim).tile_bytes


def pair(rng, n, dim, tiles, bits=4, kind="plain", **arguments):
    cpu = pi.FlatIndex(dim, bits=bits, **arguments)
    x = rng.standard_normal((n, dim)).astype(np.float32)
    if kind == "equal":
        x = x[rng.integers(0, n // 40, n)]
    if kind == "one":
        x[:] = x[0]
    if kind == "sorted":
        x = x[np.argsort(x[:, 0])] + 3 * np.sort(rng.standard_normal((n, 1)).astype(np.float32), axis=0)
    cpu.add(x)
    return cpu, cpu.to_gpu(memory=memory_for(n, dim, bits, tiles))


def home(gpu):
    """Where its tiles are."""
    (mirror,) = gpu._copies
    return mirror.beyond.home


def streams(gpu):
    return gpu.info()["device"]["streamed"] > 0


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("tiles", [2, 9])
def test_streamed_rows_are_found_as_on_the_cpu(bits, tiles, rng, devices):
    cpu, gpu = pair(rng, 1200, 40, tiles, bits, metric="ip")
    q = rng.standard_normal((5, 40)).astype(np.float32)
    for k, share in ((1, 0.9), (10, 0.002), (600, 0.03)):
        check(cpu, gpu, q, k)
        check(cpu, gpu, q, k, filter=rng.random(1200) < share)
    assert streams(gpu)


@pytest.mark.parametrize("kind", ["one", "equal", "sorted", "plain"])
def test_lists_that_overflow_change_no_result(kind, rng, devices, monkeypatch):
    """Lists of 32 places, samples of one tile: parts overflow, the first and later ones, with ties and none."""
    monkeypatch.setattr(gpu_search, "room", lambda k: 32)
    monkeypatch.setattr(gpu_search, "sample", lambda ntiles, k: Sample(1, ntiles))
    again = []
    real = streamed.StreamedSearch.raise_thresholds

    def counted(self, first, stop):
        if stop:
            again.append(first)
        assert len(again) < 500, "it does not end"
        real(self, first, stop)

    monkeypatch.setattr(streamed.StreamedSearch, "raise_thresholds", counted)
    cpu, gpu = pair(rng, 6000, 24, 24, kind=kind, metric="ip")
    check(cpu, gpu, rng.standard_normal((6, 24)).astype(np.float32), 10)
    assert 0 in again  # the resident part
    assert kind != "sorted" or max(again) > 64 * 24  # and blocks


def test_what_a_list_keeps_takes_its_places_too(rng, devices, monkeypatch):
    """Lists of 64 places; blocks of one tile whose rows are all better than those before, of which ten were kept."""
    monkeypatch.setattr(gpu_search, "room", lambda k: 64)
    lengths = np.full(3000, 0.1, np.float32)
    for tiles in (5, 6, 7, 8):
        lengths[: 64 * tiles] = np.linspace(1, 9, 64 * tiles)
        x = lengths[:, None] * rng.standard_normal(24).astype(np.float32)
        cpu = pi.FlatIndex(24, metric="ip", center=False)
        cpu.add(x)
        gpu = cpu.to_gpu(memory=memory_for(3000, 24, 4, 6) - 4 * 3392)  # there are no shifts
        check(cpu, gpu, x[:3], 10)
        assert home(gpu).block == 1


def test_tiles_that_a_filter_excludes_are_not_sent(rng, devices, monkeypatch):
    cpu, gpu = pair(rng, 6400, 16, 10)
    q = rng.standard_normal((2, 16)).astype(np.float32)
    gpu.search(q, 3)
    size = Layout(4, 16).tile_bytes
    resident = home(gpu).resident
    for few in (streamed.FEW_RUNS, 0):  # copies run by run, and by a kernel
        monkeypatch.setattr(streamed, "FEW_RUNS", few)
        allowed = np.zeros(6400, bool)
        allowed[[64 * 20, 64 * 20 + 5, 64 * 21, 64 * 70, 64 * resident - 1]] = True  # one is resident
        devices[0].sent = 0
        check(cpu, gpu, q, 3, filter=allowed)
        assert devices[0].sent == 3 * size
    devices[0].sent = 0
    gpu.search(q, 3)
    assert devices[0].sent == (100 - resident) * size  # all but the resident ones, once
    assert "send_tiles" in devices[0].launched


def test_the_copy_follows_every_change(rng, devices):
    cpu, gpu = pair(rng, 500, 24, 0)
    gpu = gpu.to_gpu(memory=40_000)
    q = rng.standard_normal((3, 24)).astype(np.float32)
    for step in range(6):
        x = rng.standard_normal((int(rng.integers(1, 400)), 24)).astype(np.float32)
        for index in (cpu, gpu):
            index.add(x)
        check(cpu, gpu, q, 20)
        some = np.random.default_rng(step).choice(cpu.ids, len(cpu) // 3, replace=False)
        for index in (cpu, gpu):
            index.update(some[::2], -x[np.arange(len(some[::2])) % len(x)])
            index.remove(some[1::2])
        check(cpu, gpu, q, 20, filter=cpu.ids % 3 == 0)
    assert streams(gpu)


def test_only_what_changed_is_packed_again(rng, devices):
    cpu, gpu = pair(rng, 6400, 24, 20)
    q = rng.standard_normal((3, 24)).astype(np.float32)
    check(cpu, gpu, q, 5)
    (mirror,) = gpu._copies
    tiles = mirror.beyond
    for index in (cpu, gpu):
        index.update([1, 5000], q[:2])
        index.add(q)
    check(cpu, gpu, q, 5)
    assert mirror.beyond is tiles


def test_memory_that_holds_everything_streams_nothing(rng, devices):
    cpu, gpu = pair(rng, 1000, 24, 10_000)
    check(cpu, gpu, rng.standard_normal((3, 24)).astype(np.float32), 5)
    assert not streams(gpu)
    assert devices[0].sent == 0


def test_by_default_what_is_free_decides(rng, devices):
    cpu, _ = pair(rng, 2000, 24, 2)
    q = rng.standard_normal((3, 24)).astype(np.float32)
    gpu = cpu.to_gpu()
    check(cpu, gpu, q, 5)
    assert not streams(gpu)
    devices[0].free = 200_000
    gpu = cpu.to_gpu()
    check(cpu, gpu, q, 5)
    assert streams(gpu)
    assert 90_000 < gpu.info()["device"]["nbytes"] <= 100_000


def test_what_is_held_is_counted_and_within_memory(rng, devices):
    cpu, gpu = pair(rng, 6400, 24, 20)
    before = gpu.nbytes
    assert before == cpu.nbytes
    gpu.search(np.ones(24), 5)
    held = gpu.info()["device"]
    size, there = Layout(4, 24).tile_bytes, home(gpu)
    assert held["nbytes"] <= memory_for(6400, 24, 4, 20)
    assert held["nbytes"] == there.nbytes(8, size)
    assert held["streamed"] == -(-(100 - there.resident) // there.block) * there.block * size
    assert gpu.nbytes == before + held["streamed"]


def test_memory_that_does_not_hold_the_columns_is_refused(rng, devices):
    cpu, _ = pair(rng, 6400, 24, 20)
    with pytest.raises(pi.GpuError, match=r"6,400 rows need 59,392 bytes .* and there are 50,000"):
        cpu.to_gpu(memory=50_000).search(np.ones(24), 5)


def test_memory_that_cannot_be_pinned_is_named_and_leaves_the_index_as_it_was(rng, devices):
    cpu, gpu = pair(rng, 6400, 24, 20)
    devices[0].pinned = 3000
    with pytest.raises(pi.GpuError, match=r"more bytes of pinned memory cannot be had on the host"):
        gpu.search(np.ones(24), 5)
    devices[0].pinned = 1 << 30
    check(cpu, gpu, rng.standard_normal((3, 24)).astype(np.float32), 5)


@pytest.mark.parametrize(("memory", "error"), [(0, ValueError), ("1", TypeError), (2.5, TypeError)])
def test_memory_is_checked(memory, error, devices):
    with pytest.raises(error, match="memory"):
        pi.FlatIndex(8).to_gpu(memory=memory)


def test_copies_stream_from_memory_of_their_own(rng, devices):
    cpu, gpu = pair(rng, 2000, 24, 5)
    q = rng.standard_normal((4, 24)).astype(np.float32)
    gpu.search(q, 5)
    for other in (copy.copy(gpu), copy.deepcopy(gpu), pickle.loads(pickle.dumps(gpu))):
        other.remove(other.ids[:700])
        other.add(-q)
        check(other.to_cpu(), other, q, 10)
        assert streams(other)
    check(cpu, gpu, q, 10)


@pytest.mark.parametrize("memory", [None, 40_000])
def test_rows_that_were_not_all_sent_are_sent_again(memory, rng, devices, monkeypatch):
    cpu, _ = pair(rng, 500, 24, 2)
    gpu = cpu.to_gpu(memory=memory)
    q = rng.standard_normal((3, 24)).astype(np.float32)
    check(cpu, gpu, q, 5)
    for index in (cpu, gpu):
        index.remove([3])  # ids are stored from now on, so all is sent anew

    def fail(*arguments):
        raise pi.GpuError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "_pack", fail)
        with pytest.raises(pi.GpuError, match="gone"):
            gpu.search(q, 5)
    check(cpu, gpu, q, 5)


def test_a_search_that_failed_half_way_harms_no_other(rng, devices, monkeypatch):
    cpu, gpu = pair(rng, 3000, 24, 6)
    q = rng.standard_normal((4, 24)).astype(np.float32)
    real = streamed.StreamedSearch._turn_to

    def fail(self, part, lane):
        if part is self.parts[2]:
            raise KeyboardInterrupt
        real(self, part, lane)

    with monkeypatch.context() as patch:
        patch.setattr(streamed.StreamedSearch, "_turn_to", fail)
        with pytest.raises(KeyboardInterrupt):
            gpu.search(q, 5)
    check(cpu, gpu, q, 5)
