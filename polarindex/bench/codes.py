"""Which codes are compared when every row is scanned and no original is kept: data, for program and table.

Law:       a library gets its codes at 1, 2, 4 and 8 bits, where it has them, and no originals: recall is what codes
           find. Product quantization comes as it is and behind a rotation, for either may be the better.
Named:     what takes hours, or is known to fail, with the reason (`left_out`): nobody has to guess what is missing.
Not here:  how a library is driven (engines.py)."""

from __future__ import annotations

from collections.abc import Iterator

from polarindex.bench.families import (
    EDEN,
    LEARNED_PQ,
    ONE_LIST,
    PLAIN_RABITQ,
    POLARINDEX,
    PQ,
    RABITQ,
    ROTATED_PQ,
    SCANN,
    TURBO,
    TURBOVEC,
    USEARCH,
)  # fmt: skip
from polarindex.bench.plans import Plan, Setting
from polarindex.sweep.peers import SAFE_SUBQUANTIZERS

PRODUCT_BITS = (1, 2, 4)
_LARGE = 500_000  # rows from which what has no fast scan is left out
_WIDE = 300  # dimensions from which OPQ trains for many minutes


def code_plans(n: int, dim: int, metric: str) -> Iterator[Plan]:
    """Every engine for a set; each has one setting."""
    yield from ours()
    for bits, parts in product_parts(dim).items():
        prefixes = {PQ: "", ROTATED_PQ: f"RR{dim},"}
        if dim <= _WIDE and dim > parts:
            prefixes[LEARNED_PQ] = f"OPQ{parts},"
        for family, prefix in prefixes.items():
            yield _plan("faiss", family, bits, {"factory": f"{prefix}PQ{parts}x4fs"})
    yield from scaled_codes(n, metric)
    for bits in (1, 2, 4, 8):
        yield _plan("rabitqlib", ONE_LIST, bits, {"nlist": 1, "nbits": bits}, {"nprobe": 1})
    if metric == "cosine":
        for bits in (2, 3, 4):
            yield _plan("turbovec", TURBOVEC, bits, {"bits": bits})
    for bits in (1, 2, 4):
        yield _plan("scann", SCANN, bits, {"dimensions_per_block": 4 // bits})
    if n < _LARGE:
        yield Plan("usearch", USEARCH, "int8, a scan", {"dtype": "i8"}, ({},))


def left_out(n: int, dim: int, metric: str) -> dict[str, str]:
    """Family -> why it is not tried on a set."""
    found = {}
    if metric != "cosine":
        found[TURBOVEC] = "it knows inner products only" if metric == "l2" else "it is compared on unit length only"
        found[TURBO] = "it stores no lengths, which all but cosine needs"
    if dim > _WIDE:
        found[LEARNED_PQ] = f"it trains for many minutes in {dim} dimensions"
    elif dim in product_parts(dim).values():
        found[f"{LEARNED_PQ} at 4 bit"] = "with a part for each dimension it trains for more than 20 minutes"
    if n >= _LARGE:
        found |= dict.fromkeys((USEARCH, PLAIN_RABITQ, EDEN, TURBO), "a query takes it a tenth of a second and more")
    for bits in set(PRODUCT_BITS) - set(product_parts(dim)):
        found[f"{PQ} and {ROTATED_PQ} at {bits} bit"] = f"it has no {dim * bits / 4:g} parts, or their sums overflow"
    return found


def ours() -> Iterator[Plan]:
    for bits in (1, 2, 3, 4, 8):
        yield _plan("polarindex-flat", POLARINDEX, bits, {"bits": bits})


def product_parts(dim: int) -> dict[int, int]:
    """bits -> sub-quantizers of 4 bits, where they divide the dimension and their sums stay right."""
    found = {bits: dim * bits // 4 for bits in PRODUCT_BITS if dim * bits % 4 == 0}
    return {bits: parts for bits, parts in found.items() if parts <= SAFE_SUBQUANTIZERS and dim % parts == 0}


def scaled_codes(n: int, metric: str) -> Iterator[Plan]:
    """FAISS's rotated codes with factors a row; without fast scan a row takes it some .1 us."""
    for bits in (1, 2, 4, 8):
        name = "" if bits == 1 else str(bits)
        yield _plan("faiss", RABITQ, bits, {"factory": f"RR,RaBitQfs{name}"})
        if n >= _LARGE:
            continue
        yield _plan("faiss", PLAIN_RABITQ, bits, {"factory": f"RR,RaBitQ{name}"})
        yield _plan("faiss", EDEN, bits, {"factory": f"RR,EDEN{name}"})
        if metric == "cosine":
            yield _plan("faiss", TURBO, bits, {"factory": f"RR,SQtqmse{bits}"})


def _plan(library: str, family: str, bits: int, build: Setting, setting: Setting | None = None) -> Plan:
    return Plan(library, family, f"{bits} bit", build, (setting or {},))
