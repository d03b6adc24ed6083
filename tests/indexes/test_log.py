"""A log on its own: every byte that counts is checked, no other is read, and nothing that it says does harm."""

import io
import json
import os
import struct
import tracemalloc

import numpy as np
import pytest
import xxhash

import polarindex as pi
from polarindex.indexes import log, manifest
from polarindex.indexes.saved import Saved, whole

DIM = 20
kinds = pytest.mark.parametrize("kind", ["flat", "ivf"])


def rows(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32) + 1


def record(n):
    return Saved(n, {"changed": n}, {"ids": whole(np.arange(n)), "codes": whole(rows(n).view(np.uint32))})


def equal(found, wanted):
    assert (found.rows, found.state) == (wanted.rows, wanted.state)
    for name, array in wanted.arrays.items():
        (part,) = array.parts
        np.testing.assert_array_equal(found(name, part.shape, part.dtype), part)
    found.check_all_read()


def read(folder, entry, held=None):
    held = held or log.empty()._replace(name=entry["name"])
    at, sums = log.checked(folder, entry, held)
    return list(log.records(folder, held, at, sums)), at


def write(folder, data, count=1, name="log-0123456789ab"):
    """A log of these bytes, and the entry that says that they are as they were written."""
    (folder / name).write_bytes(data)
    return {"name": name, "bytes": len(data), "records": count, "checksum": xxhash.xxh3_64_hexdigest(data)}


def forged(told, arrays=b"", **lengths):
    """A record of these parts."""
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    sizes = {"text_bytes": len(text), "array_bytes": len(arrays)} | lengths
    return struct.pack("<8sQQ", b"polarlog", sizes["text_bytes"], sizes["array_bytes"]) + text + arrays


