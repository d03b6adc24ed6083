"""The files for ann-benchmarks, called as that project's runner calls them: on every setting of config.yml."""

from __future__ import annotations

import importlib
import itertools
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from polarindex.sweep.groundtruth import exact_neighbors
from polarindex.sweep.metrics import overlap_at

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "ann_benchmarks" / "polarindex"
DIM, ROWS, QUERIES, COUNT = 16, 3000, 20, 10
PROPERTIES = {"base_args", "constructor", "disabled", "docker_tag", "module", "name", "run_groups"}


class BaseANN:
    """What ann-benchmarks' documentation says of the base class: what is not overridden, and how it behaves."""

    def done(self) -> None: ...

    def get_memory_usage(self) -> float:
        return 1.0

    def fit(self, X) -> None: ...

    def query(self, q, n):
        return []

    def batch_query(self, X, n) -> None:
        self.res = [self.query(q, n) for q in X]

    def get_batch_results(self):
        return self.res

    def get_additional(self) -> dict:
        return {}

    def __str__(self) -> str:
        return self.name


@pytest.fixture(scope="module")
def module():
    """The module, under the name that it has there, with no more of the project than it imports."""
    names = ["ann_benchmarks", "ann_benchmarks.algorithms", "ann_benchmarks.algorithms.base"]
    made = {name: types.ModuleType(name) for name in names}
    for part in made.values():
        part.__path__ = []
    made["ann_benchmarks.algorithms.base.module"] = base = types.ModuleType("ann_benchmarks.algorithms.base.module")
    base.BaseANN = BaseANN
    here = types.ModuleType("ann_benchmarks.algorithms.polarindex")
    here.__path__ = [str(FOLDER)]
    made["ann_benchmarks.algorithms.polarindex"] = here
    with pytest.MonkeyPatch.context() as patch:
        for name, part in made.items():
            patch.setitem(sys.modules, name, part)
        yield importlib.import_module("ann_benchmarks.algorithms.polarindex.module")
        sys.modules.pop("ann_benchmarks.algorithms.polarindex.module")


def combinations(values):
    """A setting for every choice from lists, as the runner makes them: of a list lists, of a dict dicts."""
    if isinstance(values, dict):
        return [dict(zip(values, chosen, strict=True)) for chosen in combinations(list(values.values()))]
    return [list(chosen) for chosen in itertools.product(*(one if isinstance(one, list) else [one] for one in values))]


def algorithms() -> list[dict]:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((FOLDER / "config.yml").read_text())["float"]["any"]


def small(params: dict) -> dict:
    """Lists for 3,000 rows in place of a million."""
    return params | ({"nlist": params["nlist"] // 64} if "nlist" in params else {})


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, DIM)) * 3
    train, test = (
        (centres[rng.integers(0, 40, n)] + rng.standard_normal((n, DIM))).astype(np.float32) for n in (ROWS, QUERIES)
    )
    return train, test


def test_the_configuration_has_what_the_runner_reads():
    for algorithm in algorithms():
        assert set(algorithm) == PROPERTIES
        assert algorithm["base_args"] == ["@metric"]
        assert algorithm["module"] == "ann_benchmarks.algorithms.polarindex"
        for group in algorithm["run_groups"].values():
            assert set(group) == {"arg_groups", "args", "query_args"}
    names = [algorithm["name"] for algorithm in algorithms()]
    assert len(set(names)) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["euclidean", "angular"])
def test_every_setting_runs_and_the_widest_finds_what_is_near(module, data, distance):
    train, test = data
    metric = {"euclidean": "l2", "angular": "cosine"}[distance]
    true, _ = exact_neighbors(train, test, COUNT, metric)
    for algorithm in algorithms():
        for group in algorithm["run_groups"].values():
            (values,) = group["arg_groups"]
            for params in map(small, combinations(values)):
                built = getattr(module, algorithm["constructor"])(distance, params)
                built.fit(train)
                found = 0.0
                for arguments in combinations(group["query_args"])[-3:]:
                    built.set_query_arguments(*arguments)
                    one_by_one = [built.query(query, COUNT) for query in test]
                    built.batch_query(test, COUNT)
                    for many, one in zip(built.get_batch_results(), one_by_one, strict=True):
                        np.testing.assert_array_equal(many, one)
                    found = max(found, overlap_at(np.stack(one_by_one), true, COUNT))
                codes_alone = {1: 0.2, 2: 0.35, 4: 0.75, 8: 0.95}[params["bits"]]
                assert found > (codes_alone if params["store"] == "none" else 0.95)
                assert all(isinstance(value, (int, float)) for value in built.get_additional().values())
                assert str(built).startswith(f"{algorithm['constructor']}(")
                built.done()


def test_lists_with_too_few_rows_give_what_they_have(module, data):
    built = module.PolarIVF("euclidean", {"nlist": 64, "bits": 4, "store": "none"})
    built.fit(data[0])
    built.set_query_arguments(1, 0)
    assert 0 < len(built.query(data[1][0], 1000)) < 1000
    built.batch_query(data[1], 1000)
    assert min(ids.min() for ids in built.get_batch_results()) >= 0


def test_names_tell_settings_apart(module, data):
    built = module.PolarIVF("euclidean", {"nlist": 8, "bits": 4, "store": "float16"})
    built.fit(data[0])
    names = set()
    for arguments in ((1, 2), (2, 2), (2, 4)):
        built.set_query_arguments(*arguments)
        names.add(str(built))
    assert len(names) == 3


def test_a_distance_that_is_not_set_up_is_said(module):
    with pytest.raises(NotImplementedError, match="got hamming"):
        module.PolarFlat("hamming", {"bits": 4, "store": "none"})


def test_the_image_is_that_projects_and_compiles_ahead():
    text = (FOLDER / "Dockerfile").read_text()
    assert text.startswith("FROM ann-benchmarks\n")
    assert re.search(r"^RUN pip3? install polarindex$", text, re.MULTILINE)
    assert "polarindex warmup" in text
