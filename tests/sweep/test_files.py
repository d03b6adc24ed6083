"""Every format gives back the rows that were written, by slices, and says what is wrong with a damaged file."""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from polarindex import FlatIndex
from polarindex.errors import FormatError, MissingDatasetError, MissingExtraError
from polarindex.sweep import files
from polarindex.sweep.files import formats, held, open_vectors

N, DIM = 23, 5


def rows(dtype: str) -> np.ndarray:
    values = np.random.default_rng(3).integers(-100 if dtype != "uint8" else 0, 100, (N, DIM))
    return (values / (4 if np.dtype(dtype).kind == "f" else 1)).astype(dtype)


def vecs(path: Path, x: np.ndarray) -> None:
    with open(path, "wb") as file:
        for row in x:
            file.write(struct.pack("<i", len(row)) + row.tobytes())


def raw(path: Path, x: np.ndarray) -> None:
    path.write_bytes(struct.pack("<II", *x.shape) + x.tobytes())


def hdf5(path: Path, x: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("group/embeddings", data=x)
        file.create_dataset("labels", data=np.arange(len(x)))


def npz(path: Path, x: np.ndarray) -> None:
    np.savez_compressed(path, embeddings=x, labels=np.arange(len(x)))


def table(x: np.ndarray, fixed: bool = True):
    arrow = pytest.importorskip("pyarrow")
    flat = arrow.array(x.ravel())
    lists = (
        arrow.FixedSizeListArray.from_arrays(flat, x.shape[1])
        if fixed
        else arrow.ListArray.from_arrays(arrow.array(np.arange(0, x.size + 1, x.shape[1], dtype=np.int32)), flat)
    )
    return arrow.table({"name": [f"row {i}" for i in range(len(x))], "embedding": lists})


def parquet(path: Path, x: np.ndarray, fixed: bool = True) -> None:
    importlib.import_module("pyarrow.parquet").write_table(table(x, fixed), path, row_group_size=7)


def arrow(path: Path, x: np.ndarray) -> None:
    whole = table(x)
    ipc = importlib.import_module("pyarrow.ipc")
    with ipc.new_file(str(path), whole.schema) as writer:
        writer.write_table(whole, max_chunksize=7)


def arrow_stream(path: Path, x: np.ndarray) -> None:
    whole = table(x)
    with importlib.import_module("pyarrow.ipc").new_stream(str(path), whole.schema) as writer:
        writer.write_table(whole, max_chunksize=7)


def feather(path: Path, x: np.ndarray) -> None:
    importlib.import_module("pyarrow.feather").write_feather(table(x, False), path)


def safetensors(path: Path, x: np.ndarray) -> None:
    pytest.importorskip("safetensors.numpy").save_file({"embeddings": x, "labels": np.arange(len(x))}, path)


CASES: dict[str, tuple[str, Callable[[Path, np.ndarray], object], str]] = {
    "npy": ("x.npy", np.save, "float16"),
    "npy, Fortran order": ("x.npy", lambda path, x: np.save(path, np.asfortranarray(x)), "float64"),
    "npz": ("x.npz", npz, "float32"),
    "fvecs": ("x.fvecs", vecs, "float32"),
    "bvecs": ("x.bvecs", vecs, "uint8"),
    "fbin": ("x.fbin", raw, "float32"),
    "u8bin": ("x.u8bin", raw, "uint8"),
    "i8bin": ("x.i8bin", raw, "int8"),
    "h5": ("x.h5", hdf5, "float32"),
    "hdf5": ("x.HDF5", hdf5, "float16"),
    "parquet": ("x.parquet", parquet, "float32"),
    "parquet, lists": ("x.parquet", lambda path, x: parquet(path, x, False), "float64"),
    "arrow": ("x.arrow", arrow, "float32"),
    "arrow stream": ("x.arrow", arrow_stream, "float16"),
    "feather": ("x.feather", feather, "float32"),
    "safetensors": ("x.safetensors", safetensors, "float32"),
}


@pytest.fixture(params=CASES)
def written(request, tmp_path) -> tuple[Path, np.ndarray]:
    name, write, dtype = CASES[request.param]
    x = rows(dtype)
    write(tmp_path / name, x)
    return tmp_path / name, x


def test_every_format_is_tested():
    assert {Path(name).suffix.lower() for name, _, _ in CASES.values()} == set(formats())


def test_rows_are_those_that_were_written(written):
    path, x = written
    found = open_vectors(path)
    assert (tuple(found.shape), found.dtype) == (x.shape, x.dtype)
    for part in (slice(0, N), slice(6, 8), slice(13, 15), slice(20, 99), slice(4, 4)):
        some = found[part]
        assert (some.shape, some.dtype) == (x[part].shape, x.dtype)
        np.testing.assert_array_equal(some, x[part])
    np.testing.assert_array_equal(held(found, "x"), x)


def test_an_index_takes_a_file_as_it_is(written):
    path, x = written
    index = FlatIndex(DIM, store="float32")
    index.add(open_vectors(path))
    np.testing.assert_array_equal(index.reconstruct(index.ids), x)


@pytest.mark.parametrize("name", ["npy", "fvecs", "bvecs", "fbin", "u8bin", "i8bin"])
def test_a_plain_file_is_mapped_and_not_read(name, tmp_path):
    file, write, dtype = CASES[name]
    write(tmp_path / file, rows(dtype))
    found = open_vectors(tmp_path / file)
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    assert np.shares_memory(held(found, "x", 9), found)


def test_a_truncated_file_is_damaged_or_short_and_never_wrong(written):
    path, x = written
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 300)):
        path.write_bytes(whole[:length])
        try:
            found = held(open_vectors(path), "x")
        except FormatError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            np.testing.assert_array_equal(found, x[: len(found)])


