"""What a shard does for the driver, inside an actor or called as it is: candidates of its rows, and changes of them.

Law:       a change returns when it is on the disk (`sync`), and may be asked twice: it says what rows are then. One
           copy of a shard writes, others read its directory. Who reads looks at the directory again before it answers
           a call that names a change it has not heard of, and where the last look is older than STALE seconds.
Opened:    when it is first asked for, so that what is wrong with a directory is the answer to a call, every time.
Not here:  actors (actors.py), and what is made of all shards' answers (sharded.py)."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.errors import LockedError
from polarindex.indexes import halves, opened
from polarindex.indexes.filters import IdFilter
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.halves import Candidates, Question
from polarindex.indexes.ivf import IVFIndex

STALE = 1.0  # seconds
_FILTERS = 16  # masks that are remembered
_GLANCE = 0.05  # seconds

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class State(NamedTuple):
    """What the driver knows of a shard.

    n, next_id : rows, and 1 + the largest id that was ever in it
    registers : whether it scans codes in registers
    """

    n: int
    next_id: int
    registers: bool


class Turn(NamedTuple):
    """Whose change it is, and its number among all of his, which count."""

    driver: str
    number: int


class Shard:
    """One shard's directory.

    Parameters
    ----------
    folder : an index's directory
    writes : hold its lock and take changes, or only read
    mmap : as of polarindex.open
    threads : calls that scan at a time
    patience : seconds to wait for the lock, of a shard whose actor is lost and may live on for a moment
    """

    def __init__(self, folder: str, writes: bool, mmap: bool, threads: int, patience: float = 0) -> None:
        self._folder, self._writes, self._mmap, self._patience = Path(folder), writes, mmap, patience
        self._index: FlatIndex | IVFIndex | None = None
        self._turn = threading.Lock()  # of opening and refreshing
        self._changing, self._last = threading.Lock(), dict[str, int]()  # the numbers of drivers' last changes
        self._cores = threading.BoundedSemaphore(threads)
        self._filters: OrderedDict[str, IdFilter] = OrderedDict()
        self._heard, self._looked = "", 0.0  # the last change that was named, and when the directory was looked at

    # --- asking it

    def state(self, change: str = "", sent: tuple[Question, Floats | None] | None = None) -> State:
        """How it is after a change. Kernels that answer a question like the one that is sent are compiled."""
        index = self._fresh(change)
        if sent is not None and halves.in_registers(index):
            halves.candidates(index, *sent, 1, None, True)
        return State(len(index), index._id_map.next_id, halves.in_registers(index))

    def candidates(
        self,
        change: str,
        sent: tuple[Question, Floats | None],
        keep: int,
        exact: bool,
        key: str | None = None,
        ids: Ids | None = None,
    ) -> Candidates:
        """`halves.candidates` of a question and the queries as given.

        ids : what a filter allows here; key : what it is remembered by, None for a filter that is used once
        """
        index, allowed = self._fresh(change), self._filter(key, ids)
        with self._cores:
            return halves.candidates(index, *sent, keep, allowed, exact)

    def within(
        self, change: str, q: Floats, radius: float, options: dict[str, Any], key: str | None, ids: Ids | None
    ) -> tuple[Ids, Floats, Ids]:
        """`range_search`, with nprobe and gap as options of an inverted file."""
        index = self._fresh(change)
        with self._cores:
            return index.range_search(q, radius, filter=self._filter(key, ids), **options)

    def allowed(self, change: str, key: str | None, ids: Ids) -> tuple[int, int]:
        """How many rows a filter allows, and how many there are."""
        index, filter = self._fresh(change), self._filter(key, ids)
        return halves.allowed_rows(index, filter or IdFilter([])), len(index)

    def errors(self, change: str, q: Floats, ids: Ids) -> Floats:
        """Standard errors (nq, k) of the estimates for ids (nq, k); +inf at -1 and where it has no such row."""
        return halves.errors(self._fresh(change), q, ids)

    def vectors(self, change: str, ids: Ids) -> Floats:
        """`reconstruct`."""
        return self._fresh(change).reconstruct(ids)

    def ids(self, change: str) -> Ids:
        """(n,) ascending."""
        return np.sort(self._fresh(change).ids)

    def known(self, change: str, ids: Ids) -> NDArray[np.bool_]:
        """Which of some ids it has."""
        there: NDArray[np.bool_] = self._fresh(change)._id_map.positions(ids) >= 0
        return there

    def info(self, change: str) -> dict[str, Any]:
        return {**self._fresh(change).info(), "process": os.getpid()}

    # --- changing it

    def upsert(self, turn: Turn, ids: Ids, x: Floats) -> State:
        """Give ids these vectors, whether they are there or not; durable when it returns."""
        with self._in_order(turn) as index:
            index.upsert(ids, x)
            index.sync()
            return self.state()

    def remove(self, turn: Turn, ids: Ids) -> State:
        """Remove those of some ids that are there; durable when it returns."""
        with self._in_order(turn) as index:
            index.remove(ids, missing="ignore")
            index.sync()
            return self.state()

    def sync(self, turn: Turn) -> State:
        """Make durable what a change that failed has left in memory."""
        with self._in_order(turn) as index:
            index.sync()
            return self.state()

    def compact(self, turn: Turn) -> State:
        """Write the index anew, without a log."""
        with self._in_order(turn) as index:
            index.compact()
            return self.state()

    def close(self) -> None:
        """Let go of the directory."""
        with self._turn:
            if self._index is not None:
                self._index.close()
                self._index = None

    @contextmanager
    def _in_order(self, turn: Turn) -> Iterator[FlatIndex | IVFIndex]:
        """The index, for a change that nothing has overtaken: a message that was taken for lost may still come."""
        with self._changing:
            if turn.number < self._last.get(turn.driver, 0):
                raise RuntimeError(f"change {turn.number} came after a later one of the same driver")
            self._last[turn.driver] = turn.number
            yield self._opened()

    # --- the directory

    def _opened(self) -> FlatIndex | IVFIndex:
        with self._turn:
            waited_for = time.monotonic() + self._patience
            while self._index is None:
                try:
                    self._index = opened.open(self._folder, read_only=not self._writes, mmap=self._mmap)
                except LockedError:
                    if time.monotonic() > waited_for:
                        raise
                    time.sleep(_GLANCE)
                self._looked = time.monotonic()
            return self._index

    def _fresh(self, change: str) -> FlatIndex | IVFIndex:
        """The index, with every change up to this one."""
        index = self._opened()
        if self._writes or (change in ("", self._heard) and time.monotonic() - self._looked < STALE):
            return index
        with self._turn:
            looked = time.monotonic()
            index.refresh()
            self._heard, self._looked = change or self._heard, looked
        return index

    def _filter(self, key: str | None, ids: Ids | None) -> IdFilter | None:
        """The filter of some ids, made once for a key: it then remembers its mask."""
        if ids is None:
            return None
        found = self._filters.get(key) if key is not None else None
        if found is None:
            found = IdFilter(ids)
            if key is not None:
                self._filters[key] = found
                while len(self._filters) > _FILTERS:
                    self._filters.popitem(last=False)
        return found

