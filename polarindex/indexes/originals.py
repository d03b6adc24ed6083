"""The vectors themselves, kept beside their codes for a second look: float32, float16, or int8 with a scale a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.indexes.arena import Arena, Column, Positions
from polarindex.kernels.limits import COSINE, INNER_PRODUCT, L2

STORES = ("none", "float32", "float16", "int8")
METRIC_NUMBERS = {"l2": L2, "ip": INNER_PRODUCT, "cosine": COSINE}
_KINDS = {  # the type of a kernel's elements by that of a column: the kernel takes float16 as its bits
    np.dtype(column): np.empty(0, kernel)
    for column, kernel in ((np.float32, np.float32), (np.float16, np.uint16), (np.int8, np.int8))
}
_WORK = 1 << 27  # multiply-adds of one call: .1 s where rows come from memory
_NO_SCALES = np.empty(0, np.int64)


def original_columns(store: str, dim: int) -> dict[str, Column]:
    """The arena columns that `store` needs."""
    if store == "none":
        return {}
    columns = {"originals": Column(np.dtype(store), (dim,))}
    if store == "int8":
        columns["original_scales"] = Column(np.dtype(np.float32))
    return columns


def check_originals(x: NDArray[np.float32], store: str, start: int) -> None:
    """ValueError where float16 cannot hold a row (x[start + i]) of x (n, dim) float32."""
    if store != "float16":
        return
    peaks = np.abs(x).max(axis=1, initial=0)
    if (peaks > np.finfo(np.float16).max).any():
        row = int((peaks > np.finfo(np.float16).max).argmax())
        raise ValueError(
            f"x[{start + row}] reaches {peaks[row]:.6g}, beyond float16's 65504; use store='float32' or 'int8'"
        )


def pack_originals(x: NDArray[np.float32], store: str, start: int) -> dict[str, NDArray[Any]]:
    """Rows x (n, dim) float32 as columns; ValueError as of check_originals."""
    check_originals(x, store, start)
    if store == "none":
        return {}
    if store == "float32":
        return {"originals": x}
    if store == "float16":
        return {"originals": x.astype(np.float16)}
    scales = np.abs(x).max(axis=1, initial=0) / np.float32(127)
    gains = np.divide(1, scales, out=np.zeros(len(x)), where=scales > 0, dtype=np.float64)  # beyond float32, maybe
    levels = np.clip(np.rint(x * gains[:, None]), -127, 127)  # a scale of few bits is far from max / 127
    return {"originals": levels.astype(np.int8), "original_scales": scales}


def take_originals(arena: Arena, positions: Positions) -> NDArray[np.float32]:
    """Stored vectors (len(positions), dim) float32."""
    rows: NDArray[Any] = arena.take("originals", positions)
    if "original_scales" in arena.columns:
        return rows * arena.take("original_scales", positions)[:, None]
    return rows.astype(np.float32, copy=False)


class StoredRows:
    """The stored vectors of an arena as rows that are read a slice at a time."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self.shape = (arena.n, *arena.columns["originals"].shape)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        return take_originals(self._arena, np.arange(*rows.indices(self.shape[0])))


def exact_scores(
    arena: Arena, positions: Positions, queries: NDArray[np.float32], metric: str
) -> NDArray[np.float64]:
    """Distances or similarities (nq, m) of queries (nq, dim) to the stored vectors at positions (nq, m); -1 skipped.

    Summed in float64. Skipped places get +inf (l2) or -inf.
    """
    kind, blocks, scales, shift = original_rows(arena)
    out, positions, queries = np.empty(positions.shape), _plain(positions), _plain(queries)
    step = max(1, _WORK // max(positions.shape[1] * queries.shape[1], 1))
    for start in range(0, len(queries), step):
        some = slice(start, start + step)
        kernels.rescore_rows(
            kind, blocks, scales, shift, METRIC_NUMBERS[metric], positions[some], queries[some], out[some]
        )
    return out


def score_rows(
    rows: NDArray[np.float32],
    numbers: NDArray[np.integer],
    queries: NDArray[np.float32],
    metric: int,
    out: NDArray[np.float64],
) -> None:
    """out[q, i] = what row number numbers[q, i] of an array (n, dim) is to queries[q]: see kernels.rescore_rows."""
    rows, positions = _plain(rows), _plain(numbers.astype(np.int64))
    block = np.array([rows.__array_interface__["data"][0]], np.int64)
    kernels.rescore_rows(rows[:0, 0].copy(), block, _NO_SCALES, 62, metric, positions, _plain(queries), out)


def original_rows(arena: Arena) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64], int]:
    """Where stored vectors are, as kernels take them: what they are of, addresses of blocks and of scales, block bits.

    The addresses hold until the arena changes.
    """
    scales = arena.addresses("original_scales") if "original_scales" in arena.columns else _NO_SCALES
    kind = _KINDS[arena.columns["originals"].dtype]
    return kind, arena.addresses("originals"), scales, arena.block_rows.bit_length() - 1


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """The array as kernels are compiled for: contiguous, aligned, writable; for others Numba would compile anew."""
    return np.require(array, requirements=["C", "A", "W"])
