"""ShardedIndex: one index whose rows lie in many directories, each served by an actor.

    add, upsert, ... -> checked whole -> rows by the shards of their ids -> each shard's writer -> durable
    search           -> prepared once -> all shards -> the best of their candidates (searching.py)

Law:       an answer has all shards, or says which are missing, or is an error. What was acknowledged is on the disk
           of its shard. A change is one for each shard, and not one for all: where it ends in an error it has reached
           some, which the error says, and `upsert` or `remove` of the same ids completes it or takes it back.
Not here:  files (layout.py) and how they are built (build.py); calls (actors.py); a served index (served.py)."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.distributed import actors, layout, resharding
from polarindex.distributed.actors import Asking, Deadline, Fleet, Handles
from polarindex.distributed.build import build
from polarindex.distributed.direct import Ways
from polarindex.distributed.engines import imported_ray
from polarindex.distributed.layout import Layout
from polarindex.distributed.routing import shards_of
from polarindex.distributed.searching import Group, Searches, Wanted
from polarindex.distributed.shard import State, Turn
from polarindex.errors import ShardError
from polarindex.indexes import halves, storage
from polarindex.indexes.base import checked_k, checked_query_bits, checked_threads, require_results
from polarindex.indexes.filters import IdFilter, same_filters
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ids import following_ids
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.originals import check_originals

TIMEOUT = 60.0  # seconds
_FINDING = 2.0  # seconds to hear where actors are asked directly; who is not heard of is asked through Ray
_START = 600.0  # seconds for actors to start, and to compile kernels where nobody has

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class ShardedIndex:
    """An index whose rows lie in shards, by their ids.

    Make one with `build`, use one with `open`. Its methods are those of FlatIndex and IVFIndex, with two more arguments
    of what asks all shards: `timeout`, seconds, by default those of `open`; and `partial`, see `search`.
    """

    def __init__(
        self,
        frame: FlatIndex | IVFIndex,
        handles: Handles,
        *,
        read_only: bool,
        timeout: float,
        hedge: float | None,
        direct: bool,
        threads: int,
        next_id: int,
        ended: Callable[[], None],
    ) -> None:
        self._frame, self._handles, self._read_only = frame, handles, read_only
        self._timeout, self._threads, self._ended = timeout, threads, ended
        self._changes = [""] * handles.num_shards
        self._turn = threading.RLock()  # of changes
        self._driver, self._number = uuid.uuid4().hex, 0  # of changes: see shard.Turn
        self._closed = False
        self._ways = Ways() if direct else None
        self._searches = Searches(frame, handles, self._changes, True, hedge, None)
        example = ("", halves.some_question(frame))
        states = Asking(handles, "state", self._searches.everyone(*example), Deadline(_START)).all("open")
        self._sizes = [states[shard].n for shard in range(handles.num_shards)]
        self._next_id = max(next_id, *(state.next_id for state in states.values()))
        registers = all(state.registers for state in states.values())
        self._searches = Searches(frame, handles, self._changes, registers, hedge, self._ways)
        if self._ways is not None:
            self._ways.find(handles.handles(), _FINDING)

    # --- beginning and end

    build = staticmethod(build)

    @classmethod
    def reshard(cls, path: str | os.PathLike[str], num_shards: int, *, memory: int = resharding.MEMORY) -> Layout:
        """Give an index, which nobody has open for writing, another number of shards.

        Codes are moved as they are: nothing is learned or coded again, and answers stay what they were. From S to
        T > S shards 1 - S / T of the rows change theirs; all files are written anew, and replaced in one step.

        Parameters
        ----------
        path, num_shards
            As of `build`.
        memory : int
            Bytes for rows at a time.

        Raises
        ------
        LockedError
            Somebody has a shard open for writing.
        FormatError, OSError
            The index is as before.
        """
        return resharding.reshard(path, num_shards, memory=memory)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        replicas: int = 1,
        read_only: bool = False,
        mmap: bool = True,
        threads: int = 1,
        num_cpus: float = 0,
        timeout: float = TIMEOUT,
        hedge: float | None = None,
        direct: bool = True,
        address: str | None = None,
    ) -> ShardedIndex:
        """Serve a sharded index by Ray actors, one and more for each shard, until `close`.

        Parameters
        ----------
        path : the directory that `build` made, which every node of the cluster sees under this name
        replicas : int
            Actors a shard, on unlike nodes where there are such. The first has the shard open for writing; the others
            follow what it has made durable, and answer searches too.
        read_only : bool
            Only search: no lock is taken, so others may have the index open.
        mmap : bool
            Map the shards' files: an actor that is lost is back at once, and the copies of a node share their pages.
        threads : int
            Threads that scan in an actor.
        num_cpus : float
            Cores that Ray sets aside for an actor; 0: it may start anywhere.
        timeout : float
            Seconds after which a call that has no answer of some shard is an error.
        hedge : float, optional
            Seconds after which a shard's second copy is asked too, for what the first has not answered.
        direct : bool
            Send searches to actors by connections of their own, which takes a tenth of the time of Ray's messages. An
            actor then listens at a port of its node, and is asked through Ray where that cannot be reached.
        address : str, optional
            Of a Ray cluster. Default: the one this process is connected to, else one that runs on this machine, else a
            new one.

        Raises
        ------
        MissingExtraError
            Ray is not installed; the extra `distributed`.
        FormatError, FileNotFoundError, LockedError
            As of polarindex.open, of the index or one of its shards.
        ShardError
            Actors did not start in time.
        """
        checks.integer(replicas, "replicas", low=1)
        checks.integer(threads, "threads", low=1)
        checks.flag(read_only, "read_only")
        checks.flag(mmap, "mmap")
        checks.real(num_cpus, "num_cpus", low=0)
        checks.flag(direct, "direct")
        seconds = _checked_timeout(timeout)
        if hedge is not None:
            checks.real(hedge, "hedge", low=0)
        folder = Path(os.path.realpath(path))
        found = layout.read(folder)
        frame = storage.load(folder / found.frame)
        started = actors.connected(address)

        def disconnect() -> None:
            if started:
                imported_ray().shutdown()

        fleet: Fleet | None = None
        try:
            folders = [folder / name for name in found.shards]
            fleet = Fleet(folders, replicas, not read_only, mmap, threads, num_cpus)
            return cls(
                frame,
                fleet,
                read_only=read_only,
                timeout=seconds,
                hedge=hedge,
                direct=direct,
                threads=threads,
                next_id=found.next_id,
                ended=_both(fleet.stop, disconnect),
            )
        except BaseException:
            if fleet is not None:
                fleet.stop()
            disconnect()
            raise

    @classmethod
    def connect(
        cls,
        name: str,
        *,
        address: str | None = None,
        timeout: float = TIMEOUT,
        hedge: float | None = None,
        direct: bool = True,
    ) -> ShardedIndex:
        """Reach an index that a Ray cluster serves under a name (`polarindex serve-shards`).

        Its `len` follows its own changes, not those of others.

        Parameters
        ----------
        name : as it is served
        address : of the cluster, "HOST:PORT", or "ray://HOST:PORT" from outside of it; default: the one that runs here
        timeout, hedge, direct : as of `open`

        Raises
        ------
        MissingExtraError, ConnectionError
            Ray is not installed, or no cluster answers.
        ValueError
            Nothing is served under that name.
        """
        served = import_module("polarindex.distributed.served")  # which knows this class, not it that module
        checks.flag(direct, "direct")
        seconds = _checked_timeout(timeout)
        found: ShardedIndex = served.reached(name, address=address, timeout=seconds, hedge=hedge, direct=direct)
        return found

    def close(self) -> None:
        """End the actors; what was acknowledged is durable already. Closing twice is harmless."""
        if self._closed:
            return
        with self._turn:
            self._closed = True
            self._hang_up()
            if not imported_ray().is_initialized():  # which has ended its actors
                return
            try:
                self._asking("close", {shard: () for shard in self._shards}, first_only=True).answers()
            finally:
                self._ended()

    def __enter__(self) -> ShardedIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- what is in it

    @property
    def kind(self) -> str:
        """Of the shards: "flat" or "ivf"."""
        return self._frame.kind

    @property
    def dim(self) -> int:
        return self._frame.dim

    @property
    def metric(self) -> str:
        return self._frame.metric

    @property
    def store(self) -> str:
        return self._frame.store

    @property
    def nlist(self) -> int:
        """Lists, of an inverted file."""
        if not isinstance(self._frame, IVFIndex):
            raise AttributeError("a flat index has no lists")
        return int(self._frame.nlist)

    @property
    def num_shards(self) -> int:
        return self._handles.num_shards

    def __len__(self) -> int:
        return sum(self._sizes)

    def __repr__(self) -> str:
        return f"ShardedIndex({self._frame!r}, n={len(self)}, num_shards={self.num_shards})".replace(", n=0)", ")")

    @property
    def ids(self) -> Ids:
        """(n,) int64, ascending, which masks follow."""
        found = self._searches.ask("ids", self._searches.everyone(), self._deadline(None)).all("ids")
        return np.sort(np.concatenate(list(found.values())))

    def parameters(self) -> dict[str, Any]:
        """Of the shards: as of FlatIndex and IVFIndex."""
        return self._frame.parameters()

    def info(self) -> dict[str, Any]:
        """What the index is, holds and costs; "shards" has what each says of itself."""
        asking = self._searches.ask("info", self._searches.everyone(), self._deadline(None), first_only=True)
        found = asking.all("info")
        shards = [found[shard] for shard in self._shards]
        return {
            "kind": "sharded",
            "shard_kind": self.kind,
            **self.parameters(),
            "num_shards": self.num_shards,
            "replicas": self._handles.replicas,
            "n": sum(shard["n"] for shard in shards),
            "next_id": max(self._next_id, *(shard["next_id"] for shard in shards)),
            "nbytes": sum(shard["nbytes"] for shard in shards),
            "largest_shard": max(shard["n"] for shard in shards),
            "shards": shards,
        }

    # --- asking it

    def search(
        self,
        q: Any,
        k: int = 10,
        *,
        nprobe: int | None = None,
        gap: float | None = None,
        filter: Any = None,
        rerank: int | None = None,
        num_threads: int | None = None,
        exact_scan: bool = False,
        query_bits: int = 8,
        return_error: bool = False,
        timeout: float | None = None,
        partial: bool = False,
    ) -> tuple[Any, ...]:
        """The k nearest vectors, as of FlatIndex.search and IVFIndex.search.

        Parameters
        ----------
        num_threads : int, optional
            Parts of a large batch that a shard scans at a time; default: the threads of its actor.
        exact_scan : bool
            Of a flat index as there; the codes of lists are always scanned whole, so `scan_bits` changes nothing here.
        timeout : float, optional
            Seconds for this search; default: those of `open`.
        partial : bool
            Do without the shards that have not answered when time is over. A last value is then returned: the numbers
            of those that are missing, () where none is. Without it that is a ShardError that names them.

        Returns
        -------
        As of FlatIndex.search, and with partial the missing shards.

        Notes
        -----
        With exact_scan=True, ids and distances are those of one index with the same centroids and all rows, bit for
        bit; of an inverted file without scan_bits in any case. A mask is aligned with `ids`, which ascend here.
        """
        source = checks.vectors(q, "q", self.dim, single=True)
        k, bits = checked_k(k), checked_query_bits(query_bits)
        exact = checks.flag(exact_scan, "exact_scan")
        checks.flag(return_error, "return_error")
        checks.flag(partial, "partial")
        deadline = self._deadline(timeout)
        probes = self._probes(nprobe, gap)
        planed = isinstance(self._frame, IVFIndex) and self._frame.scan_bits is not None
        factor = self._frame._rerank_factor(rerank)
        threads = checked_threads(num_threads) or self._threads
        require_results(source.n, k)
        given = source.array()
        self._frame._coding.codable(given, source.name)
        factor = 0 if planed else factor
        wanted = Wanted(k, factor, probes, nprobe is not None, gap is not None, exact, bits, threads)
        groups = self._groups(filter, source.n)
        distances, ids, missing = self._searches.best(given, wanted, groups, max(self._sizes), deadline, partial)
        results: tuple[Any, ...] = (distances, ids)
        if return_error:
            results += (self._errors(given, ids, bool(factor) and self.store != "none", deadline),)
        results = tuple(part[0] for part in results) if source.single else results
        return (*results, missing) if partial else results

    def range_search(
        self,
        q: Any,
        radius: float,
        *,
        nprobe: int | None = None,
        gap: float | None = None,
        filter: Any = None,
        timeout: float | None = None,
        partial: bool = False,
    ) -> tuple[Any, ...]:
        """All vectors within a radius, as of FlatIndex.range_search and IVFIndex.range_search; see `search`."""
        source = checks.vectors(q, "q", self.dim, single=True)
        radius = checks.real(radius, "radius")
        checks.flag(partial, "partial")
        self._probes(nprobe, gap)
        given = source.array()
        self._frame._coding.codable(given, source.name)
        options = {"nprobe": nprobe, "gap": gap} if isinstance(self._frame, IVFIndex) else {}
        self._frame.range_search(given[:1], radius)  # of no rows: kernels are compiled before all shards would do so
        groups = self._groups(filter, source.n)
        *hits, missing = self._searches.within(given, radius, options, groups, self._deadline(timeout), partial)
        return (*hits, missing) if partial else tuple(hits)

    def reconstruct(self, ids: Any) -> Floats:
        """The vectors of some ids, as of FlatIndex.reconstruct."""
        given = checks.id_array(ids, "ids")
        homes = shards_of(given, self.num_shards)
        there = self._known(given)
        if not there.all():
            raise KeyError(f"id {given[~there][0]} is not in the index")
        arguments = {int(shard): (given[homes == shard],) for shard in np.unique(homes)}
        found = self._searches.ask("vectors", arguments, self._deadline(None)).all("reconstruct")
        out = np.empty((len(given), self.dim), np.float32)
        for shard, rows in found.items():
            out[homes == shard] = rows
        return out

    # --- changing it

    def add(self, x: Any, ids: Any = None) -> Ids:
        """Add vectors, as of FlatIndex.add; durable when it returns."""
        with self._changing("add"):
            source = self._rows(x)
            if ids is None:
                new_ids = self._reserved(source.n)
            else:
                new_ids = self._unique(ids, source.n)
                known = new_ids[self._known(new_ids)]
                if len(known):
                    raise ValueError(f"ids holds {known[0]}, which is in the index already; use upsert() to replace it")
            self._put("add", source, new_ids)
            return new_ids if ids is None else new_ids.copy()

    def update(self, ids: Any, x: Any) -> None:
        """Replace vectors, as of FlatIndex.update; durable when it returns."""
        with self._changing("update"):
            source = self._rows(x)
            given = self._unique(ids, source.n)
            there = self._known(given)
            if not there.all():
                raise KeyError(f"id {given[~there][0]} is not in the index")
            self._put("update", source, given)

    def upsert(self, ids: Any, x: Any) -> None:
        """Replace or add vectors, as of FlatIndex.upsert; durable when it returns."""
        with self._changing("upsert"):
            source = self._rows(x)
            self._put("upsert", source, self._unique(ids, source.n))

    def remove(self, ids: Any, missing: str = "raise") -> int:
        """Remove vectors, as of FlatIndex.remove; durable when it returns."""
        with self._changing("remove"):
            checks.choice(missing, "missing", ("raise", "ignore"))
            given = self._unique(ids)
            there = self._known(given)
            if missing == "raise" and not there.all():
                raise KeyError(f"id {given[~there][0]} is not in the index")
            gone = given[there]
            homes = shards_of(gone, self.num_shards)
            self._change("remove", {int(shard): (gone[homes == shard],) for shard in np.unique(homes)}, "remove")
            return len(gone)

    def sync(self) -> None:
        """Make durable what a change that ended in an OSError has left in memory; all else is so already."""
        with self._changing("sync"):
            self._change("sync", {shard: () for shard in self._shards}, "sync")

    def compact(self) -> None:
        """Write every shard anew, without a log: they are then opened sooner and take less room."""
        with self._changing("compact"):
            self._change("compact", {shard: () for shard in self._shards}, "compact")

    # --- for these

    def _hang_up(self) -> None:
        if self._ways is not None:
            self._ways.close()

    @property
    def _shards(self) -> range:
        return range(self.num_shards)

    def _deadline(self, timeout: float | None) -> Deadline:
        if self._closed:
            raise RuntimeError("this ShardedIndex is closed")
        return Deadline(self._timeout if timeout is None else _checked_timeout(timeout))

    def _asking(self, method: str, arguments: dict[int, tuple[Any, ...]], first_only: bool = False) -> Asking:
        return Asking(self._handles, method, arguments, Deadline(self._timeout), first_only)

    def _probes(self, nprobe: int | None, gap: float | None) -> Any:
        if isinstance(self._frame, IVFIndex):
            return self._frame._probes(nprobe, gap)
        for name, value in (("nprobe", nprobe), ("gap", gap)):
            if value is not None:
                raise TypeError(f"{name}={value!r} is of an inverted file, and these shards are flat")
        return None

    def _groups(self, filter: Any, nq: int) -> list[Group]:
        return [Group(some, self._id_filter(value, name)) for some, value, name in same_filters(filter, nq)]

    def _id_filter(self, value: Any, name: str) -> IdFilter | None:
        if value is None or isinstance(value, IdFilter):
            return value
        array = np.asarray(list(value) if isinstance(value, set | frozenset) else value)
        if array.dtype != bool:
            return IdFilter(checks.id_array(array if array.size else [], name))
        ids = self.ids
        if array.shape != ids.shape:
            raise ValueError(f"{name} is a mask of shape {array.shape}; it must be {ids.shape}, aligned with index.ids")
        return IdFilter(ids[array])

    def _errors(self, given: Floats, ids: Ids, reranked: bool, deadline: Deadline) -> Floats:
        """Standard errors of results, of which a shard knows those of its rows."""
        if reranked:
            return self._frame._errors(given, ids, True)
        found = self._searches.ask("errors", self._searches.everyone(given, ids), deadline).all("search")
        return np.minimum.reduce(list(found.values()))

    def _unique(self, ids: Any, n: int | None = None) -> Ids:
        array = checks.id_array(ids, "ids", n)
        checks.unique_ids(array, "ids")
        return array

    def _reserved(self, count: int) -> Ids:
        """The next ids, which are then used."""
        with self._turn:
            ids = following_ids(self._next_id, count)
            self._next_id += count
            return ids

    def _known(self, ids: Ids) -> NDArray[np.bool_]:
        """Which ids are in the index."""
        homes, there = shards_of(ids, self.num_shards), np.zeros(len(ids), bool)
        arguments = {int(shard): (ids[homes == shard],) for shard in np.unique(homes)}
        for shard, known in self._searches.ask("known", arguments, self._deadline(None)).all("ids").items():
            there[homes == shard] = known
        return there

    def _changing(self, name: str) -> threading.RLock:
        if self._closed:
            raise RuntimeError(f"{name}() of a ShardedIndex that is closed")
        if self._read_only:
            raise RuntimeError("this ShardedIndex was opened with read_only=True: it cannot be changed")
        return self._turn

    def _rows(self, x: Any) -> checks.VectorSource:
        """Vectors all of which can be coded and stored: no shard gets any before that is known."""
        source = checks.vectors(x, "x", self.dim)
        for start, rows in source.chunks():
            self._frame._coding.codable(rows, source.name, start)
            check_originals(rows, self.store, start)
        return source

    def _put(self, name: str, source: checks.VectorSource, ids: Ids) -> None:
        """Give ids their vectors, which were checked."""
        self._next_id = max(self._next_id, int(ids.max(initial=-1)) + 1)  # also of a change that fails half way
        for start, x in source.chunks():
            some = ids[start : start + len(x)]
            homes = shards_of(some, self.num_shards)
            rows = {int(shard): (some[homes == shard], x[homes == shard]) for shard in np.unique(homes)}
            self._change("upsert", rows, f"{name} of ids {ids.min()} to {ids.max()}")

    def _change(self, method: str, arguments: dict[int, tuple[Any, ...]], name: str) -> None:
        """Have shards change, and know how they are then."""
        self._number += 1
        turn = Turn(self._driver, self._number)
        asking = self._asking(method, {shard: (turn, *given) for shard, given in arguments.items()}, first_only=True)
        asking.settle()
        for shard in arguments:
            self._changes[shard] = uuid.uuid4().hex  # also where nobody knows: copies look at the directory
        states: dict[int, State] = asking.found
        for shard, state in states.items():
            self._sizes[shard] = state.n
        for error in asking.failed.values():
            raise error
        missing = asking.missing()
        if missing:
            done = f"shards {sorted(states)} are changed" if states else "no other shard is changed"
            raise ShardError(f"{asking.told(missing, name)}; they may be changed or not, {done}", missing)


def _checked_timeout(timeout: Any) -> float:
    seconds = checks.real(timeout, "timeout")
    if not seconds > 0:
        raise ValueError(f"timeout must be more than 0 seconds, got {timeout!r}")
    return float(seconds)


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        try:
            first()
        finally:
            second()

    return both
