"""What a sweep measures, on small data whose answers are known."""

from __future__ import annotations

import csv
import json
import time

import numpy as np
import pytest

from polarindex import FlatIndex
from polarindex.errors import MissingDatasetError, MissingExtraError
from polarindex.sweep import peers
from polarindex.sweep import run as module
from polarindex.sweep.dataset import Dataset, load_dataset, write_dataset
from polarindex.sweep.groundtruth import exact_neighbors
from polarindex.sweep.metrics import overlap_at
from polarindex.sweep.peers import FaissPQ
from polarindex.sweep.plan import Plan
from polarindex.sweep.results import Results, environment
from polarindex.sweep.run import run

DIM, ROWS, QUERIES = 64, 1500, 40


@pytest.fixture
def make_file(tmp_path):
    """A function that writes a Gaussian data set, `offset` standard deviations from the origin; its path."""

    def make(name: str = "gauss", metric: str = "l2", offset: float = 0.0) -> str:
        rng = np.random.default_rng(5)
        train = rng.standard_normal((ROWS, DIM), np.float32) + np.float32(offset)
        test = rng.standard_normal((QUERIES, DIM), np.float32) + np.float32(offset)
        path = tmp_path / f"{name}.hdf5"
        write_dataset(Dataset(name, metric, train, test, *exact_neighbors(train, test, 20, metric)), path)
        return str(path)

    return make


def rows_of(plan: Plan) -> list:
    return [step.row for step in run(plan) if step.row]


def measured(path: str, quantizer: str, bits: int):
    (row,) = rows_of(Plan((path,), (quantizer,), (bits,), peers=False))
    assert row.error == ""
    return row.result


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_more_bits_find_more_neighbours_and_err_less(make_file, metric):
    plan = Plan((make_file(metric=metric),), ("eden",), (1, 4, 8), peers=False)
    one, four, eight = (row.result for row in rows_of(plan))
    assert one.recall[10] < four.recall[10] < eight.recall[10]
    assert eight.recall[10] > 0.95
    assert one.recall.keys() == {1, 10}
    assert one.vnmse > four.vnmse > eight.vnmse


def test_recall_is_that_of_the_same_index_searched_by_hand(make_file):
    path = make_file()
    (row,) = rows_of(Plan((path,), ("eden",), (2,), k=(1, 3, 20), seed=4, peers=False))
    data = load_dataset(path)
    index = FlatIndex(DIM, bits=2, seed=4)
    index.add(data.train)
    _, ids = index.search(data.test, 20)
    for k in (1, 3, 20):
        hits = sum(len({*found[:k]} & {*true[:k]}) for found, true in zip(ids, data.neighbors, strict=True))
        assert row.result.recall[k] == pytest.approx(hits / (k * QUERIES))
    assert len(set(row.result.recall.values())) == 3


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize(
    ("quantizer", "bits", "tolerance"),
    [("eden", 2, 0.06), ("turboquant", 3, 0.06), ("polarquant", 4, 0.06), ("qjl", 2, 0.12)],
)  # qjl's one Gaussian matrix scatters by 3 % (one standard deviation, over seeds)
def test_vnmse_is_relative_to_centred_rows_and_meets_theory(make_file, metric, offset, quantizer, bits, tolerance):
    result = measured(make_file(metric=metric, offset=offset), quantizer, bits)
    assert result.vnmse == pytest.approx(result.expected_vnmse, rel=tolerance)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_bytes_are_all_that_the_index_stores_for_a_vector(make_file, metric):
    result = measured(make_file(metric=metric), "eden", 4)
    index = FlatIndex(DIM, metric, 4)
    index.add(np.random.default_rng(0).standard_normal((ROWS, DIM), np.float32))
    assert result.bytes_per_vector == index.bytes_per_vector == DIM // 2 + 4 + 4
    assert result.bits_per_dim == 8 * index.bytes_per_vector / DIM


def test_few_rows_are_centred_too(make_file):
    """Fewer than an index waits for before it learns a centre of its own accord."""
    plan = Plan((make_file(offset=100.0),), ("eden",), (4,), rows=300, peers=False)
    (row,) = rows_of(plan)
    assert (row.rows, row.result.recall[10] > 0.6) == (300, True)


def test_equal_plans_give_equal_results(make_file):
    plan = Plan((make_file(),), ("eden", "qjl"), (2,), seed=7)
    first, second = rows_of(plan), rows_of(plan)
    assert [row.result.recall for row in first] == [row.result.recall for row in second]
    assert [row.result.vnmse for row in first] == [row.result.vnmse for row in second]


def test_the_first_use_of_a_quantizer_is_not_on_the_clock(make_file, monkeypatch):
    pause, used = 0.4, []

    class SlowAtFirst(FlatIndex):
        def add(self, x, ids=None):
            if not used:
                used.append(True)
                time.sleep(pause)
            return super().add(x, ids)

    monkeypatch.setattr(module, "FlatIndex", SlowAtFirst)
    result = measured(make_file(), "drive", 1)
    assert used
    assert result.build_seconds < pause / 2


