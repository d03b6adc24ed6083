"""Which inverted files and graphs are compared, and with which settings: data, read by program, tables and pictures.

Law:       a library gets several numbers of lists and code sizes, for its best differs from set to set; tables and
           pictures take the best of them at each recall. Settings are dense where recall is .85 to .995.
Not here:  how a library is driven (engines.py); the grids of the published sets (benchmarks/published.py)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from types import MappingProxyType
from typing import NamedTuple

from polarindex.bench.families import HNSWLIB, POLARINDEX, PQ, RABITQ, RABITQLIB, SCANN, USEARCH
from polarindex.bench.plans import Plan, every
from polarindex.sweep.peers import SAFE_SUBQUANTIZERS

_NEARER = 0.7  # of the gap that is best without second lists: so far it goes with them
_LARGE = 300_000  # rows from which only what was on a library's front elsewhere is built
FEW = (1, 2, 3, 4, 6, 8, 12, 16, 24)
SOME = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
MANY = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192)
SOAR = MappingProxyType({"soar_lambda": 1.5, "avq": 2.0})  # rows in two lists, by a loss: for inner products only
SPILLS = 0.75, 1.0


class Grid(NamedTuple):
    """What is tried on one set.

    lists, ours : numbers of lists, and polarindex's
    probes : lists to look into
    gaps : polarindex's, in units of the mean squared distance of a row to its list's centroid
    pq : FAISS's codes, the smallest last; r codes the rest to the list's centre, cheap by inner product only
    tree : more of ScaNN's tree
    widths, links, construction : hnswlib's ef, M and ef while building; usearch's, too
    large : engines take long to build: those are left out that were not on their libraries' fronts elsewhere
    spills : shares of rows that polarindex keeps in a second list too, beside none
    """

    lists: tuple[int, ...]
    ours: tuple[int, ...]
    probes: tuple[int, ...]
    gaps: tuple[float, ...]
    pq: tuple[str, ...]
    tree: Mapping[str, float] = MappingProxyType({})
    widths: tuple[int, ...] = (10, 14, 20, 30, 45, 70, 100, 150, 220, 320)
    links: tuple[int, ...] = (16, 32)
    construction: int = 200
    large: bool = False
    spills: tuple[float, ...] = ()


def list_plans(grid: Grid) -> Iterator[Plan]:
    """The engines of a set."""
    for library in (polarindex, faiss, rabitqlib, scann, hnswlib, usearch):
        yield from library(grid)


def grid_of(n: int, dim: int, metric: str) -> Grid:
    """What is tried on a set that nobody has tuned for: about the root of n lists, and twice and four times as many.

    FAISS gets 4 bits for two dimensions, and for four where bytes of so many parts overflow when they are added up.
    """
    few = max(16, 1 << round(math.log2(n) / 2))
    parts = [dim // share for share in (2, 4) if dim % share == 0] or [dim]
    codes = [f"PQ{part}x4fs" for part in parts[: 1 if parts[0] <= SAFE_SUBQUANTIZERS else 2]]
    by_product = metric != "l2"
    return Grid(
        lists=(few, 2 * few), ours=(2 * few, 4 * few), probes=tuple(many for many in (1, 2, *SOME) if many <= few),
        gaps=(0.75, 1.25), pq=(*codes, f"{codes[0]}r") if by_product else tuple(codes),
        tree=SOAR if by_product else MappingProxyType({}), links=(16,), large=n >= _LARGE, spills=(1.0,),
    )  # fmt: skip


def polarindex(grid: Grid) -> Iterator[Plan]:
    for nlist, bits, spill in product(grid.ours, (2, 4), (0.0, *grid.spills)):
        gaps = tuple(round(_NEARER * gap, 3) for gap in grid.gaps) if spill else grid.gaps
        settings = every(nprobe=grid.probes, rerank={2: (2, 4, 8), 4: (1, 2)}[bits], gap=(None, *gaps))
        build = {"nlist": nlist, "bits": bits, "store": "float16"} | ({"spill": spill} if spill else {})
        name = f"IVF{nlist}, {bits} bits, float16" + (f", spill {spill:g}" if spill else "")
        yield Plan("polarindex", POLARINDEX, name, build, settings)


def faiss(grid: Grid) -> Iterator[Plan]:
    """PQ, reranked; RaBitQ at 1 and 4 bits, which supposes a rotation."""
    few = min(grid.lists)
    for nlist, code in product(grid.lists, grid.pq):
        if grid.large and code != grid.pq[0] and nlist != few:
            continue
        factory = f"IVF{nlist},{code},RFlat"
        yield Plan("faiss", PQ, factory, {"factory": factory}, every(nprobe=grid.probes, k_factor_rf=(2, 4, 10)))
    if not grid.large:
        factory = f"RR,IVF{few},RaBitQfs4"
        yield Plan("faiss", RABITQ, factory, {"factory": factory}, every(nprobe=grid.probes))
    for rotation, code, factors in (("HR", "RaBitQfs", (4, 8, 16)), ("RR", "RaBitQfs4", (1, 2, 4))):
        factory = f"{rotation},IVF{few},{code},RFlat"
        settings = every(nprobe=grid.probes, k_factor_rf=factors)
        yield Plan("faiss", RABITQ, factory, {"factory": factory}, settings)


def rabitqlib(grid: Grid) -> Iterator[Plan]:
    """1 bit and then the rows (32) where .99 is wanted; 7 bits is the best without them."""
    few, many = grid.lists
    tried = ((few, 7), (few, 32), (many, 32)) if grid.large else (*product(grid.lists, (7, 32)), (few, 4))
    for nlist, nbits in tried:
        name = f"IVF{nlist}, " + ("1 bit and the rows" if nbits == 32 else f"{nbits} bits")
        yield Plan("rabitqlib", RABITQLIB, name, {"nlist": nlist, "nbits": nbits}, every(nprobe=grid.probes))


def scann(grid: Grid) -> Iterator[Plan]:
    """Two dimensions a block; one is slower. With SOAR fewer leaves do."""
    leaves_to_search = sorted({*grid.probes, *(probes // 4 for probes in grid.probes if probes >= 8)})
    settings = every(leaves_to_search=tuple(leaves_to_search), pre_reorder_num_neighbors=(20, 50, 100))
    for leaves in grid.lists:
        build = {"num_leaves": leaves, "dimensions_per_block": 2, **grid.tree}
        name = f"{leaves} leaves" + (", SOAR, AVQ" if grid.tree else "")
        yield Plan("scann", SCANN, name, build, settings)


def hnswlib(grid: Grid) -> Iterator[Plan]:
    for links in grid.links:
        build = {"M": links, "ef_construction": grid.construction}
        name = f"M={links}, ef_construction={grid.construction}"
        yield Plan("hnswlib", HNSWLIB, name, build, every(ef=grid.widths))


def usearch(grid: Grid) -> Iterator[Plan]:
    """hnswlib's graph over rows of two bytes a coordinate: bfloat16, its default, and float16."""
    links = min(grid.links)
    for dtype, words in (("bf16", "bfloat16"), ("f16", "float16")):
        build = {"dtype": dtype, "connectivity": links, "expansion_add": grid.construction}
        name = f"{words}, connectivity {links}, expansion_add {grid.construction}"
        yield Plan("usearch-graph", USEARCH, name, build, every(expansion_search=grid.widths))
