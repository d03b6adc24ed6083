"""The vectors themselves, kept beside their codes for a second look: float32, float16, or int8 with a scale a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex.indexes.arena import Arena, Column, Positions

STORES = ("none", "float32", "float16", "int8")
_NAMES = ("originals", "original_scales")


def original_columns(store: str, dim: int) -> dict[str, Column]:
    """The arena columns that `store` needs."""
    if store == "none":
        return {}
    columns = {"originals": Column(np.dtype(store), (dim,))}
    if store == "int8":
        columns["original_scales"] = Column(np.dtype(np.float32))
    return columns


def pack_originals(x: NDArray[np.float32], store: str, start: int) -> dict[str, NDArray[Any]]:
    """Rows x (n, dim) float32 as columns; ValueError where float16 cannot hold a row (x[start + i])."""
    if store == "none":
        return {}
    if store == "float32":
        return {"originals": x}
    if store == "float16":
        peaks = np.abs(x).max(axis=1, initial=0)
        if (peaks > np.finfo(np.float16).max).any():
            row = int((peaks > np.finfo(np.float16).max).argmax())
            raise ValueError(
                f"x[{start + row}] reaches {peaks[row]:.6g}, beyond float16's 65504; use store='float32' or 'int8'"
            )
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


def exact_scores(
    arena: Arena, positions: Positions, queries: NDArray[np.float32], metric: str
) -> NDArray[np.float64]:
    """Distances or similarities (nq, m) of queries (nq, dim) to the stored vectors at positions (nq, m); -1 skipped.

    Summed in float64. Skipped places get +inf (l2) or -inf.
    """
    out = np.full(positions.shape, np.inf if metric == "l2" else -np.inf)
    for i, q in enumerate(queries):
        found = positions[i] >= 0
        x = take_originals(arena, positions[i][found])
        if metric == "l2":
            difference = x - q
            out[i, found] = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
        else:
            dots = np.einsum("ij,j->i", x, q, dtype=np.float64)
            if metric == "cosine":
                norms2 = np.einsum("ij,ij->i", x, x, dtype=np.float64)
                lengths = np.sqrt(norms2 * float(np.dot(q.astype(np.float64), q)))
                dots = np.divide(dots, lengths, out=np.zeros(len(x)), where=lengths > 0)  # a store may round to 0
            out[i, found] = dots
    return out
