"""Documents under string keys: an index of their vectors, and the records of their texts, kept in step.

Law:       every change is whole and durable when its call returns, and a crash leaves the state before or after it
           (records.py has the order of writes); what has no vector, and is not in the index, may be there a step too
           soon or too long. Who searches meanwhile sees one of these states, never a mixture.
How:       a document that is replaced gets a new id. A counter that is odd while something changes lets searches go
           on without a lock, and look again where they have met a change.
Not here:  what a framework calls these things, and its filters (langchain.py, llamaindex.py, haystack.py)."""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.errors import FormatError
from polarindex.indexes import durable, opened
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.lock import nobody_has_open
from polarindex.indexes.manifest import MANIFEST
from polarindex.integrations.accepted import Accepted, Accepts
from polarindex.records import FILE, WITHOUT_VECTOR, Record, Records

if TYPE_CHECKING:
    from typing_extensions import Self

_DEFAULTS = {"metric": "cosine", "bits": 4, "store": "float16"}
_TRIES = 3  # looks at what changes meanwhile, before a search waits for its end
T = TypeVar("T")


class Hit(NamedTuple):
    """A document that was found.

    score : its similarity (ip, cosine: larger is nearer) or squared distance (l2); 0 where none was asked for.
    vector : (dim,) float32 where vectors were asked for, and it has one: as stored, else decoded from its code.
    """

    record: Record
    score: float
    vector: NDArray[np.float32] | None


