"""What an index that was opened can do with its directory, and what it notes for that while it changes.

Law:       to sharing.py a sync, a refresh, a compaction and the end are changes, so what a sync writes is one state.
           Searches go on beside all of them; a refresh holds them up only while it takes a record over.
Not here:  how it is done (opened.py), which knows the indexes, not they it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol, TypeVar

from polarindex.indexes.changes import Changes, Numbers
from polarindex.indexes.sharing import Gate, changing

Self = TypeVar("Self", bound="Attached")
_DIRECTORY = "_attachment", "_changes"  # attributes that a copy does not have


class Attachment(Protocol):
    """An index's tie to the directory it was opened from. Every call may raise RuntimeError, which says why not."""

    @property
    def folder(self) -> Path: ...

    def check_change(self) -> None: ...

    def sync(self, index: Any) -> None: ...

    def refresh(self, index: Any) -> bool: ...

    def compact(self, index: Any) -> None: ...

    def close(self, index: Any, sync: bool) -> None: ...

    def info(self) -> dict[str, Any]: ...


class Attached:
    """What all indexes have of their directory; nothing until `polarindex.open` attaches one."""

    _attachment: Attachment | None = None
    _changes: Changes | None = None  # since the last sync, where there is one to come
    _version: int
    _gate: Gate

    @changing
    def sync(self) -> None:
        """Make every change since the last sync durable: when this returns, a crash of any kind does not lose it.

        A crash before leaves all of these changes out. Costs what the rows that changed take, and three syncs of the
        disk; where everything has changed (`fit`, `rebalance`, the frozen centre of a FlatIndex) or more than half of
        the rows, it costs a `compact`. Without a change it does nothing.

        Raises
        ------
        OSError
            The disk is full, gone, ...: what was durable still is, and the next sync tries all of it again.
        RuntimeError
            The index was not opened, only to read, or is closed.
        """
        self._opened().sync(self)

    @changing
    def refresh(self) -> bool:
        """Take over what a writer has synced since an index was opened with read_only=True, or refreshed.

        Returns whether anything was. Until then searches see the index as it was. For the writer itself there is
        nothing to take over.

        Raises
        ------
        FormatError
            The files are damaged, or another index is there now: open it again.
        RuntimeError
            The index was not opened, or is closed.
        """
        return self._opened().refresh(self)

    @changing
    def compact(self) -> None:
        """Sync by writing the index anew, without a log: what was opened is then loaded sooner, and takes less room.

        Costs what `save` costs. Readers keep what they have until they refresh. Errors are those of `sync`.
        """
        self._opened().compact(self)

    def close(self) -> None:
        """Sync, and let others write. Afterwards the index can be searched, not changed. Closing twice is harmless.

        `with polarindex.open(path) as index:` closes at the end, or, after an error, without a sync.
        """
        self._close(sync=True)

    def __enter__(self: Self) -> Self:
        self._opened()
        return self

    def __exit__(self, error: type[BaseException] | None, *rest: object) -> None:
        self._close(sync=error is None)

    def _close(self, sync: bool) -> None:
        self._gate.hold("close", True, lambda: self._opened().close(self, sync))

    # --- for the indexes

    def _stays_at(self, path: str | os.PathLike[str]) -> bool:
        """Whether this is the directory it was opened from."""
        return self._attachment is not None and self._attachment.folder == Path(os.path.realpath(path))

    def _without_directory(self) -> dict[str, Any]:
        """Its attributes, but for what ties it to its directory."""
        return {name: value for name, value in self.__dict__.items() if name not in _DIRECTORY}

    def _opened(self) -> Attachment:
        if self._attachment is None:
            raise RuntimeError(
                f"this {type(self).__name__} belongs to no directory: open it with polarindex.open, or save(path)"
            )
        return self._attachment

    def _may_change(self) -> None:
        """RuntimeError where the index was opened to read, or is closed."""
        if self._attachment is not None:
            self._attachment.check_change()

    def _note(self, numbers: Numbers | range) -> None:
        """Rows of these numbers are about to change."""
        if self._changes is not None:
            self._changes.note(numbers)

    def _note_everything(self) -> None:
        """All rows are about to change, or what they are coded against."""
        if self._changes is not None:
            self._changes.note_everything()

    def _directory_info(self) -> dict[str, Any]:
        """What `info` says of the directory."""
        return self._attachment.info() if self._attachment is not None else {}

    def _become(self, other: Attached) -> None:
        """Take over all that another index is, which is given up; searches remember nothing of before."""
        own = {name: self.__dict__[name] for name in ("_gate", *_DIRECTORY) if name in self.__dict__}

        def step() -> None:
            self.__dict__ = other.__dict__ | own | {"_version": self._version + 1}  # at once: others look for the gate

        self._gate.alone(step)
