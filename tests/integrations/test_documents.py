"""Documents and their index stay in step: whatever fails, whoever asks meanwhile, and after a crash anywhere."""

from __future__ import annotations

import os
import random
import shutil
import threading

import numpy as np
import pytest

import polarindex as pi
from polarindex.integrations import documents
from polarindex.integrations.accepted import name_of
from polarindex.integrations.documents import DocumentIndex
from polarindex.records import FILE, Records


def vectors(*numbers):
    """A direction a number of degrees, for each."""
    angles = np.radians(np.array(numbers, np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.fixture(params=["memory", "directory"])
def index(request, tmp_path):
    index = DocumentIndex(None if request.param == "memory" else tmp_path / "documents")
    index.put(["a", "b", "c"], vectors(0, 10, 90), ["A", "B", "C"], [{"n": 0}, {"n": 1}, None])
    yield index
    index.close()


def keys(found):
    return [getattr(hit, "record", hit).key for hit in found]


def state(index):
    """All that can be asked of an index: each key's text, and its direction."""
    found = {}
    for hit in index.select(with_vectors=True):
        key, text, metadata = hit.record[1:]
        assert key not in found
        found[key] = (text, metadata)
        if hit.vector is not None:
            (nearest,) = index.search(hit.vector, 1)
            assert nearest.score > 0.99
            found[key] += (round(float(np.degrees(np.arctan2(*hit.vector[::-1])))),)
    assert len(found) == len(index)
    return found


def test_documents_are_found_by_vector_and_key(index):
    hits = index.search(vectors(2)[0], 2)
    assert keys(hits) == ["a", "b"]
    np.testing.assert_allclose([hit.score for hit in hits], np.cos(np.radians([2, 8])), atol=1e-3)
    assert [record.text for record in index.get(["c", "x", "a"])] == ["C", "A"]
    assert keys(index.search(vectors(2)[0], 10, lambda record: record.text != "A")) == ["b", "c"]
    assert index.search(vectors(2)[0], 10, lambda record: False) == []
    assert state(index) == {"a": ("A", {"n": 0}, 0), "b": ("B", {"n": 1}, 10), "c": ("C", None, 90)}


def test_putting_replaces_and_deleting_deletes(index):
    index.put(["b", "d"], vectors(45, 60), ["B2", "D"])
    assert keys(index.search(vectors(44)[0], 2)) == ["b", "d"]
    assert index.delete(["a", "missing", "a"]) == 1
    assert state(index) == {"b": ("B2", None, 45), "c": ("C", None, 90), "d": ("D", None, 60)}
    index.update(["c"], [{"new": True}])
    with pytest.raises(KeyError, match="key 'x' is not in the records"):
        index.update(["c", "x"], [None, None])
    assert index.get(["c"])[0].metadata == {"new": True}
    index.clear(compact=True)
    assert state(index) == {} and index.search(vectors(0)[0], 5) == []
    index.put([], np.empty((0, 2)))
    index.put(["a"], vectors(7), ["again"])
    assert state(index) == {"a": ("again", None, 7)}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((["x"], vectors(1, 2)), ValueError, "vectors must have 1 rows, as there are keys, got 2"),
        ((["x"], [[1.0, 2.0, 3.0]]), ValueError, "vectors has 3 columns but dim=2 is wanted"),
        ((["x"], [[np.nan, 1.0]]), ValueError, "is not finite"),
        ((["x"], [[0.0, 0.0]]), ValueError, "zero"),
        ((["a", "a"], vectors(1, 2)), ValueError, "keys must be unique, got 'a' at positions 0 and 1"),
        (([5], vectors(1)), TypeError, r"keys\[0\] must be a string, got 5 \(int\)"),
        ((["a"], vectors(1), [b"t"]), TypeError, r"texts\[0\] must be a string or None, got a bytes"),
        ((["a"], vectors(1), ["t"], [{"x": {1}}]), TypeError, r"metadatas\[0\] must be what JSON can hold"),
    ],
)
def test_what_is_refused_changes_nothing(index, arguments, error, message):
    before = state(index)
    with pytest.raises(error, match=message):
        index.put(*arguments)
    assert state(index) == before and len(index.index) == 3


