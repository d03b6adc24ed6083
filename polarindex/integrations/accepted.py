"""Which documents a filter accepts, remembered while nothing changes: to ask about each of many takes a second.

Law:       what is remembered under a name is of the state that is asked for, or asked for again.
Not here:  what a filter means (conditions.py, and the frameworks)."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from polarindex.indexes.filters import IdFilter
from polarindex.records import Record

_MOST = 32  # filters
Accepts = Callable[[Record], bool]


def name_of(*parts: Any) -> str | None:
    """A name for a filter that is made of these parts; None where they are not plain data."""
    try:
        return json.dumps(parts, sort_keys=True)
    except (TypeError, ValueError):
        return None


class Accepted:
    """Filters that were asked, by name. Threads may share one: they may ask the same twice."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Hashable, IdFilter]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def ids(self, records: Iterable[Record], accepts: Accepts, name: str | None, state: Hashable) -> IdFilter:
        """The ids of the records that `accepts` accepts, which in this state it may have said already."""
        known = None if name is None else self._known.get(name)
        if known is not None and known[0] == state:
            return known[1]
        allowed = IdFilter([record.id for record in records if accepts(record)])
        if name is not None:
            self._known = {**(self._known if len(self._known) < _MOST else {}), name: (state, allowed)}
        return allowed
