"""polarindex add, upsert, remove: the index on the disk has what was asked for, and its keys are those of its rows."""

from __future__ import annotations

import numpy as np
import pytest

import polarindex as pi
from polarindex.records import FILE, WITHOUT_VECTOR, Records


@pytest.fixture
def keyed(call, table, tmp_path):
    call("build", table, "-o", tmp_path / "keyed", "--keys", "name", "--text", "title", "--store", "float32")
    return tmp_path / "keyed"


def keys_of(path):
    with Records(path / FILE, read_only=True) as records:
        assert records.all_ids().tolist() == sorted(pi.load(path).ids.tolist())
        return {record.key: record for record in records.scan()}


def write_keys(path, keys):
    path.write_text("".join(f"{key}\n" for key in keys))
    return path


def test_added_rows_are_there_under_the_next_ids_or_those_given(call, file, x, tmp_path):
    call("build", file, "-o", tmp_path / "index", "--store", "float32")
    np.save(tmp_path / "more.npy", x[:5] + 1)
    np.save(tmp_path / "ids.npy", np.arange(5) * 10 + 1000)
    done = call("add", tmp_path / "index", tmp_path / "more.npy")
    assert done.out == f"{tmp_path}/index: added 5 rows, now 65\n"
    done = call("add", tmp_path / "index", tmp_path / "more.npy", "--ids", tmp_path / "ids.npy", "--json")
    assert done.json == {"path": f"{tmp_path}/index", "added": 5, "n": 70}
    index = pi.load(tmp_path / "index")
    for ids in (np.arange(60, 65), np.arange(5) * 10 + 1000):
        assert np.array_equal(index.reconstruct(ids), x[:5] + 1)


def test_upserted_rows_replace_those_of_their_ids(call, file, x, tmp_path):
    call("build", file, "-o", tmp_path / "index", "--store", "float32")
    np.save(tmp_path / "more.npy", x[:3] + 1)
    np.save(tmp_path / "ids.npy", [7, 99, 3])
    done = call("upsert", tmp_path / "index", tmp_path / "more.npy", "--ids", tmp_path / "ids.npy")
    assert done.out == f"{tmp_path}/index: upserted 3 rows (replaced 2), now 61\n"
    assert np.array_equal(pi.load(tmp_path / "index").reconstruct([7, 99, 3]), x[:3] + 1)


def test_removed_rows_are_gone_with_their_keys(call, keyed, tmp_path):
    assert call("remove", keyed, "--keys", "doc-1, doc-2").out == f"{keyed}: removed 2 rows, now 58\n"
    assert call("remove", keyed, "--ids", "3").out.endswith("removed 1 rows, now 57\n")
    assert call("remove", keyed, "--from", "-", stdin=b"doc-4\ndoc-5\n").out.endswith("removed 2 rows, now 55\n")
    unknown = write_keys(tmp_path / "some.txt", ["doc-5", "doc-6"])
    done = call("remove", keyed, "--from", unknown, "--ignore-missing", "--json")
    assert done.json == {"path": str(keyed), "removed": 1, "n": 54}
    assert set(keys_of(keyed)) == {f"doc-{i}" for i in range(60)} - {f"doc-{i}" for i in range(1, 7)}


def test_rows_with_keys_are_added_and_replaced_by_key(call, keyed, x, tmp_path):
    np.save(tmp_path / "more.npy", x[:3] + 1)
    new = write_keys(tmp_path / "new.txt", ["a", "b", "c"])
    call("add", keyed, tmp_path / "more.npy", "--keys", new)
    np.save(tmp_path / "more.npy", x[:3] + 2)
    some = write_keys(tmp_path / "some.txt", ["b", "doc-9", "d"])
    texts = write_keys(tmp_path / "texts.txt", ["B", "nine", "D"])
    done = call("upsert", keyed, tmp_path / "more.npy", "--keys", some, "--text", texts)
    assert done.out == f"{keyed}: upserted 3 rows (replaced 2), now 64\n"
    found = keys_of(keyed)
    assert len(found) == 64
    assert [found[key].text for key in ("a", "b", "doc-9", "d")] == [None, "B", "nine", "D"]
    index = pi.load(keyed)
    assert np.array_equal(index.reconstruct([found[key].id for key in ("b", "doc-9", "d")]), x[:3] + 2)
    assert np.array_equal(index.reconstruct([found[key].id for key in ("a", "c")]), x[[0, 2]] + 1)