def test_documents_with_and_without_vectors_are_put_together(index):
    index.put(["x", "a", "y"], vectors(60), ["X", "A2", "Y"], None, [False, False, True])
    assert state(index) == {
        "b": ("B", {"n": 1}, 10),
        "c": ("C", None, 90),
        "y": ("Y", None, 60),
        "x": ("X", None),
        "a": ("A2", None),
    }
    before = state(index)
    with pytest.raises(ValueError, match="vectors must have 1 rows, as there are keys, got 2"):
        index.put(["p", "q"], vectors(1, 2), has_vector=[True, False])
    with pytest.raises(TypeError, match=r"texts\[1\] must be a string or None"):
        index.put(["p", "q"], vectors(1), ["P", 5], has_vector=[True, False])
    assert state(index) == before and len(index.index) == 3


def test_bad_first_documents_leave_no_directory(tmp_path):
    index = DocumentIndex(tmp_path / "documents")
    with pytest.raises(ValueError, match="is not finite"):
        index.put(["a"], [[np.inf, 1.0]])
    assert index.search([1.0], 3) == [] and index.get(["a"]) == [] and len(index) == 0 and index.delete(["a"]) == 0
    assert not (tmp_path / "documents").exists()
    with pytest.raises(ValueError, match="no documents to save"):
        index.save(tmp_path / "other")


def test_what_a_named_filter_accepts_is_remembered_until_documents_change(tmp_path):
    asked = []

    def accepts(record):
        asked.append(record.key)
        return record.text != "B"

    with DocumentIndex(tmp_path / "documents") as writer:
        writer.put(["a", "b"], vectors(0, 90), ["A", "B"])
        reader = DocumentIndex(tmp_path / "documents", read_only=True)
        for index in (writer, reader):
            asked.clear()
            for _ in range(3):
                assert keys(index.search(vectors(80)[0], 2, accepts, "name")) == ["a"]
            assert asked == ["a", "b"]
            assert keys(index.search(vectors(80)[0], 2, lambda record: record.text == "B", "other")) == ["b"]
            for _ in range(2):
                index.search(vectors(80)[0], 2, accepts)
            assert len(asked) == 6
        writer.put(["b"], vectors(85), ["new"])
        writer.update(["a"], [{"x": 1}])
        reader.refresh()
        for index in (writer, reader):
            assert keys(index.search(vectors(80)[0], 2, accepts, "name")) == ["b", "a"]
        for number in range(100):
            writer.search(vectors(80)[0], 2, accepts, f"name {number}")
        assert len(writer._accepted) <= 32
    assert name_of({"b": 1, "a": [True, None]}, None) == name_of({"a": [True, None], "b": 1}, None)
    assert name_of({"a": 1}) != name_of({"a": True}) and name_of(lambda: None) is name_of({1}) is None


def test_what_is_opened_again_is_as_it_was(tmp_path, index):
    before = state(index)
    if index.path is None:
        index.save(tmp_path / "documents")
    index.close()
    index.close()
    with DocumentIndex(tmp_path / "documents") as again:
        assert state(again) == before
        with pytest.raises(pi.LockedError):
            DocumentIndex(tmp_path / "documents")
    with pytest.raises(ValueError, match="bits=2 is not that of the index in .*: 4"):
        DocumentIndex(tmp_path / "documents", bits=2)
    with pytest.raises(ValueError, match="index must be left out"):
        DocumentIndex(tmp_path / "documents", index=pi.FlatIndex(2))
    DocumentIndex(tmp_path / "documents").close()  # those who were refused left no lock


def test_a_save_takes_the_place_of_documents_and_of_nothing_else(tmp_path):
    target = tmp_path / "new" / "target"
    for number in (1, 2):
        index = DocumentIndex()
        index.put([f"key {number}"], vectors(number), [str(number)])
        index.save(target)
        assert state(DocumentIndex(target, read_only=True)) == {f"key {number}": (str(number), None, number)}
    assert [entry.name for entry in target.parent.iterdir()] == ["target"]
    with DocumentIndex(target), pytest.raises(pi.LockedError):
        index.save(target)
    (tmp_path / "foreign").mkdir()
    index.save(tmp_path / "foreign")  # an empty one
    pi.FlatIndex(2).save(tmp_path / "index")
    (tmp_path / "file").touch()
    for other in ("index", "file"):
        with pytest.raises(pi.FormatError, match="holds something else than documents"):
            index.save(tmp_path / other)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "foreign", "index", "new"]


