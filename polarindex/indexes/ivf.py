"""IVFIndex: rows in lists around centroids, of which a search reads the nearest."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex import checks, kernels
from polarindex.checks import LARGEST_ID
from polarindex.errors import NotFittedError
from polarindex.indexes import learned, maintenance, tuning
from polarindex.indexes.answers import Seen, Way, answered, answered_at_once, way_on_host
from polarindex.indexes.base import Floats, Index, checked_k, checked_query_bits, checked_threads
from polarindex.indexes.copies import Copies
from polarindex.indexes.factors import FactorLaw
from polarindex.indexes.grouping import Groups, checked_groups, one_group
from polarindex.indexes.held import CodedRows, Held, StagedRows
from polarindex.indexes.ids import Ids, ListIds
from polarindex.indexes.kmeans import clusters_around, kmeans, sample_rows
from polarindex.indexes.lines import lined_stage
from polarindex.indexes.lists import ROWS, Lists
from polarindex.indexes.originals import (
    check_originals,
    original_columns,
    pack_originals,
    take_originals,
)
from polarindex.indexes.probing import Defaults, ListScan, Probes
from polarindex.indexes.ranges import within_radius
from polarindex.indexes.residuals import Centroids, ResidualCoding
from polarindex.indexes.saved import Read, Saved, check_ascending, check_ids, check_points, whole
from polarindex.indexes.sharing import changing, holding_two, reading
from polarindex.indexes.spilling import Homes, homes, learned_limit
from polarindex.indexes.threads import available_cores, run_all
from polarindex.indexes.tuning import Tuned
from polarindex.memory import require
from polarindex.quantizers import Quantizer, spectral
from polarindex.spectra import SAMPLE_ROWS
from polarindex.vectors import bounded_rows

_COMING = 20  # bytes a row while rows are added: id, list and place
_PROBED_SHARE = 32  # by default one list in so many is probed
PLANED_BITS = 2, 3, 4  # of codes whose first planes are a coarser code
_RERANK_PLANES = {1: 12, 2: 4, 3: 2}  # candidates a result, by the planes that are scanned: see Notes of `search`


class IVFIndex(Index):
    """An index whose rows lie in lists around centroids; a search reads the lists nearest to the query.

    Parameters
    ----------
    dim, metric, bits, quantizer, seed, store
        As of FlatIndex. Rows are coded relative to their list's centroid, which makes the same bits more accurate.
    nlist : int or "auto"
        Lists; "auto" is chosen by `fit` from the expected number of rows.
    center : bool
        Take int8 queries relative to the mean. The codes do not depend on it.
    spill : float
        The share of rows, those nearest to a border between lists, that lie in a second list too, in [0, 1]. At equal
        recall a search then reads fewer rows, for the memory of second codes; needs stored originals.
    scan_bits : int, optional
        How many bits of a code a search scans, fewer than `bits`; the best candidates are then scored by their whole
        codes. Default: all. For codes of 2 to 4 bits that are planes (eden, turboquant, ...) and store="none"; 8 bytes
        a vector more. See Notes of `search`.
    codes : {"plain", "spectral"}
        As of FlatIndex: "spectral" has `fit` learn principal axes of rows less their lists' centroids, which all lists
        share. Not with scan_bits.
    factor_bits : {32, 16}
        As of FlatIndex. Not with scan_bits.

    Notes
    -----
    `fit` learns the centroids (k-means) before the first `add`. Threads, copies, Ctrl-C and errors: as of FlatIndex.

    Examples
    --------
    >>> import numpy as np
    >>> import polarindex as pi
    >>> x = np.random.default_rng(0).standard_normal((2_000, 32), np.float32)
    >>> index = pi.IVFIndex(32, metric="l2", bits=4, nlist=20).fit(x)
    >>> ids = index.add(x)
    >>> distances, ids = index.search(x[:3], k=5, nprobe=4)
    >>> ids[:, 0]
    array([0, 1, 2])
    """

    kind = "ivf"

    def __init__(
        self,
        dim: int,
        metric: str = "l2",
        bits: float = 4,
        quantizer: str = "eden",
        nlist: int | str = "auto",
        seed: int = 0,
        center: bool = True,
        store: str = "none",
        spill: float = 0.0,
        scan_bits: int | None = None,
        codes: str = "plain",
        factor_bits: int = 32,
    ) -> None:
        super().__init__(dim, metric, bits, quantizer, seed, center, store, codes, factor_bits)
        self.spill = checks.real(spill, "spill", low=0, high=1)
        if self.spill and store == "none":
            raise ValueError(
                f"spill={spill} needs the original vectors, by which rows found in either list are scored; make the "
                "index with store='float32', 'float16' or 'int8'"
            )
        self.nlist: int | str = nlist if nlist == "auto" else checks.integer(nlist, "nlist", low=1, high=2**24)
        if scan_bits is not None and self._spectral is not None:
            raise ValueError(f"scan_bits={scan_bits!r} is for codes='plain', whose first planes are a coarser code")
        if scan_bits is not None and self.factor_bits == 16:
            raise ValueError(f"factor_bits=16 is for codes that are scanned whole, not with scan_bits={scan_bits!r}")
        self.scan_bits = None if scan_bits is None else _checked_scan_bits(scan_bits, self.quantizer, self.store)
        self._coding = ResidualCoding(self.quantizer, self.metric, self.scan_bits, self.factor_bits == 16)
        self._lists_held: Held | None = None
        self._default: Defaults | None = None
        self._seen: dict[tuple[Any, ...], Seen] = {}

    def _to_copy(self) -> dict[str, Any]:
        """Without what searches remember: in a copy its addresses would be those of other memory."""
        return {**super()._to_copy(), "_seen": {}}

    def to_gpu(self, device: int = 0) -> IVFIndex:
        """A polarindex.gpu.GpuIVFIndex of its own with the same rows, searched on an NVIDIA GPU; the extra `gpu`.

        MissingExtraError and GpuError say why that cannot be, and ValueError that codes are spectral; nothing is
        computed on the CPU instead.
        """
        there: IVFIndex = import_module("polarindex.gpu.ivf").GpuIVFIndex.of(self, device)  # it knows us, not we it
        return there

    # --- what is in it

    @property
    def _held(self) -> Held:
        if self._lists_held is None:
            raise NotFittedError("this IVFIndex has no lists yet; call index.fit(x) with vectors like those to come")
        return self._lists_held

    @property
    def _id_map(self) -> ListIds:
        return self._held.ids

    @reading
    def __len__(self) -> int:
        return self._lists_held.rows.n if self._lists_held else 0

    @property
    def fitted(self) -> bool:
        """Whether the lists' centroids are known."""
        return self._lists_held is not None

    @property
    @reading
    def centroids(self) -> Floats:
        """(nlist, dim) float32, a copy."""
        return self._held.centroids.full.copy()

    @property
    @reading
    def nbytes(self) -> int:
        """Bytes allocated: rows with the spare room of pages, the id table and the centroids.

        The first `add` and the first search make forms of the centroids, and the first look at an id the table.
        """
        return self._lists_held.nbytes if self._lists_held else 0

    @property
    @reading
    def bytes_per_vector(self) -> float:
        """Bytes that one more vector takes: code, scales, shift and id, and the original where kept.

        Of second codes it is the mean over the rows held, or what `spill` says where none is. Pages are filled up to 16
        rows: on average half a page a list is spare, which `nbytes` counts.
        """
        held = self._held
        if held.copies is None:
            return held.rows.bytes_per_row
        share = len(held.copies) / len(self) if len(self) else self.spill
        return held.rows.bytes_per_row + share * held.copies.rows.bytes_per_row

    def parameters(self) -> dict[str, Any]:
        """The constructor's arguments; nlist as `fit` chose it, scan_bits where it is given."""
        planes = {} if self.scan_bits is None else {"scan_bits": self.scan_bits}
        return {**self._common_parameters(), "nlist": self.nlist, "spill": self.spill, **planes}

    @reading
    def info(self) -> dict[str, Any]:
        """What the index is, holds and costs.

        "drift" is the mean squared distance of rows to their centroids over that of the rows that `fit` learned from
        (None where there are no rows, or those lay on their centroids). "rebalance_advised": the index holds 16 rows a
        list and more, and drift is over 1.5 or the largest list over 10 times the mean. "spilled" is the share of rows
        that lie in a second list.
        """
        held = self._held
        sizes = held.rows.sizes
        mean = max(sizes.mean(), 1e-9)
        return {
            "kind": self.kind,
            **self.parameters(),
            **self._directory_info(),
            **({} if self._spectral is None else {"spectral": self._spectral_info()}),
            "n": len(self),
            "spilled": len(held.copies) / max(len(self), 1) if held.copies else 0.0,
            "next_id": held.ids.next_id,
            "stores_ids": True,
            "bytes_per_vector": self.bytes_per_vector,
            "bits_per_dim": 8 * self.bytes_per_vector / self.dim,
            "nbytes": self.nbytes,
            "expected_relative_error": self.quantizer.expected_error(integer=True),
            "centroid_distance": held.centroids.spread,  # mean squared, of a row fitted to its centroid
            "largest_list": int(sizes.max()),
            "empty_lists": int((sizes == 0).sum()),
            "largest_over_mean": float(sizes.max() / mean),
            **maintenance.condition(self),
            "nprobe": self._probes(None, None).nprobe,
            "gap": self._default.gap if self._default else None,
            "rerank": self._rerank_factor(None),
            "tuned": self._default is not None,
            "scan": f"in registers ({kernels.selected()})" if held.scan.in_one_call(8) else "in steps",
        }

    def _spectral_info(self) -> dict[str, Any]:
        held, places = self._held, self._held.rows.used()
        places = places[:: -(-len(places) // learned.SAMPLE) | 1]  # odd: rows of all lanes of a page
        if not len(places):
            return learned.told(self.quantizer, True, None)
        words, scales, lists = self._codes_at(places)
        energies = None
        if self.metric != "ip":
            decoded = self._coding.decoded(words, scales)
            shifts = self._coding.shifts(held.rows.rows(places), held.centroids)
            energies = self._coding.residual_energies(decoded, shifts, lists, held.centroids)
        return learned.told(self.quantizer, True, learned.Some(words, scales, energies))

    # --- filling it

    @changing
    def fit(
        self,
        x: Any,
        n: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        centroids: Any = None,
    ) -> IVFIndex:
        """Learn the lists' centroids by k-means on a sample of vectors, which need not be in the index.

        Parameters
        ----------
        x : (m, dim) array-like
        n : int, optional
            The expected number of rows, by which nlist="auto" is chosen; default m.
        progress : callable, optional
            Called with (done, total) iterations.
        centroids : (nlist, dim) array-like, optional
            Lists around these points, in place of k-means: learned elsewhere, or another index's `centroids`. They are
            taken as they are; of a cosine index they lie among rows of unit length. The centre is still that of the
            sample, so two such indexes can be merged if they were fitted to one sample, or have center=False.

        Raises
        ------
        ValueError
            The index has rows already, there are fewer vectors than lists to learn, or centroids are not nlist points.
        """
        self._may_change()
        source = checks.vectors(x, "x", self.dim)
        given = None if centroids is None else self._given(centroids)
        expected = source.n if n is None else checks.integer(n, "n", low=1)
        if len(self):
            raise ValueError(f"this index holds {len(self)} rows, coded against its lists; fit a new IVFIndex")
        if source.n == 0:
            raise ValueError(f"x must hold at least one vector to learn lists from, got shape (0, {self.dim})")
        nlist = min(auto_nlist(expected), source.n) if self.nlist == "auto" else int(self.nlist)
        nlist = nlist if given is None else len(given)
        next_id = self._id_map.next_id if self.fitted else 0
        self._take(self._learned(source, nlist, self.seed, progress, given), next_id=next_id)
        return self

    def _given(self, centroids: Any) -> Floats:
        """Checked centroids of the caller's, which stay the caller's."""
        points = checks.vectors(centroids, "centroids", self.dim).array()
        if not len(points) or self.nlist not in ("auto", len(points)):
            raise ValueError(f"centroids must be nlist={self.nlist} points, got {len(points)}")
        return bounded_rows(points, "centroids").copy()

    def _learned(
        self,
        source: checks.VectorSource,
        nlist: int,
        seed: int,
        progress: Callable[[int, int], None] | None,
        given: Floats | None = None,
        axes: bool = True,
    ) -> Centroids:
        """The centroids of so many lists, or those given, and the centre, of a sample of the source; and the axes of
        spectral codes, unless `axes` is False."""
        sample = self._sample(source, nlist, seed)
        clusters = kmeans(sample, nlist, seed, progress=progress) if given is None else clusters_around(sample, given)
        mu = sample.mean(axis=0, dtype=np.float64).astype(np.float32) if self.center else np.zeros(self.dim, np.float32)
        limit = learned_limit(sample, clusters.centroids, self.spill) if self.spill else None
        coding = self._coding
        if self._spectral is not None and axes:
            rows = sample[np.linspace(0, len(sample) - 1, min(len(sample), SAMPLE_ROWS)).astype(np.int64)]
            residuals = rows - clusters.centroids[homes(rows, clusters.centroids, None).first]
            quantizer = spectral.learned(residuals, self._spectral, self.seed, in_lists=True, code=self.quantizer_name)
            coding = ResidualCoding(quantizer, self.metric)
        return coding.centroids(clusters.centroids, mu, clusters.objective, limit)

    def _sample(self, source: checks.VectorSource, nlist: int, seed: int) -> Floats:
        """Codable rows of a sample of the source, in order."""
        wanted = sample_rows(source.n, nlist, seed)
        if len(wanted) == source.n:
            return self._coding.codable(source.array(), source.name)
        sample = np.empty((len(wanted), self.dim), np.float32)
        for start, x in source.chunks():
            rows = self._coding.codable(x, source.name, start)
            low, high = np.searchsorted(wanted, [start, start + len(x)])
            sample[low:high] = rows[wanted[low:high] - start]
        return sample

    def _take(self, centroids: Centroids, groups: Groups | None = None, next_id: int = 0) -> None:
        """Begin anew with empty lists around these centroids, which are grouped so, or are to be."""
        coding = centroids.coding
        originals = original_columns(self.store, self.dim)
        rows = Lists(len(centroids.full), coding.words, coding.stages, originals, coding.short)
        copies = Copies(rows) if self.spill else None
        scan = ListScan(coding, centroids, rows, copies, groups)
        self._hold(Held(centroids, rows, copies, ListIds(rows, next_id, copies), scan))

    def _hold(self, lists: Held) -> None:
        """Take lists in place of those before, for which `tune` found what it found."""

        def step() -> None:
            self._note_everything()
            self.nlist, self._lists_held, self._default = lists.rows.nlist, lists, None
            self._coding = lists.centroids.coding
            self.quantizer = self._coding.quantizer

        self._take_step(step)

    def _require_room(self, n: int) -> None:
        rows = self._held.rows
        spare = rows.places + rows.arena.spare - rows.n
        require((n - spare) * rows.bytes_per_row + _COMING * n, f"{n:,} more rows")

    def _insert(self, source: checks.VectorSource, ids: Ids) -> None:
        lists = self._assigned(source)
        with self._held.staging():
            staged = self._staged(source, lists, ids)
            self._take_step(lambda: self._commit(staged, ids))

    def _commit(self, staged: StagedRows, ids: Ids) -> None:
        """Make staged rows part of the index, under these ids."""
        self._note(ids)
        self._held.commit(staged)
        self._held.ids.appended(ids, staged.rows.places)

    def _assigned(self, source: checks.VectorSource) -> Homes:
        """The lists of every row; the first bad row is named before anything is written."""
        centroids = self._held.centroids

        def assign(part: tuple[int, Floats]) -> Homes:
            start, x = part
            check_originals(x, self.store, start)
            return homes(self._coding.codable(x, source.name, start), centroids.full, centroids.limit)

        first, at = np.empty(source.n, np.int32), 0
        second = None if centroids.limit is None else np.empty(source.n, np.int32)
        for part in _in_order(assign, source.chunks()):
            mine = slice(at, at + len(part.first))
            first[mine], at = part.first, mine.stop
            if second is not None:
                second[mine] = part.second
        return Homes(first, second)

    def _staged(self, source: checks.VectorSource, lists: Homes, ids: Ids) -> StagedRows:
        """Rows written where nobody reads yet."""
        staged = self._held.stage(lists, ids)

        def code(part: tuple[int, Floats]) -> None:
            self._held.put(staged, ids, self._coded(source, *part, lists))

        for _ in _in_order(code, source.chunks()):
            pass
        return staged

    def _replace(self, source: checks.VectorSource, ids: Ids) -> None:
        held, lists = self._held, self._assigned(source)
        there = ids[held.ids.positions(ids) >= 0]
        with held.staging():
            staged = self._staged(source, lists, ids)
            self._take_step(lambda: self._exchange(there, ids, staged))

    def _exchange(self, old: Ids, ids: Ids, staged: StagedRows) -> None:
        """Remove the rows of `old`, which exist, and make staged ones part of the index, under ids that then do not."""
        held = self._held
        if not len(old):
            self._commit(staged, ids)
            return
        held.afford_removal(len(old))
        self._note(old)
        self._note(ids)
        held.commit(staged)  # for a moment both rows of an id are there, and the table has the old one
        moves = held.remove(old)
        held.ids.appended(ids, moves.follow(staged.rows.places))
        held.ids.tidy()

    def _coded(self, source: checks.VectorSource, start: int, x: Floats, lists: Homes) -> CodedRows:
        """Codes, factors and originals of rows x, the first of them row `start` of the source."""
        rows, centroids = self._coding.codable(x, source.name, start), self._held.centroids
        mine = slice(start, start + len(x))
        words, factors = self._coding.coded(rows, lists.first[mine], centroids, start)
        copies = None
        if lists.second is not None:
            there = lists.second[mine] >= 0
            copies = self._coding.coded(rows[there], lists.second[mine][there], centroids, start)
        return CodedRows(mine, words, factors, pack_originals(x, self.store, start), copies)

    def _coded_parts(self, source: checks.VectorSource) -> Iterator[dict[str, NDArray[Any]]]:
        """What a row added would be, chunk by chunk: lists, codes, factors and originals, as in `_saved_changes`."""
        held, centroids = self._held, self._held.centroids
        if held.copies is not None:
            raise ValueError(f"spill={self.spill}: rows of two lists are coded as they are added")

        def code(part: tuple[int, Floats]) -> dict[str, NDArray[Any]]:
            start, x = part
            originals = pack_originals(x, self.store, start)
            rows = self._coding.codable(x, source.name, start)
            lists = homes(rows, centroids.full, None).first
            words, factors = self._coding.coded(rows, lists, centroids, start)
            return {"lists": lists, "codes": words, "factors": factors, **originals}

        return _in_order(code, source.chunks())

    def _drop(self, ids: Ids, positions: Ids) -> None:
        held = self._held

        def step() -> None:
            held.afford_removal(len(ids))
            self._note(ids)
            held.remove(ids)
            held.ids.tidy()

        self._take_step(step)

    # --- files

    def _state(self) -> dict[str, Any]:
        held = self._lists_held
        if held is None:
            return {"fitted": False}
        groups = held.scan.coarse.groups
        state = {
            "fitted": True,
            "next_id": held.ids.next_id,
            "wide_ids": held.rows.wide,
            "spread": held.centroids.spread,
            "default": self._default._asdict() if self._default else None,
            "groups": {"size": groups.size, "looks": groups.looks.tolist()} if groups.total > 1 else None,
        }
        if held.copies is not None:
            limit = held.centroids.limit
            state["spill"] = {"rows": len(held.copies), "limit": None if limit == np.inf else limit}
        if self._spectral is not None:
            state["spectral"] = learned.state_of(self.quantizer)
        if held.centroids.law is not None:
            state["factors"] = held.centroids.law.state()
        return state

    def _saved(self) -> Saved:
        held = self._lists_held
        if held is None:
            return Saved(0, self._state(), {})
        arrays = {
            **held.rows.saved(), "centroids": whole(held.centroids.full), "centre": whole(held.centroids.mu)
        } | learned.arrays_of(self.quantizer)
        if held.scan.coarse.groups.total > 1:
            arrays["groups"] = whole(held.scan.coarse.groups.order)
        if held.copies is not None:
            arrays |= held.copies.saved()
        return Saved(len(self), self._state(), arrays)

    def _restore(self, state: dict[str, Any], rows: int, read: Read) -> None:
        if not checks.flag(state["fitted"], "fitted"):
            checks.integer(rows, "rows", high=0)
            return
        nlist = checks.integer(self.nlist, "nlist")
        next_id = checks.integer(state["next_id"], "next_id", low=rows, high=LARGEST_ID + 1)
        wide, spread = checks.flag(state["wide_ids"], "wide_ids"), checks.real(state["spread"], "spread")
        default = _from_json(state["default"]) if state["default"] is not None else None
        full = read("centroids", (nlist, self.dim), np.float32, in_memory=True)
        mu = read("centre", (self.dim,), np.float32, in_memory=True)
        check_points(full, "centroids.npy")
        check_points(mu[None], "centre.npy")
        sizes = read("sizes", (nlist,), np.int64, in_memory=True)
        groups = None  # to be learned: the first files do not tell
        if "groups" in state:
            groups = _groups_from_json(state["groups"], nlist, read)
        limit = _limit_from_json(state["spill"]) if self.spill else None
        coding = self._coding
        if self._spectral is not None and state["spectral"] is not None:
            code = self.quantizer_name
            quantizer = learned.quantizer_of(state["spectral"], self.bits, self.seed, self.dim, code, False, read)
            coding = ResidualCoding(quantizer, self.metric)
        law = FactorLaw.of_state(state["factors"]) if coding.short else None
        self._take(coding.centroids(full, mu, spread, limit, law), groups)
        held, self._default = self._held, default
        held.rows.adopt(sizes, rows, wide, read)
        held.ids.next_id = next_id
        for span in () if read.mapped else held.rows.arena.spans(held.rows.arena.block_rows):
            check_ids(held.rows.ids_of(span.arrays[ROWS]).reshape(-1), "rows.npy", next_id)
        if held.copies is not None:
            copied = checks.integer(state["spill"]["rows"], "spilled rows", low=0, high=rows)
            held.copies.adopt(read("spill_sizes", (nlist,), np.int64, in_memory=True), copied, read)

    def _saved_changes(self, numbers: Ids) -> Saved:
        held = self._held
        places = held.ids.positions(numbers) if len(numbers) else numbers
        there, removed = places[places >= 0], numbers[places < 0]
        codes, factors, ids, originals = held.rows.taken(there)
        lists = held.rows.lists_of(there)
        rows: dict[str, NDArray[Any]] = {"ids": ids, "lists": lists, "codes": codes, "factors": factors, **originals}
        if held.copies is not None:
            rows |= held.copies.taken(there)
        state = {**self._state(), "changed": len(ids), "removed": len(removed)}
        return Saved(len(self), state, {name: whole(array) for name, array in (rows | {"removed": removed}).items()})

    def _restore_changes(self, state: dict[str, Any], rows: int, read: Read) -> None:
        if self._lists_held is None:
            raise ValueError("an index without lists has no changes")
        held = self._lists_held
        changed, gone = (checks.integer(state[name], name, low=0) for name in ("changed", "removed"))
        next_id = checks.integer(state["next_id"], "next_id", low=rows, high=LARGEST_ID + 1)
        default = _from_json(state["default"]) if state["default"] is not None else None
        ids = check_ascending(read("ids", (changed,), np.int64), "ids", next_id)
        removed = check_ascending(read("removed", (gone,), np.int64), "removed", next_id)
        lists = read("lists", (changed,), np.int32)
        if (lists < 0).any() or (lists >= held.rows.nlist).any() or len(np.intersect1d(ids, removed)):
            raise ValueError(f"lists are not all of {held.rows.nlist}, or ids are changed and removed")
        codes = read("codes", (changed, self._coding.words), np.uint32)
        factors = held.rows.read_factors(read, "factors", changed)
        originals = {
            name: read(name, (changed, *column.shape), column.dtype)
            for name, column in original_columns(self.store, self.dim).items()
        }
        old = np.concatenate([ids, removed])
        old = old[old < held.ids.next_id]  # the others are new, and need no table
        old = old[held.ids.positions(old) >= 0] if len(old) else old
        if len(self) - len(old) + len(ids) != rows:
            raise ValueError(f"{len(self)} rows less {len(old)} and {len(ids)} more are not {rows}")
        second, copies = held.copies.read_taken(changed, read) if held.copies is not None else (None, None)
        with held.staging():
            staged = held.stage(Homes(lists, second), ids)
            self._held.put(staged, ids, CodedRows(slice(changed), codes, factors, originals, copies))

            def step() -> None:
                self._exchange(old, ids, staged)
                held.ids.next_id = next_id
                self._set_default(default)

            self._take_step(step)

    # --- shards and upkeep

    @reading
    def empty_like(self) -> IVFIndex:
        """An index without rows that has this one's parameters, lists and centre.

        Indexes with the same lists score alike: results of several, each with some of the rows, merge by distance into
        those of one with all rows, and `merge` makes that one. Its own ids begin at 0: pass ids that no other uses.
        """
        index = IVFIndex(**self.parameters())
        index._take(self._held.centroids, self._held.scan.coarse.groups)
        index._default = self._default
        return index

    def merge(self, other: IVFIndex) -> None:
        """Take over the rows of another index with the same parameters and lists (`empty_like`): codes are copied.

        `other` stays as it is. Ids continue after the largest that either has used.

        Raises
        ------
        TypeError, ValueError
            Naming the parameter that differs, or the first id that both have; the index is then as before, also
            after Ctrl-C.
        """

        def work() -> None:
            self._may_change()
            maintenance.merge(self, other)

        maintenance.check_alike(self, other)
        holding_two(self, other, "merge", work)

    @changing
    def rebalance(
        self,
        x: Any = None,
        *,
        nlist: int | None = None,
        seed: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Learn lists from the rows that the index holds now, and code every row again in them. Ids stay.

        The axes of spectral codes are learned too, unless there are no vectors but those decoded from codes.

        Worth its time where rows are no longer like those of `fit`: `info()["rebalance_advised"]`. What `tune` found
        is forgotten. While it runs there are two sets of codes in memory; rows are read in chunks.

        Parameters
        ----------
        x : (n, dim) array-like, optional
            The vectors, aligned with `ids`, which become the stored originals too. Default: the stored originals;
            where none are, the vectors decoded from the codes, and the squared error of the codes doubles.
        nlist : int, optional
            Default: as many lists as now.
        seed : int, optional
            Of the k-means; default: the index's. The rotation stays.
        progress : callable, optional
            Called with (done, total) iterations of k-means.

        Raises
        ------
        TypeError, ValueError
            Naming the argument and the first bad row; the index is then as before, also after Ctrl-C.
        """
        self._may_change()
        maintenance.rebalance(self, x, nlist, seed, progress)

    @changing
    def refit(self) -> None:
        """Learn the centre, and spectral codes' axes, again from the stored originals, and code every row again.

        The lists stay, and so do ids; `rebalance` learns lists too. What `tune` found is forgotten. ValueError where no
        originals are stored or there are no rows; until it is done codes are in memory twice.
        """
        self._may_change()
        maintenance.refit(self)

    # --- asking it

    def search(
        self,
        q: Any,
        k: int = 10,
        *,
        nprobe: int | None = None,
        gap: float | None = None,
        filter: Any = None,
        rerank: int | None = None,
        num_threads: int | None = None,
        exact_scan: bool = False,
        query_bits: int = 8,
        return_error: bool = False,
    ) -> tuple[NDArray[Any], ...]:
        """The k nearest vectors of the lists that are probed.

        Parameters
        ----------
        q, k, filter, num_threads, query_bits, return_error
            As of FlatIndex.search.
        nprobe : int, optional
            Lists to look into, at most. Default: what `tune` found, else one list in 32; with a filter more, see Notes.
        gap : float, optional
            Lists are left out whose centroid is more than this farther than the nearest one: in squared distance for
            l2, in the centroid's inner product or cosine for ip and cosine. Default: what `tune` found, else none is.
        rerank : int, optional
            Score the best rerank * k candidates again, from the stored originals or, with scan_bits, by their whole
            codes; 0 for none. Default: what `tune` found, else 4 where originals are stored, or with scan_bits as the
            Notes say.
        exact_scan : bool
            Score the rows of the lists that are probed by their whole codes, as is always done without scan_bits but
            for spectral codes; nothing is then scored again by codes. Of spectral codes it reads what bounds would
            leave out, and finds the same.

        Returns
        -------
        As of FlatIndex.search.

        Notes
        -----
        Where a filter allows a share s of the rows and nprobe is not given, nprobe is divided by s^0.4, and a tuned gap
        does not count; under 256 rows are looked for in all lists, and so are k rows by a query that finds fewer. With
        random filters recall is then no less than without, and a search takes up to 1.4 times as long, or up to
        3 times once tuned. Not tuned, 4 bits, float32 originals, k = 10:

            allowed        all    10 %     1 %    .1 %
            GloVe-100     .951    .968    .977    .990    (with the nprobe of no filter   .908    .772    .464)
            Fashion       .998   1.000   1.000   1.000                                    .991    .857    .218

        Rows that lie together, away from the query, are harder to find (of the 1 % around some word: .85; .34): give
        nprobe where filters are like that.
        """
        first = self._coding.partly and exact_scan is False
        if filter is None and return_error is False and query_bits == 8 and (exact_scan is True or exact_scan is False):
            quick = answered_at_once(self, q, k, nprobe, gap, rerank, num_threads, first)
            if quick is not None:
                return quick
        return self._searched(q, k, nprobe, gap, filter, rerank, num_threads, exact_scan, query_bits, return_error)

    @reading
    def _searched(
        self,
        q: Any,
        k: int,
        nprobe: int | None,
        gap: float | None,
        filter: Any,
        rerank: int | None,
        num_threads: int | None,
        exact_scan: bool,
        query_bits: int,
        return_error: bool,
    ) -> tuple[NDArray[Any], ...]:
        """`search`, with its arguments checked."""
        source = checks.vectors(q, "q", self.dim, single=True)
        k = checked_k(k)
        probes, factor = self._probes(nprobe, gap), self._rerank_factor(rerank)
        threads = checked_threads(num_threads)
        first = not checks.flag(exact_scan, "exact_scan") and self._coding.partly
        checks.flag(return_error, "return_error")
        bits = checked_query_bits(query_bits)
        given = source.array()
        queries = self._coding.codable(given, source.name)
        if self.scan_bits is not None:
            if first and factor == 0 and return_error:
                raise ValueError("return_error is that of whole codes; with rerank=0 only their first planes are read")
            factor = factor if first else 0
        arguments = k, nprobe, gap, rerank, type(nprobe), type(gap), type(rerank), first
        distances, ids = answered(self, given, queries, arguments, k, probes, factor, first, filter, threads, bits)
        results: tuple[NDArray[Any], ...] = (distances, ids)
        if return_error:
            results += (self._errors(queries, ids, bool(factor) and self.store != "none"),)
        return tuple(part[0] for part in results) if source.single else results

    def _way(self, bits: int) -> Way:
        """How queries of so many bits are answered."""
        return way_on_host(self, bits)

    def _changed(self) -> None:
        """Rows are others now: what was remembered of them would keep their old memory."""
        super()._changed()
        self._seen.clear()
        if self._lists_held:
            self._lists_held.scan.forget()

    @changing
    def tune(
        self,
        queries: Any,
        target_recall: float = 0.95,
        k: int = 10,
        *,
        neighbors: Any = None,
        num_threads: int | None = None,
        batch: int = 64,
    ) -> Tuned:
        """Find the fastest search that reaches a recall, by measuring, and make it this index's default.

        From then on `search` uses the nprobe, gap and rerank found where it is given none; `info()` tells them, and
        `fit` forgets them. Tune again after adding many rows or other ones.

        Parameters
        ----------
        queries : (nq, dim) array-like
            At least 100, like those to come, and not rows of the index; 1,000 are better. Half of them choose, half
            are held back to verify.
        target_recall : float
            The share of the k true nearest neighbours that is to be found, in (0, 1]. With 1,000 queries other ones
            like them find it, or miss it by less than .005.
        k : int
            Results a query.
        neighbors : (nq, >= k) array-like of int, optional
            The true neighbours' ids, best first. Without it they are the exact ones among the stored originals, found
            by comparing with every row. **Without originals either, they are what the codes find in all lists**: the
            recall is then relative to a full scan of the codes, whatever these lose.
        num_threads : int, optional
            As of `search`.
        batch : int
            Queries a search when settings are timed; 1 for an index that is asked one query at a time.

        Returns
        -------
        Tuned
            nprobe, gap, rerank, and the recall and CPU seconds a query that were measured. Where originals are stored
            rerank is 1 at least, so that distances stay exact.

        Raises
        ------
        ValueError
            No setting reaches the target, which the message says how to mend, or there are too few queries; the
            defaults are then as before.
        """
        self._may_change()
        tuned = tuning.tune(self, queries, target_recall, k, neighbors, num_threads, batch)
        self._set_default(Defaults(tuned.nprobe, tuned.gap, tuned.rerank))
        return tuned

    def _set_default(self, default: Defaults | None) -> None:
        """Let searches use these parameters where they are given none; None for those an untuned index has."""

        def step() -> None:
            self._default = default
            self._seen.clear()  # what None came to

        self._gate.alone(step)

    def _rerank_factor(self, rerank: int | None) -> int:
        if rerank is None and self._default:
            rerank = self._default.rerank
        if self.scan_bits is None:
            return super()._rerank_factor(rerank)
        return _RERANK_PLANES[self.scan_bits] if rerank is None else checks.integer(rerank, "rerank", low=0)

    def _probes(self, nprobe: int | None, gap: float | None) -> Probes:
        held, default = self._held, self._default
        if nprobe is None:
            nprobe = default.nprobe if default else max(1, held.rows.nlist // _PROBED_SHARE)
            gap = default.gap if default and gap is None else gap
        nprobe = min(checks.integer(nprobe, "nprobe", low=1), held.rows.nlist)
        return Probes(nprobe, np.inf if gap is None or gap == np.inf else checks.real(gap, "gap", low=0))

    @reading
    def range_search(
        self, q: Any, radius: float, *, nprobe: int | None = None, gap: float | None = None, filter: Any = None
    ) -> tuple[Ids, Floats, Ids]:
        """All vectors with estimated distance <= radius (l2) or similarity >= radius (ip, cosine); never re-ranked.

        Parameters
        ----------
        nprobe, gap : optional
            As of `search`; by default every list is looked into.

        Returns
        -------
        As of FlatIndex.range_search.
        """
        source = checks.vectors(q, "q", self.dim, single=True)
        radius = np.float64(checks.real(radius, "radius"))
        held = self._held
        probes = self._probes(held.rows.nlist if nprobe is None else nprobe, gap)
        given = source.array()
        queries = self._coding.codable(given, source.name)
        return within_radius(self, given, queries, radius, probes, filter)

    def _vectors_at(self, positions: Ids) -> Floats:
        if self.store != "none":
            return take_originals(self._held.rows.arena, positions)
        return self._decoded_at(positions)

    def _decoded_at(self, positions: Ids) -> Floats:
        words, scales, lists = self._codes_at(positions)
        return self._coding.reconstructed(words, scales, lists, self._held.centroids)

    def _rows_to_visit(self) -> tuple[Ids, Ids]:
        places = self._held.rows.used()
        return places, np.argsort(self._held.rows.lists_of(places), kind="stable")

    def _codes_at(self, places: Ids, held: Lists | None = None) -> tuple[NDArray[np.uint32], Floats, NDArray[np.int32]]:
        """Code words, scales and lists of the rows at some places, by default of the first lists."""
        held = held or self._held.rows
        rows = held.rows(places)
        return self._coding.code_words(rows), self._coding.scales(rows), held.lists_of(places)

    def _errors_at(self, query: Floats, positions: Ids) -> Floats:
        def errors(places: Ids, rows: Lists) -> Floats:
            words, scales, lists = self._codes_at(places, rows)
            return self._coding.errors(query, self._coding.decoded(words, scales), lists, held.centroids)

        held = self._held
        found = errors(positions, held.rows)
        if held.copies is not None:  # the larger of two keys was taken, whichever it was
            at = held.copies.of(positions)
            found[at >= 0] = np.maximum(found[at >= 0], errors(at[at >= 0], held.copies.rows))
        return found


def _from_json(given: dict[str, Any]) -> Defaults:
    gap = None if given["gap"] is None else checks.real(given["gap"], "gap", low=0)
    nprobe, rerank = checks.integer(given["nprobe"], "nprobe", low=1), checks.integer(given["rerank"], "rerank", low=0)
    return Defaults(nprobe, gap, rerank)


def _groups_from_json(given: dict[str, Any] | None, nlist: int, read: Read) -> Groups:
    if given is None:
        return one_group(nlist)
    looks = np.array([checks.integer(look, "looks", low=1, high=nlist) for look in given["looks"]], np.int32)
    order = read("groups", (nlist,), np.int32, in_memory=True)
    return checked_groups(order, checks.integer(given["size"], "size", low=1), looks)


def _limit_from_json(given: dict[str, Any]) -> float:
    return np.inf if given["limit"] is None else checks.real(given["limit"], "limit", low=0)


def _checked_scan_bits(scan_bits: Any, quantizer: Quantizer, store: str) -> int:
    planes = checks.integer(scan_bits, "scan_bits", low=1)
    stage = lined_stage(quantizer)
    if stage is None or stage.layout.bits not in PLANED_BITS:
        raise ValueError(f"scan_bits={planes} needs a code of 2 to 4 bits in planes, as of eden; got {quantizer!r}")
    if planes >= quantizer.bits:
        raise ValueError(f"scan_bits={planes} must be less than bits={quantizer.bits}; None scans all of them")
    if store != "none":
        raise ValueError(f"scan_bits={planes} is for codes alone; with store={store!r} the originals re-rank")
    return planes


def auto_nlist(n: int) -> int:
    """Lists for n rows: 4 sqrt(n), and 16 rows a list at least."""
    return max(1, min(round(4 * np.sqrt(n)), n // 16, 2**20))


def _in_order(
    task: Callable[[tuple[int, Floats]], Any], chunks: Iterator[tuple[int, Floats]]
) -> Iterator[Any]:
    """Results for chunks of rows, as many at a time as there are cores; the first chunk's error is raised first."""

    def safe(part: tuple[int, Floats]) -> Any:
        try:
            return task(part)
        except Exception as error:
            return error

    cores = available_cores()
    while together := list(itertools.islice(chunks, cores)):
        for result in run_all(safe, together, cores):
            if isinstance(result, Exception):
                raise result
            yield result
