"""A hash table from ids to positions: open addressing, linear probing, deletion by shifting back (no tombstones).

keys (m,) int64 with -1 for an empty slot, values (m,) int64, m a power of two larger than the number of entries.
"""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import kernel


@kernel
def _slot(ident, size):
    """Fibonacci hashing, twice with a fold between, so that ids that differ in any bits spread."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    mixed = np.uint64(ident) * golden
    mixed = (mixed ^ (mixed >> np.uint64(32))) * golden
    return np.int64((mixed >> np.uint64(20)) & np.uint64(size - 1))


@kernel
def _place(keys, ident):
    """The slot that holds ident, or the empty one where its search ends."""
    at = _slot(ident, keys.size)
    while keys[at] != -1 and keys[at] != ident:
        at = (at + 1) & (keys.size - 1)
    return at


@kernel
def table_insert(keys, values, idents, positions):
    """Set position of each ident, replacing what was there."""
    for i in range(idents.size):
        at = _place(keys, idents[i])
        keys[at] = idents[i]
        values[at] = positions[i]


@kernel
def table_find(keys, values, idents, out):
    """out[i] = the position of idents[i], or -1."""
    for i in range(idents.size):
        at = _place(keys, idents[i])
        out[i] = values[at] if keys[at] != -1 else -1


@kernel
def table_remove(keys, values, idents):
    """Forget each ident that is present."""
    last = keys.size - 1
    for i in range(idents.size):
        at = _place(keys, idents[i])
        if keys[at] == -1:
            continue
        following = (at + 1) & last
        while keys[following] != -1:
            home = _slot(keys[following], keys.size)
            if ((following - home) & last) >= ((following - at) & last):
                keys[at] = keys[following]
                values[at] = values[following]
                at = following
            following = (following + 1) & last
        keys[at] = -1
