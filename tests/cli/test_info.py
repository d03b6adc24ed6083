"""polarindex info: what is there is counted whole, and advice is given where something is to be done, and only then."""

from __future__ import annotations

import numpy as np
import pytest

import polarindex as pi
from polarindex.cli.advice import advice
from polarindex.cli.places import bytes_on_disk

FLAT = {
    "kind": "flat", "n": 5000, "dim": 100, "bits": 4, "store": "none", "quantizer": "eden", "center": True,
    "center_frozen": True, "compact_advised": False,
}  # fmt: skip
IVF = {
    **FLAT, "kind": "ivf", "n": 50_000, "tuned": True, "rebalance_advised": False, "drift": 1.0,
    "largest_over_mean": 2.0,
}  # fmt: skip


SPECTRAL = {**FLAT, "bits": 2, "codes": "spectral"}


@pytest.mark.parametrize("facts", [FLAT, IVF, SPECTRAL, {**FLAT, "bits": 1, "store": "float16"}, {**FLAT, "bits": 8}])
def test_a_good_index_gets_no_advice(facts):
    assert advice(facts, components=50) == []


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({**FLAT, "n": 400_000}, "from about 335,545 rows on --index ivf"),
        ({**FLAT, "n": 0}, "polarindex add"),
        ({**FLAT, "n": 500, "center_frozen": False}, "the centre is learned from 1,024 rows on"),
        ({**FLAT, "bits": 2}, "codes of 2 bits alone find about 72 %"),
        ({**FLAT, "compact_advised": True}, "polarindex compact"),
        ({**IVF, "rebalance_advised": True, "drift": 1.7}, "(drift 1.70, largest list 2.0 times the mean): polar"),
        ({**IVF, "tuned": False}, "polarindex tune"),
        ({**IVF, "n": 5000}, "5,000 rows are few for lists"),
    ],
)
def test_advice_names_what_was_seen_and_the_command(facts, said):
    (line,) = advice(facts, components=50)
    assert said in line


def test_a_steep_spectrum_is_advice_to_try_spectral_codes():
    (line,) = advice(FLAT, components=10)
    assert line.startswith("90 % of the energy lies in 10 of 100 components") and "polarindex sweep" in line
    assert "--codes spectral" in line and advice(SPECTRAL, components=10) == []


def test_info_counts_everything(call, rng, tmp_path):
    x = rng.standard_normal((3000, 16), np.float32) * (np.arange(16) < 3) + 0.01 * rng.standard_normal((3000, 16)) + 1
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "ids.npy", np.arange(3000) * 2)
    (tmp_path / "keys.txt").write_text("".join(f"{i}\n" for i in range(3000)))
    options = ("--store", "float32", "--ids", tmp_path / "ids.npy", "--keys", tmp_path / "keys.txt")
    call("build", tmp_path / "x.npy", "-o", tmp_path / "index", *options)
    call("remove", tmp_path / "index", "--ids", "0,2")
    facts = call("info", tmp_path / "index", "--json").json
    index = pi.load(tmp_path / "index")
    known = index.info()
    same = "kind", "dim", "metric", "bits", "quantizer", "store", "n", "next_id", "bytes_per_vector", "bits_per_dim"
    assert {name: facts[name] for name in same} == {name: known[name] for name in same}
    assert facts["bytes_on_disk"] == bytes_on_disk(tmp_path / "index") > 3000 * 16 * 4
    assert facts["log_records"] == 1 and facts["log_bytes"] > 0 and facts["keys"] == 2998
    assert facts["energy_removed_by_center"] > 0.5
    assert facts["spectrum"]["components"] == 3 and facts["spectrum"]["of"] == "stored"
    assert facts["spectrum"]["share_of_energy_in_first"]["16"] == pytest.approx(1)
    text = call("info", tmp_path / "index").out
    lines = dict(line.split("  ", 1) for line in text.splitlines() if "  " in line.strip())
    assert lines["spectrum"].strip() == "90 % of the energy in 3 of 16 components (2,048 stored rows)"
    assert lines["keys"].strip() == "2,998" and lines["log"].strip() == "0.0 MB of 1 syncs"
    assert "a flat index is the right kind up to about 2,000,000 rows" in text


def test_info_of_lists_and_of_rows_that_are_all_alike(call, rng, tmp_path):
    np.save(tmp_path / "x.npy", rng.standard_normal((2000, 8), np.float32))
    call("build", tmp_path / "x.npy", "-o", tmp_path / "index", "--index", "ivf", "--nlist", 20)
    text = call("info", tmp_path / "index").out
    assert "20, of which a search reads 1 (not tuned)" in text and "decoded rows)" in text
    assert "advice: searches read 1 list in 32, untuned: polarindex tune" in text
    np.save(tmp_path / "x.npy", np.ones((2000, 8)))
    call("build", tmp_path / "x.npy", "-o", tmp_path / "same", "--store", "float32")
    assert call("info", tmp_path / "same", "--json").json["spectrum"] is None


def test_an_empty_index_has_facts_too(call, tmp_path):
    pi.FlatIndex(8).save(tmp_path / "index")
    facts = call("info", tmp_path / "index", "--json").json
    assert (facts["n"], facts["spectrum"], facts["advice"]) == (0, None, ["the index is empty: polarindex add"])
    assert "advice: the index is empty" in call("info", tmp_path / "index").out
