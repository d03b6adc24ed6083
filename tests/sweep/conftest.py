"""Results as a sweep would find them, made up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from polarindex.sweep.plan import METHODS, PEERS, Plan
from polarindex.sweep.results import Bound, Measurement, Recall, Results, Row, environment

BITS = (1, 2, 4, 8)
NLIST, PROBES = 64, (1, 8, 64)


def cell(
    dataset: str, method: str, bits: float, recall: float, nprobe: int = 0, store: str = "none", note: str = ""
) -> Row:
    size = 98 * bits + 8 + 8 * bool(nprobe)
    parts = {1: recall / 2, 10: recall}
    shares = {k: Recall(part, max(0.0, part - 0.02), min(1.0, part + 0.02), part) for k, part in parts.items()}
    search = 0.1234 * (nprobe or NLIST) / NLIST
    errors, times = (4.0**-bits, 0.5**bits, 0.01, 1e-5, 1.0), (12.3456, 20.0, search, search, 2 * search)
    measured = Measurement(size, 8 * size / 784, shares, *errors, *times, note)
    index = ("ivf", NLIST, nprobe) if nprobe else ("flat", 0, 0)
    key = f"{dataset} {method} {bits} {nprobe} {store}"
    return Row(key, dataset, "l2", 10_000, 784, 500, method, bits, *index, store, 4 * (store != "none"), 0, 2, measured)


@pytest.fixture
def make_cell() -> Callable[..., Row]:
    return cell


@pytest.fixture
def make_results() -> Callable[..., Results]:
    """A function (names of data sets, methods=, lists=whether there are inverted files too) -> Results."""

    def make(*datasets: str, methods: tuple[str, ...] = (*METHODS, *PEERS), lists: bool = False) -> Results:
        found = Results(Plan(datasets), environment(2), complete=True)
        for dataset in datasets:
            points = tuple((bits / 4, 6.0 ** -(bits / 4)) for bits in range(33))
            found.bounds[dataset] = Bound(dataset, "content", points)
            for place, method in enumerate(methods):
                for bits in BITS:
                    recall = 1 - 0.5**bits / (2 + place / 10)
                    found.rows.append(cell(dataset, method, bits, recall))
                    if lists:
                        shares = {probe: recall * (probe / NLIST) ** 0.1 for probe in PROBES}
                        found.rows += [cell(dataset, method, bits, share, probe) for probe, share in shares.items()]
        return found

    return make
