"""A sharded index that a Ray cluster serves under a name, for any number of programs.

    serve    a front, an actor with a name, opens the index: its shards' actors live as long as it does
    reached  a program is given the frame and where the actors are, and then asks the shards itself

Law:       searches go to the shards, changes through the front, one after the other. Who changes sees it at once;
           others do when a copy next looks at its directory (shard.STALE seconds), the copy that writes at once.
Lost:      a front that is lost is started again by Ray, and opens the index again when it is asked; who finds an actor
           gone asks it where there is another.
Not here:  what is done with shards (sharded.py)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from polarindex.distributed import actors
from polarindex.distributed.actors import NAMESPACE, Deadline
from polarindex.distributed.engines import imported_ray
from polarindex.distributed.sharded import TIMEOUT, Ids, ShardedIndex
from polarindex.errors import ShardError, first_line
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex

_CALLS = 32  # that a front takes at a time
_GLANCE = 5.0  # seconds to ask a front where an actor is


class About(NamedTuple):
    """What a program is told that reaches a served index."""

    frame: FlatIndex | IVFIndex
    handles: list[list[Any]]
    read_only: bool
    threads: int


class Front:
    """What an actor does that serves an index: opens it when it is first asked, says where its shards are, makes
    changes."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        self._path, self._options = path, options
        self._turn = threading.Lock()
        self._held: ShardedIndex | None = None

    @property
    def _index(self) -> ShardedIndex:
        with self._turn:
            if self._held is None:
                self._held = ShardedIndex.open(self._path, **self._options)
            return self._held

    def about(self) -> About:
        index = self._index
        return About(index._frame, index._handles.handles(), index._read_only, index._threads)

    def lost(self, shard: int, replica: int, handle: Any) -> list[list[Any]]:
        """Where the shards are, one actor of which is gone."""
        self._index._handles.lost(shard, replica, handle)
        return self._index._handles.handles()

    def reserve(self, count: int) -> Ids:
        """So many ids that nobody has used and nobody else is given."""
        return self._index._reserved(count)

    def change(self, method: str, arguments: tuple[Any, ...]) -> tuple[Any, list[str], list[int]]:
        """What a change returns, and of every shard its last change and its rows."""
        result = getattr(self._index, method)(*arguments)
        return result, list(self._index._changes), list(self._index._sizes)

    def close(self) -> None:
        with self._turn:
            if self._held is not None:
                self._held.close()


def serve(path: str | os.PathLike[str], name: str, *, detached: bool = False, **options: Any) -> Callable[[], None]:
    """Serve a sharded index under a name, in the Ray cluster that this process is connected to; returns what ends it.

    detached : go on when this process has ended. options : of ShardedIndex.open

    Raises
    ------
    ValueError
        An index of that name is served already.
    Others as of ShardedIndex.open.
    """
    ray = imported_ray()
    made = ray.remote(Front).options(
        name=_checked_name(name),
        namespace=NAMESPACE,
        lifetime="detached" if detached else None,
        max_restarts=-1,
        max_concurrency=_CALLS,
        num_cpus=0,
    )
    try:
        front = made.remote(os.path.realpath(path), options)
    except ValueError as error:
        raise ValueError(f"an index is served as {name!r} already; stop it, or choose another name") from error
    try:
        ray.get(front.about.remote())
    except BaseException as error:
        ray.kill(front)
        if isinstance(error, ray.exceptions.RayTaskError):
            raise (error.cause or error) from None
        if isinstance(error, ray.exceptions.RayError):
            raise ShardError(f"{name!r} cannot be served: {' '.join(str(error).split())}") from error
        raise
    return lambda: _end(front)


def stop(name: str) -> None:
    """End what is served under a name."""
    _end(_front(name))


def reached(
    name: str,
    *,
    address: str | None = None,
    timeout: float = TIMEOUT,
    hedge: float | None = None,
    direct: bool = True,
) -> ShardedIndex:
    """An index that a cluster serves under a name; see `ShardedIndex.connect`."""
    started = actors.connected(address if address is not None else "auto")

    def disconnect() -> None:
        if started:
            imported_ray().shutdown()

    try:
        handles = _Reached(name, timeout)
        return _Served(handles, timeout=timeout, hedge=hedge, direct=direct, ended=disconnect)
    except BaseException:
        disconnect()
        raise


