"""Columns beside vectors come back as they were written, in blocks; what is missing or of another kind is named."""

from __future__ import annotations

import datetime
import decimal
import importlib
from itertools import chain

import h5py
import numpy as np
import pytest

from polarindex.errors import FormatError, MissingDatasetError, MissingExtraError
from polarindex.sweep import columns as module
from polarindex.sweep import files
from polarindex.sweep.columns import Column

N = 25
NUMBERS, NAMES = np.arange(N) * 3, [f"näme {i}" for i in range(N)]


def write_table(path):
    arrow = pytest.importorskip("pyarrow")
    for part in ("feather", "parquet"):
        importlib.import_module(f"pyarrow.{part}")
    table = arrow.table({"number": NUMBERS, "name": NAMES})
    if path.suffix == ".parquet":
        arrow.parquet.write_table(table, path, row_group_size=7)
    elif path.suffix == ".feather":
        arrow.feather.write_feather(table, path)
    else:
        with arrow.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=7)


def write_arrays(path):
    if path.suffix == ".npz":
        np.savez(path, number=NUMBERS, name=np.array(NAMES), vectors=np.ones((N, 3)))
        return
    with h5py.File(path, "w") as file:
        file["number"], file["vectors"] = NUMBERS, np.ones((N, 3))
        file.create_dataset("name", data=NAMES, dtype=h5py.string_dtype())


WRITERS = {
    ".parquet": write_table, ".feather": write_table, ".arrow": write_table, ".npz": write_arrays, ".hdf5": write_arrays
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 4)


@pytest.mark.parametrize("ending", WRITERS)
def test_columns_of_a_file_come_back_in_blocks(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    WRITERS[ending](path)
    numbers, names = Column(path, "number"), Column(path, "name")
    assert numbers.n == names.n == N
    blocks = list(numbers.blocks())
    assert len(blocks) > 5 and [block.start for block in blocks[:2]] == [0, len(blocks[0].values)]
    found = np.concatenate([block.integers() for block in blocks])
    assert found.dtype == np.int64 and np.array_equal(found, NUMBERS)
    assert list(chain.from_iterable(block.texts() for block in names.blocks())) == NAMES
    assert list(chain.from_iterable(block.jsonable() for block in numbers.blocks())) == NUMBERS.tolist()
    assert [block.is_text for block in (blocks[0], next(names.blocks()))] == [False, True]


def test_files_of_one_column_need_no_name(tmp_path):
    np.save(tmp_path / "a.npy", np.array(["a", "b"], "S1"))
    (tmp_path / "b.txt").write_bytes("one\r\ntwo  \nthrée".encode())
    assert next(Column(tmp_path / "a.npy").blocks()).texts() == ["a", "b"]
    lines = Column(tmp_path / "b.txt")
    assert lines.n == 3 and next(lines.blocks()).texts() == ["one", "two  ", "thrée"]


def test_values_of_tables_become_what_json_has(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    day = datetime.datetime(2024, 2, 29, 12, 30)
    columns = {
        "day": [day, None], "tags": [["a"], []], "pair": [{"x": 1}, {"x": None}], "number": [1.5, 2],
        "raw": [b"a", b"b"], "decimal": [decimal.Decimal("1.1"), None], "missing": ["a", None], "holes": [3, None],
        "few": arrow.array(["a", "a"]).dictionary_encode(),
    }  # fmt: skip
    parquet.write_table(arrow.table(columns), tmp_path / "x.parquet")

    def block(name):
        return next(Column(tmp_path / "x.parquet", name).blocks())

    assert block("day").jsonable() == ["2024-02-29T12:30:00", None]
    assert block("tags").jsonable() == [["a"], []] and block("pair").jsonable() == [{"x": 1}, {"x": None}]
    assert block("missing").texts(optional=True) == ["a", None]
    assert block("few").texts() == ["a", "a"]
    with pytest.raises(ValueError, match="column 'tags' of .* must hold strings, got list"):
        block("tags").texts()
    for name in ("raw", "decimal"):
        with pytest.raises(ValueError, match=f"column '{name}' of .* cannot be kept as metadata, which is JSON"):
            block(name).jsonable()
    with pytest.raises(ValueError, match="column 'missing' of .*x.parquet has no value in row 1; every row needs one"):
        block("missing").texts()
    with pytest.raises(ValueError, match="column 'holes' of .* has no value in row 1"):
        block("holes").integers()
    with pytest.raises(ValueError, match="column 'number' of .* must hold whole numbers, got double"):
        block("number").integers()
    with pytest.raises(ValueError, match="column 'number' of .* must hold strings, got double"):
        block("number").texts()


def test_what_is_no_column_is_said(tmp_path):
    np.savez(tmp_path / "x.npz", a=NUMBERS, b=NUMBERS)
    np.save(tmp_path / "x.npy", np.ones((3, 2)))
    (tmp_path / "x.fvecs").write_bytes(b"")
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    np.savez(tmp_path / "objects.npz", a=np.array([{}, {}]))
    for name, column, error, said in (
        ("gone.npz", "a", MissingDatasetError, "no file "),
        ("x.npz", "c", FormatError, "x.npz has no column 'c'; it has 'a', 'b'"),
        ("x.npz", None, FormatError, "x.npz has several columns: name one, as FILE::NAME, 'a', 'b'"),
        ("x.npy", None, FormatError, r"x.npy has no columns: it holds an array of shape \(3, 2\)"),
        ("x.fvecs", "a", FormatError, "x.fvecs has no columns beside its vectors; give ids and keys in a file"),
        ("bad.parquet", "a", FormatError, "bad.parquet is not a readable .parquet file"),
        ("bad.txt", None, FormatError, "bad.txt is not a readable .txt file"),
        ("objects.npz", "a", FormatError, "objects.npz is not a readable .npz file"),
    ):
        if name == "bad.parquet":
            pytest.importorskip("pyarrow")
        with pytest.raises(error, match=said):
            Column(tmp_path / name, column)


def test_damage_after_the_beginning_names_the_row(tmp_path):
    pytest.importorskip("pyarrow")
    write_table(tmp_path / "x.parquet")
    data = bytearray((tmp_path / "x.parquet").read_bytes())
    data[4 : len(data) // 4] = bytes(len(data) // 4 - 4)
    (tmp_path / "x.parquet").write_bytes(data)
    with pytest.raises(FormatError, match="x.parquet cannot be read from row [0-9]+ on"):
        [block.texts() for block in Column(tmp_path / "x.parquet", "name").blocks()]


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    (tmp_path / "x.parquet").write_bytes(b"")
    monkeypatch.setattr(files, "import_module", missing)
    with pytest.raises(MissingExtraError, match="pip install 'polarindex\\[files\\]'"):
        Column(tmp_path / "x.parquet", "a")
