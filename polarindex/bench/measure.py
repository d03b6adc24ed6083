"""Measuring: engines of one set are built one after the other, then asked in turn, round after round.

Law:       an engine lives in a process of its own and works alone; a round asks every engine once, so that a machine
           that slows down slows them alike. The result file is whole after every round, whatever ends the program.
Not here:  processes and clocks (worker.py); what is asked (codes.py, lists.py); the file (result.py)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from polarindex.bench.data import K, Source, load
from polarindex.bench.engines import Missing
from polarindex.bench.plans import Plan
from polarindex.bench.resident import available
from polarindex.bench.result import Result, machine_and_engines, rounded, write
from polarindex.bench.worker import Answer, Failed, Worker
from polarindex.sweep.metrics import overlap_with_interval

_BUILDING = 4  # times the float32 rows: what loading and building may need
_APART = 0.15  # how far times of one machine lie apart from one hour to the next, beside what a run sees itself

Say = Callable[[str], None]


def measure(
    source: Source,
    chosen: Iterable[Plan],
    repeats: int,
    result: Result,
    out: Path,
    *,
    facts: dict[str, Any],
    say: Say,
) -> None:
    """Measure engines on a set: rows are added to the result, which is written to `out` after every round.

    facts   of the run, kept with it: `command`, and whether it is a `quick` one
    say     is told what happens, a line each
    """
    data = load(source)
    true, (n, dim), metric = data.true, data.x.shape, data.metric
    del data
    run = {
        "set": source.name, "n": n, "dim": dim, "metric": metric, "queries": min(source.queries, len(true)),
        "singles": min(source.singles, len(true)), "repeats": 0, **facts, "environment": machine_and_engines(),
    }  # fmt: skip
    result["runs"].append(run)
    workers: list[Worker] = []
    try:
        _build(source, chosen, 4 * n * dim, workers, result, say)
        answers: dict[Plan, list[list[Answer]]] = {worker.plan: [] for worker in workers}
        others = list(result["cells"])
        for repeat in range(repeats):
            for worker in list(workers):
                try:
                    answers[worker.plan].append(worker.turn(list(worker.plan.settings)))
                except Failed as error:
                    skip(worker.plan, source.name, str(error), result, say)
                    workers.remove(worker)
                    worker.end()
            run["repeats"] = repeat + 1
            cells = [cell for plan, found in answers.items() if found for cell in _measured(plan, run, found, true)]
            result["cells"] = others + cells
            write(result, out)
            say(f"{source.name}: round {repeat + 1} of {repeats}")
    finally:  # also after Ctrl-C
        for worker in workers:
            worker.end()


def _build(
    source: Source, chosen: Iterable[Plan], size: int, workers: list[Worker], result: Result, say: Say
) -> None:
    """Start a worker for every engine that can be built; `size` is that of the rows in bytes."""
    missing: dict[str, str] = {}  # library -> what its first engine said
    for plan in chosen:
        if plan.library in missing:
            skip(plan, source.name, missing[plan.library], result, say)
            continue
        left = available()
        if left is not None and left < _BUILDING * size:
            skip(plan, source.name, f"only {left / 1e9:.1f} GB of memory are left beside the others", result, say)
            continue
        workers.append(Worker(plan, source))
        try:
            _note(plan, source.name, workers[-1].built(), result, say)
        except (Missing, Failed) as error:
            if isinstance(error, Missing):
                missing[plan.library] = str(error)
            skip(plan, source.name, str(error), result, say)
            workers.pop().end()


def _note(plan: Plan, name: str, built: dict[str, Any], result: Result, say: Say) -> None:
    """What building an engine cost."""
    cost = {key: rounded(value) for key, value in built.items()}
    result["builds"].append({"set": name, "family": plan.family, "engine": plan.name, **cost})
    seconds = built["add_s"] + (built["train_s"] or 0)
    size = f"{built['bytes_per_vector']:.0f} bytes a vector {built['bytes_counted']}"
    say(f"{name}: {plan.family}, {plan.name}: built in {seconds:.1f} CPU s, {size}")


def skip(plan: Plan, name: str, why: str, result: Result, say: Say) -> None:
    result["skipped"].append({"set": name, "family": plan.family, "engine": plan.name, "why": why})
    say(f"{name}: {plan.family}, {plan.name}: skipped: {why}")


def _measured(plan: Plan, run: dict[str, Any], turns: list[list[Answer]], true: Any) -> Iterator[Result]:
    """A cell a setting and mode: recall and its interval, every time, and the median's queries a second."""
    for at, setting in enumerate(plan.settings):
        found = [turn[at] for turn in turns]
        for mode, queries, ids, times in (
            ("batch", run["queries"], found[0].many_ids, [answer.many_s for answer in found]),
            ("single", run["singles"], found[0].singles_ids, [answer.singles_s for answer in found]),
        ):
            median = statistics.median(times)
            recall, low, high = (round(value, 5) for value in overlap_with_interval(ids, true[: len(ids)], K))
            yield {
                "set": run["set"], "family": plan.family, "engine": plan.name, "mode": mode, "setting": setting,
                "recall": recall, "recall_low": low, "recall_high": high, "unit": "CPU s", "median": rounded(median),
                "queries_per_s": rounded(queries / median), "times": rounded(times),
            }  # fmt: skip


def speed_interval(cell: Result) -> tuple[float, float]:
    """Queries a second that a rerun is expected to lie between: the range of the rounds, widened."""
    answered = cell["queries_per_s"] * cell["median"]
    return answered / max(cell["times"]) * (1 - _APART), answered / min(cell["times"]) * (1 + _APART)
