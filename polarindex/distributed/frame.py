"""The frame of a build: what all shards have in common, learned once from a sample of the rows.

Law:       it is what IVFIndex.fit makes of the source (FlatIndex.fit of 65,536 rows of it), where memory has room for
           the sample; else the sample is smaller, and the lists a little worse.
Not here:  k-means (indexes/kmeans.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex, auto_nlist
from polarindex.indexes.kmeans import sample_rows
from polarindex.sweep.stacked import Show, Stacked, named

_SAMPLED = 64  # bytes a row of a sample beside its coordinates, while lists are learned from it


def empty(kind: str, dim: int, nlist: int | str, rows: int, num_shards: int, **parameters: Any) -> FlatIndex | IVFIndex:
    """The index as it is asked for; lists that are not told are as many as suit the rows of one shard."""
    if kind == "flat":
        return FlatIndex(dim, **parameters)
    index = IVFIndex(dim, nlist=auto_nlist(-(-rows // num_shards)) if nlist == "auto" else nlist, **parameters)
    if int(index.nlist) > rows:
        raise ValueError(f"source holds {rows} rows, too few for nlist={index.nlist} lists")
    return index


def most_sampled(index: FlatIndex | IVFIndex, room: int) -> int:
    """Rows of a sample that so many bytes have room for."""
    copies = 2 if index.metric == "cosine" else 1  # as they are given, and of unit length
    row = 4 * index.dim * copies * 5 // 4 + _SAMPLED  # k-means begins from a part of the sample, a copy
    most = room // row
    lists = lists_of(index)
    if most < lists:
        raise ValueError(f"memory has room for {most:,} rows of a sample, too few for {lists:,} lists; give more of it")
    return most


def learn(index: FlatIndex | IVFIndex, rows: Stacked, most: int, show: Show) -> None:
    """Fit the index to a sample of the rows."""
    wanted = sample_rows(len(rows), lists_of(index), index.seed, most)
    rows.watch(show, "sampling")
    sample = rows.take(wanted)
    rows.watch(None)
    with named(_Chosen(rows, wanted)):
        if isinstance(index, IVFIndex):
            index.fit(sample, progress=lambda done, total: show(done, total, "k-means", ""))
        else:
            index.fit(sample)


def lists_of(index: FlatIndex | IVFIndex) -> int:
    """Lists, of which a flat index has one."""
    return int(index.nlist) if isinstance(index, IVFIndex) else 1


class _Chosen:
    """Where rows of a sample are from."""

    def __init__(self, rows: Stacked, numbers: np.ndarray) -> None:
        self._rows, self._numbers = rows, numbers

    def where(self, row: int) -> str:
        return self._rows.where(int(self._numbers[row]))
