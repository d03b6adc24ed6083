"""Errors of a user: one line on stderr that names what is wrong and what to do, exit code 2, and nothing changes."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import polarindex as pi
from polarindex.indexes import durable
from polarindex.records import FILE, Records
from polarindex.sweep import files

JSON_LINES = b"[1, 2, 3, 4, 5, 6, 7, 8]\n[1, 2"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder of files, good and bad, and of indexes: flat, keyed, ivf, and two that are none."""
    folder, rng = tmp_path_factory.mktemp("workshop"), np.random.default_rng(0)
    x = rng.standard_normal((60, 8), np.float32)
    bad, again = x.copy(), np.arange(60)
    bad[7, 2], again[41] = np.nan, 3
    arrays = {
        "x": x, "nan": bad, "wrong": x[:, :4], "norows": x[:0], "flat": x[0], "twice": again, "few": np.arange(59),
        "floats": np.ones(60), "negative": np.arange(60) - 5, "mask": np.ones(7, bool), "ids": np.arange(60) + 1000,
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "cut.npy").write_bytes((folder / "x.npy").read_bytes()[:-100])
    (folder / "empty.npy").write_bytes(b"")
    (folder / "nonsense.npy").write_text("not NumPy")
    (folder / "x.docx").write_text("not vectors")
    np.savez(folder / "two.npz", left=x, right=x)
    texts = {"blank": "", "letters": "1\n2\nthree\n", "strangers": "77\n78\n", "words": "a\nb\n"}
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    (folder / "samekeys.txt").write_text("".join(f"{i % 59}\n" for i in range(60)))
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "embedding": arrow.FixedSizeListArray.from_arrays(arrow.array(x.ravel()), 8),
        "name": [f"doc-{i}" for i in range(60)],
        "holes": [None if i == 12 else i for i in range(60)],
        "raw": [b"\x00"] * 60,
    }
    parquet.write_table(arrow.table(columns), folder / "x.parquet")
    flat, keyed, ivf = pi.FlatIndex(8), pi.FlatIndex(8), pi.IVFIndex(8, nlist=4)
    for index, name in ((flat, "flat"), (keyed, "keyed"), (ivf.fit(x), "ivf"), (flat, "damaged"), (flat, "rotten")):
        if not len(index):
            index.add(x)
        index.save(folder / name)
    with Records(folder / "keyed" / FILE) as records:
        records.add(range(60), [f"doc-{i}" for i in range(60)])
    assert [pi.verify(folder / name) for name in ("flat", "keyed", "ivf", "damaged")] == [[]] * 4
    manifest = (folder / "damaged" / "manifest.json").read_text()
    (folder / "damaged" / "manifest.json").write_text(manifest.replace('"rows": 60', '"rows": 61'))
    (codes,) = (folder / "rotten").glob("segment-*/codes0.npy")
    codes.write_bytes(codes.read_bytes()[:-1] + b"\xee")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.txt").write_text("mine")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, but for those by which writers keep each other out, and logs: no manifest here names one."""
    kept = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(("lock", "log-")))
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


@pytest.fixture
def refused(workshop, invoke, monkeypatch):
    """Run a command that is wrong: what is said, once it is seen that nothing else happened."""

    def run(command: str, stdin: bytes = b"") -> str:
        monkeypatch.chdir(workshop)
        before = contents(workshop)
        done = invoke(command.split(), stdin)
        assert done.exit_code == 2, done.output
        assert isinstance(done.exception, SystemExit)  # and not what would show a traceback
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert contents(workshop) == before  # so indexes are whole, as `workshop` has seen
        return line

    return run


