"""polarindex build: the index is the one that Python makes, and it is there whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import polarindex as pi
from polarindex.cli import places
from polarindex.integrations.documents import DocumentIndex
from polarindex.records import FILE, Record, Records

COMMAND = [sys.executable, "-m", "polarindex"]


def test_an_index_is_built_as_python_builds_it(call, rng, tmp_path):
    x = rng.standard_normal((3000, 8), np.float32) + 1
    np.save(tmp_path / "x.npy", x)
    done = call("build", tmp_path / "x.npy", "-o", tmp_path / "index")
    index = pi.FlatIndex(8)
    index.add(x)
    assert done.out == f"{tmp_path}/index: {index!r}, {index.bytes_per_vector} bytes a vector, 0.1 MB\n"
    built = pi.load(tmp_path / "index")
    assert built.parameters() == index.parameters() and built._state() == index._state()
    for mine, theirs in zip(built.search(x[:50]), index.search(x[:50]), strict=True):
        assert np.array_equal(mine, theirs)


def test_a_flat_index_may_learn_its_centre_from_a_sample(call, rng, tmp_path):
    x = rng.standard_normal((3000, 8), np.float32) + 1
    np.save(tmp_path / "x.npy", x)
    call("build", tmp_path / "x.npy", "-o", tmp_path / "index", "--train", 500)
    sample = np.sort(np.random.default_rng(0).choice(3000, 500, replace=False))
    index = pi.FlatIndex(8).fit(x[sample])
    index.add(x)
    assert np.array_equal(pi.load(tmp_path / "index").reconstruct(range(3000)), index.reconstruct(range(3000)))


def test_options_reach_the_index(call, rng, tmp_path):
    np.save(tmp_path / "x.npy", rng.standard_normal((2000, 8), np.float32))
    options = "--metric cosine --bits 4 --quantizer eden --index ivf --nlist 20 --store float16 --spill .5 --seed 3"
    options += " --factor-bits 16"
    more = "--threads", 1, "--train", 1000, "--json"
    done = call("build", tmp_path / "x.npy", "-o", tmp_path / "index", *options.split(), *more)
    wanted = {
        "kind": "ivf", "n": 2000, "dim": 8, "metric": "cosine", "bits": 4, "quantizer": "eden", "nlist": 20,
        "store": "float16", "spill": 0.5, "seed": 3, "keys": False, "factor_bits": 16,
    }  # fmt: skip
    assert wanted.items() <= done.json.items()
    assert done.json["bytes_on_disk"] == places.bytes_on_disk(tmp_path / "index")
    assert wanted.items() <= {**pi.load(tmp_path / "index").info(), "keys": False}.items()


@pytest.mark.parametrize(
    ("options", "size", "name"),
    [([], 18, "eden"), (["--index", "ivf", "--nlist", 8], 24, "eden"), (["--quantizer", "trellis"], 18, "trellis")],
)
def test_spectral_codes_are_built_with_any_number_of_bits(call, rng, tmp_path, options, size, name):
    x = (rng.standard_normal((2000, 48)) / np.arange(1, 49)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    done = call("build", tmp_path / "x.npy", "-o", tmp_path / "index", "--codes", "spectral", "--bits", 1.5, *options)
    built = pi.load(tmp_path / "index")
    assert (built.codes, built.bits, built.bytes_per_vector) == ("spectral", 1.5, size)
    assert "bits=1.5" in done.out
    segments = ", ".join(f"{dims} x {bits}" for dims, bits in built.quantizer.segments)
    text = " ".join(call("info", tmp_path / "index").out.split())
    assert f"{name}, 1.5 bits, spectral (axes x bits: {segments}; " in text
    assert "of the energy in the first, now " in text


def test_files_are_one_after_another_and_parts_are_named(call, x, tmp_path):
    np.save(tmp_path / "a.npy", x[:20])
    np.savez(tmp_path / "b.npz", left=x[20:50], right=x[50:].astype(np.float64))
    parts = [tmp_path / "a.npy", f"{tmp_path}/b.npz::left", f"{tmp_path}/b.npz::right"]
    call("build", *parts, "-o", tmp_path / "index", "--store", "float32")
    index = pi.load(tmp_path / "index")
    assert np.array_equal(index.reconstruct(range(60)), x)


def test_whole_numbers_of_a_column_are_ids(call, table, x, tmp_path):
    call("build", table, "-o", tmp_path / "index", "--ids", "number")
    assert pi.load(tmp_path / "index").ids.tolist() == list(range(100, 160))
    assert not (tmp_path / "index" / FILE).exists()


def test_strings_of_a_column_are_keys_with_texts_and_metadata(call, table, tmp_path):
    options = ("--ids", "name", "--text", "title", "--metadata", "year,tags")
    call("build", table, "-o", tmp_path / "index", *options)
    assert len(pi.load(tmp_path / "index")) == 60
    with Records(tmp_path / "index" / FILE, read_only=True) as records:
        assert records.all_ids().tolist() == list(range(60))
        assert records.rows([2, 3]) == [
            Record(2, "doc-2", "Title 2", {"year": 2002, "tags": ["a", "b"]}),
            Record(3, "doc-3", None, {"year": None, "tags": ["a", "b"]}),
        ]
    with DocumentIndex(tmp_path / "index") as documents:  # what the stores of polarindex.integrations are made of
        assert len(documents) == 60 and documents.get(["doc-2"])[0].text == "Title 2"


def test_keys_may_lie_in_a_file_of_their_own_beside_ids(call, file, tmp_path):
    (tmp_path / "keys.txt").write_text("".join(f"key {i}\n" for i in range(60)))
    np.save(tmp_path / "ids.npy", np.arange(60)[::-1])
    call("build", file, "-o", tmp_path / "index", "--ids", tmp_path / "ids.npy", "--keys", tmp_path / "keys.txt")
    with Records(tmp_path / "index" / FILE, read_only=True) as records:
        assert records.keys([59, 0]) == ["key 0", "key 59"]
    assert call("verify", tmp_path / "index", "--json").json["whole"]


def test_overwrite_replaces_an_index_and_its_keys(call, table, file, tmp_path):
    call("build", table, "-o", tmp_path / "index", "--keys", "name")
    call("build", file, "-o", tmp_path / "index", "--overwrite", "--bits", 1)
    assert pi.load(tmp_path / "index").bits == 1
    assert not (tmp_path / "index" / FILE).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "x.npy", "x.parquet"]


def test_an_empty_directory_and_new_parents_are_welcome_as_a_place(call, file, tmp_path):
    (tmp_path / "empty").mkdir()
    call("build", file, "-o", tmp_path / "empty")
    call("build", file, "-o", tmp_path / "new" / "er" / "index")
    assert len(pi.load(tmp_path / "empty")) == len(pi.load(tmp_path / "new" / "er" / "index")) == 60


def test_what_was_there_is_there_again_where_the_new_index_cannot_take_its_place(call, file, tmp_path, monkeypatch):
    call("build", file, "-o", tmp_path / "index")
    rename = os.rename

    def failing(source, target):
        if str(source).endswith("/index") and ".building" in str(source):
            raise OSError(5, "Input/output error", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    done = call("build", file, "-o", tmp_path / "index", "--overwrite", "--bits", 1, code=2)
    assert "Input/output error" in done.err
    assert pi.load(tmp_path / "index").bits == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "x.npy"]


def test_parents_that_were_made_go_again_where_the_build_fails(call, tmp_path):
    bad = np.ones((9, 8), np.float32)
    bad[7, 3] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    done = call("build", tmp_path / "bad.npy", "-o", tmp_path / "new" / "index", code=2)
    assert done.err == f"error: {tmp_path}/bad.npy[7] is not finite (1 such rows)\n"
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npy"]


def test_a_bad_row_is_named_by_its_file_and_all_such_rows_are_counted(call, x, tmp_path):
    np.save(tmp_path / "a.npy", x)
    x[[3, 50]] = 0
    np.save(tmp_path / "b.npy", x)
    done = call("build", tmp_path / "a.npy", tmp_path / "b.npy", "-o", tmp_path / "i", "--metric", "cosine", code=2)
    wanted = "the cosine metric needs a direction in every row"
    assert done.err == f"error: {tmp_path}/b.npy[3] is a zero vector; {wanted}\n"
    x[[3, 50]] = np.inf
    np.save(tmp_path / "b.npy", x)
    done = call("build", tmp_path / "a.npy", tmp_path / "b.npy", "-o", tmp_path / "i", code=2)
    assert done.err == f"error: {tmp_path}/b.npy[3] is not finite (first of 2 such rows)\n"


def test_a_flat_index_that_is_large_is_built_with_a_note(call, file, tmp_path, monkeypatch):
    monkeypatch.setattr("polarindex.cli.advice.LISTED", 10)
    monkeypatch.setattr("polarindex.cli.advice.SCANNED", 100)
    done = call("build", file, "-o", tmp_path / "index")
    note = "note: every search reads all 60 codes; from about 13 rows on --index ivf answers sooner"
    assert done.err.splitlines()[-1] == note


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process on Windows")
def test_ctrl_c_leaves_nothing(rng, tmp_path):
    x = rng.standard_normal((200_000, 16), np.float32)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "keys.txt").write_text("".join(f"{i}\n" for i in range(len(x))))
    options = ["-o", tmp_path / "new" / "index", "--index", "ivf", "--nlist", "512", "--keys", tmp_path / "keys.txt"]
    running = subprocess.Popen(
        [*COMMAND, "build", tmp_path / "x.npy", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while running.poll() is None and not list(tmp_path.glob("new/.index-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=60)
    assert (running.returncode, stdout) == (130, ""), stderr
    assert stderr.splitlines()[-1] == f"interrupted: {tmp_path}/new/index is as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.txt", "x.npy"]


def test_a_limit_of_a_files_size_is_said_and_leaves_nothing(rng, tmp_path):
    resource = pytest.importorskip("resource")
    np.save(tmp_path / "x.npy", rng.standard_normal((20_000, 16), np.float32))
    command = [*COMMAND, "build", tmp_path / "x.npy", "-o", tmp_path / "index", "--store", "float32"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19)),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith("File too large; no file may be so large here: see ulimit -f")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
