"""Indexes of other libraries, with their vectors and ids, as indexes of this one.

Law:       ids stay, and the vectors are those that the other index holds, read a chunk at a time. What it holds
           rounded to codes is taken only where the caller says so (lossy=True). Nothing of it is changed.
Not here:  libraries that do not give vectors back (turbovec; FAISS and hnswlib where they say so): build from the
           vectors themselves. Rows and ids as arrays: FlatIndex.add and IVFIndex.add take them as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.errors import MissingExtraError, first_line
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex

_PART = 4096  # rows
Ids = NDArray[np.int64]


def from_faiss(
    index: Any, *, into: FlatIndex | IVFIndex | None = None, lossy: bool = False, **parameters: Any
) -> FlatIndex | IVFIndex:
    """A FAISS index as one of this library, with the same ids.

    Parameters
    ----------
    index : faiss.Index
        Flat, IVF...,Flat, or one of HNSW, NSG or RFlat that holds a Flat; also within IDMap and IDMap2.
    into : FlatIndex or IVFIndex, optional
        The index to add to, which must have the same dimension, and be fitted if it must; else a new FlatIndex.
    lossy : bool
        Take the decoded vectors of an index that holds only codes (PQ, SQ, ...), or vectors behind a transform (PCA,
        OPQ, ...), turned back. They are coded again, so errors add up: to build from the vectors themselves is better.
    **parameters
        Of the new FlatIndex: bits, store, ...; metric is the other index's unless it is given, as "cosine" may be.

    Raises
    ------
    TypeError
        It is no FAISS index, holds codes and lossy is not given, does not give its vectors back, or has a metric
        other than L2 and inner product.
    ValueError
        It has ids that are negative, or come twice; its vectors are not finite; or as of `add`.
    """
    checks.flag(lossy, "lossy")
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss is not installed; get it with: pip install 'polarindex[faiss]'") from error
    if not isinstance(index, faiss.Index):
        raise TypeError(f"index must be a faiss.Index, got {type(index).__name__}")
    metric = {faiss.METRIC_L2: "l2", faiss.METRIC_INNER_PRODUCT: "ip"}.get(index.metric_type)
    rows, ids = _of_faiss(faiss, index, lossy)
    return _added(rows, ids, metric, f"FAISS metric {index.metric_type}", into, parameters)


def from_hnswlib(index: Any, *, into: FlatIndex | IVFIndex | None = None, **parameters: Any) -> FlatIndex | IVFIndex:
    """An hnswlib.Index as an index of this library, with its labels as ids; without those marked as deleted.

    Parameters and errors are those of `from_faiss`. What space="cosine" holds are the vectors divided by their length.
    """
    if not hasattr(index, "get_items") or not hasattr(index, "get_ids_list"):
        raise TypeError(f"index must be an hnswlib.Index, which gives its vectors back, got {type(index).__name__}")
    labels = np.sort(np.array(index.get_ids_list(), np.uint64))

    def read(some: NDArray[np.uint64]) -> NDArray[np.float32]:
        return np.asarray(index.get_items(some, return_type="numpy"), np.float32).reshape(len(some), index.dim)

    labels = _not_deleted(labels, read)
    rows = _Rows(index.dim, np.float32, len(labels), lambda start, stop: read(labels[start:stop]))
    metric = index.space if index.space in ("l2", "ip", "cosine") else None
    return _added(rows, labels, metric, f"space {index.space!r}", into, parameters)


def from_usearch(index: Any, *, into: FlatIndex | IVFIndex | None = None, **parameters: Any) -> FlatIndex | IVFIndex:
    """A usearch.index.Index as an index of this library, with its keys as ids.

    Parameters and errors are those of `from_faiss`. Vectors are as usearch holds them, by default as bfloat16; of
    dtype "i8" or "b1" it does not give them back.
    """
    if not hasattr(index, "metric_kind") or not hasattr(index, "keys") or not hasattr(index, "get"):
        raise TypeError(f"index must be a usearch.index.Index, got {type(index).__name__}")
    kind, metric = index.dtype.name.lower(), {"IP": "ip", "Cos": "cosine", "L2sq": "l2"}.get(index.metric_kind.name)
    if kind not in ("f64", "f32", "f16", "bf16"):
        raise TypeError(f"index holds its vectors as {kind}, which are not what it was given; build from the vectors")
    if index.multi:
        raise TypeError(
            "index has multi=True, several vectors a key; ids are those of one vector: build from the vectors"
        )
    keys = np.sort(np.asarray(index.keys).astype(np.uint64))

    def read(start: int, stop: int) -> NDArray[Any]:
        return np.vstack(index.get(keys[start:stop]))

    rows = _Rows(index.ndim, np.float64 if kind == "f64" else np.float32, len(keys), read)
    return _added(rows, keys, metric, f"metric {index.metric_kind.name}", into, parameters)


class _Rows:
    """Vectors (n, d) that are read when a slice of them is asked for."""

    def __init__(self, dim: int, dtype: Any, n: int, read: Callable[[int, int], NDArray[Any]]) -> None:
        self.shape, self.dtype, self._read = (n, dim), np.dtype(dtype), read

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        return self._read(start, stop) if start < stop else np.empty((0, self.shape[1]), self.dtype)


def _added(
    rows: _Rows, ids: Any, metric: str | None, its_metric: str, into: FlatIndex | IVFIndex | None, parameters: Any
) -> FlatIndex | IVFIndex:
    """Rows under ids in an index, all or none."""
    if into is not None and parameters:
        raise TypeError(f"into has its own {', '.join(parameters)}; leave them out")
    if into is None:
        metric = parameters.pop("metric", metric)
        if metric is None:
            raise TypeError(f"index has {its_metric}, which this library lacks; give metric='l2', 'ip' or 'cosine'")
        into = FlatIndex(rows.shape[1], metric, **parameters)
    into.add(rows, ids)
    return into


def _not_deleted(labels: NDArray[np.uint64], read: Callable[[NDArray[np.uint64]], Any]) -> NDArray[np.uint64]:
    """The labels that hnswlib gives vectors of: it lists those marked as deleted, and has no other way to tell."""

    def there(label: Any) -> bool:
        try:
            read(label[None])
        except RuntimeError:
            return False
        return True

    kept = []
    for start in range(0, len(labels), _PART):
        part = labels[start : start + _PART]
        try:
            read(part)
        except RuntimeError:
            part = part[[there(part[at : at + 1].reshape(())) for at in range(len(part))]]
        kept.append(part)
    return np.concatenate(kept) if kept else labels


# --- FAISS


def _of_faiss(faiss: Any, index: Any, lossy: bool) -> tuple[_Rows, Ids]:
    """Vectors and ids of an index, whatever it is made of."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexIDMap):  # IDMap2 too
        rows, positions = _of_faiss(faiss, index.index, lossy)
        return rows, faiss.vector_to_array(index.id_map)[positions]
    for kind, inner in (("IndexHNSW", "storage"), ("IndexNSG", "storage"), ("IndexRefine", "refine_index")):
        if isinstance(index, getattr(faiss, kind)):
            return _of_faiss(faiss, getattr(index, inner), lossy)
    if isinstance(index, faiss.IndexFlat):
        return _sequential(index)
    if isinstance(index, faiss.IndexIVFFlat):  # its kinds have other layouts
        return _of_lists(faiss, index, decode=type(index) is not faiss.IndexIVFFlat)
    name = type(index).__name__
    if not lossy:
        raise TypeError(
            f"index is or has a {name}, which holds no vectors, but codes or transforms of them; "
            f"build from the vectors, or take what it decodes to with lossy=True"
        )
    if isinstance(index, faiss.IndexIVF):
        return _of_lists(faiss, index, decode=True)
    try:
        if index.ntotal:
            index.reconstruct(0)  # reconstruct_n would end the process where this is an error
    except RuntimeError as error:
        raise TypeError(f"index is or has a {name}, which does not give vectors back: {first_line(error)}") from None
    return _sequential(index)


