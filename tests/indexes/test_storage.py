"""Saving and loading: the same answers, an atomic save, and damage that is named."""

import json
import os
import shutil

import numpy as np
import pytest

import polarindex as pi
from polarindex.indexes import storage
from polarindex.quantizers import CELLS

DIM = 20


def rows(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32) + 1


def same(one, other):
    assert repr(one) == repr(other) and len(one) == len(other)
    np.testing.assert_array_equal(one.ids, other.ids)
    for a, b in zip(one.search(rows(5, 1), 7), other.search(rows(5, 1), 7), strict=True):
        np.testing.assert_array_equal(a, b)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("n", [0, 1, 16, 17, 1023, 1024, 20_000])
def test_a_loaded_index_answers_the_same_and_goes_on_alike(tmp_path, n, mmap):
    index = pi.FlatIndex(DIM, store="int8")
    index.add(rows(n))
    index.save(tmp_path / "index")
    loaded = pi.load(tmp_path / "index", mmap=mmap)
    same(index, loaded)
    before = contents(tmp_path / "index")
    for one in (index, loaded):
        one.add(rows(40, 2))
        one.add(rows(2, 3), ids=[10**6, 5 * 10**6])
        one.remove(one.ids[:5])
        one.update(one.ids[:2], rows(2, 4))
    same(index, loaded)
    assert contents(tmp_path / "index") == before  # a mapped index keeps its changes to itself


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("quantizer", CELLS)
def test_every_quantizer_metric_and_store_survives(tmp_path, quantizer, metric):
    store = {"l2": "float16", "ip": "float32", "cosine": "none"}[metric]
    index = pi.FlatIndex(DIM, metric, CELLS[quantizer][-1], quantizer, seed=3, center=metric != "ip", store=store)
    index.add(rows(1100), ids=np.arange(1100) * 2 + 5)
    index.save(tmp_path / "index")
    same(index, pi.load(tmp_path / "index"))


def test_files_are_plain_numpy_and_say_what_they_hold(tmp_path):
    index = pi.FlatIndex(DIM, bits=4)
    index.add(rows(1050))
    index.save(tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert (manifest["format"], manifest["version"]) == ("polarindex", 1)
    (segment,) = manifest["segments"]
    folder = tmp_path / "index" / segment["name"]
    assert np.load(folder / "scales.npy").shape == (1050, 1)
    assert np.load(folder / "codes0.npy").shape == np.load(folder / "codes1.npy").shape == (66, 1, 16)
    assert np.load(folder / "codes2.npy").shape == (1050, 2)
    files = ["centre.npy", "codes0.npy", "codes1.npy", "codes2.npy", "scales.npy", "shifts.npy"]
    assert sorted(segment["files"]) == files
    for file, facts in segment["files"].items():
        assert (folder / file).stat().st_size == facts["bytes"]


def test_removed_vectors_leave_nothing_in_the_file(tmp_path):
    index = pi.FlatIndex(DIM, bits=8)
    index.add(rows(1100))
    index.remove(np.arange(1099))
    index.save(tmp_path / "index")
    codes = np.load(next((tmp_path / "index").glob("segment-*/codes0.npy")))
    assert codes.shape[0] == 1 and not codes[0, :, 1:].any() and codes[0, :, 0].any()


def test_saving_again_replaces_the_index_and_leaves_one_segment(tmp_path):
    index = pi.FlatIndex(DIM)
    index.add(rows(100))
    index.save(tmp_path / "index")
    index.add(rows(50, 5))
    index.save(tmp_path / "index")
    same(index, pi.load(tmp_path / "index"))
    assert len(list((tmp_path / "index").glob("segment-*"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("foreign", ["file", "directory", "other json"])
def test_what_is_not_an_index_is_neither_read_nor_written(tmp_path, foreign):
    target = tmp_path / "target"
    if foreign == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / ("notes.txt" if foreign == "directory" else "manifest.json")).write_text('{"format": "other"}')
    before = contents(tmp_path)
    index = pi.FlatIndex(DIM)
    with pytest.raises(pi.FormatError, match="target"):
        index.save(target)
    with pytest.raises(pi.FormatError, match="target"):
        pi.load(target)
    assert contents(tmp_path) == before


def test_loading_nothing_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="no index here"):
        pi.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(pi.FormatError, match="no manifest"):
        pi.load(tmp_path / "empty")


@pytest.mark.parametrize("failing", range(9))
@pytest.mark.parametrize("existing", [False, True])
def test_a_save_that_fails_anywhere_leaves_the_old_index(tmp_path, monkeypatch, existing, failing):
    """The disk fills, or Ctrl-C comes, at the first, second, ... sync."""
    old = pi.FlatIndex(DIM)
    old.add(rows(1200))
    if existing:
        old.save(tmp_path / "index")
    before = contents(tmp_path)
    new = pi.FlatIndex(DIM, bits=2)
    new.add(rows(1500, 3))
    calls = iter(range(100))
    real = os.fsync

    def failing_sync(handle):
        if next(calls) == failing:
            raise (OSError(28, "No space left on device") if failing % 2 else KeyboardInterrupt)
        real(handle)

    monkeypatch.setattr(storage.os, "fsync", failing_sync)
    try:
        new.save(tmp_path / "index")
    except (OSError, KeyboardInterrupt):
        if next(calls) <= failing:
            raise
    else:
        same(new, pi.load(tmp_path / "index"))
        return
    if existing and contents(tmp_path) != before:  # the failure came after the manifest was replaced
        same(new, pi.load(tmp_path / "index"))
    elif existing:
        same(old, pi.load(tmp_path / "index"))
    elif (tmp_path / "index").exists():
        same(new, pi.load(tmp_path / "index"))
    else:
        assert contents(tmp_path) == {}


def test_every_damaged_byte_is_found(tmp_path):
    index = pi.FlatIndex(DIM, bits=2)
    index.add(rows(1030), ids=np.arange(1030) + 3)
    index.save(tmp_path / "index")
    rng = np.random.default_rng(0)
    for path in sorted((tmp_path / "index").rglob("*.*")):
        good = path.read_bytes()
        for at in {0, len(good) - 1, *rng.integers(0, len(good), 12).tolist()}:
            bad = bytearray(good)
            bad[at] ^= 1 << int(rng.integers(0, 8))
            path.write_bytes(bytes(bad))
            if path.name == "manifest.json" and json_equal(good, bytes(bad)):
                continue
            with pytest.raises(pi.FormatError) as caught:
                pi.load(tmp_path / "index")
            assert "index" in str(caught.value) and "\n" not in str(caught.value)
        for cut in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:cut])
            with pytest.raises(pi.FormatError):
                pi.load(tmp_path / "index")
            if path.name != "checksums.npy":
                with pytest.raises(pi.FormatError):
                    pi.load(tmp_path / "index", mmap=True)
        path.unlink()
        with pytest.raises(pi.FormatError):
            pi.load(tmp_path / "index")
        path.write_bytes(good)
    same(index, pi.load(tmp_path / "index"))


