"""polarindex query: the answers are those of Python, in every format, for queries from anywhere."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

import polarindex as pi
from polarindex.cli import answers
from polarindex.records import FILE, Records


@pytest.fixture
def index(x, tmp_path):
    """A saved index of the vectors, with ids 159 down to 100."""
    made = pi.FlatIndex(8, "cosine")
    made.add(x, np.arange(100, 160)[::-1])
    made.save(tmp_path / "index")
    return made


@pytest.fixture
def keyed(x, tmp_path):
    """The path of an index whose rows have keys, and all but one a text."""
    made = pi.FlatIndex(8)
    made.add(x)
    made.save(tmp_path / "keyed")
    with Records(tmp_path / "keyed" / FILE) as records:
        records.add(range(60), [f"doc-{i}" for i in range(60)], [None, *(f"Text\n{i}" for i in range(1, 60))])
    return tmp_path / "keyed"


def test_lines_of_json_are_the_answers_of_python(call, index, file, x, tmp_path):
    lines = call("query", tmp_path / "index", file, "-k", 3, "--json").lines
    similarities, ids = index.search(x, 3)
    assert [line["query"] for line in lines] == list(range(60))
    assert [line["ids"] for line in lines] == ids.tolist()
    assert np.array_equal(np.array([line["distances"] for line in lines], np.float32), similarities)
    assert list(lines[0]) == ["query", "ids", "distances"]


def test_files_have_all_answers(call, index, file, x, tmp_path):
    similarities, ids = index.search(x, 3)
    for name in ("a.npz", "a.npy", "a.csv", "a.jsonl"):
        done = call("query", tmp_path / "index", file, "-k", 3, "--out", tmp_path / name)
        assert (done.out, done.err.splitlines()[-1]) == ("", f"written to {tmp_path / name}")
    with np.load(tmp_path / "a.npz") as arrays:
        assert sorted(arrays) == ["distances", "ids"]
        assert np.array_equal(arrays["ids"], ids) and np.array_equal(arrays["distances"], similarities)
    assert np.array_equal(np.load(tmp_path / "a.npy"), ids)
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [(int(row["query"]), int(row["rank"]), int(row["id"])) for row in rows[:4]] == [
        (0, 1, ids[0, 0]), (0, 2, ids[0, 1]), (0, 3, ids[0, 2]), (1, 1, ids[1, 0])
    ]  # fmt: skip
    assert np.array_equal(np.array([row["distance"] for row in rows], np.float32), similarities.ravel())
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[59])["ids"] == ids[59].tolist()


def test_stdout_takes_arrays_too(invoke, index, file, x, tmp_path):
    for extra, read in (([], lambda file: np.load(file)["ids"]), (["--format", "npy"], np.load)):
        done = invoke(["query", f"{tmp_path}/index", str(file), "-o", "-", *extra])
        assert np.array_equal(read(io.BytesIO(done.stdout_bytes)), index.search(x)[1])


def test_where_there_are_fewer_rows_arrays_are_padded_and_lines_are_short(call, index, tmp_path):
    np.save(tmp_path / "q.npy", np.ones((1, 8)))
    (tmp_path / "allowed.txt").write_text("107\n103\n")
    options = (tmp_path / "q.npy", "-k", 4, "--filter", tmp_path / "allowed.txt")
    (line,) = call("query", tmp_path / "index", *options, "--json").lines
    assert sorted(line["ids"]) == [103, 107] and len(line["distances"]) == 2
    call("query", tmp_path / "index", *options, "--out", tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["ids"].tolist() == [[*line["ids"], -1, -1]]
    assert len(call("query", tmp_path / "index", *options, "--format", "csv").out.splitlines()) == 3


def test_stored_rows_are_queries_by_id_and_by_key(call, index, keyed, tmp_path):
    lines = call("query", tmp_path / "index", "--row", "107,103", "-k", 2, "--json").lines
    assert [(line["query"], line["ids"][0]) for line in lines] == [(107, 107), (103, 103)]
    lines = call("query", keyed, "--key", "doc-7", "--key", "doc-0", "-k", 2, "--json").lines
    assert [(line["query"], line["keys"][0], line["texts"][0]) for line in lines] == [
        ("doc-7", "doc-7", "Text\n7"), ("doc-0", "doc-0", None)
    ]  # fmt: skip


def test_what_is_recorded_of_a_row_is_in_its_line(call, keyed):
    with Records(keyed / FILE) as records:
        records.remove([7])
        records.add([7], ["doc-7"], None, [{"year": 1999}])
    (line,) = call("query", keyed, "--key", "doc-7", "-k", 1, "--json").lines
    assert "texts" not in line and line["metadata"] == [{"year": 1999}]


def test_an_index_that_is_changed_meanwhile_is_said_to_be(call, keyed):
    with Records(keyed / FILE) as records:
        records.remove([7])
    done = call("query", keyed, "--row", 7, "-k", 1, "--json", code=2)
    assert "has no key for a row, id 7 is not in the records: it was changed meanwhile (run the" in done.err


def test_keys_are_in_every_format(call, keyed, file, tmp_path):
    lines = call("query", keyed, file, "-k", 2, "--json").lines
    call("query", keyed, file, "-k", 2, "--out", tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["keys"].tolist() == [line["keys"] for line in lines]
    rows = list(csv.DictReader(call("query", keyed, file, "-k", 2, "--format", "csv").out.splitlines()))
    assert rows[2]["key"] == lines[1]["keys"][0]
    table = call("query", keyed, file, "-k", 2).out.splitlines()
    assert table[0].split() == ["query", "rank", "id", "key", "distance", "text"]
    assert table[3].split()[:4] == ["1", "1", "1", "doc-1"] and table[3].rstrip().endswith("Text 1")
    assert len(table) == 121


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("ids.txt", lambda path: path.write_text("103\n\n 107 \n")),
        ("ids.npy", lambda path: np.save(path, np.array([107, 103, 103]))),
        ("mask.npy", lambda path: np.save(path, np.isin(np.arange(60), [3, 7]))),
    ],
)
def test_a_filter_may_be_lines_ids_or_a_mask(call, index, file, tmp_path, name, write):
    write(tmp_path / name)
    lines = call("query", tmp_path / "index", file, "-k", 5, "--filter", tmp_path / name, "--json").lines
    assert all(sorted(line["ids"]) == [103, 107] for line in lines)


def test_a_filter_of_keys_says_how_many_are_unknown(call, keyed, file, tmp_path):
    (tmp_path / "keys.txt").write_text("doc-3\nnobody\n")
    done = call("query", keyed, file, "-k", 2, "--filter", tmp_path / "keys.txt", "--json")
    assert all(line["keys"] == ["doc-3"] for line in done.lines)
    assert "keys.txt: 1 of 2 keys are not in" in done.err


def test_searches_of_an_inverted_file_take_its_options_and_exact_reads_all_lists(call, rng, tmp_path):
    x = rng.standard_normal((2000, 8), np.float32)
    index = pi.IVFIndex(8, store="float16", nlist=50).fit(x)
    index.add(x)
    index.save(tmp_path / "index")
    np.save(tmp_path / "q.npy", x[:40] + 0.3)
    found = {}
    for name, options, same in (
        ("few", ["--nprobe", 2, "--rerank", 1], {"nprobe": 2, "rerank": 1}),
        ("exact", ["--exact"], {"nprobe": 50, "exact_scan": True}),
    ):
        call("query", tmp_path / "index", tmp_path / "q.npy", *options, "--out", tmp_path / "a.npy")
        found[name] = np.load(tmp_path / "a.npy")
        assert np.array_equal(found[name], index.search(x[:40] + 0.3, **same)[1])
    assert not np.array_equal(found["few"], found["exact"])


def test_queries_are_searched_in_parts_and_numbered_through(call, index, file, x, tmp_path, monkeypatch):
    monkeypatch.setattr("polarindex.cli.query._TOGETHER", 7)
    lines = call("query", tmp_path / "index", file, "-k", 2, "--json").lines
    assert [line["query"] for line in lines] == list(range(60))
    assert [line["ids"] for line in lines] == index.search(x, 2)[1].tolist()


def test_a_query_that_is_no_direction_is_named_by_its_row(call, index, x, tmp_path, monkeypatch):
    monkeypatch.setattr("polarindex.cli.query._TOGETHER", 7)
    x[17] = 0
    np.save(tmp_path / "q.npy", x)
    done = call("query", tmp_path / "index", tmp_path / "q.npy", "--out", tmp_path / "a.npy", code=2)
    assert done.err.startswith(f"error: {tmp_path}/q.npy[17] is a zero vector")
    assert not (tmp_path / "a.npy").exists()


def test_a_screen_shows_the_first_queries_and_says_how_many_more_there_are(call, index, file, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the output for a terminal
    monkeypatch.setattr(answers, "_SHOWN", 3)
    done = call("query", tmp_path / "index", file, "-k", 2, "--mmap")
    assert len(done.out.splitlines()) == 1 + 3 * 2
    assert "and those of 57 queries more: --json or --out FILE has all" in done.err


@pytest.mark.parametrize("text", ["[[1,0,0,0,0,0,0,0],[0,1,0,0,0,0,0,0]]", "[1,0,0,0,0,0,0,0]\n\n[0,1,0,0,0,0,0,0]\n"])
def test_queries_come_from_stdin_as_json(call, index, tmp_path, text):
    lines = call("query", tmp_path / "index", "-", "-k", 3, "--json", stdin=text.encode()).lines
    assert [line["ids"] for line in lines] == index.search(np.eye(8)[:2], 3)[1].tolist()
