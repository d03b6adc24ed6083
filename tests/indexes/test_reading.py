"""Files that are read without trust: what is opened, what is believed of it, and what is found."""

import ctypes
import json
import mmap
import os
import socket
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xxhash

import polarindex as pi
from polarindex.errors import FormatError
from polarindex.indexes import reading
from polarindex.indexes.manifest import sealed

BLOCK = reading.BLOCK_BYTES


def stored(folder, **arrays):
    """A segment's files, and the manifest's facts of them."""
    folder.mkdir()
    facts, sums = {}, [np.empty(0, np.uint64)]
    for name, array in arrays.items():
        data = reading.header(array.shape, array.dtype) + array.tobytes()
        (folder / f"{name}.npy").write_bytes(data)
        sums.append(sums_of(data))
        facts[f"{name}.npy"] = {"bytes": len(data), "checksum": reading.digest(sums[-1])}
    np.save(folder / reading.CHECKSUMS, np.concatenate(sums))
    return facts


def sums_of(data):
    return np.array([xxhash.xxh3_64_intdigest(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)], np.uint64)


def put(path, data):
    path.write_bytes(data)


@pytest.fixture
def large(rng):
    """Three blocks and a part of one."""
    return rng.integers(0, 256, (3 * BLOCK + 1000,), np.uint8)


@pytest.mark.parametrize("verify", [None, True, False])
@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("shape", [(0, 3), (1,), (5, 2, 16), (BLOCK // 4 - 32,), (BLOCK // 4 - 31,), ()])
def test_an_array_is_read_as_it_was_written(tmp_path, rng, shape, mmap, verify):
    array = rng.integers(0, 2**32, shape, np.uint32)
    segment = reading.Segment(tmp_path / "s", stored(tmp_path / "s", one=array), mmap, verify)
    for in_memory in (False, True):
        found = segment("one", shape, np.uint32, in_memory=in_memory)
        np.testing.assert_array_equal(found, array)
        assert found.dtype == np.uint32 and found.flags.writeable and found.flags.c_contiguous
        assert found.ctypes.data % 64 == 0 or not found.size
        assert isinstance(found, np.memmap) == (mmap and not in_memory and array.size > 0)
    segment.check_all_read()


def test_the_header_is_the_one_that_numpy_writes(tmp_path):
    for array in (np.zeros((3, 4), np.float16), np.zeros(0, np.uint64), np.zeros((1, 2, 16), np.uint32)):
        np.save(tmp_path / "x.npy", array)
        assert (tmp_path / "x.npy").read_bytes().startswith(reading.header(array.shape, array.dtype))


@pytest.mark.parametrize("pad", [0, 64, 640])
def test_the_padding_of_a_header_does_not_matter_but_its_line_does(tmp_path, pad):
    facts = stored(tmp_path / "s", one=np.arange(7))
    data = (tmp_path / "s" / "one.npy").read_bytes()
    for more in (pad, pad + 8):
        wider = data[:8] + (118 + more).to_bytes(2, "little") + data[10:127] + b" " * more + data[127:]
        put(tmp_path / "s" / "one.npy", wider)
        facts["one.npy"]["bytes"] = len(wider)
        segment = reading.Segment(tmp_path / "s", facts, mmap=False, verify=False)
        put(tmp_path / "s" / "unended.npy", wider[: 127 + more] + b" " + wider[128 + more :])
        facts["unended.npy"] = facts["one.npy"]
        with pytest.raises(FormatError, match=r"unended.npy"):
            segment("unended", (7,), np.int64)
        if more == pad:
            np.testing.assert_array_equal(segment("one", (7,), np.int64), np.arange(7))
        else:
            with pytest.raises(FormatError, match=r"one.npy is damaged: it does not begin as a .npy file"):
                segment("one", (7,), np.int64)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((7,), np.uint64), ((7,), np.float64), ((7,), np.int32), ((7,), ">i8"), ((8,), np.int64), ((7, 1), np.int64)],
)
def test_another_shape_or_type_is_refused_and_both_are_named(tmp_path, shape, dtype, mmap):
    segment = reading.Segment(tmp_path / "s", stored(tmp_path / "s", one=np.arange(7)), mmap, None)
    with pytest.raises(FormatError, match=r"one.npy holds {'descr': '<i8'.*\(7,\), }, wanted {'descr'"):
        segment("one", shape, dtype)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("rows", [2**62, 2**64, 10**30])
def test_a_header_and_a_manifest_that_agree_on_too_much_ask_for_no_memory(tmp_path, rows, mmap):
    facts = stored(tmp_path / "s", one=np.zeros((7, 4), np.float32))
    data = reading.header((rows, 4), np.dtype(np.float32)) + bytes(112)
    put(tmp_path / "s" / "one.npy", data)
    facts["one.npy"]["bytes"] = len(data)
    segment = reading.Segment(tmp_path / "s", facts, mmap, False)
    tracemalloc.start()
    with pytest.raises(FormatError, match=r"one.npy is damaged: it has \d+ bytes, which is not what"):
        segment("one", (rows, 4), np.float32)
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|O', 'fortran_order': False, 'shape': (7,), }",
        b"__import__('os').abort()",
        b"[" * 9000,
        b"{'descr': '<i8', 'fortran_order': True, 'shape': (7,), }",
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (7,), }\n#",
        b"",
    ],
)
@pytest.mark.parametrize("mmap", [False, True])
def test_no_header_is_evaluated_and_a_strange_one_is_shown_in_one_short_line(tmp_path, header, mmap):
    facts = stored(tmp_path / "s", one=np.arange(7))
    text = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    data = b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + np.arange(7).tobytes()
    put(tmp_path / "s" / "one.npy", data)
    facts["one.npy"]["bytes"] = len(data)
    with pytest.raises(FormatError, match="one.npy holds .*, wanted ") as caught:
        reading.Segment(tmp_path / "s", facts, mmap, False)("one", (7,), np.int64)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04" + bytes(180), b"\x80\x04cos\nsystem" + bytes(171), b"\x93NUMPY\x02\0" * 23]
)
@pytest.mark.parametrize("mmap", [False, True])
def test_files_of_other_kinds_are_refused(tmp_path, data, mmap):
    """Among them archives and pickles, which NumPy would open."""
    facts = stored(tmp_path / "s", one=np.arange(7))
    put(tmp_path / "s" / "one.npy", data)
    facts["one.npy"]["bytes"] = len(data)
    with pytest.raises(FormatError, match="does not begin as a .npy file"):
        reading.Segment(tmp_path / "s", facts, mmap, False)("one", (7,), np.int64)


