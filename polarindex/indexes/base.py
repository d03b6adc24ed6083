"""What all indexes share: the arguments they take, ids, and the shape of what they return."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.indexes.attached import Attached
from polarindex.indexes.coding import METRICS
from polarindex.indexes.factors import checked_factor_bits, offered
from polarindex.indexes.graph import SCORINGS, KnnGraph, knn_graph
from polarindex.indexes.ids import IdMap, Ids, ListIds
from polarindex.indexes.originals import STORES
from polarindex.indexes.saved import Read, Saved
from polarindex.indexes.scan import QUERY_BITS
from polarindex.indexes.sharing import Gate, changing, keeping, reading
from polarindex.kernels.limits import MAX_DIMS
from polarindex.memory import require
from polarindex.quantizers import make_quantizer
from polarindex.quantizers.spectral import CODES as SEGMENT_CODES
from polarindex.quantizers.spectral import checked_bits, plain_bits

if TYPE_CHECKING:
    from typing_extensions import Self

CODES = ("plain", "spectral")
_LARGEST_K = 2**31 - 1
_RERANK = 4  # candidates a result, where originals are stored
_ADDED = ("codes", "plain"), ("spill", 0), ("factor_bits", 32)  # parameters of later versions, as by default

Floats = NDArray[np.float32]


class Index(Attached, ABC):
    """Vectors under ids, coded, searched, changed and saved.

    Any number of threads may search an index while others change it: see docs/concurrency.md. What `indexes/sharing.py`
    calls a step is `_take_step`; everything else that changes rows is out of readers' sight.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        dim: int,
        metric: str,
        bits: float,
        quantizer: str,
        seed: int,
        center: bool,
        store: str,
        codes: str,
        factor_bits: int,
    ) -> None:
        self.codes = checks.choice(codes, "codes", CODES)
        self._spectral: float | None = None
        if self.codes == "spectral":
            if quantizer not in SEGMENT_CODES:
                raise ValueError(
                    f"codes='spectral' are EDEN's or a trellis' in segments: quantizer must be 'eden' or 'trellis', "
                    f"got {quantizer!r}"
                )
            self._spectral = checked_bits(bits)
        self.dim = checks.integer(dim, "dim", low=1, high=MAX_DIMS)  # before anything of that size is made
        self.metric = checks.choice(metric, "metric", METRICS)
        self.store = checks.choice(store, "store", STORES)
        self.center = checks.flag(center, "center")
        self.quantizer_name = quantizer
        whole: Any = bits if self._spectral is None else plain_bits(self._spectral, quantizer)
        self.quantizer = make_quantizer(quantizer, self.dim, whole, seed)  # a spectral one is learned
        widest = max(stage.map.dims for stage in self.quantizer.stages)
        if widest > MAX_DIMS:
            raise ValueError(f"dim={dim} needs {widest} code dimensions; integer scores hold up to {MAX_DIMS}")
        self.factor_bits = checked_factor_bits(factor_bits)
        if self.factor_bits == 16 and self._spectral is not None and self.kind != "flat":
            raise ValueError("factor_bits=16 with codes='spectral' is for flat indexes; in lists for codes='plain'")
        if self.factor_bits == 16 and not offered(self.quantizer):
            raise ValueError(f"factor_bits=16 is not offered for quantizer={quantizer!r}, bits={bits}")
        self._gate = Gate()
        self._version = 0  # changes whenever rows do

    # --- copies

    def _to_copy(self) -> dict[str, Any]:
        """What a copy is made of: not the directory, for a copy is not opened."""
        return self._without_directory()

    @keeping
    def __getstate__(self) -> dict[str, Any]:
        """A copy of what the index is at a moment: whoever asks for it, to pickle it, reads on after this returns."""
        return copy.deepcopy(self._to_copy())

    def __copy__(self) -> Self:
        """An index of its own: it shares no rows, as two that did could not both change."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__getstate__())
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = memo[id(self)] = self.__copy__()
        return other

    # --- what is in it

    @property
    @abstractmethod
    def _id_map(self) -> IdMap | ListIds: ...

    @abstractmethod
    def __len__(self) -> int: ...

    def __repr__(self) -> str:
        short = "" if self.factor_bits == 32 else f"factor_bits={self.factor_bits}, "
        return (
            f"{type(self).__name__}(dim={self.dim}, metric={self.metric!r}, bits={self.bits}, "
            f"quantizer={self.quantizer_name!r}, {short}n={len(self)})"
        )

    @property
    def bits(self) -> float:
        """Code bits a coordinate, as asked for."""
        return self.quantizer.bits if self._spectral is None else self._spectral

    @property
    def seed(self) -> int:
        """The random rotation's seed."""
        return self.quantizer.seed

    @property
    @reading
    def ids(self) -> Ids:
        """(n,) int64 in the order of positions, which masks follow. Adding and removing may change that order."""
        return self._id_map.all()

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """The constructor's arguments."""

    def _saved_parameters(self) -> dict[str, Any]:
        """The parameters that a file has, without those that versions before it did not know where they are as by
        default, so that these read it."""
        return {name: value for name, value in self.parameters().items() if (name, value) not in _ADDED}

    def _common_parameters(self) -> dict[str, Any]:
        return {
            "dim": self.dim,
            "metric": self.metric,
            "bits": self.bits,
            "quantizer": self.quantizer_name,
            "seed": self.seed,
            "center": self.center,
            "store": self.store,
            "codes": self.codes,
            "factor_bits": self.factor_bits,
        }

    # --- changing it

    @changing
    def add(self, x: Any, ids: Any = None) -> Ids:
        """Add vectors.

        Parameters
        ----------
        x : (n, dim) array-like of real numbers
            Rounded to float32; h5py data sets and memory maps are read in chunks, so an add takes 32 MB beside what
            the index grows by, and 8 bytes a row for the ids, in an inverted file 20. Never changed.
        ids : (n,) array-like of int, optional
            Unique, >= 0, not in the index. Without them ids continue at 1 + the largest id ever used.

        Returns
        -------
        ids : (n,) int64
            Those given, or the new ones.

        Raises
        ------
        TypeError, ValueError
            Naming the argument and the first bad row or id; the index is then as before, also after Ctrl-C.
        MemoryError
            There is surely none for so many rows (memory.py), or it ran out; the index is as before.
        """
        self._may_change()
        source = checks.vectors(x, "x", self.dim)
        self._require_room(source.n)
        if ids is None:
            new_ids = self._id_map.following(source.n)
        else:
            new_ids = self._unique(ids, source.n)
            known = new_ids[self._id_map.positions(new_ids) >= 0]
            if len(known):
                raise ValueError(f"ids holds {known[0]}, which is in the index already; use upsert() to replace it")
        self._insert(source, new_ids)
        return new_ids if ids is None else new_ids.copy()

    @changing
    def update(self, ids: Any, x: Any) -> None:
        """Replace the vectors of ids that exist; KeyError names the first that does not."""
        self._may_change()
        source = checks.vectors(x, "x", self.dim)
        self._require_room(source.n)
        given = self._unique(ids, source.n)
        self._found(given)
        self._replace(source, given)

    @changing
    def upsert(self, ids: Any, x: Any) -> None:
        """Replace the vectors of ids that exist and add the others."""
        self._may_change()
        source = checks.vectors(x, "x", self.dim)
        self._require_room(source.n)
        self._replace(source, self._unique(ids, source.n))

    @changing
    def remove(self, ids: Any, missing: str = "raise") -> int:
        """Remove vectors; their ids are not used again. Returns how many were removed.

        An id that does not exist is a KeyError naming it and nothing is removed, unless missing="ignore".
        """
        self._may_change()
        checks.choice(missing, "missing", ("raise", "ignore"))
        given = self._unique(ids)
        positions = self._id_map.positions(given) if missing == "ignore" else self._found(given)
        there = positions >= 0
        if there.any():
            self._drop(given[there], positions[there])
        return int(there.sum())

    @abstractmethod
    def _require_room(self, n: int) -> None:
        """MemoryError where there is surely none for n rows more, and for what they need until they are in."""

    @abstractmethod
    def _insert(self, source: checks.VectorSource, ids: Ids) -> None:
        """Add rows under new ids, or change nothing."""

    @abstractmethod
    def _coded_parts(self, source: checks.VectorSource) -> Iterator[dict[str, NDArray[Any]]]:
        """Rows coded as if they were added, chunk by chunk, in order; nothing is added. See indexes.streamed."""

    @abstractmethod
    def _replace(self, source: checks.VectorSource, ids: Ids) -> None:
        """Give ids new rows, whether they exist or not, or change nothing."""

    @abstractmethod
    def _drop(self, ids: Ids, positions: Ids) -> None:
        """Remove rows that exist."""

    # --- asking it

    @reading
    def reconstruct(self, ids: Any) -> Floats:
        """The vectors of some ids, (len(ids), dim) float32: the originals where stored, else decoded from the codes.

        Decoded vectors of a cosine index have unit length. KeyError names the first id that does not exist.
        """
        return self._vectors_at(self._found(checks.id_array(ids, "ids")))

    @abstractmethod
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
        """The k nearest vectors: distances and ids, best first."""

    @keeping
    def knn_graph(
        self,
        k: int = 10,
        *,
        scoring: str = "asymmetric",
        include_self: bool = False,
        num_threads: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> KnnGraph:
        """The k nearest neighbours of every row among all rows.

        Parameters
        ----------
        k : int
            Neighbours a row; there are fewer where a search finds fewer.
        scoring : {"asymmetric", "symmetric"}
            What is searched for: the stored originals, re-ranked as `search` does by default (asymmetric; without
            originals the same as symmetric), or the decoded vectors, by codes alone (symmetric).
        include_self : bool
            Leave a row among its own neighbours where it is found, of which it then is one of the k.
        num_threads : int, optional
            As of `search`. The result does not depend on it.
        progress : callable, optional
            Called with (done, total) rows. Ctrl-C ends the work. The index does not change: who would change it waits.

        Returns
        -------
        KnnGraph
            indptr, indices and distances. Rows and neighbours are numbered as in `ids`; `to_scipy()` makes a sparse
            matrix of them.

        Notes
        -----
        An IVFIndex looks into as many lists as `search` does by default: `tune` it first for a recall of your choice.
        """
        k = checked_k(k)
        scoring = checks.choice(scoring, "scoring", SCORINGS)
        include_self, threads = checks.flag(include_self, "include_self"), checked_threads(num_threads)
        return knn_graph(self, k, scoring, include_self, threads, progress)

    @abstractmethod
    def _vectors_at(self, positions: Ids) -> Floats:
        """Originals where they are stored, else decoded vectors."""

    @abstractmethod
    def _decoded_at(self, positions: Ids) -> Floats: ...

    @abstractmethod
    def _rows_to_visit(self) -> tuple[Ids, Ids]:
        """(n,) positions of the rows, in the order of `ids`; (n,) row numbers, those of one list together."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a directory, atomically; polarindex.load and open read it. See indexes.storage.

        What polarindex.open has opened for writing is compacted where it is saved to its own directory. Others search
        meanwhile; who would change the index waits.
        """
        from polarindex.indexes import storage  # storage knows the indexes, not they it

        if self._stays_at(path):
            self.compact()
        else:
            self._gate.hold("save", False, lambda: storage.save(self, path))

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """What an index is beside its rows and `parameters()`, as JSON can hold it: the state of `_saved`."""

    @abstractmethod
    def _saved(self) -> Saved:
        """What a file must hold beside `parameters()`."""

    @abstractmethod
    def _saved_changes(self, numbers: NDArray[np.int64]) -> Saved:
        """What has become of the rows that were noted under these numbers (m,), ascending: one part an array."""

    @abstractmethod
    def _restore_changes(self, state: dict[str, Any], rows: int, read: Read) -> None:
        """Take over what `_saved_changes` told of an index like this one; twice is as good as once.

        Errors are those of `_restore`.
        """

    @abstractmethod
    def _restore(self, state: dict[str, Any], rows: int, read: Read) -> None:
        """Give a new index what `_saved` told of another one with the same parameters.

        State and arrays may be anybody's: an error (IndexError, KeyError, TypeError, ValueError) says what cannot be,
        and nothing that passes makes a kernel read or write outside its arrays.
        """

    def _take_step(self, step: Callable[[], None]) -> None:
        """Do what readers must not see in halves, while there are none; then forget what was remembered of rows."""

        def whole() -> None:
            try:
                step()
            finally:
                self._changed()

        self._gate.alone(whole)

    def _changed(self) -> None:
        """Rows are others now."""
        self._version += 1

    # --- arguments and results

    def _unique(self, ids: Any, n: int | None = None) -> Ids:
        array = checks.id_array(ids, "ids", n)
        checks.unique_ids(array, "ids")
        return array

    def _found(self, ids: Ids) -> Ids:
        positions = self._id_map.positions(ids)
        if (positions < 0).any():
            raise KeyError(f"id {ids[positions < 0][0]} is not in the index")
        return positions

    def _rerank_factor(self, rerank: int | None) -> int:
        if rerank is None:
            return _RERANK if self.store != "none" else 0
        rerank = checks.integer(rerank, "rerank", low=0)
        if rerank and self.store == "none":
            raise ValueError(
                f"rerank={rerank} needs the original vectors; make the index with store='float32', 'float16' or 'int8'"
            )
        return rerank

    def _padded(self, distances: Floats, ids: Ids, k: int) -> tuple[Floats, Ids]:
        """Results of k columns: where fewer exist, id -1 at the worst distance."""
        missing = k - ids.shape[1]
        if missing <= 0:
            return distances, ids
        worst = np.inf if self.metric == "l2" else -np.inf
        distances = np.pad(distances, ((0, 0), (0, missing)), constant_values=worst)
        return distances, np.pad(ids, ((0, 0), (0, missing)), constant_values=-1)

    @abstractmethod
    def _errors_at(self, query: Floats, positions: Ids) -> Floats:
        """One standard error of a query's (dim,) estimate for each row at some positions, float32."""

    def _errors(self, queries: Floats, ids: Ids, reranked: bool) -> Floats:
        """Standard errors (nq, k) float32 of results; +inf where there is none, NaN where a rounded store has them."""
        if reranked:
            exact = np.float32(0 if self.store == "float32" else np.nan)
            return np.where(ids < 0, np.float32(np.inf), exact)
        out = np.full(ids.shape, np.inf, np.float32)
        for i, query in enumerate(queries):
            found = ids[i] >= 0
            out[i, found] = self._errors_at(query, self._id_map.positions(ids[i, found]))
        return out

    def _add_hits(
        self,
        found: list[list[tuple[Floats, Ids]]],
        members: Ids,
        distances: Floats,
        ids: Ids,
        allowed: NDArray[np.uint8],
        radius: np.float64,
    ) -> None:
        """Add to found[members[i]] the ids (m,), and their distances[i] (m,), that are within a radius and allowed.

        allowed (m,) uint8, or (0,) for all.
        """
        hits = distances <= radius if self.metric == "l2" else distances >= radius
        if len(allowed):
            hits &= allowed.astype(bool)
        for row in np.flatnonzero(hits.any(axis=1)):
            found[members[row]].append((distances[row, hits[row]], ids[hits[row]]))

    def _sorted_hits(self, found: list[list[tuple[Floats, Ids]]]) -> tuple[Ids, Floats, Ids]:
        """lims, distances and ids of range_search, each query's hits best first."""
        lims = np.zeros(len(found) + 1, np.int64)
        all_distances, all_ids = [np.empty(0, np.float32)], [np.empty(0, np.int64)]
        for i, parts in enumerate(found):
            if parts:
                distances = np.concatenate([part for part, _ in parts])
                ids = np.concatenate([part for _, part in parts])
                order = np.lexsort((ids, distances if self.metric == "l2" else -distances))
                all_distances.append(distances[order])
                all_ids.append(ids[order])
            lims[i + 1] = lims[i] + sum(len(part) for part, _ in parts)
        return lims, np.concatenate(all_distances), np.concatenate(all_ids)


def require_results(nq: int, k: int) -> None:
    """MemoryError where there is none for distances and ids (nq, k)."""
    require(12 * nq * k, f"{nq:,} x {k:,} results")


def checked_k(k: Any) -> int:
    return checks.integer(k, "k", low=1, high=_LARGEST_K)


def checked_threads(num_threads: Any) -> int | None:
    return None if num_threads is None else checks.integer(num_threads, "num_threads", low=1)


def checked_query_bits(query_bits: Any) -> int:
    if query_bits not in QUERY_BITS:
        raise ValueError(f"query_bits must be 8 or 16, got {query_bits!r}")
    return int(query_bits)
