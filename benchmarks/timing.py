"""Timing several ways of one thing in turn, and the machine that the times are of.

Law:       contenders alternate in one process (a, b, a, b, ...), so that a machine that slows down slows them alike;
           a cell is the median, and keeps every time. CPU time unless said otherwise: other processes count less.
Not here:  what is measured (kernel_cells.py)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from polarindex.bench.result import machine as machine_with
from polarindex.bench.result import rounded


@dataclass(frozen=True)
class Cell:
    """One contender at one setting.

    suite, who : of kernel_cells.SUITES, and whose code ran
    what : the setting: n, d, bits, batch, k, ...
    unit : of `times`, one a repeat
    facts : what follows from the median, or was measured beside it
    """

    suite: str
    who: str
    what: dict[str, Any]
    unit: str
    times: list[float]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    def as_dict(self) -> dict[str, Any]:
        head = {"suite": self.suite, "who": self.who, **self.what, "unit": self.unit, "median": rounded(self.median)}
        return head | {name: rounded(value) for name, value in self.facts.items()} | {"times": rounded(self.times)}


@dataclass(frozen=True)
class Skip:
    """What was not measured, and why."""

    suite: str
    who: str
    why: str


def alternating(
    calls: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of every call, `repeats` of each in turn, after one of each that does not count."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    return times


def machine() -> dict[str, Any]:
    """Processor, cores, caches, versions, threads and date."""
    return machine_with(("llvmlite", "turbovec"))