def test_readers_follow_a_writer_when_they_refresh_or_have_to(tmp_path):
    with DocumentIndex(tmp_path / "documents") as writer:
        writer.put(["a", "b"], vectors(0, 90), ["A", "B"])
        reader = DocumentIndex(tmp_path / "documents", read_only=True)
        writer.put(["a"], vectors(80), ["A2"])
        (hit,) = reader.search(vectors(0)[0], 1)  # the row that its index has is gone: it looks again
        assert (hit.record.key, hit.record.text) == ("a", "A2")
        writer.put(["c"], vectors(0), ["C"])
        assert reader.refresh() and not reader.refresh()
        assert keys(reader.search(vectors(0)[0], 1)) == ["c"]
        for change in (lambda: reader.put(["d"], vectors(1)), reader.clear, lambda: reader.delete(["a"])):
            with pytest.raises(RuntimeError, match="was opened with read_only=True"):
                change()
    with pytest.raises(ValueError, match="read_only=True needs a path"):
        DocumentIndex(read_only=True)
    with pytest.raises(FileNotFoundError):
        DocumentIndex(tmp_path / "missing", read_only=True)


def test_a_reader_follows_where_other_documents_were_saved_in_place(tmp_path):
    for number in (1, 2):
        index = DocumentIndex()
        index.put(["key"], vectors(number), [str(number)])
        index.save(tmp_path / "documents")
        if number == 1:
            reader = DocumentIndex(tmp_path / "documents", read_only=True)
    assert state(reader) == {"key": ("1", None, 1)}
    assert reader.refresh() and state(reader) == {"key": ("2", None, 2)} and not reader.refresh()


