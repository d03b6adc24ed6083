"""One index on several devices, emulated: what one device with all rows finds."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import polarindex as pi
from polarindex.gpu import share


def check(cpu, gpu, q, k, **options):
    distances, ids = cpu.search(q, k, exact_scan=True, **options)
    found_distances, found_ids = gpu.search(q, k, **options)
    np.testing.assert_array_equal(found_ids, ids)
    np.testing.assert_array_equal(found_distances, distances)


@pytest.fixture(autouse=True)
def _short_stripes(monkeypatch):
    monkeypatch.setattr(share, "STRIPE", 128)


@pytest.mark.parametrize("device", [[0, 1], (1, 0), [0, 0], [0, 1, 0]])
@pytest.mark.parametrize("memory", [None, 24_000])
def test_several_devices_find_what_one_finds(device, memory, rng, devices):
    cpu = pi.FlatIndex(24, metric="ip")
    x = rng.standard_normal((40, 24)).astype(np.float32)[rng.integers(0, 40, 1500)]  # ties, between devices too
    cpu.add(x)
    gpu = cpu.to_gpu(device, memory)
    q = rng.standard_normal((5, 24)).astype(np.float32)
    for k in (1, 10, 2000):
        check(cpu, gpu, q, k)
        check(cpu, gpu, q, k, filter=rng.random(1500) < 0.1)
    check(cpu, gpu, q, 10, filter=[None, np.arange(20, 30), np.arange(0), np.zeros(1500, bool), pi.IdFilter([7])])
    held = gpu.info()["device"]
    assert [one["number"] for one in held] == list(device)
    assert (memory is not None) == any(one["streamed"] for one in held)


def test_every_device_follows_every_change(rng, devices):
    cpu = pi.FlatIndex(24)
    gpu = pi.gpu.GpuFlatIndex(24, device=[0, 1], memory=40_000)
    q = rng.standard_normal((3, 24)).astype(np.float32)
    for step in range(8):
        x = rng.standard_normal((int(rng.integers(1, 500)), 24)).astype(np.float32)
        for index in (cpu, gpu):
            index.add(x)
        check(cpu, gpu, q, 20)
        some = np.random.default_rng(step).choice(cpu.ids, len(cpu) // 2, replace=False)
        for index in (cpu, gpu):
            index.update(some[::2], -x[np.arange(len(some[::2])) % len(x)])
            index.remove(some[1::2])
        check(cpu, gpu, q, 20, filter=cpu.ids % 3 == 0)


def test_threads_search_all_devices_while_rows_are_added(rng, devices):
    cpu = pi.FlatIndex(24, metric="ip")
    x = rng.standard_normal((900, 24)).astype(np.float32)
    cpu.add(x[:300])
    gpu = cpu.to_gpu([0, 1], 20_000)

    def search():
        _, ids = gpu.search(x[:2], 10)
        return (ids >= 0).all() and all(len(set(row)) == 10 for row in ids.tolist())

    with ThreadPoolExecutor(3) as pool:
        searches = [pool.submit(search) for _ in range(9)]
        for at in range(300, 900, 200):
            gpu.add(x[at : at + 200])
        assert all(one.result(60) for one in searches)
    cpu.add(x[300:])
    check(cpu, gpu, x[:3], 10)


def test_rows_are_few_enough_for_one_device_alone(rng, devices):
    cpu = pi.FlatIndex(24)
    x = rng.standard_normal((100, 24)).astype(np.float32)
    cpu.add(x)
    gpu = cpu.to_gpu([0, 1])
    check(cpu, gpu, x[:3], 5)
    assert "pack_rows" not in devices[1].launched


def test_an_index_without_rows_finds_nothing(devices):
    distances, ids = pi.gpu.GpuFlatIndex(16, device=[0, 1]).search(np.ones((2, 16)), 3)
    assert (ids == -1).all() and np.isinf(distances).all()


def test_copies_and_files_of_several_devices(rng, devices, tmp_path):
    cpu = pi.FlatIndex(24)
    cpu.add(rng.standard_normal((1000, 24)).astype(np.float32))
    gpu = cpu.to_gpu([0, 1])
    q = rng.standard_normal((3, 24)).astype(np.float32)
    gpu.search(q, 3)
    for other in (copy.copy(gpu), pickle.loads(pickle.dumps(gpu)), gpu.to_gpu(1), gpu.to_cpu().to_gpu([1])):
        check(cpu, other, q, 10)
    gpu.save(tmp_path / "index")
    check(pi.load(tmp_path / "index"), gpu, q, 10)


def test_a_device_that_fails_fails_the_search(rng, devices):
    cpu = pi.FlatIndex(24)
    cpu.add(rng.standard_normal((1000, 24)).astype(np.float32))
    gpu = cpu.to_gpu([0, 1], 20_000)
    devices[1].pinned = 0
    with pytest.raises(pi.GpuError, match="pinned"):
        gpu.search(np.ones(24), 3)
    devices[1].pinned = 1 << 30
    check(cpu, gpu, np.ones((1, 24), np.float32), 3)


@pytest.mark.parametrize(
    ("device", "error"),
    [([], ValueError), (["0"], TypeError), ([0, -1], ValueError), ([[0]], TypeError), ({0}, TypeError)],
)
def test_devices_are_checked(device, error, devices):
    with pytest.raises(error, match="device"):
        pi.FlatIndex(8).to_gpu(device)
