"""Runs on disk: rows by shard and list, whole or not there, the same when they are written again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polarindex.distributed import runs
from polarindex.distributed.runs import Run


@given(
    shards=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    lists=st.booleans(),
    seed=st.integers(0, 99),
)
def test_each_shard_has_its_rows_in_order_and_by_list(shards, lists, seed, tmp_path_factory):
    folder, rng, n = tmp_path_factory.mktemp("runs"), np.random.default_rng(seed), len(shards)
    columns = {"ids": rng.permutation(n), "codes": rng.integers(0, 2**32, (n, 3), np.uint32), "scales": rng.random(n)}
    if lists:
        columns["lists"] = rng.integers(0, 6, n).astype(np.int32)
    of = np.array(shards, np.int32)
    runs.write(folder, 7, of, 5, columns)
    assert runs.written(folder) == {7} and [entry.name for entry in folder.iterdir()] == ["00000007"]
    for shard in range(5):
        run, mine = Run(folder, 7, shard), np.flatnonzero(of == shard)
        if lists:
            mine = mine[np.argsort(columns["lists"][mine], kind="stable")]
        assert run.n == len(mine)
        for name, values in columns.items():
            start, stop = sorted(rng.integers(0, run.n + 1, 2))
            found = run(name, start, stop)
            assert found.dtype == values.dtype and np.array_equal(found, values[mine][start:stop])


def test_a_run_is_written_again_to_no_effect(tmp_path):
    """As by a process that outlived the build that began it."""
    columns = {"ids": np.arange(3)}
    for _ in range(2):
        runs.write(tmp_path, 0, np.zeros(3, np.int32), 1, columns)
    assert [entry.name for entry in tmp_path.iterdir()] == ["00000000"]
    assert Run(tmp_path, 0, 0)("ids", 0, 3).tolist() == [0, 1, 2]


def test_an_error_while_a_run_is_written_leaves_none(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr("os.rename", full)
    with pytest.raises(OSError, match="No space left"):
        runs.write(tmp_path, 0, np.zeros(3, np.int32), 1, {"ids": np.arange(3)})
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_of_runs_is_removed(tmp_path):
    runs.write(tmp_path, 3, np.zeros(1, np.int32), 1, {"ids": np.arange(1)})
    (tmp_path / ".00000004-0123abcd").mkdir()
    (tmp_path / ".00000004-0123abcd" / "ids.npy").write_bytes(b"half")
    assert runs.written(tmp_path) == {3}
    runs.sweep(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["00000003"]


def test_a_run_that_was_cut_short_is_said(tmp_path):
    runs.write(tmp_path, 0, np.zeros(9, np.int32), 1, {"ids": np.arange(9)})
    path = tmp_path / "00000000" / "ids.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(OSError, match=r"ids\.npy is shorter than it was written"):
        Run(tmp_path, 0, 0)("ids", 0, 9)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_what_is_swept_while_it_is_written_becomes_no_run(after, tmp_path, monkeypatch):
    """By a process that outlived its build, while the build goes on in another; after so many of three files."""
    real, count = runs._write_array, 0

    def write_array(path, array):
        nonlocal count
        real(path, array)
        count += 1
        if count == after:
            runs.sweep(tmp_path)

    monkeypatch.setattr(runs, "_write_array", write_array)
    columns = {"ids": np.arange(3), "codes": np.arange(3)}
    with pytest.raises(OSError):
        runs.write(tmp_path, 0, np.zeros(3, np.int32), 1, columns)
    assert list(tmp_path.iterdir()) == []
    runs.write(tmp_path, 0, np.zeros(3, np.int32), 1, columns)
    assert runs.written(tmp_path) == {0}
