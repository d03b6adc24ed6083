"""Which rows a search may return: a mask over positions, a list of allowed ids, or one of these a query."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.indexes.ids import IdMap, ListIds

Allowed = NDArray[np.uint8] | None  # 1 where a row may be returned, see `mask` of ListIds; None for all
Group = tuple[NDArray[np.int64], Allowed]  # query numbers and what they may see


class IdFilter:
    """A set of allowed ids, made once and used in many searches.

    Parameters
    ----------
    ids : array-like or set of int
        Allowed ids; repeats are harmless, ids that an index does not have are ignored.

    The row mask it stands for is remembered for each index until that index changes.

    Examples
    --------
    >>> import numpy as np
    >>> import polarindex as pi
    >>> x = np.random.default_rng(0).standard_normal((100, 16), np.float32)
    >>> index = pi.FlatIndex(16, bits=4)
    >>> ids = index.add(x)
    >>> even = pi.IdFilter(range(0, 100, 2))
    >>> distances, ids = index.search(x[:5], k=10, filter=even)
    >>> bool((ids % 2 == 0).all())
    True
    """

    def __init__(self, ids: Any) -> None:
        self.ids = np.unique(checks.id_array(list(ids) if isinstance(ids, set | frozenset) else ids, "ids"))
        self._masks: WeakKeyDictionary[IdMap | ListIds, tuple[int, NDArray[np.uint8]]] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"IdFilter({len(self)} ids)"

    def mask(self, id_map: IdMap | ListIds, version: int) -> NDArray[np.uint8]:
        """(places,) uint8 over positions; `version` changes whenever the index does."""
        known = self._masks.get(id_map)
        if known is None or known[0] != version:
            known = version, mask_of_ids(self.ids, id_map)
            self._masks[id_map] = known
        return known[1]


def mask_of_ids(ids: NDArray[np.int64], id_map: IdMap | ListIds) -> NDArray[np.uint8]:
    """uint8 over positions: 1 where the ids are that exist."""
    positions = id_map.positions(ids)
    return id_map.mask(positions[positions >= 0])


def filter_groups(value: Any, nq: int, id_map: IdMap | ListIds, n: int, version: int) -> list[Group]:
    """Queries grouped by the rows they may see.

    `value` is None, a bool mask aligned with `index.ids`, allowed ids, an IdFilter, or a list of nq of these.
    """
    return [(queries, _allowed(item, name, id_map, n, version)) for queries, item, name in same_filters(value, nq)]


def same_filters(value: Any, nq: int) -> list[tuple[NDArray[np.int64], Any, str]]:
    """Queries that share a filter, the filter as it was given, and what it is called; see `filter_groups`."""
    if not isinstance(value, list | tuple) or all(isinstance(item, int | np.integer | np.bool_) for item in value):
        return [(np.arange(nq), value, "filter")]
    if len(value) != nq:
        raise ValueError(f"filter is a list of {len(value)} filters, but there are {nq} queries; give one a query")
    members: dict[int, list[int]] = {}
    for query, item in enumerate(value):
        members.setdefault(id(item), []).append(query)
    return [(np.array(some), value[some[0]], f"filter[{some[0]}]") for some in members.values()]


def _allowed(value: Any, name: str, id_map: IdMap | ListIds, n: int, version: int) -> Allowed:
    if value is None:
        return None
    if isinstance(value, IdFilter):
        return value.mask(id_map, version)
    if isinstance(value, set | frozenset):
        value = list(value)
    array = np.asarray(value)
    if array.dtype == bool:
        if array.shape != (n,):
            raise ValueError(f"{name} is a mask of shape {array.shape}; it must be ({n},), aligned with index.ids")
        return id_map.aligned(array)
    return mask_of_ids(checks.id_array(value, name), id_map)
