"""A table beside an index: what its ids are called elsewhere, and what belongs to them.

    records.sqlite                 in the index's directory; one table, records(id, key, text, metadata)

Law:       an index holds no id that is not in the table. So rows are added here before the index syncs, and removed
           after it has; a row may be replaced by adding one under a new id, letting the index add and remove in one
           sync, and then removing the old one. What a crash leaves is rows too many, which `reconcile` drops.
How:       SQLite with a rollback journal: where nobody has it open, the file alone is all of it, so that a directory
           can be copied, and read where it cannot be written; a write-ahead log needs shared memory, which network
           disks do not have. synchronous=EXTRA, as with FULL the journal may come back after a loss of power, and
           would take a commit back that was acknowledged. user_version is the number of the format.
Not here:  the index, which knows nothing of this file; filters over metadata (integrations/)."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.errors import FormatError
from polarindex.indexes.reading import check_regular

if TYPE_CHECKING:
    from typing_extensions import Self

FILE = "records.sqlite"
WITHOUT_VECTOR = 2**62  # the first id of rows that no index holds: documents that have no vector (yet)
_APPLICATION, _VERSION = 0x706F6C72, 1  # "polr"; see docs/file-format.md
_SCHEMA = {
    "records": "CREATE TABLE records (id INTEGER PRIMARY KEY, key TEXT NOT NULL, text TEXT, metadata TEXT)",
    "records_key": "CREATE INDEX records_key ON records (key)",
}
_WAIT = 10.0  # seconds for another process to end its transaction
_ROWS = "SELECT id, key, text, metadata FROM records"
_PART = 500  # rows or names in one statement; SQLite may be built to take no more than 999

Ids = NDArray[np.int64]


class Record(NamedTuple):
    """A row: the index's id, the caller's key, and what they gave with it."""

    id: int
    key: str
    text: str | None
    metadata: dict[str, Any] | None


class Records:
    """Keys, texts and metadata by id. Any number of threads may use one; every change is one durable transaction.

    Parameters
    ----------
    path : path of the file, made where it is missing, or None for a table in memory
    read_only : bool
        Change nothing: the file must be there, its directory may be read-only.

    Raises
    ------
    FileNotFoundError
        There is no such file, or, where one is to be made, no such directory.
    FormatError
        The file is no such table, damaged (here, or in whichever call finds it), or of a newer version.
    OSError
        It cannot be read, or written, or another process keeps it locked. Every call may raise it, and has then
        changed nothing.
    """

    def __init__(self, path: str | os.PathLike[str] | None, read_only: bool = False) -> None:
        self.path = None if path is None else Path(path)
        self.read_only = checks.flag(read_only, "read_only")
        self._lock, self._process = threading.RLock(), os.getpid()
        self._connection: sqlite3.Connection | None = None
        if path is None and read_only:
            raise ValueError("read_only=True needs a path: a new table in memory would stay empty")
        if self.path is not None and (read_only or os.path.lexists(self.path)):
            if not os.path.lexists(self.path):
                raise FileNotFoundError(2, "no records here", str(self.path))
            check_regular(self.path)
        elif self.path is not None and not self.path.parent.is_dir():
            raise FileNotFoundError(2, "no directory here for records", str(self.path.parent))
        try:
            with self._named_errors():
                self._connection = self._connected()
                self._prepare(self._connection)
        except BaseException:
            self.close()
            raise

    # --- changing it

    def add(
        self,
        ids: Any,
        keys: Sequence[str],
        texts: Sequence[str | None] | None = None,
        metadatas: Sequence[dict[str, Any] | None] | None = None,
    ) -> None:
        """Add rows, all or none.

        Parameters
        ----------
        ids : (n,) array-like of int
            Unique, >= 0, not in the table.
        keys : n strings, each once
            A key that is there under other ids is from now on that of the largest id; the old rows stay until they
            are removed.
        texts : n strings or None, optional
        metadatas : n dicts or None, optional
            Of what JSON has: dicts with string keys, lists, strings, finite numbers, booleans and None.

        Raises
        ------
        TypeError, ValueError
            Naming the argument and the first bad entry.
        """
        given = checks.id_array(ids, "ids")
        checks.unique_ids(given, "ids")
        rows = list(
            zip(
                given.tolist(),
                _unique_keys(keys, len(given)),
                checks.strings(texts, "texts", len(given), optional=True),
                _metadatas(metadatas, len(given)),
                strict=True,
            )
        )
        with self._changing() as connection:
            for row in rows:
                try:
                    connection.execute("INSERT INTO records VALUES (?, ?, ?, ?)", row)
                except sqlite3.IntegrityError:
                    raise ValueError(f"ids holds {row[0]}, which is in the table already") from None

    def remove(self, ids: Any) -> None:
        """Remove the rows of ids; those that are not there are no error, as after a crash they may be gone."""
        given = checks.id_array(ids, "ids").tolist()
        with self._changing() as connection:
            connection.executemany("DELETE FROM records WHERE id = ?", ((id,) for id in given))

    def update(self, ids: Any, metadatas: Sequence[dict[str, Any] | None]) -> None:
        """Give rows that are there other metadata, all or none; KeyError names the first id that is not there."""
        wanted = checks.id_array(ids, "ids").tolist()
        texts = _metadatas(metadatas, len(wanted))
        with self._changing() as connection:
            for id, text in zip(wanted, texts, strict=True):
                if not connection.execute("UPDATE records SET metadata = ? WHERE id = ?", (text, id)).rowcount:
                    raise KeyError(f"id {id} is not in the records")

    def reconcile(self, held_ids: Any) -> None:
        """Drop what a crash has left beside held_ids, (n,) int: those of the index, as it was opened for writing.

        That is rows of ids that the index does not hold, and rows without a vector whose key has a vector.
        """
        held = checks.id_array(held_ids, "held_ids")
        ids = self.all_ids()
        extra = np.setdiff1d(ids[ids < WITHOUT_VECTOR], held)
        if len(extra):
            self.remove(extra)
        if len(ids) and ids[-1] >= WITHOUT_VECTOR:
            with self._changing() as connection:
                connection.execute(
                    "DELETE FROM records WHERE id >= ? AND key IN (SELECT key FROM records WHERE id < ?)",
                    (WITHOUT_VECTOR, WITHOUT_VECTOR),
                )

    # --- asking it

    def ids(self, keys: Sequence[str], missing: str = "raise") -> Ids:
        """The largest id of each key, (n,) int64; KeyError names the first unknown key, unless missing="ignore"."""
        checks.choice(missing, "missing", ("raise", "ignore"))
        wanted = checks.strings(keys, "keys")
        found = dict(self._where("key", wanted, "SELECT key, max(id) FROM records WHERE {} GROUP BY key"))
        if missing == "raise":
            _all_found(wanted, found, "key")
        return np.array([found[key] for key in wanted if key in found], np.int64)

    def keys(self, ids: Any) -> list[str]:
        """The key of each id; KeyError names the first id that is not there."""
        wanted = checks.id_array(ids, "ids").tolist()
        found = dict(self._where("id", wanted, "SELECT id, key FROM records WHERE {}"))
        return [found[id] for id in _all_found(wanted, found, "id")]

    def rows(self, ids: Any) -> list[Record]:
        """The row of each id; KeyError names the first id that is not there."""
        wanted = checks.id_array(ids, "ids").tolist()
        found = {row[0]: row for row in self._where("id", wanted, f"{_ROWS} WHERE {{}}")}
        return [_record(found[id]) for id in _all_found(wanted, found, "id")]

    def ids_without_vector(self, n: int) -> Ids:
        """n ids that are free for rows without a vector, (n,) int64."""
        with self._reading() as connection:
            (largest,) = connection.execute("SELECT max(id) FROM records WHERE id >= ?", (WITHOUT_VECTOR,)).fetchone()
        first = WITHOUT_VECTOR if largest is None else largest + 1
        return np.arange(first, first + n, dtype=np.int64)

    def all_ids(self) -> Ids:
        """(n,) int64, ascending."""
        with self._reading() as connection:
            rows = connection.execute("SELECT id FROM records ORDER BY id")
            return np.fromiter((id for (id,) in rows), np.int64)

    def version(self) -> int:
        """A number that is another one when another connection has changed the table."""
        with self._reading() as connection:
            (version,) = connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def scan(self) -> Iterator[Record]:
        """Every row, by ascending id. Others may change the table meanwhile: a row is as it is when it is reached."""
        last = -1
        while True:
            with self._reading() as connection:
                part = connection.execute(f"{_ROWS} WHERE id > ? ORDER BY id LIMIT ?", (last, _PART)).fetchall()
            if not part:
                return
            yield from map(_record, part)
            last = part[-1][0]

    def __len__(self) -> int:
        with self._reading() as connection:
            (n,) = connection.execute("SELECT count(*) FROM records").fetchone()
        return int(n)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and len(self.ids([key], missing="ignore")) == 1

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else f"{str(self.path)!r}"
        return f"Records({where}, {'closed' if self._connection is None else f'n={len(self)}'})"

    # --- its end

    def close(self) -> None:
        """Let go of the file. Every change is there already; closing twice is harmless."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def __del__(self) -> None:
        connection: sqlite3.Connection | None = getattr(self, "_connection", None)
        if connection is not None:  # which from Python 3.13 on would warn that it was not closed; nothing is lost
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- the connection

    def _connected(self) -> sqlite3.Connection:
        where = ":memory:"
        if self.path is not None:
            where = f"{self.path.absolute().as_uri()}?mode={'ro' if self.read_only else 'rwc'}"
        return sqlite3.connect(where, timeout=_WAIT, isolation_level=None, check_same_thread=False, uri=True)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Know that the table is ours, and make it where the file is new or empty."""
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "synchronous = EXTRA"):
            connection.execute(f"PRAGMA {pragma}")  # the first two: a file may be anybody's
        if not self.read_only and not _facts(connection).schema:
            with self._changing():
                if _facts(connection) == (0, 0, {}):  # else another process was faster, or it is not an empty table
                    for statement in _SCHEMA.values():
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                    connection.execute(f"PRAGMA user_version = {_VERSION}")
        application, version, schema = _facts(connection)
        if application != _APPLICATION:
            raise FormatError(f"{self.path} is not a table of polarindex's records")
        if version != _VERSION:
            raise FormatError(f"{self.path} has format version {version}; this polarindex reads {_VERSION}")
        if schema != _SCHEMA:
            raise FormatError(f"{self.path} is damaged or was changed: its tables are not those of records")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone."""
        with self._lock, self._named_errors():
            if self._connection is None:
                raise RuntimeError(f"the records of {self.path or 'this table in memory'} are closed")
            if os.getpid() != self._process:
                raise RuntimeError(f"these records were opened by process {self._process}; this is a fork of it")
            yield self._connection

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: durable when the block ends, and nothing where it ends by an error."""
        if self.read_only:
            raise RuntimeError(f"{self.path} was opened with read_only=True: these records cannot be changed")
        with self._reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # of a disk that is full it has rolled back itself
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Let SQLite's errors be this package's: what the disk or another process does, and damage."""
        try:
            yield
        except sqlite3.OperationalError as error:
            hint = ""
            if "readonly" in str(error) and self.read_only:
                hint = "; a crash has left a transaction in it: open it once for writing, which takes that back"
            raise OSError(None, f"{error}{hint}", str(self.path)) from error
        except sqlite3.DatabaseError as error:
            raise FormatError(f"{self.path} is not a readable table of records: {error}") from error

    def _where(self, column: str, values: list[Any], statement: str) -> Iterator[tuple[Any, ...]]:
        """What a statement says of the rows that have one of the values in a column: {} in it is where this stands."""
        with self._reading() as connection:
            for start in range(0, len(values), _PART):
                part = values[start : start + _PART]
                yield from connection.execute(statement.format(f"{column} IN ({','.join('?' * len(part))})"), part)


