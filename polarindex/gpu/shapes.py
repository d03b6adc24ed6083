"""Which kernel scans, in which shape: by what the card can do exactly, the dimension and the number of queries.

    wgmma   capability 9.0, and only that: later cards do not have it
    mma     8.0 and later
    dp4a    every card that NVRTC compiles for, and rows too long for the shared memory of the others

Measured:  on an H100, docs/gpu.md; for other cards the shapes are chosen by what fits."""

from __future__ import annotations

from typing import NamedTuple

from polarindex.gpu.layout import Layout

_WGMMA_FEW = (8, 16, 32, 64)  # queries a block
_WGMMA_MANY = {128: 1127.0, 144: 1130.0, 176: 1218.0, 208: 1254.0}  # with their int8 TOP/s at 1,024 dimensions
_SHORT = 256  # dimensions up to which the work after the dot prevails: 128 queries are then best
_NARROW = (1, 2, 3)  # bits with many decoded operands: wgmma has 128 queries, three warpgroups, two chunks ahead
_MMA = (8, 16, 32, 64, 128)
_DP4A = (1, 2, 4)
_QUEUED_FROM = 64  # queries a block
_LIMITS = 16  # bytes a query beside its levels: Limits of source/keys.cuh
_STAGED = 1560  # bytes a warpgroup: Staged of source/scan_wgmma.cu
_ALIGNED = 1024


class Card(NamedTuple):
    """What the choice depends on.

    capability : such as (9, 0)
    processors : multiprocessors
    shared : bytes of shared memory that a block may have
    """

    capability: tuple[int, int]
    processors: int
    shared: int

    @property
    def architecture(self) -> str:
        """For the compiler; the "a" allows what only this generation has."""
        name = f"sm_{self.capability[0]}{self.capability[1]}"
        return f"{name}a" if self.capability == (9, 0) else name


class Shape(NamedTuple):
    """A kernel's instruction, queries a block, tiles a block at a time, threads, and blocks a multiprocessor."""

    instruction: str
    queries: int
    tiles: int
    threads: int
    blocks: int
    depth: int
    shared: int

    @property
    def queued(self) -> bool:
        """Whether hits go by queues: where queries are so many that waiting for atomics would show."""
        return self.queries >= _QUEUED_FROM and self.instruction != "dp4a"

    def macros(self, layout: Layout) -> dict[str, int]:
        macros = {"BITS": layout.bits, "DIM": layout.padded, "NT": self.queries, "QUEUED": int(self.queued)}
        if self.instruction == "wgmma":
            macros |= {"WG": self.tiles, "DEPTH": self.depth, "BLOCKS": self.blocks}
        return macros


def shape(card: Card, layout: Layout, nq: int, instruction: str | None = None) -> Shape:
    """The kernel for nq queries; `instruction` only for tests and measurements. ValueError: rows are too long."""
    allowed = [instruction] if instruction else instructions(card)
    for name in allowed:
        found = _FITTING[name](card, layout, nq)
        if found:
            return found
    raise ValueError(f"rows of {layout.padded} coordinates do not fit in the {card.shared} bytes of a block")


def instructions(card: Card) -> list[str]:
    """What the card has, best first."""
    found = ["dp4a"]
    if card.capability >= (8, 0):
        found.insert(0, "mma")
    if card.capability == (9, 0):
        found.insert(0, "wgmma")
    return found


def _wgmma(card: Card, layout: Layout, nq: int) -> Shape | None:
    def need(queries: int) -> int:
        return queries * (layout.padded + _LIMITS) + _ALIGNED + 4 * _STAGED

    fitting = [queries for queries in (*_WGMMA_FEW, *_WGMMA_MANY) if need(queries) <= card.shared]
    if not fitting:
        return None
    queries = next((few for few in fitting if few >= nq and few in _WGMMA_FEW), 0)
    if not queries:
        free = layout.padded > _SHORT and layout.bits not in _NARROW
        many = [count for count in fitting if count in _WGMMA_MANY and (free or count == 128)]
        queries = min(many, key=lambda count: _wgmma_cost(card, count, nq)) if many else fitting[-1]
    groups = 3 if queries > 128 or (queries == 128 and layout.bits in _NARROW) else 4
    deepest = 8 if queries <= 16 else 2 if queries >= 64 and layout.bits in _NARROW else 4
    depth = next(depth for depth in (8, 4, 2, 1) if depth <= deepest and layout.chunks % depth == 0)
    return Shape("wgmma", queries, groups, 128 * groups, 1, depth, need(queries))


def _wgmma_cost(card: Card, queries: int, nq: int) -> float:
    """Proportional to the time: padded queries over the rate of the multiprocessors that have work."""
    tiles = -(-nq // queries)
    busy = card.processors // tiles * tiles if tiles <= card.processors else card.processors
    return tiles * queries / (_WGMMA_MANY[queries] * busy)


def _mma(card: Card, layout: Layout, nq: int) -> Shape | None:
    counts = _MMA[:-1] if layout.bits in _NARROW else _MMA  # 128 queries leave too few registers
    fitting = [queries for queries in counts if queries * (layout.padded + _LIMITS) <= card.shared]
    if not fitting:
        return None
    queries = next((count for count in fitting if count >= nq), fitting[-1])
    return Shape("mma", queries, 4, 256, 1 if queries >= 64 else 2, 0, queries * (layout.padded + _LIMITS))


def _dp4a(card: Card, layout: Layout, nq: int) -> Shape | None:
    fitting = [queries for queries in _DP4A if queries * layout.padded <= card.shared]
    if not fitting:
        return None
    queries = next((count for count in fitting if count >= nq), fitting[-1])
    return Shape("dp4a", queries, 2, 256, 4, 0, queries * layout.padded)


_FITTING = {"wgmma": _wgmma, "mma": _mma, "dp4a": _dp4a}


class Sample(NamedTuple):
    """Of `tiles` tiles, every `stride`-th gives the maxima of its four parts, by which a threshold is set."""

    tiles: int
    stride: int


ROOM = 4096  # hits of a list that is sorted on the device
SORTED_K = 512  # results a query, up to which it is
FEW_K = 16  # results a query, up to which a warp finds a query's thresholds and results
_SAMPLE_ROWS = 32_768
_MOST_MAXIMA = 16_384


def room(k: int) -> int:
    """Places of a query's list of hits, a power of two and at least 2 k."""
    return ROOM if k <= SORTED_K else 1 << (8 * k - 1).bit_length()


def sample(ntiles: int, k: int) -> Sample:
    """About k n / sample rows reach the k-th largest maximum of a sample: few beside `room`, on rows in any order
    that has nothing to do with the queries. The sample has rows for 4 k maxima, and more where n is large."""
    n = 64 * ntiles
    rows = max(_SAMPLE_ROWS, n // 64, 4 * k * n // room(k))
    rows = max(min(rows, n // 4), 64 * k)
    tiles = max(1, min(ntiles, rows // 64, _MOST_MAXIMA // 4))
    return Sample(tiles, ntiles // tiles)
