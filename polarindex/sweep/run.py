"""Run a plan: its cells are measured one by one, and one that fails does not stop the others.

Law:       a cell that was measured before, of the same data, version and machine, is not measured again; what is of
           other data is not taken for it.
Memory:    one data set at a time.
Not here:  what is measured and how (measure.py); where rows are kept meanwhile (journal.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import NamedTuple

from polarindex.errors import first_line
from polarindex.sweep.dataset import Dataset, dataset_path, load_dataset, vectors_alone
from polarindex.sweep.files import PART
from polarindex.sweep.measure import Bench, FailedBuild
from polarindex.sweep.own import opened
from polarindex.sweep.peers import faiss_installed
from polarindex.sweep.plan import Cell, Plan, hash_of
from polarindex.sweep.results import Bound, Results, Row, environment


class Step(NamedTuple):
    """Where a sweep is.

    A data set is about to be opened (no cell), a cell begins (no row), or its row is there; `bound` comes once a set.
    `total` is a guess until the last set is open: the number of cells depends on its rows and dimension.
    """

    dataset: str
    cell: Cell | None
    done: int
    total: int
    row: Row | None = None
    bound: Bound | None = None


def run(plan: Plan, earlier: Results | None = None) -> Iterator[Step]:
    """Measure the plan's cells one by one, two steps a cell. Data sets are found first and loaded in turn.

    Parameters
    ----------
    plan : Plan
    earlier : Results, optional
        What was measured before: cells that it has, without an error, are passed over. Rows that are of other data,
        version or machine leave it when their data set is opened, and the others come into the plan's order.

    Notes
    -----
    An error within a cell becomes its row's `error`. Errors of a data set (MissingDatasetError, FormatError,
    ValueError where it holds fewer than max(k) neighbours) are raised; KeyboardInterrupt goes through.
    """
    for name in plan.datasets:
        if vectors_alone(name):
            opened(name, plan.queries_from)
    results = Results(plan, {}) if earlier is None else earlier
    done = total = 0
    for left, (name, label) in zip(range(len(plan.datasets), 0, -1), _labels(plan).items(), strict=True):
        yield Step(label, None, done, total)
        for step in _swept(name, label, plan, results, done, left):
            done, total = step.done, step.total
            yield step


def _labels(plan: Plan) -> dict[str, str]:
    """What each data set is called: the end of its path, if no other has it."""
    short = {name: dataset_path(name).stem + "".join(name.partition(PART)[1:]) for name in plan.datasets}
    counts = Counter(short.values())
    return {name: label if counts[label] == 1 else name for name, label in short.items()}


def _swept(name: str, label: str, plan: Plan, results: Results, done: int, left: int) -> Iterator[Step]:
    """The steps of one data set; `left` sets are still to come, with this one."""
    dataset = _loaded(name, label, plan)
    cells = plan.cells(len(dataset.train), dataset.dim, peers=faiss_installed())
    total = done + left * len(cells)
    keys = _keys(cells, dataset, plan)
    results.keep(label, dataset.content, list(keys.values()))
    known = {row.key for row in results.rows if row.result is not None}
    missing = [cell for cell in cells if keys[cell] not in known]
    done += len(cells) - len(missing)
    bench = Bench(dataset, plan)
    if missing and label not in results.bounds and (bound := bench.bound()):
        yield Step(label, None, done, total, bound=bound)
    for cell in missing:
        yield Step(label, cell, done, total)
        row = _row(cell, keys[cell], bench)
        done += 1
        yield Step(label, cell, done, total, row)
    results.keep(label, dataset.content, list(keys.values()))


def _loaded(name: str, label: str, plan: Plan) -> Dataset:
    metric, queries_from = (plan.metric, plan.queries_from) if vectors_alone(name) else (None, None)
    dataset = load_dataset(
        name, rows=plan.rows, queries=plan.queries, metric=metric, queries_from=queries_from, seed=plan.seed
    )
    held = dataset.neighbors.shape[1]
    if max(plan.k) > held:
        raise ValueError(f"k must be at most {held}, the neighbours a query in {name}; got {max(plan.k)}")
    return replace(dataset, name=label)


def _keys(cells: tuple[Cell, ...], dataset: Dataset, plan: Plan) -> dict[Cell, str]:
    """Hashes of all that measurements depend on: times of another machine are not taken for this one's."""
    at = environment(plan.threads)
    own, peers = at["versions"]["polarindex"], at["versions"]["faiss"]
    how = at["cpu"], at["threads"], dataset.content, sorted(set(plan.k)), plan.seed, plan.repeats
    return {cell: hash_of([own, peers if cell.subquantizers else "", *how, asdict(cell)]) for cell in cells}


def _row(cell: Cell, key: str, bench: Bench) -> Row:
    result, error = None, ""
    try:
        result = bench.measure(cell)
    except FailedBuild as failure:
        error = str(failure)
    except Exception as failure:  # whatever went wrong in one cell, the others are worth having
        error = f"{type(failure).__name__}: {first_line(failure)}"
    dataset = bench.dataset
    return Row(
        key=key,
        dataset=dataset.name,
        metric=dataset.metric,
        rows=len(dataset.train),
        dim=dataset.dim,
        queries=len(dataset.test),
        method=cell.method,
        bits=round(cell.bits, 4),
        index=cell.index,
        nlist=cell.nlist,
        nprobe=cell.nprobe,
        store=cell.store,
        rerank=cell.rerank,
        seed=bench.plan.seed,
        threads=bench.threads,
        result=result,
        error=error,
    )
