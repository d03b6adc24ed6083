"""Building a sharded index."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from polarindex import checks
from polarindex.distributed import layout
from polarindex.distributed.layout import Layout
from polarindex.distributed.routing import MOST_SHARDS, shards_of
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex, auto_nlist


def build(
    source: Any,
    path: str | os.PathLike[str],
    *,
    num_shards: int,
    kind: str = "ivf",
    metric: str = "l2",
    bits: int = 4,
    quantizer: str = "eden",
    nlist: int | str = "auto",
    seed: int = 0,
    store: str = "none",
    ids: Any = None,
) -> Layout:
    """Code vectors into shards that share one frame, and write them."""
    rows = checks.vectors(source, "source")
    checks.integer(num_shards, "num_shards", low=1, high=MOST_SHARDS)
    checks.choice(kind, "kind", ("flat", "ivf"))
    folder = Path(path)
    given = np.arange(rows.n) if ids is None else checks.id_array(ids, "ids", rows.n)
    checks.unique_ids(given, "ids")
    if kind == "ivf":
        lists = auto_nlist(-(-rows.n // num_shards)) if nlist == "auto" else nlist
        frame: Any = IVFIndex(rows.dim, metric, bits, quantizer, nlist=lists, seed=seed, store=store)
    else:
        frame = FlatIndex(rows.dim, metric, bits, quantizer, seed=seed, store=store)
    x = rows.array()
    frame.fit(x)
    folder.mkdir(parents=True)
    frame.save(folder / layout.FRAME)
    shards = shards_of(given, num_shards)
    names = [layout.shard_name(number) for number in range(num_shards)]
    for number, name in enumerate(names):
        mine = np.flatnonzero(shards == number)
        shard = frame.empty_like() if kind == "ivf" else FlatIndex.__copy__(frame)
        shard.add(x[mine], given[mine])
        shard.save(folder / name)
    found = Layout(kind, frame.parameters(), tuple(names), int(given.max(initial=-1)) + 1)
    layout.put(folder, found)
    return found