def json_equal(one, other):
    """Whether a flipped bit only changed white space."""
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_a_newer_format_version_is_refused_by_name(tmp_path):
    index = pi.FlatIndex(DIM)
    index.save(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    manifest = json.loads(path.read_text()) | {"version": 99}
    manifest["checksum"] = storage._manifest_checksum(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(pi.FormatError, match="version 99"):
        pi.load(tmp_path / "index")
    with pytest.raises(pi.FormatError, match="version 99"):
        index.save(tmp_path / "index")


def drop(*keys):
    def change(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        del manifest[keys[-1]]

    return change


@pytest.mark.parametrize(
    "change",
    [
        drop("version"),
        drop("parameters", "dim"),
        drop("state", "next_id"),
        drop("segments", 0, "files", "codes0.npy", "bytes"),
        drop("segments", 0),
        lambda manifest: manifest.update(version="1"),
        lambda manifest: manifest.update(block_bytes=7),
        lambda manifest: manifest["state"].update(next_id=3),
        lambda manifest: manifest["segments"][0].update(name="../segment-0123456789ab"),
        lambda manifest: manifest["segments"][0].update(rows=-1),
        lambda manifest: manifest["segments"][0].update(rows=99),
    ],
)
def test_a_manifest_of_another_shape_is_a_format_error(tmp_path, change):
    """With a right checksum, as another program might write it."""
    index = pi.FlatIndex(DIM)
    index.add(rows(40))
    index.save(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    manifest["checksum"] = storage._manifest_checksum(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(pi.FormatError) as caught:
        pi.load(tmp_path / "index")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"format": ' + "1" * 6000 + "}", "\xff\xfe", ""])
def test_a_manifest_that_is_no_json_is_a_format_error(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(pi.FormatError, match="damaged|not the manifest"):
        pi.load(tmp_path)


def test_an_empty_directory_a_link_to_one_and_the_remains_of_a_crash_can_be_saved_into(tmp_path, monkeypatch):
    index = pi.FlatIndex(DIM)
    index.add(rows(40))
    for name in ("empty", "crashed", "behind"):
        (tmp_path / name).mkdir()
    (tmp_path / "crashed" / "segment-0123456789ab").mkdir()
    (tmp_path / "crashed" / ".manifest.json.12345678").write_text("{")
    (tmp_path / "link").symlink_to(tmp_path / "behind", target_is_directory=True)
    for name in ("empty", "crashed", "link"):
        index.save(tmp_path / name)
        same(index, pi.load(tmp_path / name))
        assert len(list((tmp_path / name).iterdir())) == 2
    monkeypatch.chdir(tmp_path / "empty")
    index.save(".")
    same(index, pi.load("."))


def test_loading_while_another_process_saves_gives_the_old_index_or_the_new(tmp_path, monkeypatch):
    old, new = pi.FlatIndex(DIM), pi.FlatIndex(DIM, bits=2)
    old.add(rows(1100))
    new.add(rows(50))
    old.save(tmp_path / "index")
    read = storage._read_array
    calls = iter(range(100))

    def saved_meanwhile(*arguments):
        if next(calls) == 1:
            new.save(tmp_path / "index")
        return read(*arguments)

    monkeypatch.setattr(storage, "_read_array", saved_meanwhile)
    same(pi.load(tmp_path / "index"), new)


def test_an_index_can_be_moved_and_copied(tmp_path):
    index = pi.FlatIndex(DIM)
    index.add(rows(10))
    index.save(tmp_path / "deep" / "er" / "index")
    shutil.copytree(tmp_path / "deep" / "er" / "index", tmp_path / "copy")
    same(index, pi.load(tmp_path / "copy"))