# command, what is said
WRONG = [
    # build
    ("build gone.npy -o new", "no file gone.npy"),
    ("build foreign -o new", "foreign is a directory; give a file of vectors"),
    ("build x.docx -o new", "x.docx: vectors are read from .npy, .npz, .h5, .*; got '.docx'"),
    ("build nonsense.npy -o new", "nonsense.npy is not a readable .npy file: "),
    ("build empty.npy -o new", "empty.npy is not a readable .npy file: "),
    ("build cut.npy -o new", "cut.npy is not a readable .npy file: "),
    (
        "build norows.npy -o new",
        r"norows.npy: wanted a matrix \(n, d\) of real numbers that is not empty, got \(0, 8\)",
    ),
    ("build flat.npy -o new", r"flat.npy: wanted a matrix \(n, d\) .* got \(8,\)"),
    ("build nan.npy -o new", r"nan.npy\[7\] is not finite \(1 such rows\)"),
    ("build x.npy wrong.npy -o new", "wrong.npy has 4 columns but x.npy has 8"),
    ("build two.npz -o new", "two.npz holds 2 matrices, 'left', 'right': name one, as two.npz::left"),
    ("build two.npz::up -o new", "two.npz has no part 'up'; it has 'left', 'right'"),
    ("build x.npy", "Missing option '--out' / '-o'"),
    ("build x.npy -o new --metric hamming", "metric must be one of 'l2', 'ip', 'cosine'; got 'hamming'"),
    ("build x.npy -o new --bits 9", "bits for quantizer 'eden' must be one of 1, 2, 3, 4, 5, 6, 7, 8; got 9"),
    ("build x.npy -o new --bits four", "Invalid value for '--bits'.*number"),
    ("build x.npy -o new --bits 1.5", "--bits 1.5 is of spectral codes; give --codes spectral too, or a whole number"),
    ("build x.npy -o new --codes spectral --bits 9", r"bits must be from 0\.25 to 8\.0, got 9"),
    ("build x.npy -o new --codes learned", "codes must be one of 'plain', 'spectral'; got 'learned'"),
    ("build x.npy -o new --codes spectral --quantizer qjl", "codes='spectral' .* be 'eden' or 'trellis', got 'qjl'"),
    ("build x.npy -o new --quantizer edn", "quantizer must be one of 'eden', .*; got 'edn'"),
    ("build x.npy -o new --index hnsw", "--index must be one of 'flat', 'ivf'; got 'hnsw'"),
    ("build x.npy -o new --nlist 4", "--nlist is of an inverted file; give --index ivf too, or leave it out"),
    ("build x.npy -o new --spill .5 --index ivf", "spill=0.5 needs the original vectors"),
    ("build x.npy -o new --store float8", "store must be one of 'none', 'float32', 'float16', 'int8'; got 'float8'"),
    ("build x.npy -o new --train 0", "--train must be at least 1, got 0"),
    ("build x.npy -o new --threads 0", "threads must be at least 1, got 0"),
    ("build x.npy -o flat", "flat is there already; --overwrite replaces it"),
    ("build x.npy -o foreign --overwrite", "foreign is not a polarindex index and is not replaced; choose another"),
    ("build x.npy -o x.npy", "x.npy is a file; an index is a directory, choose another name for it"),
    ("build x.npy -o x.npy/new", ".*x.npy is a file, in which there is no place for an index"),
    (
        "build x.npy -o new --ids number",
        r"x.npy has no columns: it holds an array of shape \(60, 8\); give ids and keys in a file of their own",
    ),
    ("build x.npy -o new --ids twice.npy", "ids must be unique, got 3 at positions 3 and 41"),
    ("build x.npy -o new --ids floats.npy", "floats.npy must hold integers, got ndarray of dtype float64"),
    ("build x.npy -o new --ids negative.npy", r"negative.npy\[0\] must be from 0 to 2\*\*63 - 2, got -5"),
    ("build x.npy -o new --ids few.npy", "few.npy has 59 rows, but there are 60 vectors"),
    ("build x.npy -o new --keys samekeys.txt", "key '0' comes twice; keys must be unique"),
    ("build x.npy -o new --keys ids.npy", "ids.npy must hold strings, got int64"),
    (
        "build x.npy -o new --text samekeys.txt",
        "texts and metadata are kept by key; name the column of keys with --keys",
    ),
    ("build x.parquet -o new --ids nummer", "x.parquet has no column 'nummer'; it has 'embedding', 'name', 'holes'"),
    ("build x.parquet -o new --ids holes", "column 'holes' of x.parquet has no value in row 12; every row needs one"),
    ("build x.parquet -o new --ids name --keys name", "--ids name holds strings, which are keys, as is --keys name"),
    ("build x.parquet -o new --keys name --metadata raw", "column 'raw' of x.parquet cannot be kept as metadata"),
    ("build - -o new", "stdin is empty; it should hold a .npy file"),
    # query
    ("query gone x.npy", "gone: no index here"),
    ("query foreign x.npy", "foreign is not a polarindex index: it has no manifest.json"),
    ("query x.npy x.npy", "x.npy is not a polarindex index"),
    ("query damaged x.npy", "damaged/manifest.json is damaged: its checksum does not match"),
    ("query rotten x.npy", "rotten/segment-.*/codes0.npy is damaged: block 0 of 1 does not match its checksum"),
    ("query flat", "give one of QUERIES, --row and --key, got none of them"),
    ("query flat x.npy --row 3", "give one of QUERIES, --row and --key, got QUERIES and --row"),
    ("query flat gone.npy", "no file gone.npy"),
    ("query flat wrong.npy", "wrong.npy has 4 columns, but vectors of flat have 8"),
    ("query flat nan.npy", r"nan.npy\[7\] is not finite \(1 such rows\)"),
    ("query flat x.npy -k 0", "k must be at least 1, got 0|k must be from 1 to 2147483647, got 0"),
    ("query flat x.npy -k many", "Invalid value for '--k' / '-k'.*integer"),
    ("query flat x.npy --nprobe 3", "--nprobe is of an inverted file, and flat is a flat index: leave it out"),
    ("query ivf x.npy --nprobe 0", "nprobe must be at least 1, got 0"),
    ("query flat x.npy --rerank 2", "rerank=2 needs the original vectors"),
    ("query flat --row 60", "id 60 is not in the index: flat"),
    ("query flat --row 1,x", "--row, entry 2: wanted an id, a whole number from 0 to .*, got 'x'"),
    ("query flat --key doc-1", "flat has no keys; name rows by id"),
    ("query keyed --key doc-60", "key 'doc-60' is not in keyed"),
    ("query flat x.npy --filter gone.txt", "no file gone.txt"),
    ("query flat x.npy --filter blank.txt", "blank.txt names no row"),
    ("query flat x.npy --filter letters.txt", "letters.txt, entry 3: wanted an id, .*, got 'three'"),
    ("query flat x.npy --filter strangers.txt", "strangers.txt names no row of flat; it is to hold ids, one a line"),
    ("query keyed x.npy --filter words.txt", "words.txt names no row of keyed; it is to hold keys, one a line"),
    ("query flat x.npy --filter mask.npy", r"mask.npy is a mask of shape \(7,\), but the index has 60 rows"),
    ("query flat x.npy --filter cut.npy", "cut.npy is not a readable .npy file"),
    ("query flat x.npy --out y.xlsx", "--out writes .npz, .npy, .csv and .jsonl, got 'y.xlsx'"),
    ("query flat x.npy --format yaml", "--format must be one of 'table', 'jsonl', 'csv', 'npz', 'npy'; got 'yaml'"),
    ("query flat x.npy --format csv --json", "--json and --format csv are two formats; give one of them"),
    ("query flat -", "stdin is empty; it should hold a .npy file or lists of numbers"),
    # change
    ("add gone x.npy", "gone: no index here"),
    ("add foreign x.npy", "foreign is not a polarindex index: it has no manifest.json"),
    ("add flat wrong.npy", "wrong.npy has 4 columns, but vectors of flat have 8"),
    ("add flat nan.npy", r"nan.npy\[7\] is not finite"),
    ("add flat x.npy --ids few.npy", "few.npy has 59 rows, but there are 60 vectors"),
    ("add flat x.npy --ids twice.npy", "ids must be unique, got 3 at positions 3 and 41"),
    (
        "add flat x.parquet --keys name",
        "flat holds rows without keys; leave out the keys, or build an index with --keys",
    ),
    ("add keyed x.npy", "keyed has keys; name the column of keys with --keys"),
    ("add keyed x.parquet --keys name", "key 'doc-0' is in keyed already; polarindex upsert replaces it"),
    ("upsert flat x.npy", "flat has no keys; name the column of ids with --ids"),
    ("upsert keyed x.npy --ids ids.npy", "keyed has keys; name the column of keys with --keys, and no ids"),
    ("upsert keyed x.npy --keys samekeys.txt", "key '0' comes twice; keys must be unique"),
    ("remove flat", "give one of --ids, --keys and --from, got none of them"),
    ("remove flat --ids 60", "id 60 is not in the index; with --ignore-missing it is passed over"),
    ("remove keyed --ids 4611686018427387904", "id 4611686018427387904 is not in the index; with"),
    ("remove flat --ids 1,1.5", "--ids, entry 2: wanted an id, .*, got '1.5'"),
    ("remove flat --keys a", "flat has no keys; name rows by id"),
    ("remove keyed --keys doc-1,doc-99", "key 'doc-99' is not in keyed"),
    ("remove flat --from mask.npy", "mask.npy is a mask; give ids"),
    # the others
    ("info gone", "gone: no index here"),
    ("tune flat x.npy", "flat is a flat index, which reads every code: there is nothing to tune"),
    ("tune ivf x.npy", "queries must be at least 100 for recall to be measured, got 60"),
    ("rebalance flat", "flat is a flat index, which has no lists to learn"),
    ("compact gone", "gone: no index here"),
    ("dataset make x.npy -o y.npy", "y.npy: a data set is an HDF5 file; give it a name that ends in .hdf5"),
    ("dataset make nan.npy -o y.hdf5", r"nan.npy\[7\] is not finite"),
    ("dataset make x.npy -o y.hdf5 --metric hamming", "metric must be one of 'l2', 'ip', 'cosine'; got 'hamming'"),
]


