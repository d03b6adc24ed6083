"""The search of lists: in registers where a kernel reads the codes, else list by list in steps.

Law:       a query's lists are its nprobe best by the centroids' score (`Coarse`), without those whose score is more
           than `gap` below the best one's; key = kernels.add_scores of a list's rows + the list's offset; ties by id.
           Both ways give the same bits.
In registers: one call of kernels.answer for a batch, whose queries are grouped by list.
In steps:  codes of no register kernel (PolarQuant, two stages, 5-7 bits), 16-bit queries, machines without a set."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codes import PANEL
from polarindex.indexes.lines import LineCode, StageQueries, line_code, lined_stage
from polarindex.indexes.lists import Lists
from polarindex.indexes.originals import original_rows
from polarindex.indexes.residuals import Centroids, ResidualCoding
from polarindex.indexes.scan import STEP, Products, integer_queries, rows_of
from polarindex.indexes.threads import go_on
from polarindex.kernels.limits import EMPTY_ID, INNER_PRODUCT, L2
from polarindex.quantizers import EDEN
from polarindex.rotations import HadamardRotation
from polarindex.vectors import squared_norms

COARSE_BITS = 8
_EVERYONE = np.empty(0, np.uint8)

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Numbers = NDArray[np.int32]
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


class Coarse:
    """The centroids, coded at 8 bits in the quantizer's own rotation, so that a query's int8 levels serve both.

    A list's score is -|q - c|^2 for l2, <q, c> for ip, and <q, c> / |c| for cosine, up to a constant of the query:
    at equal recall, cosine's reads 5-10 % fewer rows than <q, c>. It is that of the codes also where a search of the
    same index goes in steps; where no register kernel reads the index's codes (`quantizer` is None) it is exact.
    """

    def __init__(self, coding: ResidualCoding, centroids: Centroids) -> None:
        self.coding, self.centroids = coding, centroids
        c, mu = centroids.relative, centroids.mu
        if coding.metric == "l2":
            self.directions, self.shifts = c, -squared_norms(c)
        elif coding.metric == "ip":
            self.directions, self.shifts = c, np.einsum("ij,j->i", c, mu, dtype=np.float64)
        else:
            full = centroids.full
            lengths = np.sqrt(squared_norms(full))
            self.directions = full / np.where(lengths > 0, lengths, 1).astype(np.float32)[:, None]
            self.shifts = np.einsum("ij,j->i", self.directions, mu, dtype=np.float64)
        stage = lined_stage(coding.quantizer)
        self.rotation = stage.map if stage and isinstance(stage.map, HadamardRotation) else None
        self.quantizer = EDEN(coding.quantizer.dim, COARSE_BITS, self.rotation.seed) if self.rotation else None
        self._lists: Lists | None = None

    @property
    def nbytes(self) -> int:
        own = self.shifts.nbytes + (self._lists.nbytes if self._lists else 0)
        return own + (self.directions.nbytes if self.directions is not self.centroids.relative else 0)

    def scores(self, centred: Floats) -> Floats:
        """(nq, nlist) float32."""
        if self.quantizer:
            return self._coded_scores(self.quantizer, centred)
        scores = self.coding.factor * (centred.astype(np.float64) @ self.directions.astype(np.float64).T)
        return (scores + self.shifts).astype(np.float32)

    def _coded_scores(self, quantizer: EDEN, centred: Floats) -> Floats:
        """What kernels.answer finds, to the bit."""
        (queries,), lists = integer_queries(quantizer, centred, self.coding.factor)[0], self.lists(quantizer)
        rows = lists.rows(np.arange(len(self.directions)))
        factors = lists.factors_of(rows)
        levels = quantizer.stages[0].levels(np.ascontiguousarray(rows[:, : quantizer.words]))
        scores = np.tile(factors[:, 1], (len(centred), 1))
        kernels.add_scores(Products(queries)(levels), queries.gains, np.ascontiguousarray(factors[:, 0]), scores)
        return scores

    def nearest(self, centred: Floats, probes: Probes) -> list[Numbers]:
        """The lists each query probes, best first."""
        scores, gap = self.scores(centred), np.float32(probes.gap)
        found = []
        for row in scores:
            order = np.lexsort((np.arange(len(row)), -row))[: probes.nprobe]
            found.append(order[row[order] >= row[order[0]] - gap].astype(np.int32))
        return found

    def lists(self, quantizer: EDEN) -> Lists:
        """The directions as one list of 8-bit codes."""
        if self._lists is None:
            padding = -len(self.directions) % PANEL  # full pages, so that a list's number is its centroid's place
            rows = np.pad(self.directions, ((0, padding), (0, 0)))
            shifts = np.pad(self.shifts, (0, padding), constant_values=np.nan).astype(np.float32)  # reaches no limit
            lists = Lists(1, quantizer.words, 1, {})
            staged = lists.stage(np.zeros(len(rows), np.int32), len(rows))
            encoded = quantizer.encode_rows(rows, integer=True)
            factors = np.concatenate([encoded.scales, shifts[:, None]], axis=1)
            numbers = np.arange(len(rows))
            lists.put(numbers, encoded.words, factors, numbers, {})
            lists.commit(staged)
            self._lists = lists
        return self._lists


class ListScan:
    """Searches of one index's lists."""

    def __init__(self, coding: ResidualCoding, centroids: Centroids, lists: Lists) -> None:
        self._coding, self._lists = coding, lists
        self.centroids = centroids
        self._readings: dict[str, _Reading | None] = {}
        self._told: Told | None = None

    @cached_property
    def coarse(self) -> Coarse:
        """The centroids, coded when a search first asks for them."""
        return Coarse(self._coding, self.centroids)

    @property
    def nbytes(self) -> int:
        """Of the centroids' codes, if a search has made them."""
        return self.coarse.nbytes if "coarse" in vars(self) else 0

    def __getstate__(self) -> dict[str, Any]:
        """Without addresses, which in a copy would be those of other memory."""
        return {**self.__dict__, "_told": None}

    def in_registers(self, bits: int) -> bool:
        """Whether a kernel reads the codes, for queries of so many bits."""
        return bits == 8 and self._reading() is not None

    def _reading(self) -> _Reading | None:
        """How registers see the codes; their stage must be a Hadamard rotation, which the centroids share."""
        isa = kernels.selected()
        if isa not in self._readings:
            rotation, quantizer = self.coarse.rotation, self.coarse.quantizer
            reading = None
            if rotation and quantizer:
                code, coarse = line_code(self._coding.quantizer, isa), line_code(quantizer, isa)
                reading = _Reading(code, coarse, rotation, quantizer) if code and coarse else None
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
    ) -> bool:
        """The best of queries (nq, dim) as given, into out = distances and ids (nq, k); see kernels.answer.

        False where it cannot be: not in registers, or for a query that is an error.
        """
        told = self.told()
        if told is None:
            return False
        given = np.require(given, requirements=["C", "A", "W"])  # for others the kernel would be compiled anew
        seen = _EVERYONE if allowed is None else allowed
        return bool(kernels.answer(told.isa, told.kind, told.about, given, *probes, keep, exact, seen, *out))

    def told(self) -> Told | None:
        """The index as kernels.answer takes it; None where it is not read in registers.

        For the caller's own hands: another thread's search may replace what is held here and what that holds.
        """
        reading, store, told = self._reading(), self._lists.store, self._told
        if reading is None:
            return None
        if told is None or told.reading is not reading or told.store is not store:
            told = self._told = self._described(reading, store)
        return told

    def forget(self) -> None:
        """Let go of what rows were told as; they are others now."""
        self._told = None

    def _described(self, reading: _Reading, store: tuple[Any, ...]) -> Told:
        code, coarse_code, rotation, quantizer = reading
        coarse = self.coarse.lists(quantizer)
        order, signs, starts, size, _ = rotation.plan
        kind, blocks, scales, bits = _NO_ORIGINALS
        if "originals" in self._lists.arena.columns:
            kind, blocks, scales, bits = original_rows(self._lists.arena)
        held = [
            *_side(self._lists, code),
            *_side(coarse, coarse_code),
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
        ]
        about = [part.__array_interface__["data"][0] if isinstance(part, np.ndarray) else int(part) for part in held]
        isa = kernels.Isa(code.isa, 8, code.bits)
        return Told(reading, store, isa, kind, np.array(about, np.int64), [coarse, *held])

    # --- in steps

    def best_in_steps(
        self, centred: Floats, probes: Probes, k: int, allowed: NDArray[np.uint8] | None, bits: int
    ) -> tuple[Floats, Ids]:
        """Keys (nq, k) float32, best first, and ids (nq, k); empty places are -inf and EMPTY_ID."""
        keys = np.full((len(centred), k), -np.inf, np.float32)
        ids = np.full(keys.shape, EMPTY_ID, np.int64)
        for block in self.key_blocks(centred, self.coarse.nearest(centred, probes), allowed, bits):
            best, names = keys[block.members], ids[block.members]
            kernels.select(block.keys, block.ids, block.allowed, best, names)
            keys[block.members], ids[block.members] = best, names
        kernels.sort_rows(keys, ids)
        return keys, ids

    def key_blocks(
        self, centred: Floats, probed: list[Numbers], allowed: NDArray[np.uint8] | None, bits: int = 8
    ) -> Iterator[KeyBlock]:
        """Keys of the rows of the lists that each query probes, STEP rows of a list at a time."""
        queries = integer_queries(self._coding.quantizer, centred, self._coding.factor, bits)
        pairs = np.concatenate(probed) if probed else np.empty(0, np.int32)
        askers = np.repeat(np.arange(len(probed)), [len(lists) for lists in probed])
        order = np.argsort(pairs, kind="stable")
        ends = np.flatnonzero(np.diff(pairs[order], append=-1)) + 1
        for start, end in zip(np.concatenate([[0], ends[:-1]])[: len(ends)], ends, strict=True):
            number, members = pairs[order[start]], askers[order[start:end]]
            yield from self._list_keys(number, members, rows_of(queries, members), centred[members], allowed)

    def _list_keys(
        self,
        number: np.int32,
        members: Ids,
        queries: list[list[StageQueries]],
        centred: Floats,
        allowed: NDArray[np.uint8] | None,
    ) -> Iterator[KeyBlock]:
        quantizer, lists = self._coding.quantizer, self._lists
        products = [[(piece.gains, Products(piece)) for piece in pieces] for pieces in queries]
        offsets = self._coding.offsets(centred, np.array([number], np.int32), self.centroids)
        everyone = lists.places_of(int(number))
        for at in range(0, len(everyone), STEP):
            go_on()
            places = everyone[at : at + STEP]
            mine = _EVERYONE if allowed is None else allowed[places]
            if allowed is not None and not mine.any():
                continue
            rows = lists.rows(places)
            factors = lists.factors_of(rows)
            keys = np.empty((len(members), len(places)), np.float32)
            keys[:] = factors[:, -1]
            words = quantizer.split(np.ascontiguousarray(rows[:, : quantizer.words]))
            for s, (stage, part, pieces) in enumerate(zip(quantizer.stages, words, products, strict=True)):
                levels, scales = stage.levels(np.ascontiguousarray(part)), np.ascontiguousarray(factors[:, s])
                for gains, product in pieces:
                    kernels.add_scores(product(levels), gains, scales, keys)
            yield KeyBlock(members, keys + offsets, lists.ids_of(rows), mine)


class _Reading(NamedTuple):
    """How registers see an index: its codes and its centroids', and the rotation that these share."""

    code: LineCode
    coarse_code: LineCode
    rotation: HadamardRotation
    quantizer: EDEN


class Told(NamedTuple):
    """An index as kernels.answer takes it, for a reading and a store of rows; `held` is what the addresses are of."""

    reading: _Reading
    store: tuple[Any, ...]
    isa: kernels.Isa
    kind: NDArray[Any]
    about: NDArray[np.int64]
    held: list[Any]


class KeyBlock(NamedTuple):
    """Keys (m, n) float32 of some rows for the queries `members` (m,), the rows' ids (n,), and which are allowed:
    (n,), or (0,) for all."""

    members: Ids
    keys: Floats
    ids: Ids
    allowed: NDArray[np.uint8]


def _side(lists: Lists, code: LineCode) -> list[Any]:
    """What kernels.answer is told of lists."""
    blocks, page_bits, width, id_word = lists.store
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
        heads,
        len(heads),
        following,
        len(following),
        lists.sizes,
    ]
