"""GpuFlatIndex: a FlatIndex whose scan, and whose coding of rows, run on NVIDIA GPUs.

    rows      as of FlatIndex, on the host: changed, saved and read by its code; the device has a copy that follows
    scan      on the device, in full: no first pass, so every search is what the CPU answers with exact_scan=True

Law:       keys, distances and ids are those of the CPU's exact scan, bit for bit, ties by the smaller id.
Not here:  a device's copy (mirror.py); several devices (several.py); the scan (search.py, streamed.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.gpu.coding import GpuCoding
from polarindex.gpu.device import Device, on_host, rows_on
from polarindex.gpu.device import device as gpu
from polarindex.gpu.layout import layout_of
from polarindex.gpu.search import Prepare, sent
from polarindex.gpu.several import Copies
from polarindex.indexes.base import Floats
from polarindex.indexes.changes import Numbers
from polarindex.indexes.filters import filter_groups
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ids import Ids
from polarindex.indexes.plan import Planner


class GpuFlatIndex(FlatIndex):
    """A FlatIndex that is searched on a GPU; the extra `gpu`.

    Parameters
    ----------
    dim, metric, bits, quantizer, seed, center, store, factor_bits
        As of FlatIndex. The device has scales and shifts of 32 bits.
    device : int or sequence of int
        Which GPU, or several of this host: each has a share of the rows, and they are searched at the same time.
    memory : int, optional
        Bytes that the copy of the rows may take of each GPU, beside what a search takes for its queries and results.
        Codes beyond it are held in pinned memory of the host and streamed by every search. By default it is what is
        free, less a gibibyte, when rows are first sent and whenever there are more than there is room for.

    Raises
    ------
    MissingExtraError
        CuPy or NVRTC is not installed.
    GpuError
        There is no such GPU, its driver or its kind does not fit; later, its memory is full, `memory` does not hold
        even what must lie on the device, or the host cannot pin as much as must be streamed. Nothing is computed on
        the CPU instead.
    ValueError
        As of FlatIndex, for a quantizer whose codes have two stages, and for no GPU or memory below 1.

    Notes
    -----
    The device's copy is brought up to date by the first search after a change. Queries and rows may be arrays of the
    GPU (CUDA tensors of PyTorch, CuPy arrays); results are NumPy arrays. A file is that of a FlatIndex: `save` here,
    `polarindex.load(path).to_gpu()` there. `search` does not use its arguments num_threads and exact_scan: it always
    scans everything, exactly. Everything that is not `search` runs on the host.
    """

    def __init__(
        self,
        dim: int,
        metric: str = "l2",
        bits: int = 4,
        quantizer: str = "eden",
        seed: int = 0,
        center: bool = True,
        store: str = "none",
        *,
        factor_bits: int = 32,
        device: int | Sequence[int] = 0,
        memory: int | None = None,
    ) -> None:
        super().__init__(dim, metric, bits, quantizer, seed, center, store, factor_bits=factor_bits)
        self._attach(device, memory)

    @classmethod
    def of(cls, index: FlatIndex, device: int | Sequence[int] = 0, memory: int | None = None) -> GpuFlatIndex:
        """An index of its own with the rows that another one has; what FlatIndex.to_gpu returns."""
        other = cls.__new__(cls)
        other.__dict__.update(index.__getstate__())
        other._attach(device, memory)
        return other

    def _attach(self, device: int | Sequence[int], memory: int | None) -> None:
        if len(self.quantizer.stages) > 1:
            raise ValueError(f"quantizer={self.quantizer_name!r} has two stages; a GPU index scans codes of one")
        if memory is not None:
            memory = checks.integer(memory, "memory", low=1)
        self._several = isinstance(device, Sequence) and not isinstance(device, str)
        wanted: Any = device if self._several else [device]
        numbers = [gpu(checks.integer(number, "device", low=0)).number for number in wanted]
        if not numbers:
            raise ValueError("device is empty; it must name at least one GPU")
        self._copies = Copies(self.quantizer, numbers, memory)
        self._coding: GpuCoding = GpuCoding(self._coding, numbers[0])
        self._planner = Planner(self._coding)

    def parameters(self) -> dict[str, Any]:
        """The constructor's arguments, without device and memory."""
        return {name: value for name, value in super().parameters().items() if name != "codes"}

    def to_cpu(self) -> FlatIndex:
        """A FlatIndex of its own with the same rows."""
        other = FlatIndex.__new__(FlatIndex)
        state = self.__getstate__()
        del state["_copies"], state["_several"]
        state["_coding"] = coding = state["_coding"].host()
        state["_planner"] = Planner(coding)
        other.__dict__.update(state)
        return other

    def to_gpu(self, device: int | Sequence[int] = 0, memory: int | None = None) -> GpuFlatIndex:
        """An index of its own with the same rows on other GPUs, or within other limits."""
        return GpuFlatIndex.of(self, device, memory)

    @property
    def nbytes(self) -> int:
        """As of FlatIndex, on the host, with the pinned copies of tiles that are streamed; `info` has the devices'."""
        return super().nbytes + self._copies.streamed

    # --- arrays of the GPU

    def fit(self, x: Any, n: int | None = None) -> FlatIndex:
        return super().fit(rows_on(x, self._coding.number), n)

    def add(self, x: Any, ids: Any = None) -> Ids:
        return super().add(rows_on(x, self._coding.number), on_host(ids))

    def update(self, ids: Any, x: Any) -> None:
        super().update(on_host(ids), rows_on(x, self._coding.number))

    def upsert(self, ids: Any, x: Any) -> None:
        super().upsert(on_host(ids), rows_on(x, self._coding.number))

    def search(self, q: Any, k: int = 10, **options: Any) -> tuple[NDArray[Any], ...]:
        return super().search(on_host(q), k, **options)

    def info(self) -> dict[str, Any]:
        """As of FlatIndex; `device` says what each GPU holds, in a list if `device` was a sequence.

        nbytes : of the GPU's memory
        streamed : bytes of pinned host memory that a search streams to it
        """
        facts = super().info()
        each = [
            {"number": copy.number, "name": copy.device.name, "nbytes": copy.nbytes, "streamed": copy.streamed}
            for copy in self._copies
        ]
        facts["device"] = each if self._several else each[0]
        facts["coding"] = "host" if self._coding.coder is None else "gpu"
        facts["scan"] = {"batch": "full scan (gpu)", "single": "full scan (gpu)"}
        return facts

    # --- the device's copy

    def _note(self, numbers: Numbers | range) -> None:
        super()._note(numbers)
        self._copies.note(numbers)

    def _note_everything(self) -> None:
        super()._note_everything()
        self._copies.note_everything()

    def _scan(
        self, queries: Floats, k: int, filter: Any, threads: int | None, exact: bool, bits: int
    ) -> tuple[Floats, Ids]:
        if bits != 8:
            raise ValueError(f"query_bits={bits} is for the CPU's index; a GPU index has queries of 8 bits")
        groups = filter_groups(filter, len(queries), self._ids, len(self), self._version)
        if k == 0 or len(queries) == 0:
            return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)

        def prepared(group: Ids, on: Device) -> Callable[[Any, slice], Prepare]:
            return self._prepared(queries if len(groups) == 1 else queries[group], on)

        law = self._coding.centre.law
        keys, ids = self._copies.best(self._arena, law, groups, len(queries), k, prepared)
        return self._coding.ordered(keys, ids, self._coding.constants(queries)), ids

    def _prepared(self, queries: Floats, on: Device) -> Callable[[Any, slice], Prepare]:
        """Integer queries, made on the device where rows are coded there."""
        coding, padded = self._coding, layout_of(self.quantizer.stages[0]).padded

        def prepared(cp: Any, part: slice) -> Prepare:
            mine = np.ascontiguousarray(queries[part])
            coder = coding.coder_on(on)
            if coder is None:
                return sent(cp, self._integer_queries(mine)[0][0], padded)
            given, mu = cp.asarray(mine), cp.asarray(coding.centre.mu)
            return lambda held: coder.queries(cp, given, mu, coding.factor, padded, held)

        return prepared
