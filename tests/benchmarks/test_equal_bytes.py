"""Codes at equal bytes: who gets which size, what a row takes, what is kept, and what the table says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import polarindex as pi
from benchmarks import equal_bytes, equal_tables
from benchmarks.equal_engines import ENGINES
from benchmarks.equal_plans import (
    OURS,
    PEERS,
    Cell,
    cells,
    eden_bytes,
    fitting,
    ours,
    plans,
    rabitq_bytes,
    rabitqlib_bytes,
    turboquant_bytes,
)
from polarindex.bench.data import Source
from polarindex.bench.plans import Plan

SET = "sift-photos-128-euclidean"
SAMPLE = Path(__file__).resolve().parents[2] / "datasets" / "samples" / "glove-sample.hdf5"


def test_a_code_gets_the_most_bytes_that_fit_and_the_next_size_where_many_are_left():
    sizes = {1: 24, 2: 52, 3: 68, 4: 84}
    assert fitting(sizes, Cell(1, 24)) == [1]
    assert fitting(sizes, Cell(2, 40)) == [1, 2]
    assert fitting(sizes, Cell(2, 36)) == [1]  # 52 is more than a third above
    assert fitting(sizes, Cell(3, 56)) == [2]
    assert fitting(sizes, Cell(1, 20)) == [1]  # nothing fits


@pytest.mark.parametrize(("dim", "metric"), [(784, "l2"), (384, "cosine"), (100, "cosine"), (128, "l2")])
def test_every_code_is_tried_where_its_library_has_it(dim, metric):
    found = plans(dim, metric)
    cosine_only = {"turbovec", "FAISS TurboQuant mse"} if metric == "l2" else set()
    assert {plan.family for plan in found} == {*OURS, *PEERS} - cosine_only
    assert len({(plan.family, plan.name) for plan in found}) == len(found)


@pytest.mark.parametrize("dim", [33, 100, 128])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_a_row_of_a_faiss_code_takes_the_bytes_that_plans_count_with(dim, bits):
    faiss = pytest.importorskip("faiss")
    name = "" if bits == 1 else str(bits)
    found = [faiss.index_factory(dim, factory).sa_code_size() for factory in (f"RaBitQ{name}", f"EDEN{name}")]
    assert found == [rabitq_bytes(dim, bits), eden_bytes(dim, bits)]
    assert faiss.index_factory(dim, f"SQtqmse{bits}").sa_code_size() == turboquant_bytes(dim, bits)


def test_a_row_of_rabitqlib_takes_the_bytes_that_plans_count_with():
    pytest.importorskip("rabitqlib")
    x = np.random.default_rng(0).standard_normal((6_400, 96)).astype(np.float32)
    for bits in (1, 3):
        engine = ENGINES["rabitqlib"](96, "l2", nlist=1, nbits=bits)
        engine.train(x)
        engine.add(x)
        assert engine.row_bytes == rabitqlib_bytes(96, bits)


@pytest.mark.parametrize("factory", ["Pad21,PQ7x4", "RR24,PQ12x4", "RR,EDEN", "RR,EDEN3", "RR,SQtqmse2"])
def test_decoded_rows_rank_as_the_search_of_the_index_does(factory):
    pytest.importorskip("faiss")
    x = np.random.default_rng(0).standard_normal((1_000, 20)).astype(np.float32) + np.float32(0.5)
    engine = ENGINES["faiss"](20, "l2", factory)
    engine.train(x)
    engine.add(x)
    q = x[:20] + np.float32(0.3)
    assert np.array_equal(engine.many(q), engine.index.search(q, 10)[1])


@pytest.mark.parametrize("dim", [100, 784])
def test_a_cell_is_what_a_plain_code_takes(dim):
    assert [size for _, size in cells(dim)] == [pi.FlatIndex(dim, "l2", bits).bytes_per_vector for bits in (1, 2, 3, 4)]


@pytest.mark.parametrize("family", OURS)
def test_a_code_of_ours_fits_into_the_cell(family):
    x = np.random.default_rng(0).standard_normal((1_024, 128)).astype(np.float32)
    (plan,) = (plan for plan in ours(Cell(2, 41)) if plan.family == family)
    engine = ENGINES["polarindex"](128, "l2", **plan.build)
    engine.train(x)
    assert 32 < engine.row_bytes <= 41
    assert engine.bits >= 2


def test_training_that_takes_too_long_is_stopped_and_said_to_be():
    pytest.importorskip("faiss")
    plan = Plan("faiss", "FAISS OPQ + PQ, 8 bit", "OPQ20", {"factory": "OPQ20,PQ20x8"}, ({},))
    found = equal_bytes.row(plan, Source(str(SAMPLE), 5_000, 10), seeds=1, minutes=0)
    assert found["minutes"] == 0
    assert "recall" not in found and "why" not in found


def row(family, name, size, recall):
    about = {"low": recall - 0.01, "high": recall + 0.01, "train_s": 1.5, "add_s": 0.5}
    return {"set": SET, "family": family, "name": name, "bytes": size, "recall": recall, **about}


def result(*rows):
    facts = {"cpu": "a processor", "cores": 2, "threads": 1, "caches": {}, "versions": {"faiss": "1"}, "date": "today"}
    data = {"set": SET, "n": 100, "dim": 128, "metric": "l2", "cells": [[1, 24], [2, 40]]}
    return {"queries": 10, "environment": facts, "command": "python", "sets": [data], "rows": list(rows)}


EDEN = row("polarindex EDEN", "24 bytes", 24, 0.5), row("polarindex EDEN", "40 bytes", 40, 0.7)


def test_what_is_measured_again_takes_the_place_of_what_was():
    start = result(*EDEN)
    facts = start["sets"][0]
    first = equal_bytes.with_row(start, facts, row("polarindex EDEN", "24 bytes", 22, 0.6))
    assert first["sets"] == [facts]
    assert [(one["bytes"], one["recall"]) for one in first["rows"]] == [(22, 0.6), (40, 0.7)]


def test_the_best_that_fits_is_bold_and_larger_codes_stand_beside():
    peers = row("FAISS RaBitQ", "RR,RaBitQ", 24, 0.4), row("FAISS RaBitQ", "RR,RaBitQ2", 52, 0.9)
    lines = equal_tables.equal_table(result(*EDEN, *peers))
    assert "| polarindex EDEN | **0.500** (24) | **0.700** (40) | 2 |" in lines
    assert "| FAISS RaBitQ | 0.400 (24) | 0.400 (24), 0.900 (52) | 2 |" in lines


def test_what_is_said_of_who_is_ahead_is_counted():
    peers = [row("FAISS PQ, 8 bit", "PQ20x8", 20, 0.45), row("FAISS PQ, 8 bit", "PQ40x8", 40, 0.75)]
    first, _, _, _, cells_of_set = equal_tables.equal_claims(result(*EDEN, *peers))
    assert "finds most in 1 of 2 cells" in first
    assert cells_of_set == (
        f"| {SET} | EDEN 0.500, FAISS PQ, 8 bit 0.450: +0.050 | EDEN 0.700, FAISS PQ, 8 bit 0.750: -0.050 |"
    )
    peers[1] = row("FAISS PQ, 8 bit", "PQ48x8", 48, 0.75)
    first, *_, last = equal_tables.equal_claims(result(*EDEN, *peers))
    assert "finds most in 2 of 2 cells" in first
    assert last == f"With more bytes than the cell, and more found: {SET} at 2 bits FAISS PQ, 8 bit 0.750 (48)."


def test_what_was_not_measured_is_named_with_the_reason():
    late = {
        "set": SET,
        "family": "FAISS OPQ + PQ, 8 bit",
        "name": "OPQ40_160,PQ40x8",
        "minutes": 15,
    }
    dead = {
        "set": SET,
        "family": "FAISS EDEN",
        "name": "RR,EDEN",
        "why": "the process died, exit code -11",
    }
    (line,) = (line for line in equal_tables.equal_table(result(*EDEN, late, dead)) if line.startswith("Not measured"))
    assert f"FAISS OPQ + PQ, 8 bit of {SET} (OPQ40_160,PQ40x8): not trained in 15 minutes" in line
    assert f"FAISS EDEN of {SET} (RR,EDEN): the process died, exit code -11;" in line
    assert f"polarindex trellis of {SET} (24 bytes, 40 bytes, 56 bytes, 72 bytes): not yet" in line
    assert f"polarindex EDEN of {SET} (56 bytes, 72 bytes): not yet" in line
