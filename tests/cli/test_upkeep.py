"""polarindex tune, compact, rebalance, verify, warmup and dataset make: what they do is on the disk when they end."""

from __future__ import annotations

import numpy as np
import pytest

import polarindex as pi
from polarindex.cli.places import bytes_on_disk
from polarindex.sweep.dataset import load_dataset
from polarindex.sweep.groundtruth import exact_neighbors


@pytest.fixture
def clusters(rng):
    return (rng.standard_normal((40, 8)) * 4)[rng.integers(0, 40, 2400)] + rng.standard_normal((2400, 8))


@pytest.fixture
def ivf(call, clusters, tmp_path):
    np.save(tmp_path / "x.npy", clusters[:2000])
    np.save(tmp_path / "q.npy", clusters[2000:])
    call("build", tmp_path / "x.npy", "-o", tmp_path / "ivf", "--index", "ivf", "--nlist", 40, "--store", "float16")
    return tmp_path / "ivf"


def test_what_tune_finds_is_kept(call, ivf, tmp_path):
    assert not pi.load(ivf).info()["tuned"]
    found = call("tune", ivf, tmp_path / "q.npy", "--target-recall", ".9", "--json").json
    facts = pi.load(ivf).info()
    assert facts["tuned"] and (facts["nprobe"], facts["rerank"]) == (found["nprobe"], found["rerank"])
    assert found["recall"] > 0.85
    line = call("tune", ivf, tmp_path / "q.npy", "-k", 5).out
    assert line.startswith(f"{ivf}: nprobe ") and "of the 5 nearest in" in line


def test_compact_takes_the_log_away(call, ivf):
    call("remove", ivf, "--ids", ",".join(map(str, range(500))))
    before = bytes_on_disk(ivf)
    done = call("compact", ivf, "--json").json
    assert done == {"path": str(ivf), "bytes_before": before, "bytes_on_disk": bytes_on_disk(ivf)}
    assert done["bytes_on_disk"] < before and len(pi.load(ivf)) == 1500
    assert call("compact", ivf).out == f"{ivf}: 0.1 MB became 0.1 MB\n"


def test_rebalance_learns_lists_anew(call, ivf):
    before = pi.load(ivf).centroids
    assert call("rebalance", ivf, "--nlist", 30, "--json").json["nlist"] == 30
    assert call("rebalance", ivf).out.startswith(f"{ivf}: 30 lists, the largest ")
    index = pi.load(ivf)
    assert len(index) == 2000 and len(index.centroids) == 30 and len(before) == 40


def test_a_data_set_of_vectors_holds_queries_out_and_has_their_neighbours(call, clusters, ivf, tmp_path):
    done = call("dataset", "make", tmp_path / "x.npy", "-o", tmp_path / "d.hdf5", "--metric", "l2", "--queries", 30)
    held = "30 queries with 100 exact neighbours each"
    assert done.out == f"{tmp_path}/d.hdf5: 1,970 rows of 8 dimensions, l2, {held}\n"
    made = load_dataset(tmp_path / "d.hdf5")
    assert (made.metric, made.train.shape, made.test.shape) == ("l2", (1970, 8), (30, 8))
    assert np.array_equal(made.neighbors, exact_neighbors(made.train, made.test, 100, "l2")[0])
    rows = {row.tobytes() for row in clusters[:2000]}
    assert {row.tobytes() for row in np.concatenate([made.train, made.test])} == rows


def test_a_data_set_takes_queries_from_a_file_and_is_not_replaced_unasked(call, clusters, ivf, tmp_path):
    options = ("-o", tmp_path / "d.hdf5", "--queries-from", tmp_path / "q.npy", "--rows", 1000, "--queries", 9)
    done = call("dataset", "make", tmp_path / "x.npy", *options, "--json")
    wanted = {"path": f"{tmp_path}/d.hdf5", "metric": "cosine", "rows": 1000, "dim": 8, "queries": 9, "neighbors": 100}
    assert done.json == wanted
    assert np.array_equal(load_dataset(tmp_path / "d.hdf5").test, clusters[2000:2009])
    assert "--overwrite replaces it" in call("dataset", "make", tmp_path / "x.npy", *options, code=2).err
    assert call("dataset", "make", tmp_path / "x.npy", *options, "--overwrite", "--json").json == wanted


def test_verify_tells_as_json_what_is_damaged(call, ivf):
    assert call("verify", ivf, "--json").json == {"path": str(ivf), "whole": True, "findings": []}
    (segment,) = ivf.glob("segment-*")
    (segment / "centre.npy").write_bytes((segment / "centre.npy").read_bytes()[:-1])
    found = call("verify", ivf, "--json", code=1).json
    assert not found["whole"]
    assert [(item["path"], item["block"]) for item in found["findings"]] == [(str(segment / "centre.npy"), None)]


def test_lists_of_data_sets_and_warmup_are_json_too(call, monkeypatch, tmp_path):
    from polarindex.indexes import warmup

    known = {one["name"]: one for one in call("dataset", "list", "--json").json}
    assert known["glove-sample"]["rows"] == 20_000 and known["glove-25-angular"]["bytes"] == 127_359_688
    assert call("dataset", "get", "glove-sample", "--json").json["trust"] == "comes with polarindex"
    monkeypatch.setattr(warmup, "warmup", lambda isas, progress, bits: warmup.Warmed(("dot",), 3.2, tmp_path))
    assert call("warmup", "--json").json == {"compiled": ["dot"], "seconds": 3.2, "folder": str(tmp_path)}
