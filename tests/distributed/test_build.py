"""A sharded index is the frame with each shard's rows, byte for byte, whatever it was built from and how."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polarindex as pi
from polarindex.distributed import build as building
from polarindex.distributed import layout
from polarindex.distributed.build import build
from polarindex.distributed.routing import shards_of
from polarindex.errors import FormatError, LockedError, MissingDatasetError, MissingExtraError
from polarindex.indexes.lock import WriterLock

OPTIONS = {"num_shards": 3, "nlist": 12, "threads": 1}


def added(folder: Path, x: np.ndarray, ids: np.ndarray, at: Path) -> dict[str, Path]:
    """What each shard should be: the frame with its rows added."""
    there, made = layout.read(folder), {}
    of = shards_of(ids, there.num_shards)
    for number, name in enumerate(there.shards):
        index = pi.load(folder / there.frame)
        index.add(x[of == number], ids[of == number])
        index.save(at / name)
        made[name] = at / name
    return made


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    "parameters",
    [
        {"kind": "ivf", "nlist": 12},
        {"kind": "ivf", "metric": "cosine", "store": "int8", "bits": 2},
        {"kind": "ivf", "metric": "ip", "scan_bits": 2, "center": False},
        {"kind": "flat"},
        {"kind": "flat", "metric": "cosine", "store": "float32", "quantizer": "turboquant"},
        {"kind": "flat", "metric": "ip", "center": False},
        {"kind": "ivf", "nlist": 12, "factor_bits": 16},
        {"kind": "flat", "factor_bits": 16},
    ],
)
def test_each_shard_is_the_frame_with_its_rows(parameters, shards, x, tmp_path, contents, short_ranges):
    told = build(x, tmp_path / "built", num_shards=shards, **parameters)
    assert told == layout.read(tmp_path / "built")
    assert told.next_id == len(x) and told.num_shards == shards and told.kind == parameters["kind"]
    for name, path in added(tmp_path / "built", x, np.arange(len(x)), tmp_path).items():
        assert contents(tmp_path / "built" / name) == contents(path)
    assert sorted(entry.name for entry in (tmp_path / "built").iterdir()) == sorted(
        ["sharded.json", "frame", *told.shards, "lock", "lock-holder"]
    )


def test_codes_are_those_of_one_index_of_all_rows(x, tmp_path, short_ranges):
    """Its lists are learned from the same sample, so both have the same centroids, and every row the same words."""
    whole = pi.IVFIndex(16, nlist=12).fit(x)
    whole.add(x)
    there = build(x, tmp_path / "built", **OPTIONS)
    seen = 0
    for name in there.shards:
        shard = pi.load(tmp_path / "built" / name)
        assert np.array_equal(shard.centroids, whole.centroids)
        for mine, theirs in zip(coded(shard, shard.ids), coded(whole, shard.ids), strict=True):
            assert np.array_equal(mine, theirs)
        seen += len(shard)
    assert seen == len(x)


def coded(index: pi.IVFIndex, ids: np.ndarray) -> tuple[np.ndarray, ...]:
    """Code words, scales and lists under some ids."""
    return index._codes_at(index._id_map.positions(ids))


def test_searches_of_shards_merge_to_those_of_one_index(x, rng, tmp_path):
    whole = pi.IVFIndex(16, nlist=12).fit(x)
    whole.add(x)
    there = build(x, tmp_path / "built", **OPTIONS)
    q = rng.standard_normal((20, 16), np.float32)
    shards = [pi.open(tmp_path / "built" / name, read_only=True, mmap=True) for name in there.shards]
    found = [shard.search(q, 5, nprobe=12) for shard in shards]
    distances = np.concatenate([distances for distances, _ in found], axis=1)
    ids = np.concatenate([ids for _, ids in found], axis=1)
    order = np.lexsort((ids, distances))[:, :5]
    wanted_distances, wanted = whole.search(q, 5, nprobe=12)
    assert np.array_equal(np.take_along_axis(distances, order, 1), wanted_distances)
    assert np.array_equal(np.take_along_axis(ids, order, 1), wanted)


@settings(max_examples=15)
@given(
    n=st.integers(1, 400),
    shards=st.integers(1, 12),
    ranges=st.integers(1, 6),
    kind=st.sampled_from(["flat", "ivf"]),
)
def test_any_number_of_rows_lies_in_any_number_of_shards(n, shards, ranges, kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    x = np.random.default_rng(n).standard_normal((n, 5), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "RANGE_ROWS", -(-n // ranges))
        there = build(x, folder / "built", num_shards=shards, kind=kind, threads=1)
    ids = [pi.load(folder / "built" / name).ids for name in there.shards]
    assert np.array_equal(np.sort(np.concatenate(ids)), np.arange(n))
    for number, mine in enumerate(ids):
        assert (shards_of(mine, shards) == number).all()


# --- sources


def saved(kind: str, x: np.ndarray, folder: Path):
    """The same rows in another form."""
    if kind == "npy":
        np.save(folder / "x.npy", x)
        return folder / "x.npy"
    if kind == "hdf5":
        with h5py.File(folder / "x.h5", "w") as file:
            file["train"], file["test"] = x, x[:3]
        return f"{folder / 'x.h5'}::train"
    if kind == "fvecs":
        rows = np.hstack([np.full((len(x), 1), x.shape[1], np.int32).view(np.float32), x])
        rows.tofile(folder / "x.fvecs")
        return str(folder / "x.fvecs")
    if kind == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
        pq.write_table(pa.table({"vector": column}), folder / "x.parquet", row_group_size=90)
        return folder / "x.parquet"
    if kind in ("folder", "list"):
        (folder / "parts").mkdir()
        parts = [folder / "parts" / f"{name}.npy" for name in "abc"]
        for path, part in zip(parts, np.array_split(x, 3), strict=True):
            np.save(path, part)
        (folder / "parts" / "readme.txt").write_text("not vectors")
        return folder / "parts" if kind == "folder" else parts
    if kind == "memmap":
        np.save(folder / "x.npy", x)
        return np.load(folder / "x.npy", mmap_mode="r")
    if kind == "float64":
        return x.astype(np.float64)
    if kind == "iterator":
        return (part for part in np.array_split(x, 7))
    return DataSet(x)


class DataSet:
    """What a build asks of a Ray Dataset."""

    def __init__(self, x: np.ndarray, name: str = "vector") -> None:
        self._x, self._name = x, name

    def iter_batches(self, *, batch_size: int, batch_format: str):
        assert batch_format == "numpy"
        for start in range(0, len(self._x), 130):
            part = self._x[start : start + 130]
            yield {"id": np.arange(len(part)), self._name: part}


SOURCES = ["npy", "hdf5", "fvecs", "parquet", "folder", "list", "memmap", "float64", "iterator", "dataset"]


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_of_the_same_rows_gives_the_same_index(kind, x, tmp_path, contents, short_ranges):
    build(x, tmp_path / "matrix", **OPTIONS)
    build(saved(kind, x, tmp_path), tmp_path / "built", **OPTIONS)
    assert contents(tmp_path / "built") == contents(tmp_path / "matrix")


def test_the_column_of_a_data_set_is_named(x, tmp_path, contents):
    class Two(DataSet):
        def iter_batches(self, **options):
            for batch in super().iter_batches(**options):
                yield batch | {"other": batch["vector"][:, ::-1]}

    with pytest.raises(ValueError, match=r"2 columns of vectors, \['vector', 'other'\]: name one with column="):
        build(Two(x), tmp_path / "built", **OPTIONS)
    with pytest.raises(ValueError, match="has no column 'third'; it has 'id', 'vector', 'other'"):
        build(Two(x), tmp_path / "built", column="third", **OPTIONS)
    build(Two(x), tmp_path / "built", column="vector", **OPTIONS)
    build(x, tmp_path / "matrix", **OPTIONS)
    assert contents(tmp_path / "built") == contents(tmp_path / "matrix")


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_rows_lie_under_ids_that_are_given(kind, x, rng, tmp_path, contents, short_ranges):
    ids = rng.permutation(len(x)) * 10**9
    there = build(x, tmp_path / "built", num_shards=3, kind=kind, ids=ids)
    assert there.next_id == 999 * 10**9 + 1
    for name, path in added(tmp_path / "built", x, ids, tmp_path).items():
        assert contents(tmp_path / "built" / name) == contents(path)


def test_rows_of_a_data_set_lie_under_the_ids_of_its_column(x, rng, tmp_path, contents):
    ids = rng.permutation(len(x)) + 5

    class Named(DataSet):
        def iter_batches(self, **options):
            done = 0
            for batch in super().iter_batches(**options):
                yield batch | {"id": ids[done : (done := done + len(batch["id"]))]}

    build(x, tmp_path / "matrix", ids=ids, **OPTIONS)
    build(Named(x), tmp_path / "built", ids="id", **OPTIONS)
    assert contents(tmp_path / "built") == contents(tmp_path / "matrix")
    ids[7] = ids[8]
    with pytest.raises(ValueError, match="ids must be unique"):
        build(Named(x), tmp_path / "twice", ids="id", **OPTIONS)
    with pytest.raises(ValueError, match="has no column 'name'; it has 'id', 'vector'"):
        build(Named(x), tmp_path / "none", ids="name", **OPTIONS)
    with pytest.raises(TypeError, match="ids='id' names a column of a Ray Dataset, and source is a ndarray"):
        build(x, tmp_path / "none", ids="id", **OPTIONS)


def test_lists_are_as_many_as_suit_one_shard(rng, tmp_path):
    x = rng.standard_normal((4000, 4), np.float32)
    built = build(x, tmp_path / "built", num_shards=4)
    assert built.parameters["nlist"] == pi.IVFIndex(4).fit(x, 1000).nlist == 62


# --- what cannot be


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"num_shards": 0}, ValueError, "num_shards must be from 1 to 65536, got 0"),
        ({"num_shards": 2.5}, TypeError, "num_shards must be an integer"),
        ({"kind": "tree"}, ValueError, "kind must be one of 'flat', 'ivf'"),
        ({"metric": "l1"}, ValueError, "metric must be one of"),
        ({"bits": 9}, ValueError, "bits"),
        ({"nlist": 1001}, ValueError, "source holds 1000 rows, too few for nlist=1001"),
        ({"kind": "flat", "nlist": 4}, ValueError, "nlist and scan_bits are of an inverted file"),
        ({"memory": 10**8}, ValueError, "memory=100,000,000 bytes are too few"),
        ({"memory": "600MB"}, TypeError, "memory must be an integer"),
        ({"processes": 0}, ValueError, "processes must be at least 1"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
        ({"engine": "spark"}, ValueError, "engine must be one of 'auto', 'local', 'ray'"),
        ({"ids": [1, 2]}, ValueError, "ids must have 1000 entries, one a row of source, got 2"),
        ({"ids": np.zeros(1000, int)}, ValueError, "ids must be unique, got 0 at positions 0 and 1"),
    ],
)
def test_arguments_that_cannot_be_are_said_and_nothing_is_made(options, error, said, x, tmp_path):
    with pytest.raises(error) as found:
        build(x, tmp_path / "built", **{**OPTIONS, **options})
    assert said in str(found.value)
    assert not (tmp_path / "built").exists()


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("nowhere.npy", MissingDatasetError, "no file nowhere.npy"),
        ([[1, 2], [3]], ValueError, "source"),
        (np.zeros(3), ValueError, "source must have shape (n, d), got (3,)"),
        (iter([]), ValueError, "source holds no rows"),
        (iter([np.ones((3, 2)), np.ones((3, 3))]), ValueError, "chunk 1, has 3 columns but dim=2 is wanted"),
        (iter([np.ones((3, 2)), np.full((3, 2), np.nan)]), ValueError, "source, chunk 1,[0] is not finite"),
    ],
)
def test_sources_that_cannot_be_are_said_and_nothing_is_made(source, error, said, tmp_path):
    with pytest.raises(error) as found:
        build(source, tmp_path / "built", num_shards=2)
    assert said in str(found.value)
    assert not (tmp_path / "built").exists()


def test_a_folder_without_vectors_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="empty has no file of vectors in it"):
        build(tmp_path / "empty", tmp_path / "built", num_shards=2)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_bad_row_is_named_with_its_file(metric, x, tmp_path, short_ranges):
    x[700] = 0 if metric == "cosine" else np.nan
    np.save(tmp_path / "a.npy", x[:400])
    np.save(tmp_path / "b.npy", x[400:])
    with pytest.raises(ValueError, match=r"b\.npy\[300\] is (a zero vector|not finite)"):
        build([tmp_path / "a.npy", tmp_path / "b.npy"], tmp_path / "built", metric=metric, **OPTIONS)


def test_a_row_too_long_for_the_store_is_named_with_its_file(x, tmp_path, short_ranges):
    x[700] *= 1e6
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ValueError, match=r"x\.npy\[700\] reaches .* beyond float16's 65504"):
        build(tmp_path / "x.npy", tmp_path / "built", store="float16", **OPTIONS)


def test_what_is_at_the_path_is_left_alone(x, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    build(x, tmp_path / "built", **OPTIONS)
    with pytest.raises(FormatError, match="is a file"):
        build(x, tmp_path / "file", **OPTIONS)
    with pytest.raises(FormatError, match="has something else in it"):
        build(x, tmp_path / "folder", **OPTIONS)
    with pytest.raises(FileExistsError, match="is a sharded index already"):
        build(x, tmp_path / "built", **OPTIONS)
    pi.IVFIndex(16, nlist=2).fit(x).save(tmp_path / "index")
    with pytest.raises(FormatError, match="has something else in it"):
        build(x, tmp_path / "index", **OPTIONS)
    assert [entry.name for entry in (tmp_path / "folder").iterdir()] == ["mine"]


def test_one_process_builds_at_a_time(x, tmp_path):
    (tmp_path / "built").mkdir()
    lock = WriterLock(tmp_path / "built")
    try:
        with pytest.raises(LockedError, match=f"is being written by process {os.getpid()}"):
            build(x, tmp_path / "built", **OPTIONS)
    finally:
        lock.release()
    build(x, tmp_path / "built", **OPTIONS)


def test_callers_arrays_are_not_changed(x, rng, tmp_path):
    ids = rng.permutation(1000)
    before = x.copy(), ids.copy()
    build(x, tmp_path / "built", metric="cosine", ids=ids, **OPTIONS)
    assert np.array_equal(x, before[0]) and np.array_equal(ids, before[1])


def test_progress_is_told_of_every_stage(x, tmp_path, short_ranges):
    told: list[tuple[int, int, str]] = []
    build(iter([x]), tmp_path / "built", progress=lambda *what: told.append(what), **OPTIONS)
    stages = list(dict.fromkeys(what for _, _, what in told))
    assert stages == ["writing down", "sampling", "k-means", "coding", "writing"]
    assert all(0 <= done <= total for done, total, _ in told)
    assert [max(done for done, _, name in told if name == what) for what in ("coding", "writing")] == [1000, 1000]


def test_without_ray_the_extra_is_named(x, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'polarindex\[distributed\]'"):
        build(x, tmp_path / "built", engine="ray", **OPTIONS)
    assert not (tmp_path / "built").exists()
    build(x, tmp_path / "built", **OPTIONS)