def test_another_programs_file_is_a_format_error(tmp_path):
    for ending in formats():
        path = tmp_path / f"x{ending}"
        path.write_bytes(b"#!/bin/sh\necho this is a program, not vectors, and quite long\n" * 9)
        with pytest.raises(FormatError, match="x" + ending):
            open_vectors(path)


def test_what_cannot_be_read_names_the_formats(tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n")
    with pytest.raises(FormatError, match=r"vectors are read from \.npy, .*; got '\.csv'"):
        open_vectors(tmp_path / "x.csv")
    with pytest.raises(MissingDatasetError, match="no file"):
        open_vectors(tmp_path / "none.npy")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(4, np.float32), r"wanted a matrix .* got \(4,\) of float32"),
        (np.zeros((0, 4), np.float32), "not empty"),
        (np.zeros((4, 2), complex), "complex128"),
        (np.array([["a"]]), "real numbers"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_said(array, message, tmp_path):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(FormatError, match=message):
        open_vectors(tmp_path / "x.npy")


def test_nothing_in_a_file_is_executed(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[object()]], object), allow_pickle=True)
    with pytest.raises(FormatError, match="x.npy"):
        open_vectors(tmp_path / "x.npy")


@pytest.mark.parametrize("ending", [".npz", ".h5", ".safetensors"])
def test_of_several_matrices_one_is_named(ending, tmp_path):
    path, x, y = tmp_path / f"x{ending}", rows("float32"), rows("float32")[:7] + 1
    if ending == ".npz":
        np.savez(path, one=x, two=y)
    elif ending == ".h5":
        with h5py.File(path, "w") as file:
            file["one"], file["two"] = x, y
    else:
        pytest.importorskip("safetensors.numpy").save_file({"one": x, "two": y}, path)
    np.testing.assert_array_equal(held(open_vectors(path, "two"), "x"), y)
    with pytest.raises(FormatError, match="2 matrices, 'one', 'two': name one"):
        open_vectors(path)
    with pytest.raises(FormatError, match="no part 'three'; it has 'one', 'two'"):
        open_vectors(path, "three")


def test_a_part_of_a_file_without_parts_is_an_error(tmp_path):
    np.save(tmp_path / "x.npy", rows("float32"))
    with pytest.raises(FormatError, match="one matrix, without a name; got part 'a'"):
        open_vectors(tmp_path / "x.npy", "a")


def test_columns_of_floats_are_a_matrix(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    x = rows("float32")
    columns = {"id": np.arange(N)} | {f"e{i}": x[:, i] for i in range(DIM)}
    importlib.import_module("pyarrow.parquet").write_table(arrow.table(columns), tmp_path / "x.parquet")
    np.testing.assert_array_equal(held(open_vectors(tmp_path / "x.parquet"), "x"), x)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[1.0, 2.0], [3.0], [4.0, 5.0]], "row 1 of column 'e' has 1 values, not 2"),
        ([[1.0, 2.0], None], r"row 1 of column 'e' is null \(first of 1\)"),
        ([[1.0, 2.0], [None, 1.0]], "has values that are null"),
    ],
)
def test_ragged_and_missing_vectors_are_named(lists, message, tmp_path):
    arrow = pytest.importorskip("pyarrow")
    importlib.import_module("pyarrow.parquet").write_table(arrow.table({"e": lists}), tmp_path / "x.parquet")
    with pytest.raises(FormatError, match=message):
        held(open_vectors(tmp_path / "x.parquet"), "x")


def test_rows_of_unlike_lengths_in_a_raw_file_are_named(tmp_path):
    x = rows("float32")
    vecs(tmp_path / "x.fvecs", x)
    with open(tmp_path / "x.fvecs", "rb+") as file:
        file.seek(3 * (4 + 4 * DIM))
        file.write(struct.pack("<i", 4))
    with pytest.raises(FormatError, match="row 3 has 4 values, the first one has 5"):
        open_vectors(tmp_path / "x.fvecs")


def test_sizes_that_a_header_makes_up_allocate_nothing(tmp_path):
    (tmp_path / "x.fbin").write_bytes(struct.pack("<II", 2**32 - 1, 2**32 - 1) + bytes(64))
    with pytest.raises(FormatError, match="as its first bytes say"):
        open_vectors(tmp_path / "x.fbin")
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40, 2**10], "data_offsets": [0, 2**52]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    pytest.importorskip("safetensors")
    with pytest.raises(FormatError, match="x.safetensors"):
        open_vectors(tmp_path / "x.safetensors")


def test_a_missing_reader_names_the_extra(tmp_path, monkeypatch):
    def missing(name: str):
        raise ImportError(name)

    monkeypatch.setattr(files, "import_module", missing)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtraError, match=r"pip install 'polarindex\[files\]'"):
        open_vectors(tmp_path / "x.parquet")
