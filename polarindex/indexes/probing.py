"""The search of lists: in registers where a kernel reads the codes, else list by list in steps.

Law:       a query's lists are those of coarse.py; key = kernels.add_scores of a list's rows + the list's offset; ties
           by id. Where rows lie in a second list too, the key is the larger of those found. Both ways give the same
           bits.
First planes: where an index has a prefix (residuals.py), a search may choose candidates by its keys and then score
           these by the keys of the whole codes; ties of either by id.
In registers: one call of kernels.answer, answer_by_planes or answer_by_segments for a batch, whose queries are grouped
           by list.
In steps:  codes of no register kernel (PolarQuant, two stages, 5-7 bits), 16-bit queries, machines without a set; and
           of spectral codes all that is not `answer`: ranges, and queries that are prepared elsewhere. They read all
           segments of all rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codes import PANEL, Words
from polarindex.indexes.coarse import Coarse
from polarindex.indexes.copies import Copies
from polarindex.indexes.factors import FactorLaw
from polarindex.indexes.grouping import Groups
from polarindex.indexes.interrupts import uninterrupted
from polarindex.indexes.lines import LineCode, StageQueries, line_code, prefix_code
from polarindex.indexes.lists import Lists
from polarindex.indexes.originals import original_rows
from polarindex.indexes.residuals import Centroids, ResidualCoding
from polarindex.indexes.rings import RingCode, ring_code
from polarindex.indexes.scan import STEP, Products, integer_queries, rows_of
from polarindex.indexes.segments import ListSegments
from polarindex.indexes.threads import go_on
from polarindex.kernels.limits import EMPTY_ID, INNER_PRODUCT, L2
from polarindex.quantizers import EDEN
from polarindex.quantizers.base import Stage
from polarindex.quantizers.spectral import Spectral
from polarindex.rotations import HadamardRotation

_TILE = 8  # queries that share a tile of registers
_EVERYONE = np.empty(0, np.uint8)
_NO_LAW = np.zeros(3, np.float32)

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Numbers = NDArray[np.int32]
_AllProducts = list[list[tuple[Floats, Products]]]  # with gains: of each stage, of each piece of its queries
_NO_ORIGINALS = np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, np.int64), 0


class Probes(NamedTuple):
    """Which lists a query looks into.

    nprobe : the most of them
    gap : a list whose centroid's score is more than that below the best one's is left out
    """

    nprobe: int
    gap: float = np.inf


class Defaults(NamedTuple):
    """What a search does where it is not told: see IVFIndex.search; gap None leaves out no list."""

    nprobe: int
    gap: float | None
    rerank: int


class ListScan:
    """Searches of one index's lists."""

    def __init__(
        self,
        coding: ResidualCoding,
        centroids: Centroids,
        lists: Lists,
        copies: Copies | None = None,
        groups: Groups | None = None,
    ) -> None:
        self._coding, self._lists, self._copies = coding, lists, copies
        self.centroids, self._groups = centroids, groups
        self._readings: dict[str, _Reading | None] = {}
        self._told: Told | None = None

    @cached_property
    def coarse(self) -> Coarse:
        """The centroids, coded when a search first asks for them."""
        return Coarse(self._coding, self.centroids, self._groups)

    @property
    def nbytes(self) -> int:
        """Of the centroids' codes, if a search has made them."""
        return self.coarse.nbytes if "coarse" in vars(self) else 0

    def __getstate__(self) -> dict[str, Any]:
        """Without addresses, which in a copy would be those of other memory."""
        return {**self.__dict__, "_told": None}

    def in_one_call(self, bits: int) -> bool:
        """Whether a kernel answers queries of so many bits: `answer`."""
        return bits == 8 and self._reading() is not None

    def in_registers(self, bits: int) -> bool:
        """Whether kernels also find what is `within` a radius, and answer queries that are prepared elsewhere."""
        return self.in_one_call(bits) and not isinstance(self._coding.quantizer, Spectral)

    def _reading(self) -> _Reading | None:
        """How registers see the codes; their stage must be a Hadamard rotation, which the centroids share, or they be
        spectral, beside which these have their own."""
        isa = kernels.selected()
        if isa not in self._readings:
            rotation, quantizer, own = self.coarse.rotation, self.coarse.quantizer, self._coding.quantizer
            reading = None
            if rotation and quantizer:
                coarse = line_code(quantizer, isa)
                code = coarse if isinstance(own, Spectral) else line_code(own, isa) or ring_code(own, isa)
                levels = self._coding.prefix
                prefix = prefix_code(code, levels) if isinstance(code, LineCode) and levels is not None else None
                reading = _Reading(code, coarse, rotation, quantizer, prefix) if code and coarse else None
            self._readings[isa] = reading
        return self._readings[isa]

    # --- in registers

    def answer(
        self,
        given: Floats,
        probes: Probes,
        keep: int,
        exact: bool,
        allowed: NDArray[np.uint8] | None,
        out: tuple[Floats, Ids],
        first: bool = False,
    ) -> bool:
        """The best of queries (nq, dim) as given, into out = distances and ids (nq, k); see kernels.answer.

        first : by the first planes of the codes, see kernels.answer_by_planes, or of spectral codes by the first
            segments where others cannot matter; without, all segments are read
        False where it cannot be: not in registers, or for a query that is an error.
        """
        told = self.told()
        if told is None:
            return False
        given = np.require(given, requirements=["C", "A", "W"])  # for others the kernel would be compiled anew
        seen = _EVERYONE if allowed is None else allowed
        kernel, *told_first = told.way(first)
        return bool(kernel(*told_first, given, *probes, keep, exact, seen, *out))

    def within(
        self, given: Floats, probes: Probes, radius: np.float64, together: int, allowed: NDArray[np.uint8] | None
    ) -> tuple[Ids, Floats, Ids]:
        """Hits of queries (nq, dim), which are no error, as given, in registers; see kernels.within."""
        told = self.told()
        if told is None:
            raise RuntimeError("these codes are not read in registers")
        given = np.require(given, requirements=["C", "A", "W"])
        seen = _EVERYONE if allowed is None else allowed
        with uninterrupted():  # a kernel that makes arrays runs Python at its end, where Ctrl-C is a SystemError
            _, lims, distances, ids = kernels.within(told.isa, told.about, given, *probes, radius, together, seen)
        return lims, distances, ids

    def told(self, probing: bool = True) -> Told | None:
        """The index as kernels.answer takes it; None where it is not read in registers.

        For the caller's own hands: another thread's search may replace what is held here and what that holds.

        probing : with the centroids, by which lists are chosen: their codes are made when that is first asked for
        """
        reading, told = self._reading(), self._told
        if reading is None:
            return None
        if told is None or told.reading is not reading or not self.still(told) or (probing and not told.probing):
            told = self._told = self._described(reading, self._lists.store, probing)
        return told

    def still(self, told: Told) -> bool:
        """Whether rows are where they were when this was told; an add that failed may have moved them."""
        return told.store is self._lists.store and (
            self._copies is None or told.copies_store is self._copies.rows.store
        )

    def forget(self) -> None:
        """Let go of what rows were told as; they are others now."""
        self._told = None

    def _described(self, reading: _Reading, store: tuple[Any, ...], probing: bool) -> Told:
        code, coarse_code, rotation, quantizer, prefix = reading
        order, signs, starts, size, _ = rotation.plan
        law = self.centroids.law
        mine = _side(self._lists, code, store, self._coding.head, law)
        coarse: list[Any] = [0] * (2 * len(mine))
        grouping: list[Any] = [0, 0, 0]
        made: list[Lists] = []
        if probing:
            lists, centres, groups = self.coarse.lists(quantizer), self.coarse.centres(quantizer), self.coarse.groups
            coarse = [*_side(lists, coarse_code, lists.store), *_side(centres, coarse_code, centres.store)]
            grouping, made = [-(-groups.size // PANEL), groups.looks, len(groups.looks)], [lists, centres]
        kind, blocks, scales, bits = _NO_ORIGINALS
        if "originals" in self._lists.arena.columns:
            kind, blocks, scales, bits = original_rows(self._lists.arena)
        held = [
            *mine,
            *coarse,
            L2 if self._coding.metric == "l2" else INNER_PRODUCT,
            self._coding.metric == "cosine",
            self.centroids.relative,
            self.centroids.constants,
            self.centroids.mu,
            code.dims // 4,
            order,
            signs,
            rotation.flips,
            len(order),
            starts,
            len(starts),
            size,
            blocks,
            len(blocks),
            scales,
            len(scales),
            bits,
            *grouping,
            0 if self._copies is None else self._lists.places,
            *((prefix.table, 0, 1, self._lists.owners) if prefix else ()),  # or else copies: no index has both
        ]
        copies_store = None
        if self._copies is not None:
            copies_store = self._copies.rows.store
            held += _side(self._copies.rows, code, self._copies.told(copies_store, store), law=law)
        segments = None
        spectral = self._coding.quantizer
        if isinstance(spectral, Spectral):
            segments = ListSegments(spectral)
            none = [0] * len(mine) if self._copies is None else []
            held += [*none, len(segments.plan), segments.plan, segments.tables, segments.longest]
            held += [self._coding.scale_word, len(segments.plan)]  # all are the head
        about = [part.__array_interface__["data"][0] if isinstance(part, np.ndarray) else int(part) for part in held]
        isa, first = code.tag(_TILE), (prefix or code).tag(_TILE)
        addresses = np.array(about, np.int64)
        pruned = np.array([*about[:-1], 1], np.int64) if segments else None
        kept = [*made, *held, segments]
        return Told(reading, store, copies_store, isa, first, kind, addresses, kept, probing, pruned)

    # --- in steps

    def best_in_steps(
        self,
        centred: Floats,
        probes: Probes,
        k: int,
        allowed: NDArray[np.uint8] | None,
        bits: int,
        first: bool = False,
    ) -> tuple[Floats, Ids]:
        """`best_of_lists` of those that each query probes."""
        return self.best_of_lists(centred, self.coarse.nearest(centred, *probes), k, allowed, bits, first)

    def best_of_lists(
        self,
        centred: Floats,
        probed: list[Numbers],
        k: int,
        allowed: NDArray[np.uint8] | None,
        bits: int,
        first: bool = False,
    ) -> tuple[Floats, Ids]:
        """Keys (nq, k) float32, best first, and ids (nq, k); empty places are -inf and EMPTY_ID.

        first : by the first planes of the codes
        """
        kept = k if self._copies is None else 2 * k  # a row may be found twice
        keys = np.full((len(centred), kept), -np.inf, np.float32)
        ids = np.full(keys.shape, EMPTY_ID, np.int64)
        for block in self.key_blocks(centred, probed, allowed, bits, first):
            best, names = keys[block.members], ids[block.members]
            kernels.select(block.keys, block.ids, block.allowed, best, names)
            keys[block.members], ids[block.members] = best, names
        kernels.sort_rows(keys, ids)
        return (keys, ids) if self._copies is None else _once_each(keys, ids, k)

    def whole_keys(self, centred: Floats, places: Ids, bits: int) -> Floats:
        """Keys (nq, m) float32 by the whole codes of the rows at places (nq, m), -inf where these are -1."""
        queries = integer_queries(self._coding.quantizer, centred, self._coding.factor, bits)
        keys = np.full(places.shape, -np.inf, np.float32)
        for q, row in enumerate(places):
            there, mine = row[row >= 0], slice(q, q + 1)
            offsets = self._coding.offsets(centred[mine], self._lists.lists_of(there), self.centroids)
            products = _products(rows_of(queries, mine))
            keys[q, row >= 0] = (self._keys(self._lists.rows(there), products, 1, False) + offsets)[0]
        return keys

    def key_blocks(
        self,
        centred: Floats,
        probed: list[Numbers],
        allowed: NDArray[np.uint8] | None,
        bits: int = 8,
        first: bool = False,
    ) -> Iterator[KeyBlock]:
        """Keys of the rows of the lists that each query probes, STEP rows of a list at a time."""
        queries = integer_queries(self._coding.quantizer, centred, self._coding.factor, bits)
        pairs = np.concatenate(probed) if probed else np.empty(0, np.int32)
        askers = np.repeat(np.arange(len(probed)), [len(lists) for lists in probed])
        order = np.argsort(pairs, kind="stable")
        ends = np.flatnonzero(np.diff(pairs[order], append=-1)) + 1
        for start, end in zip(np.concatenate([[0], ends[:-1]])[: len(ends)], ends, strict=True):
            number, members = pairs[order[start]], askers[order[start:end]]
            yield from self._list_keys(number, members, rows_of(queries, members), centred[members], allowed, first)

    def _list_keys(
        self,
        number: np.int32,
        members: Ids,
        queries: list[list[StageQueries]],
        centred: Floats,
        allowed: NDArray[np.uint8] | None,
        first: bool,
    ) -> Iterator[KeyBlock]:
        products = _products(queries)
        offsets = self._coding.offsets(centred, np.array([number], np.int32), self.centroids)
        for ids, rows, mine in self._steps(int(number), allowed):
            keys = self._keys(rows, products, len(members), first) + offsets
            yield KeyBlock(members, keys, ids, mine)

    def _steps(
        self, number: int, allowed: NDArray[np.uint8] | None
    ) -> Iterator[tuple[Ids, Words, NDArray[np.uint8]]]:
        """Ids, words and allowed ones of the rows that lie in a list, as their first or as their second."""
        stores: list[Any] = [(self._lists, self._lists.ids_of, 0)]
        if self._copies is not None:
            stores.append((self._copies.rows, self._copies.ids_of, self._lists.places))
        for lists, ids_of, before in stores:
            everyone = lists.places_of(number)
            for at in range(0, len(everyone), STEP):
                go_on()
                places = everyone[at : at + STEP]
                mine = _EVERYONE if allowed is None else allowed[before + places]
                if allowed is not None and not mine.any():
                    continue
                rows = lists.rows(places)
                ids = ids_of(rows)
                known = ids != EMPTY_ID
                yield (ids, rows, mine) if known.all() else (ids[known], rows[known], mine[known[: len(mine)]])

    def _keys(self, rows: Words, products: _AllProducts, nq: int, first: bool) -> Floats:
        """Keys (nq, n) float32, without offsets, of rows of words, by their whole codes or the first planes."""
        coding = self._coding
        stages: tuple[Stage, ...] = coding.quantizer.stages
        scales, shifts = coding.scales(rows), coding.shifts(rows, self.centroids)
        if first and coding.first_stage:
            stages, factors = (coding.first_stage,), coding.first_factors(rows)
            scales, shifts = factors[:, :1], factors[:, 1]
        keys = np.empty((nq, len(rows)), np.float32)
        keys[:] = shifts
        words = coding.quantizer.split(coding.code_words(rows))
        for s, (stage, part, pieces) in enumerate(zip(stages, words, products, strict=True)):
            levels, own = stage.levels(np.ascontiguousarray(part)), np.ascontiguousarray(scales[:, s])
            for gains, product in pieces:
                kernels.add_scores(product(levels), gains, own, keys)
        return keys


def _products(queries: list[list[StageQueries]]) -> _AllProducts:
    return [[(piece.gains, Products(piece)) for piece in pieces] for pieces in queries]


class _Reading(NamedTuple):
    """How registers see an index: its codes and its centroids', the rotation that these share, and its prefix. Of
    spectral codes `code` is the centroids', and the segments are told beside it."""

    code: LineCode | RingCode
    coarse_code: LineCode
    rotation: HadamardRotation
    quantizer: EDEN
    prefix: LineCode | None


class Told(NamedTuple):
    """An index as kernels.answer takes it, for a reading and stores of rows; `held` is what the addresses are of.

    isa, first : tags for all planes of the codes, and for those that are scanned
    probing : whether the centroids are among it; without, it is for kernels.candidates_of
    pruned : of spectral codes, `about` with one segment as the head
    """

    reading: _Reading
    store: tuple[Any, ...]
    copies_store: tuple[Any, ...] | None
    isa: kernels.Isa
    first: kernels.Isa
    kind: NDArray[Any]
    about: NDArray[np.int64]
    held: list[Any]
    probing: bool
    pruned: NDArray[np.int64] | None

    def way(self, first: bool) -> tuple[Any, Any, Any, NDArray[np.int64]]:
        """The kernel for a search by whole codes or by their `first` part, and its first three arguments."""
        if self.pruned is not None:
            return kernels.answer_by_segments, self.isa, self.kind, self.pruned if first else self.about
        if first:
            return kernels.answer_by_planes, self.first, self.isa, self.about
        return kernels.answer, self.isa, self.kind, self.about


class KeyBlock(NamedTuple):
    """Keys (m, n) float32 of some rows for the queries `members` (m,), the rows' ids (n,), and which are allowed:
    (n,), or (0,) for all."""

    members: Ids
    keys: Floats
    ids: Ids
    allowed: NDArray[np.uint8]


def _once_each(keys: Floats, ids: Ids, k: int) -> tuple[Floats, Ids]:
    """The k best of keys (nq, m) and ids (nq, m), sorted, each id with its best key."""
    order = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, order, 1)
    query, at = np.nonzero(ordered[:, 1:] == ordered[:, :-1])
    again = np.zeros(ids.shape, bool)
    again[query, order[query, at + 1]] = True
    keys, ids = np.where(again, np.float32(-np.inf), keys), np.where(again, EMPTY_ID, ids)
    order = np.argsort(again, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(keys, order, 1), np.take_along_axis(ids, order, 1)


def _side(
    lists: Lists, code: LineCode | RingCode, store: tuple[Any, ...], head: int = 0, law: FactorLaw | None = None
) -> list[Any]:
    """What kernels.answer is told of lists that are stored so."""
    blocks, page_bits, width, id_word = store
    heads, following = lists.chains
    return [
        blocks,
        len(blocks),
        page_bits,
        width,
        id_word,
        code.words,
        code.table,
        lists.scale_word,
        lists.shift_word,
        head,
        _NO_LAW if law is None else law.numbers,
        heads,
        len(heads),
        following,
        len(following),
        lists.sizes,
    ]
