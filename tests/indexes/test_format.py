"""The format as docs/file-format.md has it: a reader by the page alone, and indexes that older versions have saved."""

import ast
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import polarindex as pi
from polarindex.indexes import reading
from polarindex.indexes.manifest import VERSION
from polarindex.quantizers import make_quantizer

TESTS = Path(__file__).parents[1]
OLD = sorted(path.name for path in (TESTS / "data").glob("format-*") if path.is_dir())
DIM = 20


@pytest.fixture(scope="module")
def reader():
    spec = importlib.util.spec_from_file_location("read_index", TESTS / "read_index.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(n, seed):
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32) + 1


def by_id(index, q, **search):
    """Distances (n,) of all rows, in the order of their ids."""
    distances, ids = index.search(q, len(index), **search)
    return distances[np.argsort(ids)]


def test_the_reader_knows_nothing_of_this_library():
    tree = ast.parse((TESTS / "read_index.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= {"__future__", "io", "json", "pathlib", "sys", "numpy", "xxhash"}


@pytest.mark.parametrize(("large_ids", "factor_bits"), [(False, 32), (True, 32), (True, 16)])
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_reader_by_the_document_scores_to_the_last_bit(tmp_path, reader, kind, metric, large_ids, factor_bits):
    x, q, settings = rows(90, 2), rows(4, 3), {"seed": 4, "store": "float32", "factor_bits": factor_bits}
    if kind == "flat":
        index = pi.FlatIndex(DIM, metric, **settings).fit(rows(200, 1))
    else:
        index = pi.IVFIndex(DIM, metric, nlist=5, **settings).fit(rows(200, 1))
    index.add(x, ids=2**33 + 5 * np.arange(90) if large_ids else None)
    index.remove(index.ids[::7])
    index.save(tmp_path / "index")
    everywhere = {"nprobe": 5} if kind == "ivf" else {}
    for records in range(3):
        with pi.open(tmp_path / "index") as index:
            saved = reader.Saved(tmp_path / "index")
            assert ("log" in saved.manifest) is (records > 0) and saved.manifest["version"] == 1 + (records > 0)
            order = np.argsort(saved.ids)
            assert_array_equal(saved.ids[order], np.sort(index.ids))
            for one in q:
                assert_array_equal(saved.scores(one)[order], by_id(index, one, rerank=0, **everywhere))
                assert_array_equal(saved.exact_scores(one)[order], by_id(index, one, **everywhere))
            index.remove(index.ids[records :: 9 + 30 * records])
            index.upsert([int(index.ids[4]), 400 + records], rows(2, records))
            index.add(rows(20 * records, 9))


@pytest.mark.parametrize(("quantizer", "bits"), [("drive", 1), ("eden-biased", 2), ("eden", 3), ("eden", 8)])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_the_reader_decodes_every_width(tmp_path, reader, kind, quantizer, bits):
    """In steps, which compile nothing more: 16-bit queries, whose rounding is the only difference."""
    settings = {"bits": bits, "quantizer": quantizer}
    index = pi.FlatIndex(DIM, **settings) if kind == "flat" else pi.IVFIndex(DIM, nlist=3, **settings)
    index.fit(rows(200, 1))
    index.add(rows(50, 2))
    index.save(tmp_path / "index")
    saved = reader.Saved(tmp_path / "index")
    everywhere = {"nprobe": 3} if kind == "ivf" else {}
    for one in rows(3, 3):
        found = saved.scores(one)[np.argsort(saved.ids)]
        np.testing.assert_allclose(found, by_id(index, one, query_bits=16, **everywhere), rtol=0.02, atol=0.2)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_documents_levels_are_the_quantizers(reader, bits):
    upper = " ".join(map(str, reader.UPPER[bits]))
    assert f" {upper}\n" in (TESTS.parent / "docs" / "file-format.md").read_text()
    assert make_quantizer("eden", DIM, bits).stages[0].table.tolist()[2 ** (bits - 1) :] == reader.UPPER[bits]


def test_the_document_names_every_key_file_and_number(tmp_path):
    text = (TESTS.parent / "docs" / "file-format.md").read_text()
    index = pi.IVFIndex(DIM, nlist=3, store="int8").fit(rows(100, 1))
    index.add(rows(20, 2))
    flat = pi.FlatIndex(DIM, store="int8")
    flat.add(rows(20, 2), ids=np.arange(20) + 5)
    short = pi.FlatIndex(DIM, factor_bits=16)
    short.add(rows(20, 2))
    for kind, saved in (("ivf", index), ("flat", flat), ("short", short)):
        saved.save(tmp_path / kind)
        manifest = json.loads((tmp_path / kind / "manifest.json").read_text())
        (segment,) = manifest["segments"]
        files = {file for file in segment["files"] if not file.startswith("codes")} | {"codes0.npy"}
        with pi.open(tmp_path / kind) as opened:
            opened.remove([7])
        log = json.loads((tmp_path / kind / "manifest.json").read_text())["log"]
        data = (tmp_path / kind / log["name"]).read_bytes()
        told = json.loads(data[24 : 24 + int.from_bytes(data[8:16], "little")])
        arrays = {name for name in told["arrays"] if not name.startswith("codes")} | {"codes"}
        states = {*manifest["state"], *told["state"]}
        for name in {*manifest, *manifest["parameters"], *states, *segment, *files, *log, *told}:
            assert f"`{name}`" in text, name
        assert all(f"`{name}`" in text or f"`{name}.npy`" in text for name in arrays)
    assert f"Versions 1 and {VERSION}." in text and "`log`" in text and f"`{reading.BLOCK_BYTES}`" in text


@pytest.mark.parametrize("how", [{}, {"mmap": True}, {"mmap": True, "verify": True}])
@pytest.mark.parametrize("name", OLD)
def test_indexes_of_every_version_answer_as_they_did(tmp_path, name, how):
    assert {f"format-{version}-{kind}" for version in (1, VERSION) for kind in ("flat", "ivf")} == set(OLD)
    shutil.copytree(TESTS / "data" / name, tmp_path / "index")
    with np.load(TESTS / "data" / f"{name}.npz") as answers:
        wanted = dict(answers)
    index = pi.load(tmp_path / "index", **how)
    q = wanted["queries"]
    assert_array_equal(np.sort(index.ids), wanted["all_ids"])
    assert_array_equal(index.reconstruct(wanted["all_ids"]), wanted["vectors"])
    for found, names in ((index.search(q, 5), ("exact_distances", "exact_ids")),
                         (index.search(q, 5, rerank=0), ("distances", "ids")),
                         (index.range_search(q, 14.0), ("limits", "range_distances", "range_ids"))):  # fmt: skip
        for array, key in zip(found, names, strict=True):
            assert_array_equal(array, wanted[key])
    assert pi.verify(tmp_path / "index") == []
    index.add(rows(3, 9))
    index.save(tmp_path / "index")
    assert len(pi.load(tmp_path / "index")) == len(wanted["all_ids"]) + 3
