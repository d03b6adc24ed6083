"""One GPU: what it is, its loaded kernels, and its errors in our words.

Law:       whatever fails here is MissingExtraError (a package is missing), or GpuError, which says what it was: no GPU,
           a driver that is too old, a kind of card that there is no kernel for, memory that is full.
Not here:  compiling (build.py); which kernel is chosen (shapes.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.errors import GpuError, MissingExtraError, first_line
from polarindex.gpu.build import build
from polarindex.gpu.shapes import Card

OLDEST = (7, 5)  # what NVRTC of CUDA 13 compiles for
_SHARED_BY_DEFAULT = 48 << 10
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


def cupy() -> Any:
    """CuPy, or MissingExtraError."""
    try:
        import cupy
    except ImportError as error:
        raise MissingExtraError(f"GPU indexes need CuPy: pip install 'polarindex[gpu]' ({error})") from error
    return cupy


@contextmanager
def errors(doing: str) -> Iterator[None]:
    """CuPy's errors as GpuError."""
    cp = cupy()
    from cupy_backends.cuda.api.driver import CUDADriverError

    try:
        yield
    except cp.cuda.memory.OutOfMemoryError as error:
        raise GpuError(f"the GPU's memory is full while {doing}: {first_line(error)}") from error
    except (cp.cuda.runtime.CUDARuntimeError, CUDADriverError) as error:
        raise GpuError(f"the GPU failed while {doing}: {first_line(error)}") from error


class Device:
    """A GPU by its number. `use` makes it the current one of a thread; `cp` is CuPy."""

    def __init__(self, number: int) -> None:
        self.cp = cp = cupy()
        self.number = number
        try:
            count = cp.cuda.runtime.getDeviceCount()
        except cp.cuda.runtime.CUDARuntimeError as error:
            raise GpuError(f"no GPU can be used: {first_line(error)}") from error
        if number >= count:
            raise GpuError(f"there is no GPU {number}; there are {count}, counted from 0")
        with errors("looking at it"):
            facts = cp.cuda.runtime.getDeviceProperties(number)
        self.name = facts["name"].decode()
        self.card = Card(
            (facts["major"], facts["minor"]), facts["multiProcessorCount"], facts["sharedMemPerBlockOptin"]
        )
        if self.card.capability < OLDEST:
            have, need = (".".join(map(str, pair)) for pair in (self.card.capability, OLDEST))
            raise GpuError(f"GPU {number} ({self.name}) has compute capability {have}; kernels need {need} or later")
        self._modules: dict[tuple[Any, ...], Any] = {}
        self._kernels: dict[tuple[Any, ...], Any] = {}
        self._lock = Lock()

    @contextmanager
    def use(self, doing: str) -> Iterator[Any]:
        """CuPy, with this device as the current one and its errors in our words."""
        with errors(doing), self.cp.cuda.Device(self.number):
            yield self.cp

    def kernel(self, text: str, macros: dict[str, int], name: str, shared: int = 0) -> Any:
        """A kernel, compiled and loaded at its first use: called with (grid,), (block,), arguments, shared_mem=."""
        key = text, *sorted(macros.items())
        found = self._kernels.get((key, name))
        if found is not None:
            return found
        from cupy.cuda.function import Module
        from cupy_backends.cuda.api import driver

        with self._lock, errors("loading a kernel"):
            if key not in self._modules:
                module = Module()
                module.load(build(text, self.card.architecture, macros).code)
                self._modules[key] = module
            kernel = self._modules[key].get_function(name)
            if shared > _SHARED_BY_DEFAULT:
                driver.funcSetAttribute(kernel.ptr, _MAX_DYNAMIC_SHARED, shared)
            self._kernels[key, name] = kernel
        return kernel


@cache
def device(number: Any = 0) -> Device:
    """The GPU of a number, looked at once a process."""
    return Device(checks.integer(number, "device", low=0))


def raw(structs: NDArray[Any]) -> NDArray[Any]:
    """The same memory as plain bytes: CuPy takes .05 ms to look at the fields of a struct that a kernel is given."""
    return structs.view(np.dtype((np.void, structs.itemsize)))


class DeviceRows:
    """Rows (n, dim) float32 on a GPU, `array`, as something whose slices are NumPy arrays (arrays.Rows)."""

    dtype = np.dtype(np.float32)

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape: tuple[int, ...] = tuple(array.shape)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        with errors("reading rows from it"):
            found: NDArray[np.float32] = cupy().asnumpy(self.array[rows])
        return found


def on_host(x: Any) -> Any:
    """What lies on a GPU (a CUDA tensor of PyTorch, a CuPy array, anything with DLPack there) as a NumPy array.

    All else is returned as it is.
    """
    if not _is_on_gpu(x):
        return x
    array = _there(x)
    with errors("reading an array from it"):
        return cupy().asnumpy(array)


def rows_on(x: Any, number: int) -> Any:
    """As on_host, but float32 rows on the GPU of a number are DeviceRows."""
    if not _is_on_gpu(x):
        return x
    array = _there(x)
    if array.dtype != np.float32 or array.ndim != 2 or array.device.id != number:
        return on_host(array)
    with errors("laying rows side by side"):
        there = DeviceRows(cupy().ascontiguousarray(array))
        cupy().cuda.get_current_stream().synchronize()  # other streams code them
    return there


def _there(x: Any) -> Any:
    with errors("reading an array from it"):
        return cupy().from_dlpack(x) if hasattr(x, "__dlpack__") else cupy().asarray(x)


def _is_on_gpu(x: Any) -> bool:
    return not isinstance(x, np.ndarray) and (hasattr(x, "__cuda_array_interface__") or _is_on_cuda(x))


def _is_on_cuda(x: Any) -> bool:
    where = getattr(x, "__dlpack_device__", None)
    return callable(where) and int(where()[0]) in (2, 13)  # kDLCUDA, kDLCUDAManaged
