"""What the host does about coding on the device, without one: NumPy stands in for the few calls of CuPy, and the CPU's
kernel for the device's. Rows, parts, copies, errors and the device's copy of the rows are the real ones."""

from __future__ import annotations

import contextlib
import sys
import types

import numpy as np
import pytest

import polarindex as pi
from polarindex import kernels
from polarindex.gpu import device as gpu_device
from polarindex.gpu import encode as gpu_encode
from polarindex.gpu.encode import Coded, Coder

DIM = 48


class There:
    """An array of the device."""

    def __init__(self, values):
        self.values = values
        self.data = types.SimpleNamespace(ptr=0)
        self.device = types.SimpleNamespace(id=0)
        self.__cuda_array_interface__ = {}

    def __getattr__(self, name):
        if name in ("shape", "dtype", "ndim", "size", "nbytes"):
            return getattr(self.values, name)
        raise AttributeError(name)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, where):
        return There(self.values[_plain(where)])

    def __setitem__(self, where, values):
        self.values[_plain(where)] = _plain(values)

    def set(self, values, stream=None):
        self.values[...] = values

    def get(self, stream=None, out=None, blocking=True):
        if out is None:
            return self.values.copy()
        out[...] = self.values
        return out


def _plain(x):
    return x.values if isinstance(x, There) else x


class Stream:
    def __init__(self, non_blocking=False):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def synchronize(self):
        pass


@pytest.fixture
def pinned():
    """Addresses that count as pinned memory."""
    return set()


@pytest.fixture(autouse=True)
def no_device(monkeypatch, pinned):
    """CuPy's calls by NumPy, on a card like an H100."""
    Stream.null = Stream()
    failures = types.SimpleNamespace(
        runtime=types.SimpleNamespace(
            CUDARuntimeError=type("CUDARuntimeError", (Exception,), {}),
            getDeviceCount=lambda: 1,
            getDeviceProperties=lambda number: {
                "name": b"none", "major": 9, "minor": 0, "multiProcessorCount": 132, "sharedMemPerBlockOptin": 232_448
            },
            pointerGetAttributes=lambda at: types.SimpleNamespace(type=int(at in pinned)),
        ),
        memory=types.SimpleNamespace(OutOfMemoryError=type("OutOfMemoryError", (Exception,), {})),
        Device=lambda number: contextlib.nullcontext(),
        Stream=Stream,
        get_current_stream=Stream,
        alloc_pinned_memory=lambda nbytes: Pinned(nbytes),
    )  # fmt: skip
    cupy = types.SimpleNamespace(
        cuda=failures,
        asarray=lambda x: x if isinstance(x, There) else There(np.array(x)),
        asnumpy=lambda x: x.values.copy(),
        ascontiguousarray=lambda x: There(np.ascontiguousarray(x.values)),
        empty=lambda shape, dtype: There(np.full(shape, 77, dtype)),
    )
    driver = types.ModuleType("cupy_backends.cuda.api.driver")
    driver.CUDADriverError = type("CUDADriverError", (Exception,), {})
    for name in ("cupy_backends", "cupy_backends.cuda", "cupy_backends.cuda.api"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, driver.__name__, driver)
    monkeypatch.setattr(gpu_device, "cupy", lambda: cupy)
    monkeypatch.setattr(Coder, "code", code)
    monkeypatch.setattr(gpu_encode, "_STEP_BYTES", 4 * DIM * 700)  # several parts
    gpu_device.device.cache_clear()
    yield
    gpu_device.device.cache_clear()


class Pinned(bytearray):
    def size(self):
        return len(self)


def code(self, cp, x, mu):
    quantizer, book = self._quantizer, self._quantizer.integer_book
    words, sums = np.empty((len(x), quantizer.words), np.uint32), np.empty((4, len(x)))
    kernels.encode(
        np.ascontiguousarray(x.values), mu.values, quantizer.stage.map.plan,
        (quantizer.bits, *book[:3]), words, sums,
    )  # fmt: skip
    return Coded(There(words), There(sums))


def kinds_of(x, pinned):
    wide = np.zeros((2 * len(x), DIM + 1), np.float32)
    wide[::2, :-1] = x
    kept = x.copy()
    pinned.update(kept[at:].ctypes.data for at in range(len(kept)))
    return {
        "device": There(x.copy()),
        "gaps": There(wide[::2, :-1]),
        "float64": There(x.astype(np.float64)),
        "numpy": x,
        "numpy float64": x.astype(np.float64),
        "pinned": kept,
    }


def assert_equal_rows(cpu, gpu):
    assert len(cpu) == len(gpu)
    assert cpu._arena.columns.keys() == gpu._arena.columns.keys()
    for name in cpu._arena.columns:
        every = np.arange(len(cpu))
        np.testing.assert_array_equal(gpu._arena.take(name, every), cpu._arena.take(name, every), err_msg=name)


def pair(metric="l2", **arguments):
    return pi.FlatIndex(DIM, metric, **arguments), pi.gpu.GpuFlatIndex(DIM, metric, **arguments)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("store", ["none", "float16", "float32"])
def test_rows_that_lie_anywhere_make_the_same_columns(metric, store, rng, pinned):
    first, x = (rng.standard_normal((n, DIM)).astype(np.float32) for n in (600, 3000))
    for given in kinds_of(x, pinned).values():
        cpu, gpu = pair(metric, store=store)
        for index, more in ((cpu, x), (gpu, given)):
            index.add(first[:100])
            index.add(first[100:])
            index.add(more)
            index.update(np.arange(100, 400), more[:300])
            index.upsert(np.arange(3000, 4000), more[1000:2000])
        assert_equal_rows(cpu, gpu)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2e19, "zero"])
def test_the_first_bad_row_is_named_as_on_the_cpu_and_nothing_is_written(metric, bad, rng, pinned):
    x = rng.standard_normal((3000, DIM)).astype(np.float32)
    if bad == "zero":
        x[1500] = x[2500] = 0
    else:
        x[1500, 7] = x[2500, 3] = bad
    fine = (bad == "zero" and metric == "l2") or (bad == 2e19 and metric == "cosine")
    for given in kinds_of(x, pinned).values():
        cpu, gpu = pair(metric)
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
        assert said[0] is None if fine else "x[1500]" in said[0]
        assert_equal_rows(cpu, gpu)


def test_integers_that_float32_cannot_hold_are_refused(rng):
    cpu, gpu = pair()
    x = rng.integers(-5, 5, (2000, DIM))
    x[1234, 5] = 2**24 + 1
    for index in (cpu, gpu):
        with pytest.raises(ValueError, match=r"x\[1234\] holds an integer beyond"):
            index.add(x)
    assert len(gpu) == 0


def test_pinned_rows_are_not_copied_on_the_host(rng, pinned, monkeypatch):
    copies, real = [], gpu_encode._Lane._gathered

    def gathered(self, cp, pieces):
        copies.append(len(pieces))
        return real(self, cp, pieces)

    monkeypatch.setattr(gpu_encode._Lane, "_gathered", gathered)
    x = rng.standard_normal((3000, DIM)).astype(np.float32)
    kinds = kinds_of(x, pinned)
    for name in ("device", "pinned", "numpy"):
        _, gpu = pair()
        gpu.add(kinds[name])
        assert bool(copies) == (name == "numpy")
