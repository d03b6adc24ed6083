"""Which codes are compared at equal bytes: ours, a line each, and every peer's at the sizes that it has.

Law:       a cell is the bytes that plain codes of 1, 2, 3 or 4 bits take. A code comes with the most bytes that fit.
           Where that is less than LEAST times the cell's it also comes with the next size, up to MOST times.
Best:      a peer is asked as it finds most: float queries, wider sub-quantizers where 8 bits leave bytes unused, and
           OPQ trained on all rows for as long as it takes by default.
Not here:  how a library is driven (polarindex/bench/engines.py, equal_engines.py), the program (equal_bytes.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from polarindex.bench.families import EDEN, ONE_LIST, PLAIN_RABITQ, SCANN, TURBO, TURBOVEC
from polarindex.bench.plans import Plan

BITS = (1, 2, 3, 4)
LEAST, MOST = 7 / 8, 4 / 3  # times the bytes of the cell
PQ, WIDE_PQ, ROTATED_PQ = "FAISS PQ, 8 bit", "FAISS PQ, 9 to 12 bit", "FAISS RR + PQ, 4 bit"
OPQ = "FAISS OPQ + PQ, 8 bit"
PEERS = (PQ, WIDE_PQ, ROTATED_PQ, OPQ, ONE_LIST, TURBOVEC, SCANN, TURBO, EDEN, PLAIN_RABITQ)

OURS: dict[str, dict[str, Any]] = {
    "polarindex EDEN": {"quantizer": "eden"},
    "polarindex trellis": {"quantizer": "trellis"},
    "polarindex trellis, window 12": {"quantizer": "trellis-12"},
    "polarindex trellis, 16-bit factors": {"quantizer": "trellis", "factor_bits": 16},
    "polarindex spectral": {"codes": "spectral"},
    "polarindex spectral trellis": {"codes": "spectral", "quantizer": "trellis"},
    "polarindex spectral, 16-bit factors": {"codes": "spectral", "factor_bits": 16},
    "polarindex spectral trellis, 16-bit factors": {"codes": "spectral", "quantizer": "trellis", "factor_bits": 16},
    "polarindex spectral, no centre": {"codes": "spectral", "center": False},
    "polarindex spectral trellis, no centre": {"codes": "spectral", "quantizer": "trellis", "center": False},
}
FAMILIES = (*OURS, *PEERS)


class Cell(NamedTuple):
    bits: int
    bytes: int


def cells(dim: int) -> list[Cell]:
    """Planes of whole words, and a scale and a shift in float32."""
    return [Cell(bits, 4 * bits * -(-dim // 32) + 8) for bits in BITS]


def plans(dim: int, metric: str) -> list[Plan]:
    """All that is measured of a set, in the order of PEERS and what trains for minutes last."""
    found: dict[tuple[str, str], Plan] = {}
    for cell in cells(dim):
        for plan in of_cell(cell, dim, metric):
            found.setdefault((plan.family, plan.name), plan)
    return sorted(found.values(), key=lambda plan: (plan.family == OPQ, FAMILIES.index(plan.family)))


def of_cell(cell: Cell, dim: int, metric: str) -> list[Plan]:
    return [*ours(cell), *scaled(cell, dim, metric), *product(cell, dim)]


def ours(cell: Cell) -> Iterator[Plan]:
    for family, build in OURS.items():
        yield Plan("polarindex", family, f"{cell.bytes} bytes", {"cell": tuple(cell), **build}, ())


def fitting(sizes: dict[int, float], cell: Cell) -> list[int]:
    """Of some widths and their bytes, both ascending, those that are compared in a cell."""
    below = [bits for bits, size in sizes.items() if size <= cell.bytes][-1:]
    above = [bits for bits, size in sizes.items() if cell.bytes < size <= MOST * cell.bytes][:1]
    return below if below and sizes[below[0]] >= LEAST * cell.bytes else below + above


# --- what a row takes of so many bits a coordinate


def rabitq_bytes(dim: int, bits: int) -> int:
    """FAISS's: planes of bits, and two factors of the first and three of the others."""
    return -(-dim // 8) + (8 if bits == 1 else -(-dim * (bits - 1) // 8) + 20)


def eden_bytes(dim: int, bits: int) -> int:
    return -(-dim * bits // 8) + 8


def turboquant_bytes(dim: int, bits: int) -> int:
    return -(-dim * bits // 8)


def turbovec_bytes(dim: int, bits: int) -> int:
    """Of rows that are filled up to a multiple of 8 coordinates."""
    return -(-dim // 8) * bits + 4


def rabitqlib_bytes(dim: int, bits: int) -> int:
    return 4 * bits * -(-dim // 32) + (12 if bits == 1 else 20)


# --- plans


def scaled(cell: Cell, dim: int, metric: str) -> Iterator[Plan]:
    """Codes without parts: RaBitQ, EDEN and TurboQuant of FAISS, rabitqlib's and turbovec's; and ScaNN's."""
    for bits in fitting({bits: rabitq_bytes(dim, bits) for bits in range(1, 10)}, cell):
        yield _faiss(PLAIN_RABITQ, f"RR,RaBitQ{bits if bits > 1 else ''}")
    for bits in fitting({bits: eden_bytes(dim, bits) for bits in range(1, 9)}, cell):
        yield _faiss(EDEN, f"RR,EDEN{bits if bits > 1 else ''}")
    if metric == "cosine":  # the one stores no lengths, the other has no squared distances
        for bits in fitting({bits: turboquant_bytes(dim, bits) for bits in (1, 2, 3, 4, 8)}, cell):
            yield _faiss(TURBO, f"RR,SQtqmse{bits}")
        for bits in fitting({bits: turbovec_bytes(dim, bits) for bits in (2, 4)}, cell):  # 3 take the bytes of 4
            for calibrated in (False, True):
                name = f"{bits} bit" + ", calibrated" * calibrated
                yield Plan("turbovec", TURBOVEC, name, {"bits": bits, "calibrated": calibrated}, ())
    for bits in fitting({bits: rabitqlib_bytes(dim, bits) for bits in range(1, 10)}, cell):
        setting = {"nprobe": 1, "high_accuracy": True}
        yield Plan("rabitqlib", ONE_LIST, f"{bits} bit", {"nlist": 1, "nbits": bits}, (setting,))
    block = -(-dim // (2 * cell.bytes))
    yield Plan("scann", SCANN, f"{block} dimensions a block", {"dimensions_per_block": block}, ({},))


def product(cell: Cell, dim: int) -> Iterator[Plan]:
    """Product codes. Where sub-quantizers do not divide the dimension rows are filled up, or rotated into more."""
    size = -(-dim // cell.bytes)
    parts = -(-dim // size)
    plain = (f"Pad{parts * size}," if parts * size > dim else "") + f"PQ{parts}x"
    yield _faiss(PQ, f"{plain}8")
    if (wide := min(12, 8 * cell.bytes // parts)) > 8:
        yield _faiss(WIDE_PQ, f"{plain}{wide}")
    size4 = -(-dim // (2 * cell.bytes))
    for parts4 in dict.fromkeys((-(-dim // size4), 2 * cell.bytes)):
        yield _faiss(ROTATED_PQ, f"RR{parts4 * size4},PQ{parts4}x4")
    yield _faiss(OPQ, f"OPQ{cell.bytes}_{coordinates(dim, cell.bytes)},PQ{cell.bytes}x8")


def coordinates(dim: int, parts: int) -> int:
    """Into how many OPQ rotates: a multiple of the parts that is near the dimension.

    FAISS is quick with 1, 2, 4 and 8 a part and takes three times as long with others: up to a quarter is added to get
    there, or up to 22 % taken away of many dimensions, whose last axes have 1 % of the energy.
    """
    quick = [size * parts for size in (1, 2, 4, 8)]
    more = [into for into in quick if dim <= into <= 1.25 * dim]
    fewer = [into for into in quick if (0.78 if dim >= 128 else 0.95) * dim <= into <= dim]
    return [*more, *fewer, -(-dim // parts) * parts][0]


def _faiss(family: str, factory: str) -> Plan:
    return Plan("faiss", family, factory, {"factory": factory}, ({},))
