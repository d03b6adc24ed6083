"""What tests of sharded indexes share: what is in a directory, to the byte, and a Ray of two cores."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polarindex.distributed import layout
from polarindex.indexes import manifest

Contents = dict[str, Any]


def index_contents(folder: Path) -> Contents:
    """What an index directory holds, without the names that are there by chance."""
    entries = manifest.read(folder)
    entry = manifest.segment(entries)
    arrays = {file.name: file.read_bytes() for file in sorted((folder / entry["name"]).iterdir())}
    told = {key: entries[key] for key in ("kind", "parameters", "state", "layout", "version")}
    return {**told, "rows": entry["rows"], "files": entry["files"], "arrays": arrays}


@pytest.fixture
def contents() -> Callable[[Path], Contents]:
    """Of an index directory, or of a sharded one with all its folders."""

    def read(path: Path) -> Contents:
        if not (path / layout.SHARDED).exists():
            return index_contents(path)
        there = layout.read(path)
        return {"layout": there, **{name: index_contents(path / name) for name in (there.frame, *there.shards)}}

    return read


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    """A thousand rows around thirty points."""
    points = rng.standard_normal((30, 16))
    return (points[rng.integers(30, size=1000)] + 0.3 * rng.standard_normal((1000, 16))).astype(np.float32)


@pytest.fixture
def short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are coded a few at a time, as if there were many."""
    monkeypatch.setattr("polarindex.distributed.build.RANGE_ROWS", 170)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray, started for a file's tests; without it they are skipped and say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("ray", reason="needs Ray: pip install 'polarindex[distributed]'")
        library.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    yield library
    library.shutdown()


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Four thousand rows around twenty points, for all tests of a file."""
    rng = np.random.default_rng(3)
    points = rng.standard_normal((20, 32))
    return (points[rng.integers(20, size=4000)] + 0.5 * rng.standard_normal((4000, 32))).astype(np.float32)