def test_a_cell_that_fails_is_recorded_and_the_others_are_measured(make_file, monkeypatch):
    class Picky(FlatIndex):
        def add(self, x, ids=None):
            if self.quantizer_name == "qjl":
                raise RuntimeError("out of luck\nand of lines")
            return super().add(x, ids)

    monkeypatch.setattr(module, "FlatIndex", Picky)
    rows = rows_of(Plan((make_file(),), ("drive", "qjl", "eden"), (1,), peers=False))
    assert [row.error for row in rows] == ["", "RuntimeError: out of luck", ""]
    assert [row.result is None for row in rows] == [False, True, False]


def test_steps_count_every_cell_of_every_data_set(make_file):
    plan = Plan((make_file("a"), make_file("b", "cosine")), ("drive", "eden"), (1, 2), peers=False)
    steps = list(run(plan))
    assert [step.done for step in steps if step.row] == [1, 2, 3, 4, 5, 6]
    assert [step.done for step in steps if not step.row] == [0, 1, 2, 3, 4, 5]
    assert {step.total for step in steps} == {6}
    assert [step.dataset for step in steps if step.row] == ["a"] * 3 + ["b"] * 3


def test_a_missing_data_set_is_found_before_the_first_cell(make_file):
    with pytest.raises(MissingDatasetError, match="nowhere"):
        next(run(Plan((make_file(), "nowhere"), ("drive",), (1,))))


def test_more_neighbours_than_a_set_holds_are_an_error(make_file):
    with pytest.raises(ValueError, match="k must be at most 20, .* got 21"):
        next(run(Plan((make_file(),), ("drive",), (1,), k=(21,))))


def test_ctrl_c_is_not_taken_for_a_failed_cell(make_file, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rows_of(Plan((make_file(),), ("drive",), (1,)))


# --- files


def test_json_and_csv_hold_the_same_rows_at_every_moment(make_file, tmp_path):
    plan = Plan((make_file(),), ("drive", "eden"), (1,), peers=False)
    results = Results(plan, environment(None))
    results.write(tmp_path)
    for count, row in enumerate(rows_of(plan), 1):
        results.rows.append(row)
        results.write(tmp_path)
        written = json.loads((tmp_path / "sweep.json").read_text())
        assert (len(written["rows"]), written["complete"]) == (count, False)
        with open(tmp_path / "sweep.csv", newline="") as file:
            table = list(csv.DictReader(file))
        flat = [{key: "" if value is None else str(value) for key, value in row.items()} for row in written["rows"]]
        assert table == flat
    assert written["rows"][0]["recall@10"] == results.rows[0].result.recall[10]
    assert written["plan"]["seed"] == 0
    assert {"cpu", "cores", "threads", "versions"} <= written["environment"].keys()


# --- FAISS


def test_without_faiss_the_own_cells_are_measured(make_file, monkeypatch):
    monkeypatch.setattr(module, "faiss_installed", lambda: False)
    assert [row.method for row in rows_of(Plan((make_file(),), ("drive",), (1,)))] == ["drive"]


def test_a_peer_without_faiss_names_the_extra(monkeypatch):
    monkeypatch.setattr(peers, "faiss_installed", lambda: False)
    with pytest.raises(MissingExtraError, match=r"pip install 'polarindex\[faiss\]'"):
        FaissPQ(64, "l2", 16, rotated=False)


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss")


def test_peers_are_measured_on_the_same_metric(faiss, make_file):
    for metric in ("l2", "ip", "cosine"):
        path = make_file(metric=metric)
        rows = [row for row in rows_of(Plan((path,), ("drive",), (1, 4))) if row.method.startswith("faiss")]
        assert [(row.method, row.bits, row.error) for row in rows] == [
            (name, bits, "") for name in ("faiss-pq", "faiss-pq-rotated") for bits in (1, 4)
        ]
        assert [row.result.bytes_per_vector for row in rows] == [8, 32] * 2
        for row in rows:
            low, high = (0.1, 0.7) if row.bits == 1 else (0.7, 1.0)
            assert low < row.result.recall[10] < high, (metric, row)
            assert row.result.vnmse < (0.5 if row.bits == 1 else 0.02)
            assert row.result.expected_vnmse is None


def test_a_run_leaves_faiss_its_threads(faiss, make_file):
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(3)
        rows_of(Plan((make_file(),), ("drive",), (1,), threads=2))
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


def test_a_peer_whose_sums_wrap_is_searched_by_its_decoded_rows(faiss):
    """784 bytes added in 16 bits: on Fashion-MNIST FAISS's scan finds noise, though its codes are good."""
    sample = load_dataset("fashion-mnist-sample", rows=1000, queries=20)
    peer = FaissPQ(784, "l2", 784, rotated=False)
    peer.fit(sample.train).add(sample.train)
    _, wrapped = peer._index.search(sample.test.astype(np.float32), 10)
    _, ids = peer.search(sample.test, 10)
    assert overlap_at(wrapped, sample.neighbors, 10) < 0.6
    assert overlap_at(ids, sample.neighbors, 10) > 0.9
    assert "overflow" in peer.note
    decoded = peer.reconstruct(np.arange(1000))
    assert (ids == exact_neighbors(decoded, sample.test, 10, "l2")[0]).mean() > 0.99


def test_a_peer_whose_sums_fit_keeps_its_scan(faiss):
    x = np.random.default_rng(1).standard_normal((700, 300), np.float32)
    peer = FaissPQ(300, "cosine", 300, rotated=True)
    peer.fit(x).add(x)
    _, ids = peer.search(x[:30], 1)
    assert (ids[:, 0] == np.arange(30)).all()
    assert peer.note == ""