class _Reached:
    """Where a served index's actors are, as its front says: see actors.Handles."""

    def __init__(self, name: str, timeout: float) -> None:
        self._ray, self.name = imported_ray(), name
        self.front = _front(name)
        self.about: About = self.call("about", Deadline(timeout))
        self._handles = self.about.handles
        self.num_shards, self.replicas = len(self._handles), len(self._handles[0])

    def handle(self, shard: int, replica: int) -> Any:
        return self._handles[shard][replica]

    def handles(self) -> list[list[Any]]:
        return self._handles

    def lost(self, shard: int, replica: int, handle: Any) -> None:
        if self._handles[shard][replica] == handle:
            try:
                self._handles = self.call("lost", Deadline(_GLANCE), shard, replica, handle)
            except ShardError:
                pass  # the front itself is not back; who asks the shard asks again

    def call(self, method: str, deadline: Deadline, *arguments: Any) -> Any:
        """What the front says. ShardError where it does not, LostError where it was lost meanwhile."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(getattr(self.front, method).remote(*arguments), timeout=max(0, deadline.left()))
        except errors.RayTaskError as error:
            raise (error.cause or error) from None
        except errors.RayActorError as error:
            raise LostError(f"{method}: what serves {self.name!r} is lost ({first_line(error)})") from error
        except TimeoutError as error:
            raise ShardError(
                f"{method}: what serves {self.name!r} did not answer within {deadline.seconds:g} s; what it was asked "
                "to change may be changed or not"
            ) from error


class LostError(ShardError):
    """A front was lost while it was asked; it may be back."""


class _Served(ShardedIndex):
    """An index that others serve: changes go through its front."""

    _handles: _Reached

    def __init__(
        self, handles: _Reached, *, timeout: float, hedge: float | None, direct: bool, ended: Callable[[], None]
    ) -> None:
        about = handles.about
        super().__init__(
            about.frame,
            handles,
            read_only=about.read_only,
            timeout=timeout,
            hedge=hedge,
            direct=direct,
            threads=about.threads,
            next_id=0,
            ended=ended,
        )

    def add(self, x: Any, ids: Any = None) -> Ids:
        with self._changing("add"):
            rows = self._rows(x).array()
            if ids is None:
                new_ids: Ids = self._asked("reserve", self._deadline(None), len(rows))
                self._through("upsert", new_ids, rows)
                return new_ids
            new_ids = self._unique(ids, len(rows))
            self._through("add", rows, new_ids, again=("upsert", (new_ids, rows)))
            return new_ids.copy()

    def update(self, ids: Any, x: Any) -> None:
        rows = self._rows(x).array()
        self._through("update", self._unique(ids, len(rows)), rows)

    def upsert(self, ids: Any, x: Any) -> None:
        rows = self._rows(x).array()
        self._through("upsert", self._unique(ids, len(rows)), rows)

    def remove(self, ids: Any, missing: str = "raise") -> int:
        given = self._unique(ids)
        removed: int = self._through("remove", given, missing, again=("remove", (given, "ignore")))
        return len(given) if missing == "raise" else removed

    def sync(self) -> None:
        self._through("sync")

    def compact(self) -> None:
        self._through("compact")

    def close(self) -> None:
        """Go; the index is served on."""
        if not self._closed:
            self._closed = True
            self._hang_up()
            self._ended()

    def _through(
        self, method: str, *arguments: Any, again: tuple[str, tuple[Any, ...]] | None = None
    ) -> Any:
        """Have the front make a change; `again` is what completes it where a front was lost half way."""
        with self._changing(method):
            deadline = self._deadline(None)
            try:
                done = self._handles.call("change", deadline, method, arguments)
            except LostError:
                done = self._asked("change", deadline, *(again or (method, arguments)))
            result, self._changes[:], self._sizes[:] = done
            return result

    def _asked(self, method: str, deadline: Deadline, *arguments: Any) -> Any:
        """What the front says, or the one that takes its place, of what may be asked twice."""
        while True:
            try:
                return self._handles.call(method, deadline, *arguments)
            except LostError:
                if deadline.left() < 0:
                    raise
                time.sleep(actors.PAUSE)


def _front(name: str) -> Any:
    ray = imported_ray()
    try:
        return ray.get_actor(_checked_name(name), namespace=NAMESPACE)
    except ValueError:
        names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)
                 if actor["namespace"] == NAMESPACE]
        known = f"there are {', '.join(map(repr, sorted(names)))}" if names else "none is served there"
        raise ValueError(f"no index is served as {name!r} in this Ray cluster; {known}") from None


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {type(name).__name__}")
    if not name or "/" in name:
        raise ValueError(f"name must be some characters without a slash, got {name!r}")
    return name


def _end(front: Any) -> None:
    ray = imported_ray()
    try:
        ray.get(front.close.remote(), timeout=TIMEOUT)
    except (ray.exceptions.RayError, TimeoutError):
        pass  # it is gone, or killed now
    ray.kill(front)
