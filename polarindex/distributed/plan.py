"""What a build was asked for, as its folder notes it: a build that goes on is the one that was begun, or an error.

    building/plan.json    the arguments that decide the result, the source's fingerprint, how rows are cut into ranges

Law:       what is asked again is compared with what is noted; memory, processes and engine may be others.
Not here:  what is done by the plan (work.py)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from polarindex import checks
from polarindex.distributed.layout import BUILDING
from polarindex.errors import FormatError
from polarindex.indexes import durable, manifest
from polarindex.indexes.reading import of_type

FORMAT, VERSION = "polarindex-sharded-build", 1
PLAN = "plan.json"


class Plan(NamedTuple):
    """A build.

    asked : the arguments that decide the result, by name
    source : the source's fingerprint
    range_rows : rows that are coded together
    sample_rows : at most so many rows, from which lists are learned
    """

    asked: dict[str, Any]
    source: dict[str, Any]
    range_rows: int
    sample_rows: int

    @property
    def rows(self) -> int:
        return int(self.source["rows"])

    @property
    def ranges(self) -> int:
        return -(-self.rows // self.range_rows)

    def range(self, number: int) -> slice:
        """The rows of a range."""
        start = number * self.range_rows
        return slice(start, min(self.rows, start + self.range_rows))


def put(folder: Path, plan: Plan) -> None:
    """Note the plan of a build, durably."""
    entries = {"format": FORMAT, "version": VERSION, **plan._asdict()}
    durable.replace(folder / PLAN, json.dumps(manifest.sealed(entries), indent=1))


def read(folder: Path) -> Plan | None:
    """The plan of a build that was begun; None where it came to none."""
    path = folder / PLAN
    if not os.path.lexists(path):
        return None
    entries = manifest.read_sealed(path, FORMAT, "a build of a sharded index")
    if entries.get("version") != VERSION:
        raise FormatError(f"{path} is of another version of polarindex; remove {folder.parent} to begin anew")
    try:
        cut, sampled = (checks.integer(entries[name], name, low=1) for name in ("range_rows", "sample_rows"))
        checks.integer(entries["source"]["rows"], "rows", low=1)
        return Plan(of_type(dict, entries["asked"], "asked"), entries["source"], cut, sampled)
    except (LookupError, TypeError, ValueError) as error:
        raise FormatError(f"{path} describes no build; remove {folder.parent} to begin anew: {error!r}") from error


def check_same(there: Plan, asked: dict[str, Any], source: dict[str, Any], folder: Path) -> None:
    """ValueError where what was begun is another build."""
    anew = f"; give the same to go on, or remove {folder} to begin anew"
    for name in {**there.asked, **asked}:
        before, now = there.asked.get(name), asked.get(name)
        if before != now:
            raise ValueError(f"{folder} has a build that was begun with {name}={before!r}, not {now!r}{anew}")
    for name in {**there.source, **source}:
        before, now = there.source.get(name), source.get(name)
        if name == "files" and before and now and before != now:
            changed = [file for file, *_ in now if [file, *_] not in before]
            names = ", ".join(changed or [file for file, *_ in before])
            raise ValueError(f"{folder} has a build whose source has changed: {names:.200}{anew}")
        if before != now:
            raise ValueError(f"{folder} has a build whose source has changed: {name} was {before!r}, is {now!r}{anew}")


def digest(ids: np.ndarray | None) -> str | None:
    """By which ids are known again."""
    return None if ids is None else xxhash.xxh3_64_hexdigest(ids.data)


def building(folder: Path) -> Path:
    """Where a build keeps what it has so far."""
    return folder / BUILDING
