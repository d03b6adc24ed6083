"""GpuFlatIndex: a FlatIndex whose scan, and whose coding of rows, run on an NVIDIA GPU.

    rows      as of FlatIndex, on the host: changed, saved and read by its code; the device has a copy that follows
    scan      on the device, in full: no first pass, so every search is what the CPU answers with exact_scan=True

Law:       keys, distances and ids are those of the CPU's exact scan, bit for bit, ties by the smaller id.
Not here:  the device's copy (mirror.py); the scan (search.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex.gpu.coding import GpuCoding
from polarindex.gpu.device import device as gpu
from polarindex.gpu.device import on_host, rows_on
from polarindex.gpu.mirror import Mirror
from polarindex.gpu.search import Prepare, best_rows, sent
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
    dim, metric, bits, quantizer, seed, center, store
        As of FlatIndex.
    device : int
        Which GPU.

    Raises
    ------
    MissingExtraError
        CuPy or NVRTC is not installed.
    GpuError
        There is no such GPU, its driver or its kind does not fit; later, its memory is full. Nothing is computed on
        the CPU instead.
    ValueError
        As of FlatIndex, and for a quantizer whose codes have two stages.

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
        device: int = 0,
    ) -> None:
        super().__init__(dim, metric, bits, quantizer, seed, center, store)
        self._attach(device)

    @classmethod
    def of(cls, index: FlatIndex, device: int = 0) -> GpuFlatIndex:
        """An index of its own with the rows that another one has; what FlatIndex.to_gpu returns."""
        other = cls.__new__(cls)
        other.__dict__.update(index.__getstate__())
        other._attach(device)
        return other

    def _attach(self, device: int) -> None:
        if len(self.quantizer.stages) > 1:
            raise ValueError(f"quantizer={self.quantizer_name!r} has two stages; a GPU index scans codes of one")
        self._mirror = Mirror(self.quantizer, gpu(device).number)
        self._coding: GpuCoding = GpuCoding(self._coding, self._mirror.number)
        self._planner = Planner(self._coding)

    def to_cpu(self) -> FlatIndex:
        """A FlatIndex of its own with the same rows."""
        other = FlatIndex.__new__(FlatIndex)
        state = self.__getstate__()
        del state["_mirror"]
        state["_coding"] = coding = state["_coding"].host()
        state["_planner"] = Planner(coding)
        other.__dict__.update(state)
        return other

    def to_gpu(self, device: int = 0) -> GpuFlatIndex:
        """An index of its own with the same rows on a GPU."""
        return GpuFlatIndex.of(self, device)

    # --- arrays of the GPU

    def fit(self, x: Any, n: int | None = None) -> FlatIndex:
        return super().fit(rows_on(x, self._mirror.number), n)

    def add(self, x: Any, ids: Any = None) -> Ids:
        return super().add(rows_on(x, self._mirror.number), on_host(ids))

    def update(self, ids: Any, x: Any) -> None:
        super().update(on_host(ids), rows_on(x, self._mirror.number))

    def upsert(self, ids: Any, x: Any) -> None:
        super().upsert(on_host(ids), rows_on(x, self._mirror.number))

    def search(self, q: Any, k: int = 10, **options: Any) -> tuple[NDArray[Any], ...]:
        return super().search(on_host(q), k, **options)

    def info(self) -> dict[str, Any]:
        """As of FlatIndex; `device` says which GPU and what it holds."""
        held = self._mirror
        facts = super().info()
        facts["device"] = {"number": held.number, "name": held.device.name, "nbytes": held.nbytes}
        facts["coding"] = "host" if self._coding.coder is None else "gpu"
        facts["scan"] = {"batch": "full scan (gpu)", "single": "full scan (gpu)"}
        return facts

    # --- the device's copy

    def _note(self, numbers: Numbers | range) -> None:
        super()._note(numbers)
        self._mirror.note(numbers)

    def _note_everything(self) -> None:
        super()._note_everything()
        self._mirror.note_everything()

    def _scan(
        self, queries: Floats, k: int, filter: Any, threads: int | None, exact: bool, bits: int
    ) -> tuple[Floats, Ids]:
        if bits != 8:
            raise ValueError(f"query_bits={bits} is for the CPU's index; a GPU index has queries of 8 bits")
        groups = filter_groups(filter, len(queries), self._ids, len(self), self._version)
        keys, ids = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        if k == 0 or len(queries) == 0:
            return keys, ids
        with self._mirror.current(self._arena) as rows:
            for group, allowed in groups:
                mine = queries if len(groups) == 1 else queries[group]
                prepared = self._prepared(mine, rows.layout.padded)
                keys[group], ids[group] = best_rows(self._mirror.device, rows, prepared, len(group), k, allowed)
        return self._coding.ordered(keys, ids, self._coding.constants(queries)), ids

    def _prepared(self, queries: Floats, padded: int) -> Callable[[Any, slice], Prepare]:
        """Integer queries, made on the device where rows are coded there."""
        coding = self._coding

        def prepared(cp: Any, part: slice) -> Prepare:
            mine = np.ascontiguousarray(queries[part])
            coder = coding.coder
            if coder is None:
                return sent(cp, self._integer_queries(mine)[0][0], padded)
            given, mu = cp.asarray(mine), cp.asarray(coding.centre.mu)
            return lambda held: coder.queries(cp, given, mu, coding.factor, padded, held)

        return prepared