def replaced(path, kind, elsewhere):
    """Something else where a file or folder was."""
    moved = elsewhere / path.name
    path.rename(moved)
    if kind == "link out":
        path.symlink_to(moved)
    elif kind == "link in":
        moved.rename(path.with_name("copy"))
        path.symlink_to("copy")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == "other":
        path.mkdir() if moved.is_file() else path.write_text("a file")


PLACES = {  # and what a message has to say
    "link out": ["link"],
    "link in": ["link"],
    "loop": ["link"],
    "device": ["link"],
    "pipe": ["pipe"],
    "socket": ["socket"],
    "other": ["directory"],
    "nothing": ["missing", "no manifest"],
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes and devices in folders, and links need a privilege")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", ["manifest.json", "segment-*", "segment-*/centre.npy", "segment-*/checksums.npy"])
def test_links_pipes_devices_and_folders_are_refused_at_once(what, place):
    with tempfile.TemporaryDirectory() as folder:  # short: a socket's path may have 107 characters
        pi.FlatIndex(20).save(Path(folder) / "index")
        (path,) = (Path(folder) / "index").glob(what)
        (Path(folder) / "else").mkdir()
        replaced(path, place, Path(folder) / "else")
        for how in ({}, {"mmap": True}, {"verify": False}):
            if what.endswith("checksums.npy") and how.get("verify") is False:
                continue
            with pytest.raises(FormatError, match=path.name) as caught:
                pi.load(Path(folder) / "index", **how)
            assert any(word in str(caught.value) for word in PLACES[place])
        assert any(path.name in finding.problem for finding in pi.verify(Path(folder) / "index"))


