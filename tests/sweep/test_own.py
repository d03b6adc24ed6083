"""A data set made of vectors alone."""

from __future__ import annotations

import numpy as np
import pytest

from polarindex import memory
from polarindex.errors import FormatError
from polarindex.sweep import files
from polarindex.sweep.dataset import load_dataset
from polarindex.sweep.groundtruth import exact_neighbors

N, DIM = 300, 8


@pytest.fixture
def file(tmp_path) -> str:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((N, DIM), np.float32))
    return str(tmp_path / "x.npy")


def as_set(x: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in x}


def test_rows_are_split_into_queries_and_the_others_in_order(file):
    x, data = np.load(file), load_dataset(file, queries=25)
    assert (data.train.shape, data.test.shape) == ((N - 25, DIM), (25, DIM))
    assert as_set(data.train) | as_set(data.test) == as_set(x)
    assert not as_set(data.train) & as_set(data.test)
    places = [int((x == row).all(axis=1).argmax()) for row in data.train]
    assert places == sorted(places)


def test_the_split_is_the_seeds(file):
    first, again, other = (load_dataset(file, queries=25, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.test, again.test)
    assert first.content == again.content != other.content
    assert as_set(first.test) != as_set(other.test)


def test_a_tenth_is_held_out_where_nothing_is_said(file):
    assert len(load_dataset(file).test) == N // 10


def test_blocks_of_any_size_give_the_same_split(file, monkeypatch):
    whole = load_dataset(file, queries=25)
    monkeypatch.setattr(files, "_BLOCK", 7 * 4 * DIM)
    assert load_dataset(file, queries=25).content == whole.content


def test_no_more_than_a_tenth_is_held_out(file):
    assert len(load_dataset(file, queries=200).test) == N // 10


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_neighbours_are_exact(file, metric):
    data = load_dataset(file, queries=20, metric=metric)
    ids, distances = exact_neighbors(data.train, data.test, 100, metric)
    np.testing.assert_array_equal(data.neighbors, ids)
    np.testing.assert_array_equal(data.distances, distances)
    assert data.metric == metric


def test_cosine_is_meant_where_nothing_is_said(file):
    assert load_dataset(file).metric == "cosine"


def test_queries_of_another_file_leave_the_rows_mapped(file, tmp_path):
    queries = np.random.default_rng(1).standard_normal((30, DIM)).astype(np.float16)
    np.savez(tmp_path / "q.npz", one=queries, two=queries[:3])
    data = load_dataset(file, queries_from=f"{tmp_path / 'q.npz'}::one", queries=25, rows=200)
    assert isinstance(data.train, np.memmap)
    np.testing.assert_array_equal(data.train, np.load(file)[:200])
    np.testing.assert_array_equal(data.test, queries[:25])


def test_rows_are_so_many_beside_the_queries(file):
    data = load_dataset(file, rows=200, queries=20)
    assert (len(data.train), len(data.test)) == (200, 20)
    assert (as_set(data.train) | as_set(data.test)) == as_set(np.load(file)[:220])


def test_a_part_of_a_file_is_named_after_its_path(tmp_path):
    np.savez(tmp_path / "x.npz", one=np.eye(30, 4, dtype=np.float32) + 1, two=np.ones((2, 2)))
    assert load_dataset(f"{tmp_path / 'x.npz'}::one", metric="l2", queries=3).train.shape == (27, 4)
    with pytest.raises(FormatError, match="2 matrices"):
        load_dataset(tmp_path / "x.npz")


def test_queries_of_another_dimension_are_an_error(file, tmp_path):
    np.save(tmp_path / "q.npy", np.zeros((3, DIM + 1), np.float32))
    with pytest.raises(FormatError, match="q.npy has 9 columns but .*x.npy has 8"):
        load_dataset(file, queries_from=str(tmp_path / "q.npy"))


def test_bad_values_are_named_by_file_and_row(tmp_path):
    x = np.ones((50, 3), np.float32)
    x[7, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "q.npy", np.ones((2, 3), np.float32))
    for queries in (str(tmp_path / "q.npy"), None):
        with pytest.raises(ValueError, match=r"x\.npy\[7\] is not finite"):
            load_dataset(tmp_path / "x.npy", queries_from=queries)
    x[7] = 0
    np.save(tmp_path / "x.npy", x)
    for queries in (str(tmp_path / "q.npy"), None):
        with pytest.raises(ValueError, match=r"x\.npy\[7\] is a zero vector"):
            load_dataset(tmp_path / "x.npy", queries_from=queries)
    assert len(load_dataset(tmp_path / "x.npy", queries_from=str(tmp_path / "q.npy"), rows=7).train) == 7


def test_the_number_of_a_bad_row_is_that_of_the_file_in_every_block(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_BLOCK", 4 * 3 * 8)
    x = np.ones((50, 3), np.float32)
    x[43, 1] = np.inf
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=r"x\.npy\[43\] is not finite"):
        load_dataset(tmp_path / "x.npy")


def test_too_few_rows_to_hold_some_out_are_an_error(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match="has 1 row, too few to hold out a query; give a file of queries"):
        load_dataset(tmp_path / "x.npy")


def test_a_copy_that_has_no_room_is_refused_before_it_is_made(file, monkeypatch):
    monkeypatch.setattr(memory, "_ASKED_FROM", 0)
    monkeypatch.setattr(memory, "_readings", lambda: iter([(100, "a limit")]))
    with pytest.raises(MemoryError, match="copied to hold out queries, need .* 100 are available"):
        load_dataset(file)


def test_a_data_set_keeps_its_own_metric():
    assert load_dataset("glove-sample", metric="cosine", rows=100, queries=2).metric == "cosine"
    with pytest.raises(ValueError, match="metric must be 'cosine', that of the neighbours in .*; got 'l2'"):
        load_dataset("glove-sample", metric="l2", rows=100, queries=2)