def test_a_save_that_cannot_be_put_in_place_leaves_what_was_there(tmp_path, monkeypatch):
    index = DocumentIndex()
    index.put(["a"], vectors(1), ["A"])
    index.save(tmp_path / "documents")
    index.put(["b"], vectors(2), ["B"])
    rename = documents.Path.rename

    def failing(self, target):
        if target.name == "documents" and not self.name.endswith("-old"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(documents.Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        index.save(tmp_path / "documents")
    assert [entry.name for entry in tmp_path.iterdir()] == ["documents"]
    assert state(DocumentIndex(tmp_path / "documents", read_only=True)) == {"a": ("A", None, 1)}


def test_a_directory_that_holds_something_else_is_refused(tmp_path):
    plain = pi.FlatIndex(2)
    plain.add(vectors(0, 1))
    plain.save(tmp_path / "plain")
    with pytest.raises(pi.FormatError, match="is an index without documents: it has no records.sqlite"):
        DocumentIndex(tmp_path / "plain")
    assert not (tmp_path / "plain" / FILE).exists()
    with DocumentIndex(tmp_path / "documents") as index:
        index.put(["a"], vectors(0))
    with pi.open(tmp_path / "documents") as alone:
        alone.add(vectors(5))
    with pytest.raises(pi.FormatError, match="records.sqlite does not have id 1, which its index has"):
        DocumentIndex(tmp_path / "documents")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").touch()
    with pytest.raises(pi.FormatError, match="is not a polarindex index"):
        DocumentIndex(tmp_path / "foreign")
    with pytest.raises(ValueError, match="index must be empty, got one of 2 vectors"):
        DocumentIndex(index=plain)


class Crash(BaseException):
    """The end of a process: nothing is done after it."""


def crashing(method, when):
    """A method that crashes before or after what it does."""

    def crash(self, *arguments, **options):
        if when == "after":
            method(self, *arguments, **options)
        raise Crash

    return crash


def test_a_crash_between_any_two_writes_leaves_the_state_before_or_after(tmp_path, monkeypatch):
    """Every write of index and records fails in turn; what is on the disk then is opened as a copy."""
    path = tmp_path / "documents"
    with DocumentIndex(path) as index:
        index.put(["a", "b"], vectors(0, 90), ["A", "B"])
        index.put(["w"], [], ["W"], has_vector=[False])
    changes = {
        "put": lambda index: index.put(["b", "c", "w"], vectors(45, 10, 20), ["B2", "C", "W2"]),
        "delete": lambda index: index.delete(["a", "w"]),
        "lose": lambda index: index.put(["a"], [], ["A2"], has_vector=[False]),
        "clear": lambda index: index.clear(),
        "mix": lambda index: index.put(["n", "b"], vectors(33), ["N", "B3"], has_vector=[True, False]),
        "forget": lambda index: index.delete(["w"]),
    }
    writes = [
        (owner, method)
        for owner, methods in ((pi.FlatIndex, ("sync", "add", "remove")), (Records, ("add", "remove")))
        for method in methods
    ]

    def seen(folder):
        with DocumentIndex(folder) as index:
            assert set(index.index.ids.tolist()) <= set(index._records.all_ids().tolist())
            return {record.key: record.text for record in index.scan()}, keys(index.search(vectors(0)[0], 9))

    def one_of(found, *wanted):
        """Of what is deleted, that without a vector goes in a second step."""
        later = [({**after, "w": "W"}, hits) for after, hits in wanted if "w" not in after]
        return found in (*wanted, *later)

    before, crashes = seen(path), 0
    for name, change in changes.items():
        whole = tmp_path / f"{name}-whole"
        shutil.copytree(path, whole)
        with DocumentIndex(whole) as index:
            change(index)
        after = seen(whole)
        assert after != before
        for owner, method in writes:
            for when in ("before", "after"):
                folder = tmp_path / f"{name}-{owner.__name__}-{method}-{when}"
                shutil.copytree(path, folder)
                index = DocumentIndex(folder)

                with monkeypatch.context() as patch:
                    patch.setattr(owner, method, crashing(getattr(owner, method), when))
                    try:
                        change(index)
                    except Crash:
                        crashes += 1
                shutil.copytree(folder, f"{folder}-found")
                assert one_of(seen(f"{folder}-found"), before, after), folder.name
                index.index._attachment = None  # it is gone, as far as this process can make it
                index._records.close()
    assert crashes >= 25


def test_a_sync_that_fails_is_made_up_for_by_the_next_change(tmp_path, monkeypatch):
    index = DocumentIndex(tmp_path / "documents")
    index.put(["a", "b"], vectors(0, 90), ["A", "B"])

    def full(self):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pi.FlatIndex, "sync", full)
        with pytest.raises(OSError, match="No space left"):
            index.put(["a"], vectors(45), ["A2"])
    assert state(index) == {"a": ("A2", None, 45), "b": ("B", None, 90)}
    shutil.copytree(index.path, tmp_path / "copy")
    assert state(DocumentIndex(tmp_path / "copy")) == {"a": ("A", None, 0), "b": ("B", None, 90)}
    index.put(["c"], vectors(10), ["C"])
    wanted = {"a": ("A2", None, 45), "b": ("B", None, 90), "c": ("C", None, 10)}
    assert state(index) == wanted
    index.close()
    assert state(DocumentIndex(tmp_path / "documents", read_only=True)) == wanted


def test_who_searches_meanwhile_sees_one_state(index):
    """A document moves to and fro with its text; each answer must have the text that goes with where it was found."""
    stop, wrong = threading.Event(), []

    def ask():
        while not stop.is_set():
            hits = index.search(vectors(0)[0], 10, with_vectors=True)
            found = [hit.record.key for hit in hits]
            if sorted(found) != ["a", "b", "c"]:
                wrong.append(found)
            for hit in hits:
                if hit.record.key == "a" and (hit.score > 0.9) is not (hit.record.text == "A"):
                    wrong.append(hit)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        index.put(["a"], vectors(180 if turn % 2 == 0 else 0), ["far" if turn % 2 == 0 else "A"])
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_random_changes_are_those_of_a_dict(tmp_path):
    """With closings and openings in between, and now and then a compaction that the size of the log asks for."""
    random.seed(0)
    path, model, names = tmp_path / "documents", {}, [f"k{at}" for at in range(12)]
    index = DocumentIndex(path, dim=2)
    for step in range(60):
        some = random.sample(names, random.randint(1, 4))
        what = random.choice(["put", "put", "delete", "update", "open"])
        if what == "put":
            angles = [random.randint(-179, 180) for _ in some]
            index.put(some, vectors(*angles), [str(step)] * len(some), [{"step": step}] * len(some))
            model.update({key: (str(step), {"step": step}, angle) for key, angle in zip(some, angles, strict=True)})
        elif what == "delete":
            assert index.delete(some) == sum(model.pop(key, None) is not None for key in some)
        elif what == "update":
            there = [key for key in some if key in model]
            index.update(there, [{"updated": step}] * len(there))
            model.update({key: (model[key][0], {"updated": step}, model[key][2]) for key in there})
        else:
            index.close()
            index = DocumentIndex(path)
        if step % 10 == 9:
            assert {key: (*entry[:2], entry[2] % 360) for key, entry in state(index).items()} == {
                key: (*entry[:2], entry[2] % 360) for key, entry in model.items()
            }
    index.close()
    assert pi.verify(path) == []


def test_the_directory_is_made_durable_when_it_is_renamed(tmp_path, monkeypatch):
    index, synced = DocumentIndex(), []
    index.put(["a"], vectors(0))
    monkeypatch.setattr(documents.durable, "sync_directory", lambda folder: synced.append(os.fspath(folder)))
    index.save(tmp_path / "target")
    assert synced[-1] == str(tmp_path)
