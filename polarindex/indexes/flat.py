"""FlatIndex: every code is scanned. Nothing to train, exact over the codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.checks import LARGEST_ID
from polarindex.indexes import learned
from polarindex.indexes.arena import Arena, block_rows
from polarindex.indexes.base import (
    Floats,
    Index,
    checked_k,
    checked_query_bits,
    checked_threads,
    require_results,
)
from polarindex.indexes.coding import Centre, Coding, Columns
from polarindex.indexes.filters import filter_groups
from polarindex.indexes.ids import IdMap, Ids
from polarindex.indexes.lines import StageQueries
from polarindex.indexes.originals import StoredRows, exact_scores, take_originals
from polarindex.indexes.plan import IN_STEPS, Planner
from polarindex.indexes.saved import (
    Read,
    Saved,
    check_ascending,
    check_ids,
    check_points,
    read_columns,
    saved_columns,
    whole,
)
from polarindex.indexes.scan import best_rows, integer_queries, key_blocks, rows_of
from polarindex.indexes.segment_factors import law_of_state
from polarindex.indexes.sharing import changing, reading
from polarindex.kernels.limits import EMPTY_ID
from polarindex.memory import require

_IDS = 8  # bytes a row, whether they are stored or only told
CENTRE_ROWS = 1024  # rows from which a mean is worth freezing
ROWS_A_DIM = 4  # and a coordinate, for principal axes


class _Staged(NamedTuple):
    """Rows coded and not yet in the index.

    centre : what they are coded against; a new one if there are now rows enough to learn it
    arena : where they are; with a new centre, a new arena that has the held rows too, coded against it
    replacing : columns, chunk by chunk, of the rows that are not new
    """

    centre: Centre
    arena: Arena
    replacing: list[Columns]


class FlatIndex(Index):
    """An index that scans all its codes; nothing to train, exact over the codes.

    Parameters
    ----------
    dim : int
        Coordinates a vector.
    metric : {"l2", "ip", "cosine"}
        Squared Euclidean distance (ascending), inner product or cosine similarity (descending).
    bits : float
        Code bits a coordinate; polarindex.CELLS says which exist for which quantizer. With codes="spectral" any number
        from 1/4 to 8: codes and scales then take no more bytes than plain ones would.
    quantizer : str
        A name in polarindex.CELLS.
    seed : int
        Of the random rotation. Indexes with equal arguments code and score alike, on every machine.
    center : bool
        Subtract a mean before coding. It is zero until `fit`, or until the index holds 1,024 rows, and then
        frozen; every centre is correct, a good one is more accurate. Until then rows are held as float32 beside
        their codes.
    store : {"none", "float32", "float16", "int8"}
        Keep the vectors too, for exact re-ranking and `reconstruct`.
    codes : {"plain", "spectral"}
        "spectral": learn principal axes together with the centre, from `fit` or from the first 1,024 rows, at least 4
        dim, and give each the bits that it is worth; quantizer must be "eden" or "trellis". Where that would gain
        little, codes are plain. `info()["spectral"]` says what was learned, and whether rows have changed since. Adding
        and querying then take a product with a dim x dim matrix.
    factor_bits : {32, 16}
        Bits of a row's scale and of its shift, as they are stored beside its code. 16 saves 4 bytes a vector and costs
        less than .001 of the recall; not for quantizers of two stages, polarquant and qjl, nor where rows have a scale
        alone (center=False, unless metric="l2"). With codes="spectral" it is 12 bits for each segment's scale and 8
        for the shift, not for metric="ip": for rows of up to 50 bytes, which lose .001 to .003 of the recall.

    Notes
    -----
    Threads may search an index while others change it, and each search sees it before or after a change; changes come
    one at a time. A fork, a pickle, `copy.copy` and `copy.deepcopy` give an index of its own. Ctrl-C and errors leave
    an index as it was. See docs/concurrency.md.

    Examples
    --------
    >>> import numpy as np
    >>> import polarindex as pi
    >>> x = np.eye(8, 64, dtype=np.float32)
    >>> index = pi.FlatIndex(64, metric="cosine", bits=4, store="float32")
    >>> index.add(x[:7])
    array([0, 1, 2, 3, 4, 5, 6])
    >>> index.add(x[7:], ids=[100])
    array([100])
    >>> similarities, ids = index.search(x[7] + 0.1 * x[2], k=2)
    >>> ids
    array([100,   2])
    >>> index.remove([100])
    1
    """

    kind = "flat"

    def __init__(
        self,
        dim: int,
        metric: str = "l2",
        bits: float = 4,
        quantizer: str = "eden",
        seed: int = 0,
        center: bool = True,
        store: str = "none",
        codes: str = "plain",
        factor_bits: int = 32,
    ) -> None:
        super().__init__(dim, metric, bits, quantizer, seed, center, store, codes, factor_bits)
        short = self.factor_bits == 16
        if short and not self.center and self.metric != "l2":
            raise ValueError(
                f"factor_bits=16 is for rows with a scale and a shift; with metric={metric!r} and center=False they "
                "have a scale alone"
            )
        if short and self._spectral is not None and self.metric == "ip":
            raise ValueError("factor_bits=16 with codes='spectral' is for metric='l2' and 'cosine', got metric='ip'")
        self._coding = Coding(self.quantizer, self.metric, self.store, self.center, self._spectral, short)
        self._arena = Arena(self._coding.columns(), block_rows(4 * self.quantizer.words))
        self._ids = IdMap(self._arena)
        self._planner = Planner(self._coding)

    # --- what is in it

    @property
    def _id_map(self) -> IdMap:
        return self._ids

    def __len__(self) -> int:
        return self._arena.n

    @property
    @reading
    def nbytes(self) -> int:
        """Bytes allocated: for rows, with spare room, the id table, what was learned, and the sample by which a scan is
        chosen."""
        known = self._coding.centre.mu.nbytes + self.quantizer.nbytes
        return self._arena.nbytes + self._ids.nbytes + known + self._planner.nbytes

    @property
    def bytes_per_vector(self) -> int:
        """Bytes that one more vector takes: code, scales, shift, id where ids are stored, original where kept.

        Without the float32 rows that are held until the centre is frozen; `nbytes` counts them.
        """
        held = self._arena.columns.get("held")
        return self._arena.bytes_per_row - (held.row_bytes if held else 0)

    @reading
    def info(self) -> dict[str, Any]:
        """What the index is, holds and costs."""
        centre = self._coding.centre
        return {
            "kind": self.kind,
            **self.parameters(),
            **self._directory_info(),
            **({} if self._spectral is None else {"spectral": self._spectral_info()}),
            "n": len(self),
            "next_id": self._ids.next_id,
            "stores_ids": self._ids.stored,
            "bytes_per_vector": self.bytes_per_vector,
            "bits_per_dim": 8 * self.bytes_per_vector / self.dim,
            "nbytes": self.nbytes,
            "center_frozen": centre.frozen,
            "energy_removed_by_center": centre.energy_removed,
            "expected_relative_error": self.quantizer.expected_error(integer=True),
            "scan": {
                "batch": self._planner.plan(self._arena, 64, 10, False).describe(),
                "single": self._planner.plan(self._arena, 1, 10, False).describe(),
            },
        }

    def _spectral_info(self) -> dict[str, Any]:
        some = learned.Some(*self._coding.some(self._arena, learned.SAMPLE)) if len(self) else None
        return learned.told(self.quantizer, self._coding.centre.frozen, some)

    def parameters(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return self._common_parameters()

    def to_gpu(self, device: int | Sequence[int] = 0, memory: int | None = None) -> FlatIndex:
        """A polarindex.gpu.GpuFlatIndex of its own with the same rows, searched on an NVIDIA GPU; the extra `gpu`.

        `device` and `memory` are that class's: one GPU or several, and bytes of each, past which codes are streamed.
        MissingExtraError and GpuError say why that cannot be, and ValueError that codes are spectral; nothing is
        computed on the CPU instead.
        """
        if self._spectral is not None:
            raise ValueError("codes='spectral' are scanned on the CPU only; a GPU index has codes='plain'")
        kind = import_module("polarindex.gpu.flat").GpuFlatIndex  # it knows us, not we it
        there: FlatIndex = kind.of(self, device, memory)
        return there

    # --- filling it

    @changing
    def fit(self, x: Any, n: int | None = None) -> FlatIndex:
        """Learn and freeze the centre, and spectral codes' axes, from vectors that need not be in the index. Optional.

        `n`, the expected number of rows, is accepted for all indexes; a flat one has no use for it.
        Raises ValueError once the centre is frozen, for codes depend on it.
        """
        self._may_change()
        source = checks.vectors(x, "x", self.dim)
        if n is not None:
            checks.integer(n, "n", low=1)
        if source.n == 0:
            raise ValueError(f"x must hold at least one vector to learn a centre from, got shape (0, {self.dim})")
        if not self.center and self._spectral is None:
            for start, rows in source.chunks():
                self._coding.codable(rows, source.name, start)
            return self
        if self._coding.centre.frozen:
            raise ValueError("the centre of this index is frozen; fit a new FlatIndex to change it")
        held = self._arena.whole("held")
        centre = self._coding.learned(held, source)
        arena = self._recoded(held, centre)
        self._take_step(lambda: self._freeze(centre, arena))
        return self

    @changing
    def refit(self) -> FlatIndex:
        """Learn the centre, and spectral codes' axes, again from the stored originals, and code all rows again.

        For rows that have become others than what was learned from; ids, originals and their order stay. ValueError
        where no originals are stored or nothing was learned yet. Until it is done codes are in memory twice.
        """
        self._may_change()
        if self.store == "none":
            raise ValueError("refit() needs the original vectors; make the index with store='float32'")
        if not self._coding.centre.frozen or not len(self):
            raise ValueError("nothing was learned of this index yet: add rows, or fit it")
        source = checks.VectorSource(StoredRows(self._arena), "originals")
        centre = self._coding.learned(np.empty((0, self.dim), np.float32), source)
        arena, at = self._empty_arena(centre), 0
        arena.expect(source.n)
        for columns in self._coding.coded(source, centre):
            positions = np.arange(at, at + len(columns["codes0"]))
            kept = {name: self._arena.take(name, positions) for name in arena.columns if name not in columns}
            originals = {name: self._arena.take(name, positions) for name in columns if name.startswith("original")}
            arena.stage(columns | kept | originals)
            at += len(positions)
        arena.commit()
        self._take_step(lambda: self._freeze(centre, arena))
        return self

    # --- asking it

    @reading
    def search(
        self,
        q: Any,
        k: int = 10,
        *,
        filter: Any = None,
        rerank: int | None = None,
        num_threads: int | None = None,
        exact_scan: bool = False,
        query_bits: int = 8,
        return_error: bool = False,
    ) -> tuple[NDArray[Any], ...]:
        """The k nearest vectors.

        Parameters
        ----------
        q : (nq, dim) or (dim,) array-like
        k : int
            Results a query; where fewer exist the rest is id -1 at distance +inf (l2) or similarity -inf.
        filter : optional
            What may be returned: a bool mask aligned with `ids`, an array of allowed ids, an IdFilter, or a list of
            these (or None), one a query.
        rerank : int, optional
            Score the best rerank * k candidates again from the stored originals; 0 for none. Default 4 where
            originals are stored.
        num_threads : int, optional
            Default: all cores for large searches, one for small. The result does not depend on it.
        exact_scan : bool
            Score every code in full, or skip only what cannot be among the k best. By default a first pass over some
            planes of the codes may leave out vectors whose first planes make that unlikely; it costs less than .0005
            of the recall, and of spectral codes none that was seen.
            `info()["scan"]` says which is used.
        query_bits : {8, 16}
            Bits of the query's coordinates. Rounding to 8 adds 6e-5 of the query's energy as noise; 16 adds nothing and
            takes two and more times as long.
        return_error : bool
            Also return one standard error of each estimate (for biased quantizers, approximately: their bias is in
            it, the spread of their lengths is not).

        Returns
        -------
        D : (nq, k) float32
            Best first.
        I : (nq, k) int64
        errors : (nq, k) float32
            If asked for. A query (dim,) gives (k,). Ties go to the smaller id. An estimated squared distance may be a
            little below 0 for very near vectors. Re-ranked results are exact up to the rounding of the store; their
            error is 0 for a float32 store and not known, NaN, for the others.
        """
        source = checks.vectors(q, "q", self.dim, single=True)
        k = checked_k(k)
        rerank = self._rerank_factor(rerank)
        threads = checked_threads(num_threads)
        checks.flag(exact_scan, "exact_scan")
        checks.flag(return_error, "return_error")
        query_bits = checked_query_bits(query_bits)
        require_results(source.n, k)
        given = source.array()
        queries = self._coding.codable(given, source.name)
        wanted = min(rerank * k if rerank else k, len(self))
        distances, ids = self._scan(queries, wanted, filter, threads, exact_scan, query_bits)
        if rerank:
            distances, ids = self._rescored(given, ids, k)
        distances, ids = self._padded(distances, ids, k)
        results: tuple[NDArray[Any], ...] = (distances, ids)
        if return_error:
            results += (self._errors(queries, ids, bool(rerank)),)
        return tuple(part[0] for part in results) if source.single else results

    @reading
    def range_search(self, q: Any, radius: float, *, filter: Any = None) -> tuple[Ids, Floats, Ids]:
        """All vectors with estimated distance <= radius (l2) or similarity >= radius (ip, cosine); never re-ranked.

        Returns
        -------
        lims : (nq + 1,) int64
            Hits of query i are at lims[i] : lims[i + 1] of the other two, best first.
        D : (hits,) float32
        I : (hits,) int64
        """
        source = checks.vectors(q, "q", self.dim, single=True)
        radius = np.float64(checks.real(radius, "radius"))
        queries = self._coding.codable(source.array(), source.name)
        found: list[list[tuple[Floats, Ids]]] = [[] for _ in range(source.n)]
        groups = filter_groups(filter, source.n, self._ids, len(self), self._version)
        prepared = self._integer_queries(queries)
        constants = self._coding.constants(queries)
        for group, allowed in groups:
            mine = rows_of(prepared, group)
            for block in key_blocks(self._arena, self._coding.centre.law, self.quantizer, mine, allowed, 0, len(self)):
                distances = self._coding.distances(block.keys, constants[group])
                self._add_hits(found, group, distances, block.ids, block.allowed, radius)
        return self._sorted_hits(found)

    def _vectors_at(self, positions: Ids) -> Floats:
        if self.store != "none":
            return take_originals(self._arena, positions)
        return self._decoded_at(positions)

    def _decoded_at(self, positions: Ids) -> Floats:
        return self._coding.reconstructed(self._arena, positions)

    def _rows_to_visit(self) -> tuple[Ids, Ids]:
        everyone = np.arange(len(self))
        return everyone, everyone

    # --- changing rows

    def _require_room(self, n: int) -> None:
        require((n - self._arena.spare) * self.bytes_per_vector + _IDS * n, f"{n:,} more rows")

    def _insert(self, source: checks.VectorSource, ids: Ids) -> None:
        with self._arena.staging():
            staged = self._stage(source)
            self._take_step(lambda: self._commit(staged, ids))

    def _replace(self, source: checks.VectorSource, ids: Ids) -> None:
        positions = self._ids.positions(ids)
        new = positions < 0
        with self._arena.staging():
            staged = self._stage(source, new)

            def step() -> None:
                self._commit(staged, ids[new])
                self._put(positions[~new], staged.replacing)

            self._take_step(step)

    def _drop(self, ids: Ids, positions: Ids) -> None:
        def step() -> None:
            self._note(positions)
            self._ids.store()
            _, holes = self._arena.remove(positions)
            self._ids.moved(ids, self._ids.at(holes), holes)

        self._take_step(step)

    def _stage(self, source: checks.VectorSource, new: NDArray[np.bool_] | None = None) -> _Staged:
        """Code rows, the `new` ones (all by default) into an arena but not yet part of it.

        A bad row or Ctrl-C leaves the index as it was. If there are now rows enough, a centre is learned first.
        """
        centre, arena, replacing = self._coding.centre, self._arena, []
        added = source.n if new is None else int(new.sum())
        if not centre.frozen and len(self) + added >= self._rows_to_learn:
            held = self._arena.whole("held")
            centre = self._coding.learned(held, source)
            arena = self._recoded(held, centre)
        arena.expect(added)
        at = 0
        for columns in self._coding.coded(source, centre):
            if new is None:
                arena.stage(columns)
                continue
            mine = new[at : at + len(columns["codes0"])]
            at += len(mine)
            arena.stage({name: values[mine] for name, values in columns.items()})
            replacing.append({name: values[~mine] for name, values in columns.items()})
        return _Staged(centre, arena, replacing)

    def _coded_parts(self, source: checks.VectorSource) -> Iterator[Columns]:
        """What a row added would be, chunk by chunk: the arena's columns, codes as rows of words."""
        return self._coding.coded(source, self._coding.centre)

    def _commit(self, staged: _Staged, ids: Ids) -> None:
        """Make the staged rows part of the index, under these ids."""
        self._ids.make_room(ids, staged.arena)
        if staged.centre is not self._coding.centre:
            self._freeze(staged.centre, staged.arena)
        self._note(range(len(self), len(self) + len(ids)))
        self._ids.appended(ids, self._arena.commit())

    def _recoded(self, held: Floats, centre: Centre) -> Arena:
        """A new arena of the rows so far, whose vectors are `held`, coded against a centre and no longer held.

        There are few of them (`_rows_to_learn`): what follows is staged without room for float32 rows beside codes.
        """
        arena = self._empty_arena(centre)
        everyone = np.arange(len(self))
        kept = {name: self._arena.take(name, everyone) for name in arena.columns if name in self._arena.columns}
        arena.append(kept | self._coding.coded_columns(held, centre))
        return arena

    @property
    def _rows_to_learn(self) -> int:
        """Rows from which what is learned is worth freezing."""
        return CENTRE_ROWS if self._spectral is None else max(CENTRE_ROWS, ROWS_A_DIM * self.dim)

    def _empty_arena(self, centre: Centre) -> Arena:
        """An arena with the columns of this one, but for rows coded against another, frozen centre."""
        others = {
            name: column
            for name, column in self._arena.columns.items()
            if name not in ("held", "scales", "tails", "factors") and not name.startswith("codes")
        }
        columns = self._coding.code_columns(centre.quantizer) | others
        return Arena(columns, block_rows(4 * centre.quantizer.words))

    def _freeze(self, centre: Centre, arena: Arena) -> None:
        """Take a learned centre, and the arena of the rows so far, coded against it."""
        self._note_everything()
        self._arena = arena
        self._ids.follow(arena)
        self._learn(centre)

    def _learn(self, centre: Centre) -> None:
        self._coding.centre = centre
        if centre.quantizer is not self.quantizer:
            self.quantizer = centre.quantizer
            self._planner = Planner(self._coding)

    def _put(self, positions: Ids, chunks: list[Columns]) -> None:
        self._note(positions)
        at = 0
        for columns in chunks:
            count = len(columns["codes0"])
            self._arena.put(positions[at : at + count], columns)
            at += count

    # --- files

    def _state(self) -> dict[str, Any]:
        centre = self._coding.centre
        return {
            "next_id": self._ids.next_id,
            "stores_ids": self._ids.stored,
            "center_frozen": centre.frozen,
            "energy_removed": centre.energy_removed,
            **({} if self._spectral is None else {"spectral": learned.state_of(self.quantizer)}),
            **({} if centre.law is None else {"factors": centre.law.state()}),
        }

    def _saved(self) -> Saved:
        centre = whole(self._coding.centre.mu)
        arrays = {**saved_columns(self._arena), "centre": centre, **learned.arrays_of(self.quantizer)}
        return Saved(len(self), self._state(), arrays)

    def _restore(self, state: dict[str, Any], rows: int, read: Read) -> None:
        stores_ids, frozen = (checks.flag(state[name], name) for name in ("stores_ids", "center_frozen"))
        next_id = checks.integer(state["next_id"], "next_id", low=0 if stores_ids else rows, high=LARGEST_ID + 1)
        mu = read("centre", (self.dim,), np.float32, in_memory=True)
        check_points(mu[None], "centre.npy")
        quantizer, saved = self.quantizer, None if self._spectral is None else state["spectral"]
        if saved is not None:
            quantizer = learned.quantizer_of(
                saved, self.bits, self.seed, self.dim, self.quantizer_name, self._coding.short, read
            )
        law = law_of_state(state["factors"], quantizer) if self._coding.short else None
        centre = Centre(mu, frozen, quantizer, checks.real(state["energy_removed"], "energy_removed"), law)
        if frozen and "held" in self._arena.columns:
            self._arena = self._empty_arena(centre)
            self._ids = IdMap(self._arena)
        elif saved is not None:
            raise ValueError("spectral codes without a frozen centre")
        self._learn(centre)
        if stores_ids:
            self._ids.store()
        self._ids.next_id = next_id
        self._arena.adopt(read_columns(self._arena, rows, read), rows)
        if stores_ids and not read.mapped:
            check_ids(self.ids, "ids.npy", next_id)

    def _saved_changes(self, numbers: Ids) -> Saved:
        positions = numbers[numbers < len(self)]
        rows = {name: whole(self._arena.take(name, positions)) for name in self._arena.columns}
        state = {**self._state(), "changed": len(positions)}
        return Saved(len(self), state, {"positions": whole(positions), **rows})

    def _restore_changes(self, state: dict[str, Any], rows: int, read: Read) -> None:
        n, stores_ids = len(self), checks.flag(state["stores_ids"], "stores_ids")
        if state["center_frozen"] is not self._coding.centre.frozen or (self._ids.stored and not stores_ids):
            raise ValueError("center_frozen or stores_ids is not as it was")
        next_id = checks.integer(state["next_id"], "next_id", low=0 if stores_ids else rows, high=LARGEST_ID + 1)
        changed = checks.integer(state["changed"], "changed", low=0)
        positions = check_ascending(read("positions", (changed,), np.int64), "positions", rows)
        if (positions >= n).sum() != max(0, rows - n):
            raise ValueError(f"positions of rows {n} to {rows - 1}, which are new, are missing")
        columns = {
            name: read(name, (changed, *column.shape), column.dtype) for name, column in self._arena.columns.items()
        }
        ids = read("ids", (changed,), np.int64) if stores_ids else positions
        check_ids(ids, "ids", next_id)
        with self._arena.staging():
            if rows > n:
                self._arena.extend(rows - n)

            def step() -> None:
                if stores_ids:
                    self._ids.store()
                    columns["ids"] = ids
                gone = self._ids.at(np.concatenate([positions[positions < n], np.arange(rows, n)]))
                if rows < n:
                    self._arena.truncate(rows)
                self._arena.put(positions, columns)
                self._arena.commit()
                self._ids.moved(gone, ids, positions)
                self._ids.next_id = next_id

            self._take_step(step)

    # --- scores

    def _integer_queries(self, queries: Floats, bits: int = 8) -> list[list[StageQueries]]:
        return integer_queries(self.quantizer, queries - self._coding.centre.mu, self._coding.factor, bits)

    def _scan(
        self, queries: Floats, k: int, filter: Any, threads: int | None, exact: bool, bits: int
    ) -> tuple[Floats, Ids]:
        """The k <= n best over the codes; -1 where a filter allows fewer."""
        groups = filter_groups(filter, len(queries), self._ids, len(self), self._version)
        if k == 0 or len(queries) == 0:
            return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        plan = self._planner.plan(self._arena, len(queries), k, exact) if bits == 8 else IN_STEPS
        prepared, law = self._integer_queries(queries, bits), self._coding.centre.law
        if len(groups) == 1:
            keys, ids = best_rows(self._arena, law, self.quantizer, plan, prepared, k, groups[0][1], threads)
        else:
            keys, ids = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
            for group, allowed in groups:
                mine = rows_of(prepared, group)
                keys[group], ids[group] = best_rows(self._arena, law, self.quantizer, plan, mine, k, allowed, threads)
        return self._coding.ordered(keys, ids, self._coding.constants(queries)), ids

    def _rescored(self, queries: Floats, ids: Ids, k: int) -> tuple[Floats, Ids]:
        """The k best of the candidates ids (nq, m) by their stored originals."""
        positions = np.where(ids < 0, -1, self._ids.positions(ids.ravel()).reshape(ids.shape))
        distances = exact_scores(self._arena, positions, queries, self.metric).astype(np.float32)
        return self._ordered(distances, np.where(ids < 0, EMPTY_ID, ids), k)

    def _ordered(self, distances: Floats, ids: Ids, k: int) -> tuple[Floats, Ids]:
        """The k first of each row by (distance, id), with EMPTY_ID turned into -1."""
        order = np.lexsort((ids, distances if self.metric == "l2" else -distances))[:, :k]
        ids = np.take_along_axis(ids, order, 1)
        return np.take_along_axis(distances, order, 1), np.where(ids == EMPTY_ID, -1, ids)

    def _errors_at(self, query: Floats, positions: Ids) -> Floats:
        return self._coding.errors(query, self._coding.decoded_at(self._arena, positions))