def _sequential(index: Any) -> tuple[_Rows, Ids]:
    """Of an index whose ids are 0, 1, 2, ..."""

    def read(start: int, stop: int) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = index.reconstruct_n(start, stop - start)
        return rows

    return _Rows(index.d, np.float32, index.ntotal, read), np.arange(index.ntotal)


def _of_lists(faiss: Any, index: Any, decode: bool) -> tuple[_Rows, Ids]:
    """Of an inverted file, list after list."""
    lists, d = index.invlists, index.d
    sizes = np.array([lists.list_size(at) for at in range(index.nlist)], np.int64)
    ends = np.cumsum(sizes)
    if sizes.sum() != index.ntotal:
        what = f"{index.ntotal} vectors in lists of {sizes.sum()}"
        raise TypeError(f"index is or has a {type(index).__name__} with {what}; build from the vectors")

    def part_of(at: int, start: int, stop: int) -> NDArray[np.float32]:
        """Rows start to stop of one list."""
        if not decode:
            codes = lists.get_codes(at)
            rows = faiss.rev_swig_ptr(codes, int(sizes[at]) * index.code_size).view(np.float32)
            taken = rows.reshape(-1, d)[start:stop].copy()
            lists.release_codes(at, codes)
            return taken
        out = np.empty((stop - start, d), np.float32)
        for offset in range(start, stop):
            index.reconstruct_from_offset(at, offset, faiss.swig_ptr(out[offset - start]))
        return out

    def read(start: int, stop: int) -> NDArray[np.float32]:
        parts = []
        at = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            begin, end = int(ends[at] - sizes[at]), min(stop, int(ends[at]))
            if start < end:
                parts.append(part_of(at, start - begin, end - begin))
            start, at = max(start, end), at + 1
        return np.concatenate(parts)

    ids = [np.empty(0, np.int64)]
    for at in np.flatnonzero(sizes).tolist():
        own = lists.get_ids(at)
        ids.append(faiss.rev_swig_ptr(own, int(sizes[at])).copy())
        lists.release_ids(at, own)
    return _Rows(d, np.float32, index.ntotal, read), np.concatenate(ids)
