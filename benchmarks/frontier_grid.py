"""Which engines are measured on each set, and with which settings: data, read by program, tables and pictures.

Law:       a library gets several numbers of lists and code sizes, for its best differs from set to set; tables and
           pictures take the best of them at each recall. Settings are dense where recall is .85 to .995.
Not here:  how a library is driven (frontier_engines.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple

from frontier_engines import Setting
from frontier_families import HNSWLIB, POLARINDEX, PQ, RABITQ, RABITQLIB, SCANN, USEARCH

_QUICK_LISTS = 64  # for as many rows as a quick run has
_QUICK_SETTINGS = 6


@dataclass(frozen=True, eq=False)
class Plan:
    """An engine to build, and how it is asked.

    library : of frontier_engines.ENGINES
    family : its line in tables and pictures
    name : what it is within the family
    """

    library: str
    family: str
    name: str
    build: dict[str, Any]
    settings: tuple[Setting, ...] = field(repr=False)


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


_SOAR = {"soar_lambda": 1.5, "avq": 2.0}  # rows in two lists, lists by a loss: for inner products only
_SPILLS = 0.75, 1.0
_NEARER = 0.7  # of the gap that is best without second lists: so far it goes with them
_FEW = (1, 2, 3, 4, 6, 8, 12, 16, 24)
_SOME = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_MANY = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192)
GRIDS = {
    "fashion-mnist-784-euclidean": Grid((256, 512), (256, 512, 1024), _FEW, (0.75, 1.0), ("PQ392x4fs", "PQ196x4fs")),
    "minilm-384-angular": Grid(
        (256, 512), (512, 1024), _SOME, (1.25, 1.5), ("PQ192x4fs", "PQ192x4fsr"), _SOAR, spills=_SPILLS
    ),
    "glove-wink-100-angular": Grid(
        (512, 1024), (1024, 2048), _MANY, (1.25, 1.5), ("PQ50x4fs", "PQ50x4fsr"), _SOAR, large=True,
        spills=_SPILLS,
    ),
    "sift-photos-128-euclidean": Grid(
        (1024, 2048),
        (1024, 2048),
        _SOME,
        (0.75, 1.0),
        ("PQ64x4fs", "PQ32x4fs"),
        links=(16,),
        construction=100,
        large=True,
        spills=_SPILLS,
    ),
}


def plans(name: str, quick: bool = False) -> Iterator[Plan]:
    """The engines of a set. A quick run has one number of lists, and few settings."""
    grid = GRIDS[name]
    if quick:
        grid = grid._replace(lists=(_QUICK_LISTS, 2 * _QUICK_LISTS), ours=(_QUICK_LISTS,), probes=(1, 2, 4, 8, 16, 32))
    for plan in (*polarindex(grid), *faiss(grid), *rabitqlib(grid), *scann(grid), *hnswlib(grid), *usearch(grid)):
        settings = spread(plan.settings, _QUICK_SETTINGS) if quick else plan.settings
        yield Plan(plan.library, plan.family, plan.name, plan.build, settings)


def spread(settings: tuple[Setting, ...], count: int) -> tuple[Setting, ...]:
    """At most so many of the settings, first and last among them, evenly spaced."""
    if len(settings) <= count:
        return settings
    return tuple(settings[round(at * (len(settings) - 1) / (count - 1))] for at in range(count))


def every(**choices: tuple[Any, ...]) -> tuple[Setting, ...]:
    """All combinations."""
    return tuple(dict(zip(choices, values, strict=True)) for values in product(*choices.values()))


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
    """hnswlib's graph over rows in float16."""
    links = min(grid.links)
    build = {"dtype": "f16", "connectivity": links, "expansion_add": grid.construction}
    name = f"float16, connectivity {links}, expansion_add {grid.construction}"
    yield Plan("usearch-graph", USEARCH, name, build, every(expansion_search=grid.widths))