def test_a_folder_that_is_a_link_may_be_what_is_loaded(tmp_path):
    pi.FlatIndex(20).save(tmp_path / "index")
    (tmp_path / "link").symlink_to("index")
    assert len(pi.load(tmp_path / "link")) == 0 and pi.verify(tmp_path / "link") == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("what", [".", "manifest.json", "segment-*", "segment-*/centre.npy", "segment-*/checksums.npy"])
def test_what_may_not_be_read_is_a_permission_error_that_names_it(what):
    folder = Path(tempfile.mkdtemp())
    pi.FlatIndex(20).save(folder / "index")
    (path,) = [folder / "index"] if what == "." else (folder / "index").glob(what)
    os.chmod(folder, 0o755)
    for part in (folder / "index").rglob("*"):
        part.chmod(0o755)
    path.chmod(0)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)  # root may read everything
        with pytest.raises(PermissionError, match=path.name):
            pi.load(folder / "index")
        with pytest.raises(PermissionError, match=path.name):
            pi.verify(folder / "index")
    finally:
        if root:
            os.seteuid(0)
        path.chmod(0o755)


@pytest.mark.parametrize("damaged", [[0], [1], [3], [0, 2, 3]])
def test_every_damaged_block_is_found_and_the_first_is_refused(tmp_path, large, damaged):
    facts = stored(tmp_path / "s", small=np.arange(3), one=large, other=large)
    for name in ("one", "other"):
        path = tmp_path / "s" / f"{name}.npy"
        data = bytearray(path.read_bytes())
        for block in damaged:
            data[block * BLOCK + 200] ^= 1
        put(path, data)
    found = [(finding.path.name, finding.block) for finding in reading.findings(tmp_path / "s", facts)]
    assert found == [(f"{name}.npy", block) for name in ("one", "other") for block in damaged]
    for mapped, verify in ((False, None), (False, True), (True, True)):
        segment = reading.Segment(tmp_path / "s", facts, mapped, verify)
        segment("small", (3,), np.int64)
        with pytest.raises(FormatError, match=f"one.npy is damaged: block {damaged[0]} of 4 does not match its"):
            segment("one", large.shape, np.uint8)
    for mapped, verify in ((True, None), (True, False), (False, False)):  # as asked for
        reading.Segment(tmp_path / "s", facts, mapped, verify)("one", large.shape, np.uint8)
    with pytest.raises(FormatError, match="block"):  # what is read of a mapped segment is checked
        reading.Segment(tmp_path / "s", facts, True, None)("one", large.shape, np.uint8, in_memory=True)


def test_all_kinds_of_damage_are_found_together(tmp_path, large):
    facts = stored(tmp_path / "s", a=np.arange(3), b=large, c=np.arange(4), d=np.arange(5), e=np.arange(6))
    (tmp_path / "s" / "a.npy").unlink()
    put(tmp_path / "s" / "b.npy", (tmp_path / "s" / "b.npy").read_bytes()[:-1])
    sums = np.load(tmp_path / "s" / reading.CHECKSUMS)
    sums[[5, 7]] ^= np.uint64(1)  # c's and e's
    np.save(tmp_path / "s" / reading.CHECKSUMS, sums)
    (tmp_path / "s" / "e.npy").unlink()
    data = bytearray((tmp_path / "s" / "d.npy").read_bytes())
    data[-1] ^= 128
    put(tmp_path / "s" / "d.npy", data)
    found = [(finding.path.name, finding.block) for finding in reading.findings(tmp_path / "s", facts)]
    wanted = [("a.npy", None), ("b.npy", None), ("checksums.npy", None), ("d.npy", 0)]
    assert found == [*wanted, ("checksums.npy", None), ("e.npy", None)]
    put(tmp_path / "s" / reading.CHECKSUMS, b"")
    found = [(finding.path.name, finding.block) for finding in reading.findings(tmp_path / "s", facts)]
    assert found == [("checksums.npy", None), ("a.npy", None), ("b.npy", None), ("e.npy", None)]
    assert [finding.path.name for finding in reading.findings(tmp_path / "nowhere", facts)] == ["nowhere"]


def test_a_file_that_nobody_asked_for_is_of_another_index(tmp_path):
    segment = reading.Segment(tmp_path / "s", stored(tmp_path / "s", one=np.arange(3), two=np.arange(3)), False, None)
    segment("two", (3,), np.int64)
    with pytest.raises(FormatError, match="has one.npy, which this index has no use for"):
        segment.check_all_read()
    with pytest.raises(FormatError, match="has no three.npy, which this index needs"):
        segment("three", (3,), np.int64)


