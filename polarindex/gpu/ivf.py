"""GpuIVFIndex: an IVFIndex whose lists are chosen and searched on an NVIDIA GPU.

    rows      as of IVFIndex, on the host: changed, saved and read by its code; the device has a copy that follows
    search    all of it on the device, from queries to distances; codes are scanned in full

Law:       distances and ids are those of IVFIndex.search(..., exact_scan=True), bit for bit, ties by the smaller id.
On host:   coding of rows; the rotation of queries where the device has no kernel for it; the choice of lists where the
           centroids are not coded (quantizers without a register kernel), which is exact there.
Not here:  the device's copy (lists.py); the search (probing.py)."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.gpu.device import device as gpu
from polarindex.gpu.device import on_host
from polarindex.gpu.lists import ListMirror
from polarindex.gpu.probing import Asked, ListSearch, Probed, most_queries
from polarindex.indexes.answers import Task, Way
from polarindex.indexes.base import Floats, checked_query_bits
from polarindex.indexes.changes import Numbers
from polarindex.indexes.ids import Ids
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.probing import Probes
from polarindex.indexes.scan import integer_queries

_AHEAD = 2  # parts of a batch that the device may have to do while the host copies others


class GpuIVFIndex(IVFIndex):
    """An IVFIndex that is searched on a GPU; the extra `gpu`.

    Parameters
    ----------
    dim, metric, bits, quantizer, nlist, seed, center, store, scan_bits, factor_bits
        As of IVFIndex. The device has scales and shifts of 32 bits.
    spill : float
        0: a GPU index has every row in one list.
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
        As of IVFIndex, for spill > 0, and for a quantizer whose codes have two stages.

    Notes
    -----
    The device's copy is brought up to date by the first search after a change. Queries and rows may be arrays of the
    GPU (CUDA tensors of PyTorch, CuPy arrays); results are NumPy arrays. A file is that of an IVFIndex: `save` here,
    `polarindex.load(path).to_gpu()` there. `search` does not use num_threads, and reads codes in full whatever
    scan_bits and exact_scan say. Stored originals lie on the device too, or in pinned host memory where they would
    leave less than 1 GiB of the device's. Everything runs on the host that is not `search` or made of searches, as are
    `tune`, which times those of the device, and `knn_graph`.
    """

    def __init__(
        self,
        dim: int,
        metric: str = "l2",
        bits: int = 4,
        quantizer: str = "eden",
        nlist: int | str = "auto",
        seed: int = 0,
        center: bool = True,
        store: str = "none",
        spill: float = 0.0,
        scan_bits: int | None = None,
        *,
        factor_bits: int = 32,
        device: int = 0,
    ) -> None:
        super().__init__(
            dim, metric, bits, quantizer, nlist, seed, center, store, spill, scan_bits, factor_bits=factor_bits
        )
        _check(self)
        self._attach(device)

    @classmethod
    def of(cls, index: IVFIndex, device: int = 0) -> GpuIVFIndex:
        """An index of its own with the rows that another one has; what IVFIndex.to_gpu returns."""
        _check(index)
        other = cls.__new__(cls)
        other.__dict__.update(index.__getstate__())
        other._attach(device)
        return other

    def _attach(self, device: int) -> None:
        self._mirror = ListMirror(self._coding, self.store, gpu(device).number)

    def parameters(self) -> dict[str, Any]:
        """The constructor's arguments, without device."""
        return {name: value for name, value in super().parameters().items() if name != "codes"}

    def to_cpu(self) -> IVFIndex:
        """An IVFIndex of its own with the same rows."""
        other = IVFIndex.__new__(IVFIndex)
        other.__dict__.update({name: value for name, value in self.__getstate__().items() if name != "_mirror"})
        return other

    def to_gpu(self, device: int = 0) -> GpuIVFIndex:
        """An index of its own with the same rows on a GPU."""
        return GpuIVFIndex.of(self, device)

    def empty_like(self) -> GpuIVFIndex:
        return GpuIVFIndex.of(super().empty_like(), self._mirror.number)

    # --- arrays of the GPU

    def fit(
        self,
        x: Any,
        n: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        centroids: Any = None,
    ) -> IVFIndex:
        return super().fit(on_host(x), n, progress, centroids=on_host(centroids))

    def add(self, x: Any, ids: Any = None) -> Ids:
        return super().add(on_host(x), on_host(ids))

    def update(self, ids: Any, x: Any) -> None:
        super().update(on_host(ids), on_host(x))

    def upsert(self, ids: Any, x: Any) -> None:
        super().upsert(on_host(ids), on_host(x))

    def search(self, q: Any, k: int = 10, **options: Any) -> tuple[NDArray[Any], ...]:
        return super().search(on_host(q), k, **options)

    def info(self) -> dict[str, Any]:
        """As of IVFIndex; `device` says which GPU, what it holds and where originals are (None before a search)."""
        held = self._mirror
        facts = super().info()
        facts["device"] = {
            "number": held.number, "name": held.device.name, "nbytes": held.nbytes, "originals": held.originals_at
        }  # fmt: skip
        facts["scan"] = "gpu"
        facts["lists"] = "gpu" if self._held.scan.coarse.quantizer else "host"
        return facts

    # --- the search

    def _searched(
        self,
        q: Any,
        k: int,
        nprobe: int | None,
        gap: float | None,
        filter: Any,
        rerank: int | None,
        num_threads: int | None,
        exact_scan: bool,
        query_bits: int,
        return_error: bool,
    ) -> tuple[NDArray[Any], ...]:
        if checked_query_bits(query_bits) != 8:
            raise ValueError(f"query_bits={query_bits} is for the CPU's index; a GPU index has queries of 8 bits")
        checks.flag(exact_scan, "exact_scan")
        return super()._searched(q, k, nprobe, gap, filter, rerank, num_threads, True, query_bits, return_error)

    def _way(self, bits: int) -> Way:
        return Way(self._on_device, lambda keep, nprobe: sys.maxsize, threads=1)

    def _on_device(self, task: Task) -> tuple[Floats, Ids]:
        """Distances and ids (nq, k) of a task."""
        held, mirror, nq = self._held, self._mirror, len(task.queries)
        nprobe = task.probes.nprobe
        distances, ids = np.empty((nq, task.k), np.float32), np.empty((nq, task.k), np.int64)
        with mirror.current(held, self._version) as listed, mirror.device.use("searching") as cp:
            allowed = None if task.allowed is None else cp.asarray(_bits(task.allowed))
            most = most_queries(held.rows.nlist, int(listed.most[nprobe]), task.keep, nprobe, self.dim)
            step = -(-nq // -(-nq // most))
            running: deque[tuple[slice, ListSearch]] = deque()
            try:
                for start in range(0, nq, step):
                    part = slice(start, min(start + step, nq))
                    asked = self._asked(task, part, allowed)
                    search = ListSearch(mirror.device, cp, listed, mirror.coder, self.metric, asked)
                    running.append((part, search))
                    search.run()
                    while len(running) > (_AHEAD if part.stop < nq else 0):
                        done, search = running.popleft()
                        distances[done], ids[done] = search.results()
            finally:
                if running:  # after an error: what is on its way still uses the host's memory
                    cp.cuda.get_current_stream().synchronize()
        return distances, ids

    def _asked(self, task: Task, part: slice, allowed: Any) -> Asked:
        """Some queries of a task, with what the host makes of them."""
        held, coarse, probes = self._held, self._held.scan.coarse, task.probes
        queries = task.queries[part]
        given = task.given[part] if self.metric == "cosine" else queries
        integers = probed = None
        if self._mirror.coder is None:
            ((integers,),) = integer_queries(self.quantizer, queries - held.centroids.mu, self._coding.factor)
        if coarse.quantizer is None:
            probed = _chosen(coarse.nearest(queries - held.centroids.mu, *probes), probes)
        look = coarse.groups.looked(probes.nprobe)
        return Asked(
            given, queries, integers, probed, probes.nprobe, probes.gap, look, task.keep, task.k, task.exact, allowed
        )

    # --- the device's copy

    def _note(self, numbers: Numbers | range) -> None:
        super()._note(numbers)
        self._mirror.note(numbers)

    def _note_everything(self) -> None:
        super()._note_everything()
        self._mirror.note_everything()


def _check(index: IVFIndex) -> None:
    """ValueError where a GPU cannot search an index."""
    if index.codes != "plain":
        raise ValueError(f"codes={index.codes!r} are scanned on the CPU only; a GPU index has codes='plain'")
    if len(index.quantizer.stages) > 1:
        raise ValueError(f"quantizer={index.quantizer_name!r} has two stages; a GPU index scans codes of one")
    if index.spill:
        raise ValueError(f"spill={index.spill} puts rows in second lists; a GPU index has every row in one: spill=0")


def _chosen(lists: list[NDArray[np.int32]], probes: Probes) -> Probed:
    """Lists of every query as the device takes them."""
    counts = np.array([len(mine) for mine in lists], np.int32)
    numbers = np.zeros((len(lists), probes.nprobe), np.int32)
    for row, mine in zip(numbers, lists, strict=True):
        row[: len(mine)] = mine
    return Probed(numbers, counts)


def _bits(allowed: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """A bit a place of a mask, in whole words."""
    packed = np.zeros(-(-len(allowed) // 32) * 4, np.uint8)
    bits = np.packbits(allowed, bitorder="little")
    packed[: len(bits)] = bits
    return packed.view(np.uint32)