def npy(descr, shape, data=b"", order=False, version=b"\x01\x00"):
    header = repr({"descr": descr, "fortran_order": order, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data


def test_records_come_back_as_they_were_appended(tmp_path):
    at, entries = log.empty(), []
    for n in (0, 3, 1000, 1):
        at = log.append(tmp_path, at, record(n))
        entries.append((at, n))
    assert (tmp_path / at.name).stat().st_size == at.bytes and at.records == 4
    found, again = read(tmp_path, at.entry)
    assert again.entry == at.entry
    for one, n in zip(found, (0, 3, 1000, 1), strict=True):
        equal(one, record(n))
    for held, _ in entries:  # from any record on, as a reader goes on; it may then go on further
        found, again = read(tmp_path, at.entry, held)
        assert len(found) == 4 - held.records and again.entry == at.entry
    assert [len(read(tmp_path, held.entry)[0]) for held, _ in entries] == [1, 2, 3, 4]


def test_what_lies_beyond_the_length_is_cut_off_by_the_next_record(tmp_path):
    one = log.append(tmp_path, log.empty(), record(2))
    path = tmp_path / one.name
    whole_record = path.read_bytes()
    for tail in (whole_record[:7], whole_record, b"\0" * 9999):
        path.write_bytes(whole_record + tail)
        assert len(read(tmp_path, one.entry)[0]) == 1
        two = log.append(tmp_path, one, record(1))
        assert path.stat().st_size == two.bytes < len(whole_record) * 2
        assert len(read(tmp_path, two.entry)[0]) == 2


def test_every_missing_or_flipped_byte_is_found(tmp_path):
    at = log.append(tmp_path, log.append(tmp_path, log.empty(), record(1)), record(2))
    path = tmp_path / at.name
    good = path.read_bytes()
    for byte in range(len(good)):
        with open(path, "r+b") as file:
            file.truncate(byte)
        with pytest.raises(pi.FormatError, match=f"{at.name} is damaged: {len(good) - byte} of its {len(good)} bytes"):
            read(tmp_path, at.entry)
        path.write_bytes(good[:byte] + bytes([good[byte] ^ 1 << byte % 8]) + good[byte + 1 :])
        with pytest.raises(pi.FormatError, match=f"{at.name} is damaged: its checksum"):
            read(tmp_path, at.entry)
    path.write_bytes(good[:-1])
    with pytest.raises(pi.FormatError, match=f"it has {len(good) - 1} bytes, wanted {len(good)}"):
        log.append(tmp_path, at, record(1))
    path.unlink()
    with pytest.raises(pi.FormatError, match="is missing"):
        read(tmp_path, at.entry)


PLAIN = npy("<i8", (2,), b"\0" * 16)
EMPTY = {"rows": 1, "state": {}, "arrays": {}}
FORGED = {
    "no record": b"polarlog",
    "other magic": b"x" + forged(EMPTY)[1:],
    "long text": forged({}, text_bytes=2**63),
    "text longer than any": forged(b" " * 70_000),
    "long arrays": forged({**EMPTY, "arrays": {"a": 1}}, array_bytes=2**64 - 1),
    "no json": forged(b"\xff{"),
    "deep json": forged(b"[" * 60_000),
    "long number": forged(b'{"rows": ' + b"1" * 6000 + b"}"),
    "no number": forged(b'{"rows": 1, "state": {"a": NaN}, "arrays": {}}'),
    "a key twice": forged(b'{"rows": 1, "rows": 2, "state": {}, "arrays": {}}'),
    "a list": forged([]),
    "no rows": forged({"state": {}, "arrays": {}}),
    "negative rows": forged({**EMPTY, "rows": -1}),
    "more rows than there can be": forged({**EMPTY, "rows": 2**63}),
    "no state": forged({**EMPTY, "state": []}),
    "a list of arrays": forged({**EMPTY, "arrays": ["a"]}, PLAIN),
    "arrays that are longer": forged({**EMPTY, "arrays": {"a": len(PLAIN) + 1}}, PLAIN),
    "arrays that are shorter": forged({**EMPTY, "arrays": {"a": len(PLAIN) - 1}}, PLAIN),
    "arrays of a negative length": forged({**EMPTY, "arrays": {"a": -1, "b": len(PLAIN) + 1}}, PLAIN),
    "arrays of no number": forged({**EMPTY, "arrays": {"a": True}}, b"1"),
    "arrays that are not told of": forged(EMPTY, PLAIN),
}
ARRAYS = {
    "a large array": npy("<f4", (2**40,)),
    "a negative shape": npy("<f4", (-1, -4), b"\0" * 16),
    "a huge empty shape": npy("<f4", (0, 2**70)),
    "no bytes a number": npy("|V0", (2**40,)),
    "objects": npy("|O", (1,), b"\0" * 8),
    "column order": npy("<f4", (2, 2), b"\0" * 16, True),
    "version 2": npy("<i8", (2,), b"\0" * 16, version=b"\x02\x00"),
    "no numpy": b"\0" * 80,
    "a program": npy("<f4", "__import__('os').abort()"),
    "a byte more": PLAIN + b"\0",
    "a byte less": PLAIN[:-1],
    "nothing": b"",
}


@pytest.mark.parametrize("data", ARRAYS.values(), ids=ARRAYS)
def test_an_array_that_is_not_as_it_must_be_is_a_format_error_and_takes_no_memory(tmp_path, data):
    (record,), _ = read(tmp_path, write(tmp_path, forged({**EMPTY, "arrays": {"a": len(data)}}, data)))
    tracemalloc.start()
    with pytest.raises(pi.FormatError, match="log-0123456789ab, record 0, a") as caught:
        record("a", (2,), np.int64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value) and peak < 200_000
    for name, found in (("b", "has no b, which"), ("a", "has a, which this index has no use for")):
        with pytest.raises(pi.FormatError, match=found):
            record(name, (2,), np.int64) if name == "b" else read(
                tmp_path, write(tmp_path, forged({**EMPTY, "arrays": {"a": len(data)}}, data))
            )[0][0].check_all_read()


def test_bytes_that_change_after_they_were_checked_are_not_taken(tmp_path):
    """In each MiB of a log: by a dying disk, or who copies files over it."""
    at = log.append(tmp_path, log.append(tmp_path, log.empty(), record(30_000)), record(3))
    held, path = log.empty()._replace(name=at.name), tmp_path / at.name
    good = path.read_bytes()
    assert len(good) > 2 << 20
    for place in (7, 1 << 20, len(good) - 1):
        again, sums = log.checked(tmp_path, at.entry, held)
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(pi.FormatError, match="changed while it was read"):
            list(log.records(tmp_path, held, again, sums))
        path.write_bytes(good[:place])
        with pytest.raises(pi.FormatError, match="changed while it was read"):
            list(log.records(tmp_path, held, again, sums))
        path.write_bytes(good)
        assert len(list(log.records(tmp_path, held, again, sums))) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders on this platform")
@pytest.mark.parametrize("what", ["link", "pipe", "device", "folder", "nothing"])
def test_a_log_that_is_no_regular_file_is_neither_read_nor_written(tmp_path, what):
    at = log.append(tmp_path, log.empty(), record(2))
    path = tmp_path / at.name
    path.rename(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    if what != "nothing":
        {"link": lambda: path.symlink_to("elsewhere"), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir,
         "device": lambda: path.symlink_to("/dev/zero")}[what]()  # fmt: skip
    for call in (lambda: read(tmp_path, at.entry), lambda: log.append(tmp_path, at, record(1))):
        with pytest.raises(pi.FormatError, match=f"{at.name} is "):
            call()
    (finding,) = log.findings(tmp_path, at.entry)
    assert finding.path == path and at.name in finding.problem
    assert (tmp_path / "elsewhere").read_bytes() == before


def test_a_new_log_is_written_through_no_link(tmp_path):
    """What lies there under its name was left by a sync that failed."""
    (tmp_path / "mine").write_text("mine")
    new = log.empty()
    (tmp_path / new.name).symlink_to("mine")
    at = log.append(tmp_path, new, record(2))
    assert (tmp_path / "mine").read_text() == "mine" and not (tmp_path / at.name).is_symlink()
    assert len(read(tmp_path, at.entry)[0]) == 1


@pytest.mark.parametrize("data", FORGED.values(), ids=FORGED)
def test_a_record_that_is_not_as_specified_is_a_format_error_and_takes_no_memory(tmp_path, data):
    """With a right checksum, as another program might write it."""
    entry = write(tmp_path, data)
    tracemalloc.start()
    with pytest.raises(pi.FormatError, match="log-0123456789ab") as caught:
        read(tmp_path, entry)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value) and peak < 2_000_000


def test_fewer_or_more_records_than_the_manifest_has_are_a_format_error(tmp_path):
    one = forged(EMPTY)
    for count in (1, 3):
        with pytest.raises(pi.FormatError, match="log-0123456789ab"):
            read(tmp_path, write(tmp_path, one * 2, count))
    assert len(read(tmp_path, write(tmp_path, one * 2, 2))[0]) == 2


# --- in an index


def opened(kind, folder, store="int8"):
    """The directory of an index with one record."""
    index = pi.FlatIndex(DIM, store=store) if kind == "flat" else pi.IVFIndex(DIM, nlist=4, store=store).fit(rows(99))
    index.add(rows(40))
    index.remove([7])  # a flat index stores ids from here on
    index.save(folder)
    with pi.open(folder) as index:
        index.remove([3, 39])
        index.upsert([5, 100], rows(2, 1))
    return next(folder.glob("log-*"))


def put(folder, path, data, count=1):
    """Make these bytes the log, with right checksums."""
    entries = manifest.read(folder)
    entry = write(folder, data, count, path.name)
    (folder / "manifest.json").write_text(json.dumps(manifest.sealed({**entries, "log": entry})))


def parts(data):
    """Text and arrays of a log of one record."""
    _, text, _ = struct.unpack("<8sQQ", data[:24])
    told, at, arrays = json.loads(data[24 : 24 + text]), 24 + text, {}
    for name, size in told["arrays"].items():
        arrays[name] = np.load(io.BytesIO(data[at : at + size]))
        at += size
    return told, arrays


def joined(told, arrays):
    changed = Saved(told["rows"], told["state"], {name: whole(np.array(array)) for name, array in arrays.items()})
    return b"".join(log._encoded(changed))


@kinds
def test_a_record_that_is_taken_twice_is_as_good_as_once(tmp_path, kind):
    path = opened(kind, tmp_path / "index")
    once = pi.load(tmp_path / "index")
    data = path.read_bytes()
    assert joined(*parts(data)) == data
    put(tmp_path / "index", path, data * 3, 3)
    again = pi.load(tmp_path / "index")
    ids = np.sort(once.ids)
    np.testing.assert_array_equal(np.sort(again.ids), ids)
    np.testing.assert_array_equal(again.reconstruct(ids), once.reconstruct(ids))


def state(**entries):
    return lambda told, arrays: told["state"].update(entries)


def array(name, change):
    return lambda told, arrays: arrays.update({name: change(arrays[name].copy())})


def first(number):
    def change(numbers):
        numbers[0] = number
        return numbers

    return change


BAD = {
    "flat": [
        state(changed=2**40),
        state(changed=-1),
        state(next_id=-1),
        state(next_id=50),
        state(next_id=2**63),
        state(stores_ids=False),
        state(stores_ids=1),
        state(center_frozen=True),
        array("positions", first(-1)),
        array("positions", lambda positions: positions[::-1]),
        array("positions", lambda positions: positions + 1),
        array("positions", lambda positions: positions.astype(np.int32)),
        array("ids", first(-1)),
        array("ids", first(2**40)),
        array("codes0", lambda codes: codes[:, :-1]),
        array("originals", lambda originals: originals[:-1]),
        lambda told, arrays: arrays.pop("scales"),
        lambda told, arrays: told["state"].pop("changed"),
        lambda told, arrays: told.update(rows=2**50),
        lambda told, arrays: told.update(rows=41),
        lambda told, arrays: told.update(rows=1),
    ],
    "ivf": [
        state(changed=2**40),
        state(removed=-1),
        state(next_id=3),
        state(next_id=2**63),
        state(default={"nprobe": 0}),
        array("ids", first(-1)),
        array("ids", first(5000)),
        array("ids", lambda ids: np.repeat(ids[:1], len(ids))),
        array("removed", first(-1)),
        array("removed", first(5)),
        array("lists", first(-1)),
        array("lists", first(4)),
        array("lists", lambda lists: lists.astype(np.int64)),
        array("codes", lambda codes: codes[:, :-1]),
        array("factors", lambda factors: factors.view(np.uint32)),
        lambda told, arrays: arrays.pop("original_scales"),
        lambda told, arrays: told.update(rows=37),
        lambda told, arrays: told["state"].pop("default"),
    ],
}


@pytest.mark.parametrize(("kind", "number"), [(kind, n) for kind, bad in BAD.items() for n in range(len(bad))])
def test_a_record_that_does_not_fit_its_index_is_a_format_error(tmp_path, kind, number):
    path = opened(kind, tmp_path / "index")
    told, arrays = parts(path.read_bytes())
    BAD[kind][number](told, arrays)
    put(tmp_path / "index", path, joined(told, arrays))
    for read_again in (pi.load, pi.open):
        with pytest.raises(pi.FormatError, match="log-") as caught:
            read_again(tmp_path / "index")
        assert "\n" not in str(caught.value)


@kinds
def test_noise_in_a_record_with_a_right_checksum_does_no_harm(tmp_path, kind):
    """It is a format error, or a wrong answer and no more."""
    path = opened(kind, tmp_path / "index", "float32")
    good, noise, read_ones = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(120):
        bad = bytearray(good)
        for at in noise.integers(0, len(good), int(noise.integers(1, 4))):
            bad[at] = int(noise.integers(0, 256))
        put(tmp_path / "index", path, bytes(bad))
        try:
            index = pi.load(tmp_path / "index", mmap=bool(noise.integers(0, 2)))
        except pi.FormatError:
            continue
        read_ones += 1
        with np.errstate(all="ignore"):
            index.search(rows(2), 3)
        index.upsert(index.ids[:5], rows(5))
    assert 5 < read_ones < 110


@kinds
def test_any_part_of_the_log_that_is_missing_is_told_and_any_tail_is_ignored(tmp_path, kind):
    path = opened(kind, tmp_path / "index")
    good = path.read_bytes()
    for cut in {0, 1, 23, 24, len(good) // 2, len(good) - 1}:
        path.write_bytes(good[:cut])
        for mmap in (False, True):
            with pytest.raises(pi.FormatError, match="log-"):
                pi.load(tmp_path / "index", mmap=mmap)
    whole_one = None
    for tail in (b"", b"p", good[:30], good, b"\xff" * 3000):
        path.write_bytes(good + tail)
        index = pi.load(tmp_path / "index")
        whole_one = whole_one or index
        np.testing.assert_array_equal(np.sort(index.ids), np.sort(whole_one.ids))
    with pi.open(tmp_path / "index") as index:
        index.add(rows(1))
    assert len(pi.load(tmp_path / "index")) == len(whole_one) + 1


@kinds
def test_verify_finds_a_damaged_log_beside_other_damage(tmp_path, kind):
    path = opened(kind, tmp_path / "index")
    assert pi.verify(tmp_path / "index") == []
    good = path.read_bytes()
    (segment,) = (tmp_path / "index").glob("segment-*")
    (centre,) = segment.glob("centre.npy")
    centre.write_bytes(centre.read_bytes()[:-1] + b"\x01")
    for data in (good[:-1], good[:-1] + bytes([good[-1] ^ 1]), b""):
        path.write_bytes(data)
        found = [(finding.path, finding.block) for finding in pi.verify(tmp_path / "index")]
        assert found == [(centre, 0), (path, None)]
    path.unlink()
    assert [finding.path for finding in pi.verify(tmp_path / "index")] == [centre, path]


@kinds
def test_verify_finds_a_record_that_does_not_fit(tmp_path, kind):
    path = opened(kind, tmp_path / "index")
    told, arrays = parts(path.read_bytes())
    told["state"]["changed"] += 1
    put(tmp_path / "index", path, joined(told, arrays))
    (finding,) = pi.verify(tmp_path / "index")
    assert path.name in finding.problem and "record 0" in finding.problem


def test_a_record_for_lists_that_there_are_not_is_a_format_error(tmp_path):
    pi.IVFIndex(DIM, nlist=4).save(tmp_path / "index")
    entry = write(tmp_path / "index", forged({"rows": 0, "state": {"fitted": False}, "arrays": {}}))
    entries = manifest.read(tmp_path / "index")
    forged_one = manifest.sealed({**entries, "version": 2, "log": entry})
    (tmp_path / "index" / "manifest.json").write_text(json.dumps(forged_one))
    with pytest.raises(pi.FormatError, match="record 0 does not fit the index before it"):
        pi.load(tmp_path / "index")


@kinds
def test_an_array_that_no_index_asks_for_is_a_format_error(tmp_path, kind):
    path = opened(kind, tmp_path / "index")
    told, arrays = parts(path.read_bytes())
    put(tmp_path / "index", path, joined(told, arrays | {"more": np.zeros(3)}))
    with pytest.raises(pi.FormatError, match="record 0 has more, which this index has no use for"):
        pi.load(tmp_path / "index")


BAD_LOGS = [
    {"name": None}, {"name": "log-0123456789ab\n"}, {"name": "segment-0123456789ab"}, {"bytes": 0}, {"bytes": 2**63},
    {"bytes": True}, {"records": 0}, {"records": -1}, {"records": 1.0}, {"checksum": 7},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_LOGS)
def test_a_manifest_that_tells_of_no_possible_log_is_a_format_error(tmp_path, bad):
    opened("flat", tmp_path / "index")
    entries = manifest.read(tmp_path / "index")
    changed = manifest.sealed({**entries, "log": {**entries["log"], **bad}})
    (tmp_path / "index" / "manifest.json").write_text(json.dumps(changed))
    for call in (pi.load, pi.open):
        with pytest.raises(pi.FormatError, match="does not describe an index"):
            call(tmp_path / "index")
    assert len(pi.verify(tmp_path / "index")) == 1