def test_a_file_is_read_up_to_a_length_and_no_further(tmp_path):
    put(tmp_path / "x", b"abc")
    assert reading.read_all(tmp_path / "x", 3) == b"abc"
    os.truncate(tmp_path / "x", 1 << 24)
    tracemalloc.start()
    with pytest.raises(FormatError, match="x has more than 2 bytes"):
        reading.read_all(tmp_path / "x", 2)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_bytes_and_checksums_that_were_changed_together_are_not_believed(tmp_path):
    """The manifest vouches for the checksums."""
    facts = stored(tmp_path / "s", one=np.arange(7))
    stored(tmp_path / "other", one=np.arange(7) + 1)
    for file in ("one.npy", reading.CHECKSUMS):
        put(tmp_path / "s" / file, (tmp_path / "other" / file).read_bytes())
    told = "checksums.npy is damaged: its checksums of one.npy do not match the manifest"
    for mapped, verify in ((False, None), (True, True)):
        with pytest.raises(FormatError, match=told):
            reading.Segment(tmp_path / "s", facts, mapped, verify)("one", (7,), np.int64)
    assert [told in finding.problem for finding in reading.findings(tmp_path / "s", facts)] == [True]


def test_ids_that_were_not_given_out_are_found_where_all_is_read(tmp_path):
    for kind, name in (("flat", "ids"), ("ivf", "rows")):
        index = pi.FlatIndex(20) if kind == "flat" else pi.IVFIndex(20, nlist=1).fit(np.ones((2, 20)))
        index.add(np.eye(9, 20), ids=np.arange(9) + 50)
        index.save(tmp_path / kind)
        path = tmp_path / kind / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["state"]["next_id"] = 58
        path.write_text(json.dumps(sealed(manifest)))
        for how in ({}, {"mmap": True, "verify": True}, {"verify": False}):
            with pytest.raises(FormatError, match=f"{name}.npy holds ids (0|50) to 58, wanted from 0 to below next_id"):
                pi.load(tmp_path / kind, **how)
        assert 58 in pi.load(tmp_path / kind, mmap=True).ids  # which does not read them
        assert len(pi.verify(tmp_path / kind)) == 1


@pytest.mark.parametrize("mmap", [False, True])
def test_what_is_mapped_is_checked_on_request_and_what_is_read_always(tmp_path, rng, mmap):
    index = pi.IVFIndex(20, nlist=5, store="float32").fit(rng.standard_normal((200, 20)))
    index.add(rng.standard_normal((100, 20)))
    index.save(tmp_path / "index")
    for name, read in (("originals", False), ("rows", False), ("centroids", True), ("centre", True), ("sizes", True)):
        (path,) = (tmp_path / "index").glob(f"*/{name}.npy")
        good = path.read_bytes()
        put(path, good[:130] + bytes([good[130] ^ 1]) + good[131:])
        for verify in (None, True, False):
            checked = verify or (verify is None and (read or not mmap))
            if checked:
                with pytest.raises(FormatError, match=f"{name}.npy is damaged: block 0 of 1"):
                    pi.load(tmp_path / "index", mmap=mmap, verify=verify)
            elif name != "sizes":
                pi.load(tmp_path / "index", mmap=mmap, verify=verify)
        assert [(finding.path, finding.block) for finding in pi.verify(tmp_path / "index")] == [(path, 0)]
        put(path, good)
    assert pi.verify(tmp_path / "index") == []


