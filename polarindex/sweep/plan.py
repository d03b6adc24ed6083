"""A sweep as data: which methods at which bits are measured on which data sets.

Law:       equal plans give equal cells in the same order; nothing here is computed from the data but its dimension.
Not here:  how a cell is measured (run.py); what a peer is (peers.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from polarindex import checks
from polarindex.quantizers import CELLS
from polarindex.sweep.dataset import SAMPLES

BITS = (1, 2, 3, 4, 8)
PEERS = ("faiss-pq", "faiss-pq-rotated")
_SUB_BITS = 4  # of a peer's sub-quantizers: 8-bit ones train for minutes
_PEER_BITS = 4  # at most: one 4-bit sub-quantizer a coordinate


class Cell(NamedTuple):
    """One row of the table to be.

    method         a quantizer of polarindex.CELLS, or one of PEERS
    bits           code bits a coordinate; a peer's may be a fraction
    subquantizers  of a peer's product code, else 0
    """

    method: str
    bits: float
    subquantizers: int = 0

    def __str__(self) -> str:
        return f"{self.method} {self.bits:.3g} bit"


@dataclass(frozen=True)
class Plan:
    """What to measure. The metric is the data set's own.

    datasets    names or paths, as load_dataset takes them
    quantizers  names of polarindex.CELLS
    bits        those that exist for a quantizer are measured
    k           recall k@k is measured for each
    rows        use only so many first rows of a data set; None for all
    queries     use only so many first queries; None for all
    seed        of rotations and of samples
    peers       also measure FAISS, where it is installed
    threads     of searches and of FAISS; None for all cores
    """

    datasets: tuple[str, ...] = SAMPLES
    quantizers: tuple[str, ...] = tuple(CELLS)
    bits: tuple[int, ...] = BITS
    k: tuple[int, ...] = (1, 10)
    rows: int | None = None
    queries: int | None = None
    seed: int = 0
    peers: bool = True
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("datasets", "quantizers", "bits", "k"):
            if not getattr(self, name):
                raise ValueError(f"{name} must have at least one entry, got none")
        for name in self.quantizers:
            checks.choice(name, "quantizers", CELLS)
        for bits in self.bits:
            checks.integer(bits, "bits", 1, 8)
        for k in self.k:
            checks.integer(k, "k", 1)
        for name, value in (("rows", self.rows), ("queries", self.queries), ("threads", self.threads)):
            if value is not None:
                checks.integer(value, name, 1)
        checks.integer(self.seed, "seed", 0)
        checks.flag(self.peers, "peers")
        if not self._own_cells():
            exist = "; ".join(f"{name} has {', '.join(map(str, CELLS[name]))}" for name in self.quantizers)
            raise ValueError(f"none of the quantizers exists at bits {', '.join(map(str, self.bits))}: {exist}")

    def cells(self, dim: int, *, peers: bool = True) -> tuple[Cell, ...]:
        """The cells for vectors of `dim` coordinates: the quantizers', then, unless peers=False, the peers'."""
        own = self._own_cells()
        if not (self.peers and peers):
            return own
        counts = dict.fromkeys(subquantizers(dim, bits) for bits in sorted(self.bits) if bits <= _PEER_BITS)
        return own + tuple(Cell(peer, _SUB_BITS * m / dim, m) for peer in PEERS for m in counts)

    def _own_cells(self) -> tuple[Cell, ...]:
        return tuple(
            Cell(name, bits) for name in self.quantizers for bits in sorted(set(self.bits)) if bits in CELLS[name]
        )


def subquantizers(dim: int, bits: int) -> int:
    """The divisor of `dim` nearest to the dim * bits / 4 sub-quantizers of 4 bits that spend `bits` a coordinate.

    Of two that are equally near, the smaller.
    """
    divisors = (m for m in range(1, dim + 1) if dim % m == 0)
    return min(divisors, key=lambda m: abs(_SUB_BITS * m - dim * bits))