def test_an_index_whose_rows_are_all_gone_may_begin_to_have_keys(call, file, tmp_path):
    call("build", file, "-o", tmp_path / "index")
    call("remove", tmp_path / "index", "--ids", ",".join(map(str, range(60))))
    call("add", tmp_path / "index", file, "--keys", write_keys(tmp_path / "keys.txt", range(60)))
    assert keys_of(tmp_path / "index")["59"].id == 119


def test_an_empty_index_whose_first_keys_fail_has_none(call, file, tmp_path):
    pi.FlatIndex(8).save(tmp_path / "index")
    twice = write_keys(tmp_path / "keys.txt", [*range(59), 3])
    assert "comes twice" in call("add", tmp_path / "index", file, "--keys", twice, code=2).err
    assert not (tmp_path / "index" / FILE).exists()
    call("add", tmp_path / "index", file)


def test_keys_that_come_in_parts_are_all_taken_back_where_one_comes_twice(call, keyed, file, tmp_path, monkeypatch):
    monkeypatch.setattr("polarindex.cli.labels._TOGETHER", 7)
    before = keys_of(keyed)
    for keys in ([f"n{i % 50}" for i in range(60)], [*(f"n{i}" for i in range(59)), "doc-3"]):
        some = write_keys(tmp_path / "keys.txt", keys)
        for command in ("add", "upsert") if "doc-3" not in keys else ("add",):
            done = call(command, keyed, file, "--keys", some, code=2)
            assert "key 'n0' comes twice" in done.err or "key 'doc-3' is in" in done.err
            assert keys_of(keyed) == before
    done = call("upsert", keyed, file, "--keys", write_keys(tmp_path / "keys.txt", [f"doc-{i}" for i in range(60)]))
    assert done.out == f"{keyed}: upserted 60 rows (replaced 60), now 60\n"


def test_keys_without_a_vector_get_one_or_go(call, keyed, x, tmp_path):
    with Records(keyed / FILE) as records:
        records.add(WITHOUT_VECTOR + np.arange(3), ["bare", "naked", "nude"])
    assert "key 'bare' has no vector in" in call("query", keyed, "--key", "bare", code=2).err
    assert call("remove", keyed, "--keys", "naked,doc-1").out == f"{keyed}: removed 2 rows, now 59\n"
    np.save(tmp_path / "more.npy", x[:1] + 1)
    call("upsert", keyed, tmp_path / "more.npy", "--keys", write_keys(tmp_path / "some.txt", ["bare"]))
    with Records(keyed / FILE) as records:
        (id,) = records.ids(["bare"])
        assert "naked" not in records and records.ids(["nude"]) == [WITHOUT_VECTOR + 2]
        records.remove([WITHOUT_VECTOR + 2])
    assert np.array_equal(pi.load(keyed).reconstruct([id]), x[:1] + 1)
    assert len(keys_of(keyed)) == 60


def test_records_that_a_crash_left_go_when_the_index_is_changed(call, keyed):
    with Records(keyed / FILE) as records:
        records.add([500], ["left"])
    call("remove", keyed, "--ids", "1")
    assert "left" not in keys_of(keyed)


def test_an_add_that_cannot_be_synced_takes_its_keys_back(call, keyed, file, tmp_path, monkeypatch):
    def full(index):
        raise OSError(28, "No space left on device", "log")

    monkeypatch.setattr(pi.FlatIndex, "sync", full)
    keys = write_keys(tmp_path / "keys.txt", range(60))
    for command in ("add", "upsert"):
        call(command, keyed, file, "--keys", keys, code=2)
        assert set(keys_of(keyed)) == {f"doc-{i}" for i in range(60)}
