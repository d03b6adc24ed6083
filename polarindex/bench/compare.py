"""One data set through a comparison: every library that is installed, and a line for each that is not.

Law:       what a file holds of other sets stays; what it holds of this one is replaced.
Not here:  the measuring (measure.py); what is shown of it (report.py)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from polarindex.bench.codes import code_plans, left_out
from polarindex.bench.data import Source, load
from polarindex.bench.lists import Grid, grid_of, list_plans
from polarindex.bench.measure import Say, measure
from polarindex.bench.plans import Plan, spread
from polarindex.bench.result import Result, read, without
from polarindex.bench.threads import one_thread

_QUICK_SETTINGS = 6


def compare_codes(
    source: Source, out: Path, *, repeats: int, engines: tuple[str, ...] = (), facts: dict[str, Any], say: Say
) -> Result:
    """Codes alone, all rows scanned: measured, written to `out`, and returned with what it held of other sets.

    engines   parts of names of libraries, families or engines; none: all
    facts, say   as `measure` has them
    """
    n, dim, metric = _shape(source)
    result = without(read(out), source.name)
    plans = _chosen(code_plans(n, dim, metric), engines)
    families = {plan.family for plan in plans}
    for family, why in left_out(n, dim, metric).items():
        if not engines or family in families:
            result["skipped"].append({"set": source.name, "family": family, "engine": "all", "why": why})
    return _measured(source, plans, repeats, result, out, facts, say)


def compare_lists(
    source: Source,
    out: Path,
    *,
    repeats: int,
    engines: tuple[str, ...] = (),
    grid: Grid | None = None,
    facts: dict[str, Any],
    say: Say,
) -> Result:
    """Inverted files and graphs, with the settings of a grid, or of `grid_of` the set; else as compare_codes."""
    result = without(read(out), source.name)
    plans = _chosen(list_plans(grid or grid_of(*_shape(source))), engines)
    if facts["quick"]:
        plans = [
            Plan(plan.library, plan.family, plan.name, plan.build, spread(plan.settings, _QUICK_SETTINGS))
            for plan in plans
        ]
    return _measured(source, plans, repeats, result, out, facts, say)


def _measured(
    source: Source, plans: list[Plan], repeats: int, result: Result, out: Path, facts: dict[str, Any], say: Say
) -> Result:
    one_thread()
    measure(source, plans, repeats, result, out, facts=facts, say=say)
    return result


def _shape(source: Source) -> tuple[int, int, str]:
    """Rows, dimension and metric; the rows are read, and let go."""
    data = load(source)
    return *data.x.shape, data.metric  # type: ignore[return-value]


def _chosen(plans: Iterable[Plan], engines: tuple[str, ...]) -> list[Plan]:
    found = [plan for plan in plans if plan.named(engines)]
    if not found:
        raise ValueError(f"engines must be parts of names of what is compared here; got {'; '.join(engines)!r}")
    return found