class DocumentIndex:
    """Vectors with a key, a text and metadata each. Any number of threads may use one.

    Parameters
    ----------
    path : path of a directory, optional
        Where the documents are, or will be: every change is synced. One writer at a time. None: in memory.
    dim : int, optional
        Of the vectors; else that of the first ones that come.
    metric, bits, store : optional
        As of FlatIndex; "cosine", 4 and "float16" where not given. Where there is an index, they must be its own.
    index : FlatIndex or IVFIndex, optional
        An empty one to use in place of a new FlatIndex; an IVFIndex must be fitted before documents come.
    read_only : bool
        Only ask, also while another process writes; `refresh` takes over what that one has changed.

    Raises
    ------
    LockedError
        Another writer has it open.
    FormatError
        The directory is no index, or one whose vectors have no records.
    FileNotFoundError
        read_only, and nothing is there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        dim: int | None = None,
        metric: str | None = None,
        bits: int | None = None,
        store: str | None = None,
        index: FlatIndex | IVFIndex | None = None,
        read_only: bool = False,
    ) -> None:
        self._lock, self._turn = threading.RLock(), 0
        self.read_only = checks.flag(read_only, "read_only")
        self.path = None if path is None else Path(os.path.realpath(path))
        self._wanted = {"dim": dim, "metric": metric, "bits": bits, "store": store}
        self._index: FlatIndex | IVFIndex | None = None
        self._records = Records(None) if self.path is None else None
        self._replaced: set[int] = set()  # ids whose rows are to go when the index is synced
        self._accepted = Accepted()
        there = self.path is not None and (self.path.is_file() or self.path.is_dir() and any(self.path.iterdir()))
        if self.path is not None and (there or read_only):
            if index is not None:
                raise ValueError(f"index must be left out: there is something at {self.path} already")
            self._open(self.path)
        elif read_only:
            raise ValueError("read_only=True needs a path: new documents in memory would stay none")
        elif index is not None or dim is not None:
            self._begin(self._new(dim) if index is None else index)

    # --- changing it

    def alone(self) -> AbstractContextManager[Any]:
        """A lock that keeps other threads from changing documents between calls: `with documents.alone(): ...`."""
        return self._lock

    def put(
        self,
        keys: Sequence[str],
        vectors: Any,
        texts: Sequence[str | None] | None = None,
        metadatas: Sequence[dict[str, Any] | None] | None = None,
        has_vector: Sequence[bool] | None = None,
    ) -> None:
        """Add documents, and replace those whose keys are there.

        Parameters
        ----------
        keys : n strings, each once
        vectors : (m, dim) array-like of real numbers
        texts : n strings or None, optional
        metadatas : n dicts or None, optional; see Records.add
        has_vector : (n,) bool, optional
            Which of them have one of the m vectors, in order; by default all. `search` finds only those.

        Raises
        ------
        TypeError, ValueError
            Naming the argument and the first bad entry; nothing has changed.
        OSError
            The disk is full, ...: the documents are in memory, and the next change, or `close`, tries again.
        """
        keys = list(keys)
        there = np.ones(len(keys), bool) if has_vector is None else np.asarray(has_vector, bool)
        with self._changing():
            if not keys:
                return
            new = self._add(vectors, int(there.sum())) if there.any() else np.empty(0, np.int64)
            index, records = self._held()
            ids = np.empty(len(keys), np.int64)
            try:
                ids[there], ids[~there] = new, records.ids_without_vector(len(keys) - len(new))
                old = records.ids(keys, missing="ignore")
                records.add(ids, keys, texts, metadatas)
            except BaseException:
                index.remove(new)
                raise
            self._drop(old)

    def _add(self, vectors: Any, n: int) -> NDArray[np.int64]:
        """Add vectors to the index, or change nothing; their ids."""
        source = checks.vectors(vectors, "vectors", None if self._index is None else self._index.dim)
        if source.n != n:
            raise ValueError(f"vectors must have {n} rows, as there are keys, got {source.n}")
        if self._index is None:
            self._new(source.dim).add(vectors)  # refuses bad ones before there is a directory
            self._begin(self._new(source.dim))
        return self._held()[0].add(vectors)

    def update(self, keys: Sequence[str], metadatas: Sequence[dict[str, Any] | None]) -> None:
        """Give documents other metadata; KeyError names the first key that is not there."""
        with self._changing():
            if keys:
                _, records = self._held()
                records.update(records.ids(keys), metadatas)

    def delete(self, keys: Sequence[str]) -> int:
        """Remove documents; keys that are not there are no error. Returns how many were removed."""
        with self._changing():
            if self._index is None or self._records is None:
                return 0
            old = np.unique(self._records.ids(keys, missing="ignore"))
            self._drop(old)
            return len(old)

    def clear(self, compact: bool = False) -> None:
        """Remove all documents; `compact`: the index's files are then written anew, without what was in them."""
        with self._changing():
            if self._index is not None and self._records is not None:
                self._drop(self._records.all_ids())
                if compact and self.path is not None:
                    self._index.compact()

    # --- asking it

    @property
    def index(self) -> FlatIndex | IVFIndex | None:
        """The index, to tune or to look at; None until the dimension is known. Change it by this class's methods."""
        return self._index

    def __len__(self) -> int:
        return self._asked(lambda records: len(records) - len(self._replaced), 0)

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else repr(str(self.path))
        return f"{type(self).__name__}({where}, n={len(self)}, index={self._index!r})"

    def get(self, keys: Sequence[str]) -> list[Record]:
        """The documents of keys, in their order; without those that are not there."""
        return self._asked(lambda records: records.rows(records.ids(keys, missing="ignore")), [])

    def scan(self) -> Iterator[Record]:
        """Every document, the oldest first."""
        if self._records is not None:
            yield from (record for record in self._records.scan() if record.id not in self._replaced)

    def search(
        self, vector: Any, k: int, accepts: Accepts | None = None, name: str | None = None, with_vectors: bool = False
    ) -> list[Hit]:
        """The k documents nearest to a vector (dim,), best first; of those that `accepts` accepts, asked about each.

        `name`: what tells this `accepts` from all others; what it accepts is then remembered until documents change.
        """
        checks.integer(k, "k", low=1)

        def found(records: Records) -> list[Hit]:
            if self._index is None or not len(self._index):
                return []
            allowed = None
            if accepts is not None:
                allowed = self._accepted.ids(self.scan(), accepts, name, (self._turn, records.version()))
            scores, ids = self._index.search(vector, min(k, len(self._index)), filter=allowed)
            there = ids >= 0
            return self._hits(records.rows(ids[there]), scores[there].tolist(), with_vectors)

        return self._asked(found, [])

    def select(self, accepts: Accepts | None = None, with_vectors: bool = False) -> list[Hit]:
        """The documents that `accepts` accepts, the oldest first, those without a vector last."""

        def found(records: Records) -> list[Hit]:
            rows = [record for record in self.scan() if accepts is None or accepts(record)]
            return self._hits(rows, [0.0] * len(rows), with_vectors)

        return self._asked(found, [])

    def refresh(self) -> bool:
        """Take over what another process has changed since this was opened, or refreshed; whether anything was."""
        index, records = self._held()
        if self.path is None or not self.read_only:
            return index.refresh()
        with self._seen():
            if os.path.samestat(os.stat(self.path / FILE), self._file):
                return index.refresh()
            self._open(self.path)  # other documents were saved here
            records.close()
            return True

    # --- its directory

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all documents to a directory, in place of documents that are there; the constructor reads them.

        Raises
        ------
        FormatError
            Something else is there; nothing is touched.
        LockedError
            Somebody has the documents there open for writing.
        ValueError
            There is nothing to write: no document came so far, and no `dim`.
        """
        target = Path(os.path.realpath(path))
        with self._lock:
            if self._index is None or self._records is None:
                raise ValueError("there are no documents to save, nor is their dimension known")
            if target == self.path:
                return  # every change is there already
            if target.is_file() or target.is_dir() and any(target.iterdir()):
                if not (target / MANIFEST).is_file() or not (target / FILE).is_file():
                    raise FormatError(f"{target} holds something else than documents; save to another directory")
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
            try:
                self._index.save(draft)
                rows = list(self.scan())
                with Records(draft / FILE) as written:
                    if rows:
                        written.add(*zip(*rows, strict=True))
                # Windows renames no directory with an open file, such as a lock: ours, or that of who has it open
                taken = (target / MANIFEST).exists() and os.name != "nt"
                with nobody_has_open(target) if taken else nullcontext():
                    durable.replace_directory(draft, target)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise

    def close(self) -> None:
        """Let go of the directory; what is in memory is gone. Closing twice is harmless."""
        with self._lock:
            if self.path is not None and self._index is not None and self._records is not None:
                self._index.close()
                if self._replaced:
                    self._records.remove(sorted(self._replaced))
                    self._replaced.clear()
            if self._records is not None:
                self._records.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- the two in step

    def _open(self, path: Path) -> None:
        index = opened.open(path, read_only=self.read_only)
        try:
            own = index.parameters()
            for name, wanted in self._wanted.items():
                if wanted is not None and wanted != own[name]:
                    raise ValueError(f"{name}={wanted!r} is not that of the index in {path}: {own[name]!r}")
            if len(index) and not (path / FILE).exists():
                raise FormatError(f"{path} is an index without documents: it has no {FILE}")
            records = Records(path / FILE, read_only=self.read_only)
            try:
                if not self.read_only:
                    _reconcile(index, records)
                self._file = os.stat(path / FILE)
            except BaseException:
                records.close()
                raise
        except BaseException:
            index._close(sync=False)
            raise
        self._index, self._records = index, records

    def _new(self, dim: int | None) -> FlatIndex:
        wanted: dict[str, Any] = {
            **_DEFAULTS,
            **{name: value for name, value in self._wanted.items() if value is not None},
        }
        wanted.setdefault("dim", dim)
        return FlatIndex(**wanted)

    def _begin(self, index: FlatIndex | IVFIndex) -> None:
        """Let an empty index be ours."""
        if len(index):
            raise ValueError(f"index must be empty, got one of {len(index)} vectors, of which there are no documents")
        if self.path is None:
            self._index = index
        else:
            index.save(self.path)
            self._open(self.path)

    def _held(self) -> tuple[FlatIndex | IVFIndex, Records]:
        if self._index is None or self._records is None:
            raise ValueError("the dimension of the vectors is not known: no document came so far, and no `dim`")
        return self._index, self._records

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Alone among those who change something."""
        with self._lock:
            if self.read_only:
                raise RuntimeError(f"{self.path} was opened with read_only=True: its documents cannot be changed")
            with self._seen():
                yield

    @contextmanager
    def _seen(self) -> Iterator[None]:
        """Let those who ask meanwhile ask again."""
        with self._lock:
            self._turn += 1
            try:
                yield
            finally:
                self._turn += 1

    def _hits(self, rows: list[Record], scores: list[float], with_vectors: bool) -> list[Hit]:
        vectors: list[Any] = [None] * len(rows)
        there = [at for at, row in enumerate(rows) if row.id < WITHOUT_VECTOR]
        if with_vectors and there:
            index, _ = self._held()
            for at, vector in zip(there, index.reconstruct([rows[at].id for at in there]), strict=True):
                vectors[at] = vector
        return [Hit(*found) for found in zip(rows, scores, vectors, strict=True)]

    def _drop(self, ids: NDArray[np.int64]) -> None:
        """Let the index forget ids, make all of its changes durable, and remove what no longer counts."""
        index, records = self._held()
        self._replaced.update(ids.tolist())
        index.remove(ids[ids < WITHOUT_VECTOR], missing="ignore")
        if self.path is not None:
            index.sync()
            if index.info()["compact_advised"]:
                index.compact()
        if self._replaced:
            records.remove(sorted(self._replaced))
            self._replaced.clear()

    def _asked(self, ask: Callable[[Records], T], nothing: T) -> T:
        """What `ask` finds, in one state of index and records."""
        if self._records is None:
            return nothing
        for _ in range(_TRIES):
            turn = self._turn
            if turn % 2 == 0:
                try:
                    found = ask(self._records)
                except KeyError:  # an id that was removed meanwhile, here or by another process
                    if self.read_only:
                        self.refresh()
                else:
                    if turn == self._turn:
                        return found
        with self._lock:
            return ask(self._records)


def _reconcile(index: FlatIndex | IVFIndex, records: Records) -> None:
    """Remove what a crash has left; FormatError where index and records were not changed together."""
    records.reconcile(index.ids)
    unknown = np.setdiff1d(index.ids, records.all_ids())
    if len(unknown):
        raise FormatError(f"{records.path} does not have id {unknown[0]}, which its index has: one was changed alone")
