"""Records: what was added is found under its key and id, durably, whatever the other table's index does."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest

import polarindex as pi
from polarindex.records import FILE, WITHOUT_VECTOR, Record, Records


@pytest.fixture
def path(tmp_path):
    return tmp_path / FILE


def altered(path, *statements):
    """Let another program change the file."""
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_what_was_added_comes_back_by_id_and_by_key(path):
    metadata = {"a": [1, 2.5, None, True], "é": {"nested": "\x00 ü"}}
    with Records(path) as records:
        records.add([3, 1], ["three", "one"], ["Text\x00 3", None], [metadata, None])
        records.add(np.array([7]), ["7"])
    with Records(path, read_only=True) as records:
        three = Record(3, "three", "Text\x00 3", metadata)
        assert records.rows([1, 3]) == [Record(1, "one", None, None), three]
        assert records.rows([3, 3]) == [three, three]
        assert records.ids(["7", "three"]).tolist() == [7, 3]
        assert records.keys([7, 1]) == ["7", "one"]
        assert records.all_ids().tolist() == [1, 3, 7] and records.all_ids().dtype == np.int64
        assert [record.id for record in records.scan()] == [1, 3, 7]
        assert len(records) == 3 and "one" in records and "two" not in records and 3 not in records


def test_a_table_in_memory_is_like_one_in_a_file():
    with Records(None) as records:
        records.add([0], ["a"], ["text"], [{"x": 1}])
        assert records.rows(records.ids(["a"])) == [Record(0, "a", "text", {"x": 1})]
        assert repr(records) == "Records(in memory, n=1)"
    assert repr(records) == "Records(in memory, closed)"


def test_many_rows_are_asked_for_in_parts_and_all_found(monkeypatch):
    monkeypatch.setattr("polarindex.records._PART", 3)
    records, keys = Records(None), [str(i) for i in range(10)]
    records.add(range(10), keys)
    assert [record.key for record in records.scan()] == keys
    assert records.keys(range(9, -1, -1)) == keys[::-1]
    assert [row.key for row in records.rows(range(9, -1, -1))] == keys[::-1]
    assert records.ids(keys[::-1]).tolist() == list(range(9, -1, -1))


def test_a_key_is_that_of_its_largest_id_until_the_old_row_is_removed(path):
    with Records(path) as records:
        records.add([0], ["a"], ["old"])
        records.add([5], ["a"], ["new"])
        assert records.ids(["a"]).tolist() == [5] and len(records) == 2
        records.remove([0])
        assert records.rows(records.ids(["a"])) == [Record(5, "a", "new", None)] and len(records) == 1


def test_an_unknown_key_or_id_is_named(path):
    records = Records(None)
    records.add([0, 1], ["a", "b"])
    with pytest.raises(KeyError, match="key 'x' is not in the records"):
        records.ids(["a", "x", "y"])
    assert records.ids(["a", "x", "b"], missing="ignore").tolist() == [0, 1]
    for ask in (records.keys, records.rows):
        with pytest.raises(KeyError, match="id 7 is not in the records"):
            ask([0, 7, 8])
    records.remove([1, 7])
    assert records.all_ids().tolist() == [0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([-1], ["a"]), ValueError, r"ids\[0\] must be from 0"),
        (([1, 1], ["a", "b"]), ValueError, "ids must be unique, got 1 at positions 0 and 1"),
        (([0, 9], ["a", "b"]), ValueError, "ids holds 9, which is in the table already"),
        (([0, 1], ["a"]), ValueError, "keys must have 2 entries, got 1"),
        (([0, 1], ["a", "a"]), ValueError, "keys must be unique, got 'a' at positions 0 and 1"),
        (([0, 1], ["a", 1]), TypeError, r"keys\[1\] must be a string, got 1 \(int\)"),
        (([0], "a"), TypeError, "keys must be a sequence of strings, got 'a'"),
        (([0], ["\ud800"]), ValueError, r"keys\[0\] is not text that UTF-8 can hold"),
        (([0], ["a"], [b"x"]), TypeError, r"texts\[0\] must be a string or None, got a bytes"),
        (([0], ["a"], ["x", "y"]), ValueError, "texts must have 1 entries"),
        (([0], ["a"], None, [[1]]), TypeError, r"metadatas\[0\] must be a dict or None, got list"),
        (([0], ["a"], None, [{"x": {1, 2}}]), TypeError, r"metadatas\[0\] must be what JSON can hold"),
        (([0], ["a"], None, [{"x": float("nan")}]), ValueError, r"metadatas\[0\] must be what JSON can hold"),
        (([0], ["a"], None, [{1: "x"}]), TypeError, r"metadatas\[0\] would come back from JSON as another value"),
        (([0], ["a"], None, [{"x": (1, 2)}]), TypeError, r"metadatas\[0\] would come back from JSON as another value"),
        (([0], ["a"], None, [{"x": "\ud800"}]), ValueError, r"metadatas\[0\] holds a string that UTF-8 cannot hold"),
        (([0], ["a"], None, [None, None]), ValueError, "metadatas must have 1 entries"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_added(arguments, error, message):
    records = Records(None)
    records.add([9], ["nine"])
    with pytest.raises(error, match=message):
        records.add(*arguments)
    assert records.all_ids().tolist() == [9]


def test_reconcile_drops_what_the_index_does_not_hold(path):
    with Records(path) as records:
        records.add(range(5), list("abcde"))
        records.reconcile([4, 1, 17])
        assert records.all_ids().tolist() == [1, 4]


def test_reconcile_keeps_what_has_no_vector_unless_its_key_has_one(path):
    with Records(path) as records:
        records.add([0, 1, WITHOUT_VECTOR, WITHOUT_VECTOR + 1], ["a", "b", "waiting", "stays"])
        records.add([WITHOUT_VECTOR + 2, 2], ["a", "waiting"])
        records.reconcile([0, 2])
        assert records.all_ids().tolist() == [0, 2, WITHOUT_VECTOR + 1]


def test_metadata_is_updated_in_place_or_nothing_is():
    records = Records(None)
    records.add([0, 1], ["a", "b"], ["A", "B"], [{"x": 1}, None])
    records.update([1, 0], [{"y": 2}, None])
    assert records.rows([0, 1]) == [Record(0, "a", "A", None), Record(1, "b", "B", {"y": 2})]
    with pytest.raises(KeyError, match="id 7 is not in the records"):
        records.update([0, 7], [{"z": 3}, None])
    assert records.rows([0]) == [Record(0, "a", "A", None)]


def test_when_closed_the_file_alone_is_all_of_it(path, tmp_path):
    with Records(path) as records:
        records.add([0], ["a"])
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE]
    copied = shutil.copy(path, tmp_path / "copy")
    assert Records(copied, read_only=True).keys([0]) == ["a"]


def test_readers_see_what_is_committed_while_one_writes(path):
    with Records(path) as writer, Records(path, read_only=True) as reader:
        writer.add([0], ["a"])
        assert "a" in reader
        writer.remove([0])
        assert "a" not in reader


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions stop")
def test_a_read_only_directory_can_be_read(path, tmp_path):
    Records(path).close()
    path.chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        with Records(path, read_only=True) as records:
            assert len(records) == 0
    finally:
        tmp_path.chmod(0o700)


def test_what_is_opened_only_to_read_is_not_changed(path):
    with Records(path) as records:
        records.add([0], ["a"])
    with Records(path, read_only=True) as records:
        for change in (lambda: records.add([1], ["b"]), lambda: records.remove([0]), lambda: records.reconcile([])):
            with pytest.raises(RuntimeError, match="read_only=True"):
                change()
        records.reconcile([0, 1])  # nothing to drop
    with pytest.raises(ValueError, match="needs a path"):
        Records(None, read_only=True)


def test_a_closed_table_says_so(path):
    records = Records(path)
    records.close()
    records.close()
    with pytest.raises(RuntimeError, match=r"records.sqlite are closed"):
        len(records)


def test_what_is_not_there_is_not_made_up(tmp_path):
    with pytest.raises(FileNotFoundError, match="no records here"):
        Records(tmp_path / FILE, read_only=True)
    with pytest.raises(FileNotFoundError, match="no directory here for records"):
        Records(tmp_path / "missing" / FILE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["PRAGMA application_id = 1"], "is not a table of polarindex's records"),
        (["PRAGMA user_version = 2"], "has format version 2; this polarindex reads 1"),
        (["DROP INDEX records_key"], "is damaged or was changed"),
        (["CREATE TRIGGER t AFTER INSERT ON records BEGIN DELETE FROM records; END"], "is damaged or was changed"),
        (["DROP TABLE records", "CREATE VIEW records AS SELECT 1 AS id"], "is damaged or was changed"),
    ],
)
def test_a_file_of_another_kind_is_refused_and_left_alone(path, statements, message, read_only):
    Records(path).close()
    altered(path, *statements)
    before = path.read_bytes()
    with pytest.raises(pi.FormatError, match=message):
        Records(path, read_only=read_only)
    assert path.read_bytes() == before


def test_another_programs_database_is_refused_and_left_alone(path):
    altered(path, "CREATE TABLE other (x)")
    before = path.read_bytes()
    with pytest.raises(pi.FormatError, match="is not a table of polarindex's records"):
        Records(path)
    assert path.read_bytes() == before


def test_what_is_no_database_is_refused(path, tmp_path):
    path.write_bytes(b"no database at all, " * 100)
    with pytest.raises(pi.FormatError, match="file is not a database"):
        Records(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(pi.FormatError, match="records.sqlite"):
        Records(path)
    path.rmdir()
    Records(tmp_path / "elsewhere").close()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(pi.FormatError, match="records.sqlite"):
        Records(path)


def test_a_damaged_page_is_an_error_that_names_the_file(path):
    with Records(path) as records:
        records.add(range(3000), [f"key {i}" for i in range(3000)])
    data = bytearray(path.read_bytes())
    data[8192:] = b"\xff" * (len(data) - 8192)
    path.write_bytes(data)
    with Records(path, read_only=True) as records, pytest.raises(pi.FormatError, match="records.sqlite is not a read"):
        list(records.scan())


def test_an_empty_file_is_what_a_crash_before_the_first_transaction_leaves(path):
    path.touch()
    with pytest.raises(pi.FormatError):
        Records(path, read_only=True)
    with Records(path) as records:
        assert len(records) == 0


def test_a_process_that_is_killed_in_a_transaction_leaves_the_state_before_it(path):
    with Records(path) as records:
        records.add([0], ["a"])
    program = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size = 1'); c.execute('BEGIN')\n"
        "c.executemany('INSERT INTO records VALUES (?, ?, NULL, NULL)', ((i, 'k' * 500) for i in range(1, 2000)))\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)]).returncode == 9
    assert path.with_name(f"{FILE}-journal").exists()
    with pytest.raises(OSError, match="open it once for writing"):
        Records(path, read_only=True)
    with Records(path) as records:
        assert records.all_ids().tolist() == [0]


def test_a_lock_that_another_process_keeps_is_an_error_of_the_system(path, monkeypatch):
    monkeypatch.setattr("polarindex.records._WAIT", 0.01)
    with Records(path) as records:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OSError, match="locked"):
            records.add([0], ["a"])
        other.execute("ROLLBACK")
        other.close()
        records.add([0], ["a"])
        assert len(records) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_does_not_use_the_connection(path):
    with Records(path) as records:
        records._process += 1  # what a fork would see
        with pytest.raises(RuntimeError, match="this is a fork of it"):
            records.add([0], ["a"])


def test_threads_share_one_table(path):
    with Records(path) as records:

        def work(first):
            for i in range(first, first + 20):
                records.add([i], [f"key {i}"])
                assert records.keys([i]) == [f"key {i}"]

        threads = [threading.Thread(target=work, args=(20 * t,)) for t in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(records) == 80


def test_an_index_leaves_the_records_in_its_directory_alone(tmp_path, rng):
    x = rng.standard_normal((50, 8), np.float32)
    index = pi.FlatIndex(8)
    index.add(x)
    index.save(tmp_path / "index")
    path = tmp_path / "index" / FILE
    with Records(path) as records:
        records.add(range(50), [str(i) for i in range(50)])
    before = path.read_bytes()
    with pi.open(tmp_path / "index") as opened:
        opened.remove([0, 1])
        opened.sync()
        opened.compact()
    assert path.read_bytes() == before and pi.verify(tmp_path / "index") == []
    index.save(tmp_path / "index")
    assert path.read_bytes() == before and pi.verify(tmp_path / "index") == []
    assert len(pi.load(tmp_path / "index")) == 50