def test_what_is_whole_and_cannot_be_an_index_is_found_too(tmp_path):
    pi.FlatIndex(20).save(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["parameters"]["bits"] = 99
    path.write_text(json.dumps(manifest))
    (finding,) = pi.verify(tmp_path / "index")
    assert finding.path == path and "checksum does not match" in str(finding)
    path.write_text(json.dumps(sealed(manifest)))
    (finding,) = pi.verify(tmp_path / "index")
    assert "bits for quantizer" in str(finding)
    with pytest.raises(FileNotFoundError):
        pi.verify(tmp_path / "nowhere")


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect is called by its number in Linux's C library")
@pytest.mark.parametrize("store", ["none", "float32"])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_no_byte_beyond_a_mapped_array_is_read(monkeypatch, rng, kind, store):
    """Each array of a loaded index ends where memory ends that may not be touched: to read on would be a crash."""
    held = []

    def against_a_wall(self, name, shape, dtype, in_memory=False):
        array = read(self, name, shape, dtype, in_memory=in_memory)
        size = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        room = mmap.mmap(-1, size + mmap.PAGESIZE)
        everything = np.frombuffer(room, np.uint8)
        wall = ctypes.c_void_p(everything.ctypes.data + size)
        assert ctypes.CDLL(None, use_errno=True).mprotect(wall, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
        found = everything[size - array.nbytes : size].view(dtype).reshape(shape)
        found[...] = array
        held.append(room)
        return found

    x = rng.standard_normal((496, 20)).astype(np.float32)
    if kind == "flat":
        index = pi.FlatIndex(20, store=store).fit(x)
    else:
        index = pi.IVFIndex(20, nlist=7, store=store).fit(x)
    index.add(x)
    with tempfile.TemporaryDirectory() as folder:
        index.save(folder)
        read = reading.Segment.__call__
        monkeypatch.setattr(reading.Segment, "__call__", against_a_wall)
        loaded = pi.load(folder)
    assert len(held) >= 4
    everywhere = {"nprobe": 7} if kind == "ivf" else {}
    for q in (x[:1], x[:40]):
        for one, other in zip(index.search(q, 9, **everywhere), loaded.search(q, 9, **everywhere), strict=True):
            np.testing.assert_array_equal(one, other)
        for one, other in zip(index.range_search(q, 9.0), loaded.range_search(q, 9.0), strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(loaded.reconstruct(loaded.ids), index.reconstruct(loaded.ids))
    loaded.add(x[:30])
    loaded.remove(np.arange(50))
    assert len(loaded.search(x[:3], 3)[0]) == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes in folders")
@pytest.mark.parametrize("kind", ["pipe", "link out"])
def test_what_is_replaced_between_the_look_and_the_opening_is_refused_too(tmp_path, monkeypatch, kind):
    (tmp_path / "else").mkdir()
    put(tmp_path / "x", b"abc")
    before = reading._mode(tmp_path / "x")
    replaced(tmp_path / "x", kind, tmp_path / "else")
    monkeypatch.setattr(reading, "_mode", lambda path: before)
    with pytest.raises((FormatError, OSError)):
        reading.open_regular(tmp_path / "x").close()


# --- manifests that somebody made, with right checksums


def forged(folder, change):
    """A saved index whose manifest is another, with a right checksum."""
    index = pi.FlatIndex(20, store="float32")
    index.add(np.random.default_rng(0).standard_normal((40, 20)))
    index.save(folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(sealed(manifest)))


def entry(*keys, value):
    def change(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return change


FACTS = {"bytes": 3, "checksum": "0" * 16}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        *(
            (entry("segments", 0, "files", name, value=FACTS), "no name of an array's file")
            for name in ("../x.npy", "/etc/passwd", "a\0b.npy", "", ".npy", "x.npy\n", "X.npy", "checksums.npy", "a/b")
        ),
        (entry("segments", 0, "files", "more.npy", value={**FACTS, "bytes": 0}), "more.npy, which this index has no"),
        (entry("segments", 0, "files", "centre.npy", value=[]), "centre.npy must be a dict"),
        (entry("segments", 0, "files", "centre.npy", "bytes", value=1e9), "bytes must be an integer"),
        (entry("segments", 0, "files", "centre.npy", "bytes", value=2**70), "bytes must be from 0"),
        (entry("segments", 0, "files", "centre.npy", "checksum", value=7), "checksum must be a str"),
        (entry("segments", 0, "files", value=[]), "files must be a dict"),
        (entry("segments", 0, "rows", value=2**70), "rows must be from 0"),
        (entry("segments", 0, "rows", value=True), "rows must be an integer"),
        (entry("segments", 0, "name", value=None), "name must be a str"),
        (entry("segments", 0, "name", value="segment-0123456789ab\n"), "a segment's name"),
        (entry("segments", value={"a": 1}), "segments must be a list"),
        (entry("parameters", value=[]), "parameters must be a dict"),
        (entry("parameters", "dim", value=2**40), "centre.npy holds"),
        (entry("parameters", "dim", value=0), "dim must be at least 1"),
        (entry("parameters", "dim", value=65_536), "centre.npy holds"),
        (entry("parameters", "seed", value=-1), "seed"),
        (entry("state", value=None), "state must be a dict"),
        (entry("state", "energy_removed", value=10**400), "energy_removed must be finite"),
        (entry("kind", value=["flat"]), "kind must be one of"),
        (entry("version", value=True), "format version True"),
        (entry("version", value="1" * 1000), "format version '111"),
    ],
)
@pytest.mark.parametrize("mmap", [False, True])
def test_a_forged_manifest_is_refused_for_what_is_wrong_with_it(tmp_path, change, told, mmap):
    forged(tmp_path / "index", change)
    for verify in (None, False):
        with pytest.raises(FormatError, match="index") as caught:
            pi.load(tmp_path / "index", mmap=mmap, verify=verify)
        assert told in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert any("index" in finding.problem for finding in pi.verify(tmp_path / "index"))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"rows":', '"rows": 5, "rows":', "a key is there twice"),
        ('"rows": 40', '"rows": NaN', "NaN is no number"),
        ('"rows": 40', '"rows": -Infinity', "-Infinity is no number"),
        ("{", " " * (1 << 20) + "{", "more than 1,048,576 bytes"),
        ("{", '{"deep": ' + "[" * 900 + "]" * 900 + ",", "damaged"),
        ("{", "\ufeff{", "damaged"),
    ],
)
def test_a_manifest_is_read_as_every_reader_of_json_would(tmp_path, old, new, told):
    forged(tmp_path / "index", lambda manifest: None)
    path = tmp_path / "index" / "manifest.json"
    path.write_text(path.read_text().replace(old, new, 1), encoding="utf-8")
    tracemalloc.start()
    with pytest.raises(FormatError, match="manifest.json") as caught:
        pi.load(tmp_path / "index")
    assert told in str(caught.value) and tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("dim", [65_536, 133_144])