class _Facts(NamedTuple):
    """What tells one SQLite file from another; schema: the text of each table, index, view and trigger by name."""

    application: int
    version: int
    schema: dict[str, str]


def _facts(connection: sqlite3.Connection) -> _Facts:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return _Facts(application, version, dict(connection.execute("SELECT name, sql FROM sqlite_master")))


def _all_found(wanted: list[Any], found: Container[Any], name: str) -> list[Any]:
    """`wanted`; KeyError names the first that was not found."""
    for value in wanted:
        if value not in found:
            raise KeyError(f"{name} {value!r} is not in the records")
    return wanted


def _record(row: tuple[int, str, str | None, str | None]) -> Record:
    id, key, text, metadata = row
    return Record(id, key, text, None if metadata is None else json.loads(metadata))


def _unique_keys(keys: Any, n: int) -> list[str]:
    out: list[str] = checks.strings(keys, "keys", n)
    if len(set(out)) < n:
        first: dict[str, int] = {}
        for at, key in enumerate(out):
            if first.setdefault(key, at) < at:
                raise ValueError(f"keys must be unique, got {key!r} at positions {first[key]} and {at}")
    return out


def _metadatas(values: Any, n: int) -> list[str | None]:
    """Each metadata as JSON."""
    if values is None:
        return [None] * n
    out = [None if value is None else _as_json(value, f"metadatas[{at}]") for at, value in enumerate(values)]
    if len(out) != n:
        raise ValueError(f"metadatas must have {n} entries, got {len(out)}")
    return out


def _as_json(value: Any, where: str) -> str:
    if not isinstance(value, dict):
        raise TypeError(f"{where} must be a dict or None, got {type(value).__name__}")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} holds a string that UTF-8 cannot hold: {error.reason}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise type(error)(f"{where} must be what JSON can hold: {error}") from None
    if json.loads(text) != value:
        raise TypeError(f"{where} would come back from JSON as another value: keys are strings, and lists no tuples")
    return text