@pytest.mark.parametrize(("command", "said"), WRONG, ids=[command for command, _ in WRONG])
def test_a_users_error_is_one_line_that_names_it_and_changes_nothing(refused, command, said):
    line = refused(command)
    assert re.match(f"error: (?:{said})", line), line


@pytest.mark.parametrize(
    ("stdin", "said"),
    [
        (JSON_LINES, r"stdin, line 2: wanted a list of numbers in JSON \("),
        (b"[1, 2]\n[1, 2, 3]", "stdin must have rows of one length, got 2 values"),
        (b"[1, 2, 3]", "stdin has 3 columns, but vectors of flat have 8"),
        (b'{"a": 1}', r"stdin, line 1: wanted a list of numbers, got \{\"a\": 1\}"),
        (b"[]", r"stdin, line 1: wanted a list of numbers, got \[\]"),
        (b'["a", "b"]', "stdin must hold real numbers"),
        (b"[1, 2, 3, 4, 5, 6, 7, NaN]", r"stdin\[0\] is not finite"),
        (b"\x93NUMPY then not", "stdin is not a readable .npy file"),
    ],
)
def test_bad_queries_on_stdin_are_one_line_too(refused, stdin, said):
    assert re.match(f"error: {said}", refused("query flat -", stdin))


def test_an_index_that_somebody_writes_is_one_line_that_says_who(workshop, refused):
    with pi.open(workshop / "flat"):
        for command in ("add flat x.npy", "remove flat --ids 3", "compact flat", "build x.npy -o flat --overwrite"):
            line = refused(command)
            assert f"flat is being written by process {os.getpid()}" in line and "wait" in line


