"""An inverted file over time: indexes with the same lists become one, and lists are made anew where rows have drifted.

Law:       rows are written where nobody reads and taken over in one step: an error or Ctrl-C changes nothing. Merging
           copies codes, so a merged index answers bit for bit as one that was given all rows; rebalancing codes anew.
Drift:     mean |r|^2 of a sample of the rows, by their factors (for ip, estimated from their codes), over that of the
           rows that the centroids were learned from. Rows that were not among these lie farther off, which is no sign
           of a change: 8-19 % on SIFT, GloVe and Fashion-MNIST, and on normal rows in 4 dimensions 38 %. Codes of one
           bit, decoded and coded again, look twice as far off as they are in ip.
Not here:  k-means (kmeans.py); where rows lie (lists.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.indexes.kmeans import OVERSIZE
from polarindex.indexes.spilling import NOWHERE, Homes

if TYPE_CHECKING:
    from polarindex.indexes.ids import Ids
    from polarindex.indexes.ivf import IVFIndex
    from polarindex.indexes.residuals import Centroids

DRIFTED = 1.5  # from which new lists are advised
ROWS_A_LIST = 16  # fewer would teach k-means little
_SAMPLE = 4096  # rows by which drift is judged
_PART = 4096  # rows that are moved at a time


def merge(index: IVFIndex, other: IVFIndex) -> None:
    """`IVFIndex.merge`."""
    check_alike(index, other)  # again: one may have been fitted anew
    mine, theirs = index._held, other._held
    ids, places = other.ids, theirs.rows.used()
    known = ids[mine.ids.positions(ids) >= 0]
    if len(known):
        raise ValueError(f"other holds id {known[0]}, which is in this index already; ids must be disjoint")
    first, second = theirs.rows.lists_of(places), None
    if theirs.copies is not None:
        copies, own = theirs.copies.owners()
        numbers = np.searchsorted(places, own)
        second = np.full(len(places), NOWHERE, np.int32)
        second[numbers] = theirs.copies.rows.lists_of(copies)
    with mine.staging():
        staged = mine.stage(Homes(first, second), ids)
        for part in _parts(len(places)):
            mine.rows.put(staged.rows.places[part], *theirs.rows.taken(places[part]))
        if theirs.copies is not None and mine.copies is not None and staged.copies is not None:
            for part in _parts(len(copies)):
                words, factors, _, _ = theirs.copies.rows.taken(copies[part])
                to = numbers[part]
                mine.copies.put(staged.copies.at[to], words, factors, staged.rows.places[to])

        def step() -> None:
            index._commit(staged, ids)
            mine.ids.next_id = max(mine.ids.next_id, theirs.ids.next_id)

        index._take_step(step)


def check_alike(index: IVFIndex, other: Any) -> None:
    """TypeError or ValueError where an index cannot merge with another."""
    if getattr(other, "kind", None) != index.kind:  # searched on a GPU or not
        raise TypeError(f"other must be an {type(index).__name__}, got {type(other).__name__}")
    mine, theirs = index._held.centroids, other._held.centroids
    wanted, given = ({**one.parameters(), "codes": one.codes} for one in (index, other))  # a GPU index takes no codes
    for name in {**wanted, **given}:
        if given.get(name) != wanted.get(name):
            raise ValueError(f"other has {name}={given.get(name)!r}, this index {name}={wanted.get(name)!r}")
    if not (_same_bits(mine.full, theirs.full) and _same_bits(mine.mu, theirs.mu)) or mine.limit != theirs.limit:
        raise ValueError("other has other centroids; make indexes that merge with empty_like()")
    if mine.law != theirs.law:
        raise ValueError("other has other steps of shifts; make indexes that merge with empty_like()")
    if index.quantizer != other.quantizer:
        raise ValueError("other's spectral codes have other axes; make indexes that merge with empty_like()")


def _same_bits(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return np.array_equal(one.view(np.uint32), other.view(np.uint32))


def rebalance(
    index: IVFIndex, x: Any, nlist: int | None, seed: int | None, progress: Callable[[int, int], None] | None
) -> None:
    """`IVFIndex.rebalance`."""
    held = index._held
    lists = held.rows.nlist if nlist is None else checks.integer(nlist, "nlist", low=1, high=2**24)
    seed = index.seed if seed is None else checks.integer(seed, "seed", low=0)
    ids, places = index.ids, held.rows.used()
    source = checks.vectors(_HeldRows(index, places) if x is None else x, "x", index.dim)
    if source.n != len(ids):
        raise ValueError(f"x must have a row for each of the {len(ids)} rows of index.ids, got {source.n}")
    if len(ids) == 0:
        raise ValueError("this index holds no rows to learn lists from; call index.fit(x)")
    axes = x is not None or index.store != "none"  # of vectors decoded from codes there are no others than before
    _code_again(index, source, index._learned(source, lists, seed, progress, axes=axes), x is None)


def refit(index: IVFIndex) -> None:
    """`IVFIndex.refit`."""
    if index.store == "none":
        raise ValueError("refit() needs the original vectors; make the index with store='float32'")
    held = index._held
    if not len(index):
        raise ValueError("this index holds no rows to learn from; call index.fit(x)")
    source = checks.vectors(_HeldRows(index, held.rows.used()), "originals", index.dim)
    found = index._learned(source, held.rows.nlist, index.seed, None, held.centroids.full)
    _code_again(index, source, found, True)


def _code_again(index: IVFIndex, source: checks.VectorSource, found: Centroids, stored: bool) -> None:
    """Code all rows, which are those of the source, by what was learned; `stored` originals stay."""
    held, ids, places, fresh = index._held, index.ids, index._held.rows.used(), index.empty_like()
    fresh._take(found)
    staged = fresh._staged(source, fresh._assigned(source), ids)
    if stored:  # int8 would be rounded again
        for part in _parts(len(places)):
            fresh._held.rows.put_originals(staged.rows.places[part], held.rows.originals(places[part]))
    fresh._commit(staged, ids)
    fresh._held.ids.next_id = held.ids.next_id
    index._hold(fresh._held)


class _HeldRows:
    """An index's vectors as an array that is read by slices: the originals where kept, else decoded from the codes."""

    dtype = np.dtype(np.float32)

    def __init__(self, index: IVFIndex, places: Ids) -> None:
        self.shape = len(places), index.dim
        self._index, self._places = index, places

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        return self._index._vectors_at(self._places[rows])


def condition(index: IVFIndex) -> dict[str, Any]:
    """"drift" and "rebalance_advised" of `IVFIndex.info`."""
    sizes, found = index._held.rows.sizes, _drift(index)
    uneven = sizes.max() > OVERSIZE * sizes.mean()
    enough = len(index) >= ROWS_A_LIST * len(sizes)
    return {"drift": found, "rebalance_advised": bool(enough and (uneven or (found or 0) > DRIFTED))}


def _drift(index: IVFIndex) -> float | None:
    held = index._held
    if len(index) == 0 or held.centroids.spread == 0:
        return None
    places = held.rows.used()
    step = -(-len(places) // _SAMPLE) | 1  # odd: rows of all lanes of a page
    rows, lists = held.rows.rows(places[::step]), held.rows.lists_of(places[::step])
    decoded = index._coding.decoded(index._coding.code_words(rows), index._coding.scales(rows))
    shifts = index._coding.shifts(rows, held.centroids)
    energies = index._coding.residual_energies(decoded, shifts, lists, held.centroids)
    return float(energies.mean() / held.centroids.spread)


def _parts(n: int) -> Iterator[slice]:
    return (slice(start, start + _PART) for start in range(0, n, _PART))
