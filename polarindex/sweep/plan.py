"""A sweep as data: which indexes of which codes, searched how, are measured on which data sets.

Law:       equal plans give equal cells in the same order, and have equal keys; of the data only the number of rows and
           the dimension matter.
Not here:  plans in files (plan_files.py); how a cell is measured (measure.py); what a peer is (peers.py)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import xxhash

from polarindex import checks
from polarindex.indexes.coding import METRICS
from polarindex.indexes.ivf import auto_nlist
from polarindex.indexes.originals import STORES
from polarindex.quantizers import CELLS
from polarindex.sweep.dataset import SAMPLES

BITS = (1, 2, 3, 4, 8)
INDEXES = ("flat", "ivf")
# Beside the quantizers: those in the segments of an index with codes="spectral", which are learned.
SPECTRAL = {"spectral": "eden", "spectral-trellis": "trellis"}
METHODS: dict[str, tuple[int, ...]] = {**CELLS, **{name: CELLS[code] for name, code in SPECTRAL.items()}}
QUICK = tuple(name for name in METHODS if name != "trellis-12")  # which codes some 3,000 rows a second
PEERS = ("faiss-pq", "faiss-pq-rotated")
_SUB_BITS = 4  # of a peer's sub-quantizers: 8-bit ones train for minutes
_PEER_BITS = 4  # at most: one 4-bit sub-quantizer a coordinate
_FIRST_PROBE, _PROBE_STEPS = 1 / 256, 2  # of an IVF's lists, where a plan says nothing


@dataclass(frozen=True)
class Cell:
    """One row of the table to be: an index, and one way to search it.

    method         a quantizer of polarindex.CELLS, one of SPECTRAL, or of PEERS
    bits           code bits a coordinate; a peer's may be a fraction
    index          "flat" or "ivf"
    store          how originals are kept, for re-ranking
    nlist          lists of an IVF, else 0
    nprobe         lists that a query looks into, 0 where there are none
    rerank         the best rerank * k are scored again by the originals; 0 where there are none
    subquantizers  of a peer's product code, else 0
    """

    method: str
    bits: float
    index: str = "flat"
    store: str = "none"
    nlist: int = 0
    nprobe: int = 0
    rerank: int = 0
    subquantizers: int = 0

    @property
    def build(self) -> Cell:
        """What is built for this cell: the same for all that differ only in how they are searched."""
        return replace(self, nprobe=0, rerank=0)

    def __str__(self) -> str:
        return described(self)


class Described(Protocol):
    """What a cell, and the row that comes of it, say of themselves."""

    @property
    def method(self) -> str: ...
    @property
    def bits(self) -> float: ...
    @property
    def index(self) -> str: ...
    @property
    def store(self) -> str: ...
    @property
    def nlist(self) -> int: ...
    @property
    def nprobe(self) -> int: ...
    @property
    def rerank(self) -> int: ...


def described(cell: Described) -> str:
    """A cell in a few words."""
    parts = [f"{cell.method} {cell.bits:.3g} bit"]
    if cell.index == "ivf":
        parts.append(f"{cell.nprobe} of {cell.nlist} lists")
    if cell.rerank:
        parts.append(f"{cell.store} x {cell.rerank}")
    return ", ".join(parts)


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes
    ----------
    datasets : tuple[str, ...]
        Names or paths, as load_dataset takes them.
    quantizers : tuple[str, ...]
        Names of polarindex.CELLS, or "spectral" and "spectral-trellis", for indexes with spectral codes; by default all
        but "trellis-12", which takes minutes to code what others code in seconds.
    bits : tuple[int, ...]
        Those that exist for a quantizer are measured.
    indexes : tuple[str, ...]
        "flat", "ivf".
    stores : tuple[str, ...]
        "none", or how originals are kept for re-ranking: "float32", "float16", "int8".
    nlist : int | None
        Lists of an IVF; None for what fits the number of rows.
    nprobe : tuple[int, ...]
        Of an IVF; () for a ladder from a 256th of the lists to all of them.
    rerank : tuple[int, ...]
        Where originals are kept: each of these.
    k : tuple[int, ...]
        Recall k@k is measured for each.
    metric : str | None
        "l2", "ip" or "cosine", of files of vectors alone; None: cosine. Data sets have their own.
    queries_from : str | None
        A file of queries, for files of vectors alone; without, some of their rows are held out.
    rows : int | None
        Use only so many first rows of a data set; None for all.
    queries : int | None
        Use only so many first queries, or hold out so many rows, at most a tenth; None for all, or 1,000.
    seed : int
        Of rotations, k-means and samples.
    peers : bool
        Also measure FAISS's product quantizers, where it is installed.
    threads : int | None
        Of searches and of FAISS; None for all cores.
    repeats : int
        Searches are timed so often, unless they take seconds, and the median counts.
    """

    datasets: tuple[str, ...] = SAMPLES
    quantizers: tuple[str, ...] = QUICK
    bits: tuple[int, ...] = BITS
    indexes: tuple[str, ...] = ("flat",)
    stores: tuple[str, ...] = ("none",)
    nlist: int | None = None
    nprobe: tuple[int, ...] = ()
    rerank: tuple[int, ...] = (4,)
    k: tuple[int, ...] = (1, 10)
    metric: str | None = None
    queries_from: str | None = None
    rows: int | None = None
    queries: int | None = None
    seed: int = 0
    peers: bool = True
    threads: int | None = None
    repeats: int = 3

    def __post_init__(self) -> None:
        for name in _LISTS:
            object.__setattr__(self, name, _entries(getattr(self, name), name))
        if self.queries_from is not None:
            object.__setattr__(self, "queries_from", os.fspath(self.queries_from))
        for name in ("datasets", "quantizers", "bits", "indexes", "stores", "rerank", "k"):
            if not getattr(self, name):
                raise ValueError(f"{name} must have at least one entry, got none")
        for name, options in (("quantizers", METHODS), ("indexes", INDEXES), ("stores", STORES)):
            for value in getattr(self, name):
                checks.choice(value, name, options)
        for name, high in (("bits", 8), ("k", None), ("nprobe", None), ("rerank", None)):
            numbers = tuple(checks.integer(value, name, 1, high) for value in getattr(self, name))
            object.__setattr__(self, name, numbers)
        for name, low in (("nlist", 1), ("rows", 1), ("queries", 1), ("threads", 1), ("seed", 0), ("repeats", 1)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, checks.integer(getattr(self, name), name, low))
        if self.metric is not None:
            checks.choice(self.metric, "metric", METRICS)
        checks.flag(self.peers, "peers")
        if not self._codes():
            exist = "; ".join(f"{name} has {', '.join(map(str, METHODS[name]))}" for name in self.quantizers)
            raise ValueError(f"none of the quantizers exists at bits {', '.join(map(str, self.bits))}: {exist}")

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain lists, texts and numbers: what files of plans and results hold."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def key(self) -> str:
        """A hash of all fields, the same on every machine."""
        return hash_of(self.as_dict())

    def cells(self, n: int, dim: int, *, peers: bool = True) -> tuple[Cell, ...]:
        """The cells for n vectors of `dim` coordinates: the quantizers', then, unless peers=False, the peers'.

        Cells that share an index follow each other.
        """
        own = tuple(cell for index in self.indexes for cell in self._own_cells(index, n))
        if not (self.peers and peers and "flat" in self.indexes):
            return own
        counts = dict.fromkeys(subquantizers(dim, bits) for bits in sorted(self.bits) if bits <= _PEER_BITS)
        return own + tuple(Cell(peer, _SUB_BITS * m / dim, subquantizers=m) for peer in PEERS for m in counts)

    def _own_cells(self, index: str, n: int) -> list[Cell]:
        nlist = min(self.nlist or auto_nlist(n), n) if index == "ivf" else 0
        return [
            Cell(name, bits, index, store, nlist, nprobe, rerank)
            for name, bits in self._codes()
            for store in dict.fromkeys(self.stores)
            for nprobe in self._probes(nlist)
            for rerank in (sorted(set(self.rerank)) if store != "none" else (0,))
        ]

    def _codes(self) -> list[tuple[str, int]]:
        """The methods and their bits."""
        return [(name, bits) for name in self.quantizers for bits in sorted(set(self.bits)) if bits in METHODS[name]]

    def _probes(self, nlist: int) -> tuple[int, ...]:
        """How many lists are probed: as the plan says, at most all; (0,) where there are no lists."""
        if not nlist:
            return (0,)
        wanted = self.nprobe or tuple(_ladder(nlist))
        return tuple(sorted({min(nprobe, nlist) for nprobe in wanted}))


_LISTS = ("datasets", "quantizers", "bits", "indexes", "stores", "nprobe", "rerank", "k")


def _entries(value: Any, name: str) -> tuple[Any, ...]:
    """A list's entries, each once; paths as text."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a tuple, got {value!r}")
    return tuple(dict.fromkeys(os.fspath(entry) if isinstance(entry, os.PathLike) else entry for entry in value))


def hash_of(values: Any) -> str:
    """16 hexadecimal digits of plain values, the same wherever they are written alike."""
    return xxhash.xxh3_64_hexdigest(json.dumps(values, sort_keys=True, ensure_ascii=True).encode())


def subquantizers(dim: int, bits: int) -> int:
    """The divisor of `dim` nearest to the dim * bits / 4 sub-quantizers of 4 bits that spend `bits` a coordinate.

    Of two that are equally near, the smaller.
    """
    divisors = (m for m in range(1, dim + 1) if dim % m == 0)
    return min(divisors, key=lambda m: abs(_SUB_BITS * m - dim * bits))


def _ladder(nlist: int) -> list[int]:
    probes = [max(1, round(nlist * _FIRST_PROBE))]
    while probes[-1] < nlist:
        probes.append(_PROBE_STEPS * probes[-1])
    return probes
