"""Saving and loading: the same answers, an atomic save, and damage that is named."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xxhash

import polarindex as pi
from polarindex import kernels
from polarindex.indexes import lists, reading
from polarindex.indexes.lock import LOCK_FILES
from polarindex.indexes.manifest import checksum
from polarindex.indexes.probing import Defaults
from polarindex.quantizers import CELLS

DIM = 20
KINDS = {"flat": pi.FlatIndex, "ivf": pi.IVFIndex}
kinds = pytest.mark.parametrize("kind", KINDS)


def rows(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32) + 1


def made(kind, *arguments, **settings):
    """A new index; an inverted file has learned 7 lists."""
    if kind == "flat":
        return pi.FlatIndex(DIM, *arguments, **settings)
    return pi.IVFIndex(DIM, *arguments, nlist=7, **settings).fit(rows(300, 9))


def same(one, other, **search):
    """Equal answers to the bit; searches of inverted files look into every list."""
    assert repr(one) == repr(other) and one.parameters() == other.parameters() and len(one) == len(other)
    order, ids = (slice(None), one.ids) if one.kind == "flat" else (np.argsort(other.ids), np.sort(one.ids))
    np.testing.assert_array_equal(ids, other.ids[order])
    np.testing.assert_array_equal(one.reconstruct(ids), other.reconstruct(ids))
    q = rows(5, 1)
    everywhere = {} if one.kind == "flat" else {"nprobe": 7}
    for arguments in (search, search | everywhere, search | {"filter": ids[::3]}):
        for a, b in zip(one.search(q, 7, **arguments), other.search(q, 7, **arguments), strict=True):
            np.testing.assert_array_equal(a, b)
    if search.get("query_bits") != 16:
        for a, b in zip(one.range_search(q, 12.0), other.range_search(q, 12.0), strict=True):
            np.testing.assert_array_equal(a, b)


def contents(folder):
    """What is in all files but those of the lock, which stay."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in LOCK_FILES]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def drop(*keys):
    def change(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        del manifest[keys[-1]]

    return change


def forge(folder, change):
    """Change the manifest, with a right checksum, as another program might write it."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    manifest["checksum"] = checksum(manifest)
    path.write_text(json.dumps(manifest))


def forge_array(folder, name, change):
    """Change an array of the index, with right lengths and checksums."""
    manifest = json.loads((folder / "manifest.json").read_text())
    files, segment = manifest["segments"][0]["files"], folder / manifest["segments"][0]["name"]
    np.save(segment / f"{name}.npy", change(np.load(segment / f"{name}.npy")))
    checksums = []
    for file, facts in files.items():
        data = (segment / file).read_bytes()
        parts = [data[at : at + reading.BLOCK_BYTES] for at in range(0, len(data), reading.BLOCK_BYTES)]
        blocks = np.array([xxhash.xxh3_64_intdigest(part) for part in parts], np.uint64)
        facts.update(bytes=len(data), checksum=reading.digest(blocks))
        checksums.append(blocks)
    np.save(segment / "checksums.npy", np.concatenate(checksums))
    forge(folder, lambda written: written.update(segments=manifest["segments"]))


def changed_alike(*indexes):
    """Give and take rows under ids of both ways."""
    for one in indexes:
        one.add(rows(40, 2))
        one.add(rows(2, 3), ids=[10**6, 5 * 10**6])
        one.remove(np.sort(one.ids)[:35:7])
        one.update(np.sort(one.ids)[:2], rows(2, 4))
        one.upsert([3, 7 * 10**6], rows(2, 5))
    assert len({tuple(one.add(rows(3, 6))) for one in indexes}) == 1


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("n", [0, 1, 16, 17, 1023, 1024, 20_000])
def test_a_loaded_index_answers_the_same_and_goes_on_alike(tmp_path, n, mmap):
    index = pi.FlatIndex(DIM, store="int8")
    index.add(rows(n))
    index.save(tmp_path / "index")
    loaded = pi.load(tmp_path / "index", mmap=mmap)
    same(index, loaded)
    before = contents(tmp_path / "index")
    changed_alike(index, loaded)
    same(index, loaded)
    assert contents(tmp_path / "index") == before  # a mapped index keeps its changes to itself


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(
    ("n", "metric", "store"),
    [(0, "l2", "none"), (1, "l2", "float32"), (17, "ip", "none"), (1000, "l2", "none"), (20_000, "cosine", "float32")],
)
def test_a_loaded_inverted_file_answers_the_same_and_goes_on_alike(tmp_path, n, metric, store, mmap):
    index = made("ivf", metric, store=store)
    index.add(rows(n))
    index.remove(np.arange(0, n, 3))  # pages are then in any order, and some are free
    index.add(rows(n // 5, 8))
    index.save(tmp_path / "index")
    loaded = pi.load(tmp_path / "index", mmap=mmap)
    same(index, loaded)
    before = contents(tmp_path / "index")
    changed_alike(index, loaded)
    same(index, loaded)
    assert contents(tmp_path / "index") == before
    loaded.remove(loaded.ids[5:])
    index.remove(np.setdiff1d(index.ids, loaded.ids))
    same(index, loaded)


def test_a_mapped_inverted_file_stays_in_the_file_and_is_copied_where_it_changes(tmp_path, monkeypatch):
    """With blocks so small that all but the last are mapped."""
    monkeypatch.setattr(lists, "block_rows", lambda row_bytes: 64)
    index = made("ivf", store="float32")
    index.add(rows(900))
    index.save(tmp_path / "index")
    before = contents(tmp_path / "index")
    loaded = pi.load(tmp_path / "index", mmap=True)
    blocks = loaded._held.rows.arena.blocks
    assert len(blocks) > 10
    assert all(isinstance(array, np.memmap) for block in blocks[:-1] for array in block.values())
    assert not isinstance(loaded._held.centroids.full, np.memmap)
    assert all(array.ctypes.data % 64 == 0 for block in blocks for array in block.values())
    same(index, loaded)
    changed_alike(index, loaded)
    same(index, loaded)
    loaded.remove(loaded.ids[::2])
    index.remove(np.setdiff1d(index.ids, loaded.ids))
    same(index, loaded)
    assert contents(tmp_path / "index") == before
    loaded.save(tmp_path / "index")  # over the files that it is mapped from
    same(index, pi.load(tmp_path / "index"))
    same(index, loaded)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("quantizer", CELLS)
@kinds
def test_every_quantizer_metric_and_store_survives(tmp_path, quantizer, metric, kind):
    store = {"l2": "float16", "ip": "float32", "cosine": "none"}[metric]
    index = made(kind, metric, CELLS[quantizer][-1], quantizer, seed=3, center=metric != "ip", store=store)
    index.add(rows(1100), ids=np.arange(1100) * 2 + 5)
    index.save(tmp_path / "index")
    same(index, pi.load(tmp_path / "index"), query_bits=8 if kind == "flat" else 16)  # in steps: nothing to compile


def test_a_saved_inverted_file_depends_on_its_lists_and_not_on_its_pages(tmp_path):
    index = made("ivf", store="int8")
    ids = index.add(rows(700))
    index.remove(ids[::3])
    index.add(rows(30, 2), ids=2**33 + np.arange(30))
    index.save(tmp_path / "one")
    pi.load(tmp_path / "one", mmap=True).save(tmp_path / "other")
    one, other = ([path.read_bytes() for path in sorted((tmp_path / f).glob("*/*"))] for f in ("one", "other"))
    assert one == other and len(one) == 7


@pytest.mark.parametrize("nlist", ["auto", 5])
def test_an_unfitted_inverted_file_is_fitted_after_it_was_loaded(tmp_path, nlist):
    pi.IVFIndex(DIM, nlist=nlist).save(tmp_path / "index")
    loaded = pi.load(tmp_path / "index")
    assert not loaded.fitted and loaded.nlist == nlist and len(loaded) == 0
    with pytest.raises(pi.NotFittedError):
        loaded.search(rows(1))
    loaded.fit(rows(1000))
    loaded.add(rows(1000))
    index = pi.IVFIndex(DIM, nlist=nlist).fit(rows(1000))
    index.add(rows(1000))
    assert loaded.nlist == index.nlist == (62 if nlist == "auto" else nlist)
    same(index, loaded)
    loaded.save(tmp_path / "index")
    same(index, pi.load(tmp_path / "index"))


def test_the_defaults_of_searches_and_the_ids_given_out_survive(tmp_path):
    index = made("ivf")
    index.add(rows(100))
    index.remove([99])
    for default in (Defaults(3, None, 0), Defaults(2, 1.5, 0)):
        index._set_default(default)
        index.save(tmp_path / "index")
        loaded = pi.load(tmp_path / "index")
        assert loaded._default == default and loaded.info()["nprobe"] == default.nprobe
        assert loaded._held.centroids.spread == index._held.centroids.spread
        assert loaded.add(rows(1)).tolist() == [100]


def test_loading_an_inverted_file_compiles_nothing(tmp_path):
    index = made("ivf", store="float32")
    index.add(rows(100))
    index.save(tmp_path / "index")
    program = (
        "import sys, polarindex as pi; from polarindex import kernels\n"
        "index = pi.load(sys.argv[1], mmap=True); assert len(index) == 100; pi.load(sys.argv[1])\n"
        "assert kernels.compiled() == (), kernels.compiled()"
    )
    places = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(Path(pi.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "index")], env=places, check=True, timeout=120)


def test_files_are_plain_numpy_and_say_what_they_hold(tmp_path):
    index = pi.FlatIndex(DIM, bits=4)
    index.add(rows(1050))
    index.save(tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert (manifest["format"], manifest["version"], manifest["kind"]) == ("polarindex", 1, "flat")
    (segment,) = manifest["segments"]
    folder = tmp_path / "index" / segment["name"]
    assert np.load(folder / "scales.npy").shape == (1050, 1)
    assert np.load(folder / "codes0.npy").shape == np.load(folder / "codes1.npy").shape == (66, 1, 16)
    assert np.load(folder / "codes2.npy").shape == (1050, 2)
    files = ["centre.npy", "codes0.npy", "codes1.npy", "codes2.npy", "scales.npy", "shifts.npy"]
    assert sorted(segment["files"]) == files
    for file, facts in segment["files"].items():
        assert (folder / file).stat().st_size == facts["bytes"]


@pytest.mark.parametrize("first", [0, 2**40])
def test_an_inverted_files_arrays_are_as_specified(tmp_path, first):
    index = made("ivf", store="float16")
    ids = index.add(rows(200), ids=first + np.arange(200))
    index.remove(ids[::2])
    index.save(tmp_path / "index")
    (folder,) = (tmp_path / "index").glob("segment-*")
    arrays = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    assert sorted(arrays) == ["centre", "centroids", "checksums", "originals", "rows", "sizes"]
    np.testing.assert_array_equal(arrays["centroids"], index.centroids)
    sizes, pages = arrays["sizes"], arrays["rows"]
    assert sizes.sum() == 100 and len(pages) == (-(-sizes // 16)).sum()
    assert pages.shape[1] == 4 + 1 + 1 + 1 + bool(first)
    at = 0
    for number, size in enumerate(sizes):
        for page in range(at, at + -(-size // 16)):
            filled = (size - 1) % 16 + 1 if page == at else 16
            words, kept = pages[page].astype(np.int64), arrays["originals"][16 * page : 16 * page + 16]
            assert not words[:, filled:].any() and not kept[filled:].any()
            names = (words[6] + (words[7] << 32 if first else 0))[:filled]
            np.testing.assert_array_equal(index._held.rows.lists_of(index._id_map.positions(names)), number)
            np.testing.assert_array_equal(kept[:filled], rows(200)[names - first].astype(np.float16))
        at += -(-size // 16)


@pytest.mark.parametrize("mmap", [False, True])
def test_a_manifest_without_a_kind_is_that_of_a_flat_index(tmp_path, mmap):
    index = made("flat")
    index.add(rows(1100))
    index.save(tmp_path / "index")
    forge(tmp_path / "index", drop("kind"))
    same(index, pi.load(tmp_path / "index", mmap=mmap))


@kinds
def test_removed_vectors_leave_nothing_in_the_file(tmp_path, kind):
    index = made(kind, bits=8, store="float32")
    index.add(rows(1100))
    index.remove(np.arange(1099))
    index.save(tmp_path / "index")
    (folder,) = (tmp_path / "index").glob("segment-*")
    codes = np.load(folder / ("codes0.npy" if kind == "flat" else "rows.npy"))
    assert codes.shape[0] == 1 and not codes[0, :, 1:].any() and codes[0, :, 0].any()
    assert not np.load(folder / "originals.npy")[1:].any()


@pytest.mark.parametrize("before", KINDS)
@kinds
def test_saving_again_replaces_the_index_and_leaves_one_segment(tmp_path, kind, before):
    index = made(before)
    index.add(rows(100))
    index.save(tmp_path / "index")
    if kind != before:
        index = made(kind)
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
@kinds
def test_a_save_that_fails_anywhere_leaves_the_old_index(tmp_path, monkeypatch, kind, existing, failing):
    """The disk fills, or Ctrl-C comes, at the first, second, ... sync."""
    old = made(kind)
    old.add(rows(1200))
    if existing:
        old.save(tmp_path / "index")
    before = contents(tmp_path)
    new = made(kind, seed=2)
    new.add(rows(1500, 3))
    calls = iter(range(100))
    real = os.fsync

    def failing_sync(handle):
        if next(calls) == failing:
            raise (OSError(28, "No space left on device") if failing % 2 else KeyboardInterrupt)
        real(handle)

    monkeypatch.setattr(os, "fsync", failing_sync)
    monkeypatch.setattr(os, "fdatasync", failing_sync, raising=False)
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


@kinds
def test_every_damaged_byte_is_found(tmp_path, kind):
    index = made(kind)
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
    forge(tmp_path / "index", lambda manifest: manifest.update(version=99))
    with pytest.raises(pi.FormatError, match="version 99"):
        pi.load(tmp_path / "index")
    with pytest.raises(pi.FormatError, match="version 99"):
        index.save(tmp_path / "index")


@pytest.mark.parametrize(
    "change",
    [
        drop("version"),
        drop("parameters", "dim"),
        drop("state", "next_id"),
        drop("segments", 0, "files", "centre.npy", "bytes"),
        drop("segments", 0),
        lambda manifest: manifest.update(version="1"),
        lambda manifest: manifest.update(block_bytes=7),
        lambda manifest: manifest["state"].update(next_id=3),
        lambda manifest: manifest["segments"][0].update(name="../segment-0123456789ab"),
        lambda manifest: manifest["segments"][0].update(rows=-1),
        lambda manifest: manifest["segments"][0].update(rows=99),
    ],
)
@kinds
def test_a_manifest_of_another_shape_is_a_format_error(tmp_path, change, kind):
    index = made(kind)
    index.add(rows(40))
    index.save(tmp_path / "index")
    forge(tmp_path / "index", change)
    with pytest.raises(pi.FormatError) as caught:
        pi.load(tmp_path / "index")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        drop("state", "fitted"),
        drop("state", "wide_ids"),
        drop("state", "spread"),
        drop("state", "default"),
        drop("segments", 0, "files", "sizes.npy"),
        drop("segments", 0, "files", "centroids.npy"),
        drop("segments", 0, "files", "rows.npy"),
        lambda manifest: manifest.update(kind="flat"),
        lambda manifest: manifest["state"].update(fitted=False),
        lambda manifest: manifest["state"].update(wide_ids=True),
        lambda manifest: manifest["state"].update(spread=None),
        lambda manifest: manifest["state"].update(next_id=2**63),
        lambda manifest: manifest["state"].update(default={"nprobe": 0, "gap": None}),
        lambda manifest: manifest["state"].update(default={"nprobe": 1}),
        lambda manifest: manifest["state"].update(default={"nprobe": 1, "gap": None, "other": 1}),
        lambda manifest: manifest["parameters"].update(nlist="auto"),
        lambda manifest: manifest["parameters"].update(nlist=8),
        lambda manifest: manifest["parameters"].update(bits=3),
        lambda manifest: manifest["parameters"].update(dim=DIM + 1),
        lambda manifest: manifest["parameters"].update(store="float16"),
    ],
)
@pytest.mark.parametrize("mmap", [False, True])
def test_an_inverted_files_manifest_must_fit_its_arrays(tmp_path, change, mmap):
    index = made("ivf", store="float32")
    index.add(rows(40))
    index.save(tmp_path / "index")
    forge(tmp_path / "index", change)
    with pytest.raises(pi.FormatError) as caught:
        pi.load(tmp_path / "index", mmap=mmap)
    assert "index" in str(caught.value) and "\n" not in str(caught.value)


def resized(numbers):
    """sizes.npy with other numbers in its first places."""
    return lambda sizes: np.concatenate([numbers, sizes[len(numbers) :]]).astype(np.int64)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sizes", resized([-16])),
        ("sizes", resized([2**62, 2**62])),
        ("sizes", resized([2**31 - 32, 2**31 - 32])),
        ("sizes", resized([2**40])),
        ("sizes", lambda sizes: sizes + np.eye(1, 7, dtype=np.int64)[0]),
        ("sizes", lambda sizes: sizes.sum() * np.eye(1, 7, dtype=np.int64)[0]),
        ("sizes", lambda sizes: sizes.astype(np.int32)),
        ("sizes", lambda sizes: sizes[:-1]),
        ("rows", lambda rows: rows[:-1]),
        ("rows", lambda rows: rows[:, :-1]),
        ("rows", lambda rows: rows.view(np.float32)),
        ("rows", lambda rows: rows.reshape(-1)),
        ("centroids", lambda centroids: centroids * np.float32(np.nan)),
        ("centroids", lambda centroids: centroids * np.float32(1e30)),
        ("centroids", lambda centroids: centroids[:-1]),
        ("centre", lambda centre: centre[:-1]),
        ("centre", lambda centre: centre * np.float32(np.nan)),
        ("originals", lambda originals: originals[:-1]),
        ("originals", lambda originals: originals.astype(np.float64)),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_a_format_error(tmp_path, name, change, mmap):
    """Forged with right lengths and checksums: nothing may reach a kernel that reads by these numbers."""
    index = made("ivf", store="float32")
    index.add(rows(200))
    index.save(tmp_path / "index")
    forge_array(tmp_path / "index", name, change)
    with pytest.raises(pi.FormatError) as caught:
        pi.load(tmp_path / "index", mmap=mmap)
    assert ".npy holds" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("mmap", [False, True])
def test_arrays_in_column_order_are_a_format_error(tmp_path, mmap):
    index = made("ivf")
    index.add(rows(200))
    index.save(tmp_path / "index")
    forge_array(tmp_path / "index", "rows", np.asfortranarray)
    with pytest.raises(pi.FormatError, match="rows.npy holds .*'fortran_order': True.*, wanted "):
        pi.load(tmp_path / "index", mmap=mmap)


def test_ids_that_were_not_given_out_are_a_format_error(tmp_path):
    index = made("ivf")
    index.add(rows(100))
    index.save(tmp_path / "index")
    forge(tmp_path / "index", lambda manifest: manifest["state"].update(next_id=100))
    pi.load(tmp_path / "index")
    forge_array(tmp_path / "index", "rows", lambda rows: np.where(rows == 99, np.uint32(100), rows))
    with pytest.raises(pi.FormatError, match="rows.npy holds ids 0 to 100"):
        pi.load(tmp_path / "index")


def with_copies(folder):
    """A saved index whose rows lie in second lists."""
    index = pi.IVFIndex(DIM, nlist=7, store="float32", spill=0.6).fit(rows(300, 9))
    index.add(rows(200))
    index.save(folder)
    return index


def with_places(change):
    """spill_rows.npy whose places, of rows, are changed; lanes without a row are told by their scales of 0."""

    def changed(copies):
        words = copies.transpose(0, 2, 1)
        there = words[:, :, -3] != 0
        words[there, -1] = change(words[there, -1].astype(np.int64))
        return copies

    return changed


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        drop("state", "spill"),
        drop("state", "spill", "rows"),
        drop("state", "spill", "limit"),
        drop("segments", 0, "files", "spill_rows.npy"),
        drop("segments", 0, "files", "spill_sizes.npy"),
        lambda manifest: manifest["state"].update(spill=0.5),
        lambda manifest: manifest["state"]["spill"].update(rows=-1),
        lambda manifest: manifest["state"]["spill"].update(rows=201),
        lambda manifest: manifest["state"]["spill"].update(limit="wide"),
        lambda manifest: manifest["parameters"].update(spill=2.0),
        lambda manifest: manifest["parameters"].update(store="none"),
    ],
)
def test_a_manifest_must_fit_the_arrays_of_second_lists(tmp_path, change, mmap):
    with_copies(tmp_path / "index")
    pi.load(tmp_path / "index", mmap=mmap)
    forge(tmp_path / "index", change)
    with pytest.raises(pi.FormatError) as caught:
        pi.load(tmp_path / "index", mmap=mmap)
    assert "index" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("spill_sizes", resized([-16])),
        ("spill_sizes", resized([2**40])),
        ("spill_sizes", lambda sizes: sizes + np.eye(1, 7, dtype=np.int64)[0]),
        ("spill_sizes", lambda sizes: sizes[:-1]),
        ("spill_rows", lambda copies: copies[:-1]),
        ("spill_rows", lambda copies: copies[:, :-1]),
        ("spill_rows", lambda copies: copies.view(np.float32)),
        ("spill_rows", with_places(lambda places: places + 2**31)),
        ("spill_rows", with_places(lambda places: np.where(places == places.max(), 10**6, places))),
        ("spill_rows", with_places(lambda places: np.where(places == places.max(), places.min(), places))),
    ],
)
def test_arrays_of_second_lists_that_do_not_fit_are_a_format_error(tmp_path, name, change, mmap):
    """Whoever maps a file trusts its rows, and so the places in them: see below."""
    with_copies(tmp_path / "index")
    trusted = mmap and "with_places" in change.__qualname__
    forge_array(tmp_path / "index", name, change)
    if trusted:
        pi.load(tmp_path / "index", mmap=True).search(rows(9), 5, nprobe=7)
        return
    with pytest.raises(pi.FormatError) as caught:
        pi.load(tmp_path / "index", mmap=mmap)
    assert ".npy holds" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("isa", [kernels.available()[0], "generic"])
def test_copies_of_noise_are_searched_and_changed_without_harm(tmp_path, seed, isa):
    """Places beyond all rows, and the same ones again and again."""
    with_copies(tmp_path / "index")
    noise = np.random.default_rng(seed)

    def random_bits(array):
        found = noise.integers(0, 2**32, array.shape, np.uint32)
        found[:, -1] = np.where(noise.random(found[:, -1].shape) < 0.5, found[:, -1] % 300, found[:, -1])
        return found

    forge_array(tmp_path / "index", "spill_rows", random_bits)
    loaded = pi.load(tmp_path / "index", mmap=True)
    with kernels.using(isa), np.errstate(all="ignore"):
        for nprobe in (1, 7):
            for options in ({}, {"rerank": 0, "return_error": True}, {"filter": np.arange(200) % 2 == 0}):
                loaded.search(rows(9), 5, nprobe=nprobe, **options)
        loaded.range_search(rows(3), 9.0)
        empty = loaded.empty_like()
        empty.merge(loaded)
        loaded.remove(loaded.ids[::2])
        loaded.upsert(np.arange(50), rows(50))
        loaded.search(rows(9), 5)
        loaded.save(tmp_path / "again")
    with pytest.raises(pi.FormatError, match="spill_rows.npy holds places|spilled rows must be"):
        pi.load(tmp_path / "again")


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_noise_are_searched_and_changed_without_harm(tmp_path, seed):
    """Whoever maps a file trusts its rows: with any bits in codes, factors and ids, answers are wrong and no more."""
    index = made("ivf", store="float32")
    index.add(rows(300), ids=2**40 + np.arange(300))
    index.save(tmp_path / "index")
    noise = np.random.default_rng(seed)

    def random_bits(array):
        return noise.integers(0, 2**32, array.shape, np.uint32).view(array.dtype)

    for name in ("rows", "originals"):
        forge_array(tmp_path / "index", name, random_bits)
    loaded = pi.load(tmp_path / "index", mmap=True)
    for nprobe in (1, 7):
        loaded.search(rows(9), 5, nprobe=nprobe)
        loaded.search(rows(9), 5, nprobe=nprobe, rerank=0)
    ids = loaded.ids
    there = np.unique(ids[ids >= 0])
    loaded.remove(there[::2])
    loaded.upsert(there[:50], rows(50))
    loaded.add(rows(50), ids=np.setdiff1d(np.arange(100), loaded.ids)[:50])
    loaded.search(rows(9), 5)


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
        assert len(set((tmp_path / name).iterdir()) - {tmp_path / name / file for file in LOCK_FILES}) == 2
    monkeypatch.chdir(tmp_path / "empty")
    index.save(".")
    same(index, pi.load("."))


def test_loading_while_another_process_saves_gives_the_old_index_or_the_new(tmp_path, monkeypatch):
    old, new = pi.FlatIndex(DIM), pi.FlatIndex(DIM, bits=2)
    old.add(rows(1100))
    new.add(rows(50))
    old.save(tmp_path / "index")
    read = reading.Segment.__call__
    calls = iter(range(100))

    def saved_meanwhile(*arguments, **named):
        if next(calls) == 1:
            new.save(tmp_path / "index")
        return read(*arguments, **named)

    monkeypatch.setattr(reading.Segment, "__call__", saved_meanwhile)
    same(pi.load(tmp_path / "index"), new)


def test_an_index_can_be_moved_and_copied(tmp_path):
    index = pi.FlatIndex(DIM)
    index.add(rows(10))
    index.save(tmp_path / "deep" / "er" / "index")
    shutil.copytree(tmp_path / "deep" / "er" / "index", tmp_path / "copy")
    same(index, pi.load(tmp_path / "copy"))