def test_dimensions_that_are_not_in_the_files_cost_nothing(tmp_path, dim):
    """PolarQuant divides its bits among levels by a table of so many entries."""
    forged(tmp_path / "index", lambda manifest: manifest["parameters"].update(dim=dim, quantizer="polarquant", bits=8))
    tracemalloc.start()
    with pytest.raises(FormatError, match="centre.npy holds"):
        pi.load(tmp_path / "index", verify=False)
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def test_dimensions_that_no_index_can_have_are_refused_before_they_are_made(tmp_path):
    """An unfitted inverted file has no centre to tell."""
    pi.IVFIndex(20).save(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["parameters"].update(dim=2**40, quantizer="polarquant")
    path.write_text(json.dumps(sealed(manifest)))
    with pytest.raises(FormatError, match="dim must be from 1 to 133144"):
        pi.load(tmp_path / "index")


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e18])
def test_a_centre_that_queries_cannot_be_relative_to_is_refused(tmp_path, value):
    forged(tmp_path / "index", lambda manifest: None)
    (path,) = (tmp_path / "index").glob("*/centre.npy")
    put(path, path.read_bytes()[:-4] + np.float32(value).tobytes())
    with pytest.raises(FormatError, match="centre.npy holds a row that is not finite"):
        pi.load(tmp_path / "index", verify=False)


def test_as_many_candidates_as_a_file_asks_for_are_no_more_than_there_are_rows(tmp_path, rng):
    index = pi.IVFIndex(20, nlist=5, store="float32").fit(rng.standard_normal((200, 20)))
    index.add(rng.standard_normal((30, 20)))
    index.save(tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["state"]["default"] = {"nprobe": 2**60, "gap": None, "rerank": 2**60}
    path.write_text(json.dumps(sealed(manifest)))
    loaded, q = pi.load(tmp_path / "index"), rng.standard_normal((3, 20))
    for one, other in zip(loaded.search(q, 7), index.search(q, 7, nprobe=5, rerank=30), strict=True):
        np.testing.assert_array_equal(one, other)
