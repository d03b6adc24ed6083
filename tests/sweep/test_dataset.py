"""Samples are what they claim to be; files are read in FAISS convention or refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from polarindex.errors import FormatError, MissingDatasetError
from polarindex.sweep import dataset as module
from polarindex.sweep.dataset import (
    SAMPLES,
    Dataset,
    dataset_names,
    dataset_path,
    load_dataset,
    write_dataset,
)
from polarindex.sweep.groundtruth import exact_neighbors
from polarindex.sweep.registry import REGISTRY

STORED = {"l2": "euclidean", "cosine": "angular", "ip": "ip"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POLARINDEX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def random_set(metric="l2", n=60, nq=7, d=5, k=12):
    rng = np.random.default_rng(3)
    train, test = rng.normal(size=(n, d)).astype(np.float32), rng.normal(size=(nq, d)).astype(np.float32)
    return Dataset(
        "made", metric, train, test, *exact_neighbors(train, test, k, metric), "a licence", "a source"
    )


@pytest.fixture(params=["l2", "cosine", "ip"])
def written(request, tmp_path):
    made = random_set(request.param)
    write_dataset(made, tmp_path / "made.hdf5")
    return made, tmp_path / "made.hdf5"


SHAPES = {
    "fashion-mnist-sample": ("l2", (10_000, 784), (1_000, 784), np.uint8),
    "glove-sample": ("cosine", (20_000, 100), (1_000, 100), np.float16),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_as_described(name):
    sample = load_dataset(name)
    metric, train, test, dtype = SHAPES[name]
    assert (sample.name, sample.metric) == (name, metric)
    assert (sample.train.shape, sample.test.shape, sample.train.dtype, sample.test.dtype) == (
        train,
        test,
        dtype,
        dtype,
    )
    assert sample.neighbors.shape == sample.distances.shape == (1_000, 100)
    assert sample.neighbors.dtype == np.int64 and sample.distances.dtype == np.float32
    assert "unknown" not in (sample.licence, sample.source)
    path = dataset_path(name)
    assert path.stat().st_size < 6_000_000
    assert path.with_name(f"{name}.LICENSE.txt").read_text().strip()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_samples_neighbours_are_exact(name):
    """Against float64 products of all rows, as good as exact for uint8 and float16 values."""
    sample = load_dataset(name, queries=100)
    train, test = sample.train.astype(np.float64), sample.test.astype(np.float64)
    if sample.metric == "l2":
        values = (test**2).sum(axis=1)[:, None] - 2 * test @ train.T + (train**2).sum(axis=1)
    else:
        values = -(test @ train.T) / np.linalg.norm(train, axis=1) / np.linalg.norm(test, axis=1)[:, None]
    order = np.argsort(values, axis=1, kind="stable")[:, :100]
    best = np.take_along_axis(values, order, axis=1)
    assert_array_equal(sample.neighbors, order)
    assert_allclose(sample.distances, best if sample.metric == "l2" else -best, rtol=1e-6)


def test_rows_of_the_glove_sample_come_from_the_whole_vocabulary():
    """Frequent words come first in GloVe and have long vectors; alone they would not be GloVe."""
    norms = np.linalg.norm(load_dataset("glove-sample").train.astype(np.float32), axis=1)
    assert norms[:1000].mean() > norms[-1000:].mean() + 1
    assert norms.min() > 0


def test_samples_come_from_the_package_before_the_checkout(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "polarindex"
    source = dataset_path("glove-sample")
    monkeypatch.setattr(module, "__file__", str(package / "sweep" / "dataset.py"))
    with pytest.raises(MissingDatasetError, match="samples.*install polarindex again"):
        dataset_path("glove-sample")
    checkout, installed = package.parent / "datasets" / "samples", package / "samples"
    for folder in (checkout, installed):
        folder.mkdir(parents=True)
        shutil.copy(source, folder)
        assert dataset_path("glove-sample").parent == folder.resolve()


def test_every_name_is_listed():
    assert dataset_names() == (*SAMPLES, *REGISTRY)


@pytest.mark.parametrize("name", REGISTRY)
def test_a_missing_set_says_which_command_gets_it(name):
    with pytest.raises(MissingDatasetError, match=f"polarindex dataset get {name}$"):
        load_dataset(name)


def test_a_downloaded_set_is_found_by_name(cache):
    write_dataset(random_set(), cache / "datasets" / "sift-128-euclidean.hdf5")
    assert load_dataset("sift-128-euclidean").name == "sift-128-euclidean"


@pytest.mark.parametrize("name", ["nowhere.hdf5", "sift", ""])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(MissingDatasetError, match=f"{name!r}.*glove-sample.*gist-960-euclidean"):
        load_dataset(name)


def test_what_is_written_is_read_again(written):
    made, path = written
    read = load_dataset(path)
    for key in ("train", "test", "neighbors"):
        assert_array_equal(getattr(read, key), getattr(made, key))
    assert_allclose(read.distances, made.distances, rtol=1e-5, atol=1e-6)
    for key in ("name", "metric", "licence", "source"):
        assert getattr(read, key) == getattr(made, key)


def test_equal_sets_are_written_as_equal_bytes(written, tmp_path):
    made, path = written
    write_dataset(made, tmp_path / "again.hdf5")
    assert path.read_bytes() == (tmp_path / "again.hdf5").read_bytes()


def test_files_hold_the_distances_of_ann_benchmarks(written):
    made, path = written
    x, q = made.train[made.neighbors[2, 4]].astype(np.float64), made.test[2].astype(np.float64)
    wanted = {
        "l2": np.linalg.norm(x - q),
        "cosine": 1 - x @ q / np.linalg.norm(x) / np.linalg.norm(q),
        "ip": -x @ q,
    }[made.metric]
    with h5py.File(path) as file:
        assert file.attrs["distance"] == STORED[made.metric]
        assert file["distances"][2, 4] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("sign, constant", [(1, 0), (-1, 0), (-1, 1)])
def test_inner_products_are_right_whatever_the_file_calls_their_distance(tmp_path, sign, constant):
    made, path = random_set("ip"), tmp_path / "made.hdf5"
    write_dataset(made, path)
    with h5py.File(path, "r+") as file:
        file["distances"][:] = constant + sign * made.distances
    assert_allclose(load_dataset(path).distances, made.distances, rtol=1e-6)


@pytest.mark.parametrize("attribute, metric", [("angular", "cosine"), (b"euclidean", "l2"), ("dot", "ip")])
def test_distance_names_of_ann_benchmarks_are_understood(tmp_path, attribute, metric):
    path = tmp_path / "made.hdf5"
    write_dataset(random_set(metric), path)
    with h5py.File(path, "r+") as file:
        file.attrs["distance"] = attribute
    assert load_dataset(path).metric == metric


def test_fewer_rows_get_neighbours_of_their_own(written):
    made, path = written
    read = load_dataset(path, rows=20, queries=3)
    assert_array_equal(read.train, made.train[:20])
    assert_array_equal(read.test, made.test[:3])
    ids, distances = exact_neighbors(made.train[:20], made.test[:3], 12, made.metric)
    assert_array_equal(read.neighbors, ids)
    assert_array_equal(read.distances, distances)
    assert load_dataset(path, rows=5).neighbors.shape == (7, 5)


def test_more_rows_than_there_are_means_all(written, cache):
    made, path = written
    read = load_dataset(path, rows=1000, queries=1000)
    assert_array_equal(read.neighbors, made.neighbors)
    assert not cache.exists(), "nothing had to be computed"


def test_a_file_without_neighbours_gets_them(written):
    made, path = written
    with h5py.File(path, "r+") as file:
        del file["neighbors"], file["distances"]
    read = load_dataset(path)
    assert read.neighbors.shape == (7, 60)
    assert_array_equal(read.neighbors[:, :12], made.neighbors)


@pytest.mark.parametrize("arguments", [{"rows": 0}, {"queries": -1}, {"rows": 2.5}])
def test_rows_and_queries_are_positive_integers(arguments):
    with pytest.raises((ValueError, TypeError), match=next(iter(arguments))):
        load_dataset("glove-sample", **arguments)


def replace(key, values):
    def change(file):
        del file[key]
        if values is not None:
            file[key] = values

    return change


def set_distance(value):
    return lambda file: file.attrs.__setitem__("distance", value)


FLAWS = {
    "no data set 'train'": replace("train", None),
    "no data set 'test'": replace("test", None),
    "no data set 'neighbors'": replace("neighbors", None),
    "no data set 'distances'": replace("distances", None),
    "no attribute 'distance'": lambda file: file.attrs.__delitem__("distance"),
    "got 'jaccard'": set_distance("jaccard"),
    "train must be .*bool": replace("train", np.zeros((60, 5), bool)),
    "train must be .*object": replace("train", ["text"] * 60),
    r"train must be .*\(60,\)": replace("train", np.zeros(60)),
    r"train must be .*\(0, 5\)": replace("train", np.zeros((0, 5))),
    "5 columns but test has 4": replace("test", np.zeros((7, 4), np.float32)),
    "neighbors must be .*float64": replace("neighbors", np.zeros((7, 12))),
    "neighbors must be rows of train.*60": replace("neighbors", np.full((7, 12), 60)),
    "neighbors must be rows of train.*-1": replace("neighbors", np.full((7, 12), -1)),
    "a row for each of 7 queries": replace("neighbors", np.zeros((6, 12), int)),
    r"\(7, 11\)": replace("distances", np.zeros((7, 11), np.float32)),
    "distances are not those of the rows": replace("distances", np.full((7, 12), 7, np.float32)),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_foreign_file_is_refused_by_what_it_lacks(tmp_path, flaw):
    path = tmp_path / "made.hdf5"
    write_dataset(random_set(), path)
    with h5py.File(path, "r+") as file:
        FLAWS[flaw](file)
    with pytest.raises(FormatError, match=flaw) as caught:
        load_dataset(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_what_is_not_hdf5_is_refused(tmp_path, content):
    path = tmp_path / "made.hdf5"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"made.hdf5 is not a readable (HDF5|.hdf5) file") as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)


def test_a_cut_file_is_refused(tmp_path):
    path = tmp_path / "made.hdf5"
    write_dataset(random_set(n=5000), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(FormatError, match="not a readable HDF5 file"):
        load_dataset(path)


def test_damage_inside_the_compressed_rows_is_refused(tmp_path):
    path = tmp_path / "made.hdf5"
    write_dataset(random_set(n=5000), path)
    with h5py.File(path) as file:
        chunk = file["train"].id.get_chunk_info(2)
    content = bytearray(path.read_bytes())
    for position in range(chunk.byte_offset + 50, chunk.byte_offset + 80):
        content[position] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(FormatError, match="not a readable HDF5 file"):
        load_dataset(path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "made.hdf5"
    write_dataset(random_set(), path)
    before = path.read_bytes()
    broken = Dataset("made", "l1", *(np.zeros((1, 1)),) * 4)
    with pytest.raises(KeyError):
        write_dataset(broken, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["made.hdf5"]


def test_a_data_set_shows_itself_in_one_line():
    assert repr(random_set()) == "Dataset(name='made', metric='l2', licence='a licence', source='a source')"
    assert random_set().dim == 5


def test_paths_may_be_strings_and_know_the_home_folder(tmp_path, monkeypatch):
    write_dataset(random_set(), tmp_path / "made.hdf5")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert dataset_path("~/made.hdf5") == Path(tmp_path / "made.hdf5")