@pytest.mark.parametrize("command", ["build x.npy -o new", "add flat x.npy", "remove flat --ids 5", "compact changed"])
def test_a_full_disk_is_one_line_that_says_what_to_do(workshop, refused, monkeypatch, command):
    shutil.copytree(workshop / "flat", workshop / "changed")
    try:
        with pi.open(workshop / "changed") as index:
            index.remove([3])
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        monkeypatch.setattr(durable, "sync", lambda file: (_ for _ in ()).throw(full))
        line = refused(command)
    finally:
        shutil.rmtree(workshop / "changed")
    assert re.match(r"error: .+: No space left on device; free some space, or choose another disk$", line), line


def test_a_disk_that_is_full_for_keys_takes_nothing_of_an_add(workshop, refused, monkeypatch):
    def full(*arguments):
        raise OSError(None, "database or disk is full", "records.sqlite")

    monkeypatch.setattr(Records, "add", full)
    (workshop / "new.txt").write_text("".join(f"new {i}\n" for i in range(60)))
    line = refused("add keyed x.npy --keys new.txt")
    assert line == "error: records.sqlite: database or disk is full; free some space, or choose another disk"


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="a place where nobody may write")
def test_a_place_where_one_may_not_write_is_one_line(refused):
    line = refused("build x.npy -o /sys/kernel/index")
    assert re.match(r"error: /sys/kernel/.*(not permitted|denied|Read-only).*; (change|choose)", line), line


def test_a_missing_package_is_one_line_that_names_the_extra(refused, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(files, "import_module", missing)
    line = refused("build x.parquet -o new")
    assert line == "error: pyarrow is not installed; get it with: pip install 'polarindex[files]'"


def test_a_bug_is_not_taken_for_a_users_error(workshop, invoke, monkeypatch):
    monkeypatch.chdir(workshop)
    monkeypatch.setattr(pi.FlatIndex, "search", lambda *arguments, **options: 1 // 0)
    done = invoke(["query", "flat", "x.npy"])
    assert isinstance(done.exception, ZeroDivisionError)


def test_keys_that_are_damaged_are_found_by_verify(workshop, invoke, tmp_path):
    shutil.copytree(workshop / "keyed", tmp_path / "keyed")
    with Records(tmp_path / "keyed" / FILE) as records:
        records.remove([4, 5])
    done = invoke(["verify", str(tmp_path / "keyed"), "--json"])
    assert done.exit_code == 1
    assert "has no key for id 4 (first of 2" in json.loads(done.stdout)["findings"][0]["problem"]
    (tmp_path / "keyed" / FILE).write_bytes(b"nothing")
    done = invoke(["verify", str(tmp_path / "keyed")])
    assert done.exit_code == 1 and "records.sqlite is not a readable table of records" in done.stdout
