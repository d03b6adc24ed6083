"""sweep.jsonl: what a sweep has measured, a line each, on the disk before the next cell begins.

Law:       a line is there whole or not at all, and a sweep that was killed goes on after the last one.
Lines:     the first holds the plan and its key; then, in any order, cells (kind "cell": the flat row, when it was
           measured and on what) and bounds (kind "bound"); the last, once all cells are there, is kind "end".
Kept:      what another plan began and did not end is renamed after its key, and found again by that plan.
One:       a lock keeps a second sweep out of the folder from the first line to the last."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from polarindex.errors import FormatError, LockedError
from polarindex.sweep.plan import Plan
from polarindex.sweep.results import FORMAT, Bound, Results, Row

NAME, LOCK = "sweep.jsonl", "sweep.lock"


class Journal:
    """The file of one sweep; `close` it, or use it in a `with`.

    Attributes
    ----------
    results : what its lines say.
    begun : whether it has a line of this plan.
    kept : where the first new line moves an unfinished sweep of another plan to, or None.
    """

    def __init__(self, folder: Path, plan: Plan, environment: dict[str, Any], *, fresh: bool = False) -> None:
        """Read the plan's sweep in this folder, if there is one (and not fresh). Nothing is written yet.

        FormatError where sweep.jsonl is something else; LockedError where another sweep writes it.
        """
        self.path, self._lock = folder / NAME, FileLock(folder / LOCK)
        self.results = Results(plan, environment)
        self._held: BinaryIO | None = None
        if folder.is_dir():
            self._take_lock()
        here, mine = _lines(self.path), self._aside(plan.key)
        another = bool(here) and here[0]["key"] != plan.key
        self.kept = self._aside(here[0]["key"]) if another and _unfinished(here) else None
        self._before: Path | None = None if fresh else mine if another or not here else self.path
        lines = [] if fresh else _lines(mine) if self._before == mine else here
        self.begun = bool(lines)
        for line in lines[1:]:
            self._take(line)

    def add(self, row: Row) -> None:
        """Keep a row; it replaces one of the same key."""
        self.results.add(row)  # first: whoever sees the line and sends Ctrl-C finds the row in the report
        self._write({"kind": "cell", **row.flat(), "when": _now(), "environment": self.results.environment})

    def add_bound(self, bound: Bound) -> None:
        """Keep what is possible on a data set."""
        self._write({"kind": "bound", **vars(bound)})
        self.results.bounds[bound.dataset] = bound

    def end(self) -> None:
        """Say that all cells are there."""
        if not self.results.complete:
            self._write({"kind": "end", "when": _now()})
            self.results.complete = True

    def close(self) -> None:
        """Let another sweep have the folder."""
        if self._held:
            self._held.close()
        self._held = None
        self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, line: dict[str, Any]) -> None:
        if line["kind"] == "cell":
            self.results.add(Row.from_flat(line))
        elif line["kind"] == "bound":
            bound = _bound(line)
            self.results.bounds[bound.dataset] = bound
        self.results.complete = line["kind"] == "end"

    def _write(self, line: dict[str, Any]) -> None:
        if self._held is None:
            self._held = self._opened()
        _append(self._held, line)
        self.results.complete = False

    def _opened(self) -> BinaryIO:
        """The file, where the next line goes: after the last whole one, or after a first one that is new."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        plan = self.results.plan
        if self.kept:
            os.replace(self.path, self.kept)
        if self.begun and self._before != self.path:
            os.replace(self._aside(plan.key), self.path)
        if not self.begun:
            self._aside(plan.key).unlink(missing_ok=True)
        file = open(self.path, "rb+" if self.begun else "wb")  # noqa: SIM115
        if self.begun:
            file.truncate(file.read().rfind(b"\n") + 1)  # a killed sweep may have left a part of a line
            file.seek(0, os.SEEK_END)
        else:
            _append(file, {"kind": "plan", "format": FORMAT, "key": plan.key, "plan": plan.as_dict()})
        self.begun = True
        return file

    def _aside(self, key: str) -> Path:
        return self.path.with_name(f"sweep-{key}.jsonl")

    def _take_lock(self) -> None:
        try:
            if not self._lock.is_locked:
                self._lock.acquire(timeout=0)
        except Timeout:
            raise LockedError(f"another sweep writes to {self.path.parent}: wait, or choose another folder") from None


def _append(file: BinaryIO, line: dict[str, Any]) -> None:
    file.write(json.dumps(line).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _unfinished(lines: list[dict[str, Any]]) -> bool:
    return lines[-1]["kind"] != "end" and any(line["kind"] == "cell" for line in lines)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal, all as they should be; [] where there is none, or a part of the first line."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = text[: text.rfind(b"\n") + 1]
    if not whole and b'{"kind": "plan"'.startswith(text[:15]):
        return []
    try:
        first, *lines = (json.loads(line) for line in whole.splitlines())
        if first["kind"] != "plan" or first["format"] != FORMAT or not isinstance(first["key"], str):
            raise ValueError(f"it begins with {str(first)[:60]!r}, and not with a plan in format {FORMAT!r}")
        for line in lines:
            if line["kind"] == "cell":
                Row.from_flat(line)
            elif line["kind"] == "bound":
                _bound(line)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        what = f"{type(error).__name__}: {error}"
        raise FormatError(f"{path} is not what a sweep writes ({what}); move it away") from error
    return [first, *lines]


def _bound(line: dict[str, Any]) -> Bound:
    return Bound(line["dataset"], line["content"], tuple((bits, error) for bits, error in line["points"]))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
