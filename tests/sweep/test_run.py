"""What a sweep measures, on small data whose answers are known."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polarindex import FlatIndex, IVFIndex
from polarindex.errors import MissingDatasetError, MissingExtraError
from polarindex.sweep import measure as module
from polarindex.sweep import peers
from polarindex.sweep import run as running
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
    assert one.recall[10].mean < four.recall[10].mean < eight.recall[10].mean
    assert eight.recall[10].mean > 0.95
    assert one.ip_rmse > four.ip_rmse > eight.ip_rmse
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
        share = row.result.recall[k]
        assert share.mean == pytest.approx(hits / (k * QUERIES))
        assert share.low <= share.mean <= share.high
        assert share.ties >= share.mean
    assert len({share.mean for share in row.result.recall.values()}) == 3


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
    assert (row.rows, row.result.recall[10].mean > 0.6) == (300, True)


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
    assert [step.done for step in steps if step.cell and not step.row] == [0, 1, 2, 3, 4, 5]
    assert [step.bound.dataset for step in steps if step.bound] == ["a", "b"]
    assert {step.total for step in steps[1:]} == {6}
    assert [step.dataset for step in steps if step.row] == ["a"] * 3 + ["b"] * 3
    assert [(step.dataset, step.done) for step in steps if not step.cell and not step.bound] == [("a", 0), ("b", 3)]


def test_a_missing_data_set_is_found_before_the_first_cell(make_file):
    with pytest.raises(MissingDatasetError, match="nowhere"):
        next(run(Plan((make_file(), "nowhere"), ("drive",), (1,))))


def test_more_neighbours_than_a_set_holds_are_an_error(make_file):
    with pytest.raises(ValueError, match="k must be at most 20, .* got 21"):
        list(run(Plan((make_file(),), ("drive",), (1,), k=(21,))))


def test_ctrl_c_is_not_taken_for_a_failed_cell(make_file, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Bench, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rows_of(Plan((make_file(),), ("drive",), (1,)))


# --- inverted files


@pytest.fixture
def lists_plan(make_file) -> Plan:
    built = {"indexes": ("ivf",), "stores": ("none", "float32"), "nlist": 8}
    return Plan((make_file(),), ("eden", "drive"), (1, 4), **built, nprobe=(2, 8), rerank=(1, 4), repeats=1)


def test_lists_are_searched_in_every_way_of_the_plan(lists_plan):
    rows = rows_of(lists_plan)
    assert [row.error for row in rows] == [""] * 18
    ways = [(row.store, row.nprobe, row.rerank) for row in rows if (row.method, row.bits) == ("eden", 4)]
    assert ways == [("none", probes, 0) for probes in (2, 8)] + [
        ("float32", probes, rerank) for probes in (2, 8) for rerank in (1, 4)
    ]
    found = {(row.store, row.nprobe, row.rerank): row.result for row in rows if (row.method, row.bits) == ("eden", 4)}
    few, bare, exact = (found[way].recall[10].mean for way in (("none", 2, 0), ("none", 8, 0), ("float32", 8, 4)))
    assert few < bare < exact
    assert exact > 0.99
    assert found["float32", 2, 1].bytes_per_vector == found["none", 2, 0].bytes_per_vector + 4 * DIM


def test_an_index_is_built_once_for_all_its_searches_and_lists_are_learned_once(lists_plan, monkeypatch):
    built, learned = [], []

    class Counted(IVFIndex):
        def fit(self, x, n=None, progress=None, *, centroids=None):
            if len(x) == ROWS and centroids is None:
                learned.append(True)
            return super().fit(x, n, progress, centroids=centroids)

        def add(self, x, ids=None):
            if len(x) == ROWS:
                built.append(self.quantizer_name)
            return super().add(x, ids)

    monkeypatch.setattr(module, "IVFIndex", Counted)
    rows = rows_of(lists_plan)
    assert built == ["eden"] * 4 + ["drive"] * 2
    assert learned == [True]
    assert all(row.result.build_seconds > 0 for row in rows)


def test_recall_is_that_of_the_same_lists_searched_by_hand(make_file):
    path = make_file()
    (row,) = rows_of(Plan((path,), ("eden",), (2,), ("ivf",), nlist=8, nprobe=(3,), seed=4, peers=False))
    data = load_dataset(path)
    index = IVFIndex(DIM, bits=2, seed=4, nlist=8).fit(data.train)
    index.add(data.train)
    _, ids = index.search(data.test, 10, nprobe=3)
    assert row.result.recall[10].mean == pytest.approx(overlap_at(ids, data.neighbors, 10))
    assert row.result.bytes_per_vector == index.bytes_per_vector


def test_a_build_that_fails_fails_once_and_for_all_its_searches(lists_plan, monkeypatch):
    tries = []

    class Picky(IVFIndex):
        def add(self, x, ids=None):
            if len(x) == ROWS and self.store == "float32":
                tries.append(True)
                raise RuntimeError("out of luck")
            return super().add(x, ids)

    monkeypatch.setattr(module, "IVFIndex", Picky)
    rows = rows_of(lists_plan)
    assert {row.store for row in rows if row.error} == {"float32"}
    assert [row.error for row in rows if row.store == "float32"] == ["RuntimeError: out of luck"] * 12
    assert len(tries) == 3


# --- going on


def test_what_was_measured_is_not_measured_again(make_file, monkeypatch):
    plan = Plan((make_file(),), ("eden", "drive"), (1, 2), peers=False)
    results = Results(plan, environment(None))
    results.rows = rows_of(plan)[:2]
    results.bounds = {step.dataset: step.bound for step in run(plan) if step.bound}
    steps = list(run(plan, results))
    assert [(step.row.method, step.row.bits, step.done) for step in steps if step.row] == [("drive", 1, 3)]
    assert not any(step.bound for step in steps)
    results.rows += [step.row for step in steps if step.row]
    monkeypatch.setattr(module.Bench, "measure", lambda *_: pytest.fail("measured again"))
    assert not [step for step in run(plan, results) if step.row or step.bound]
    assert [(row.method, row.bits) for row in results.rows] == [("eden", 1), ("eden", 2), ("drive", 1)]


def test_rows_of_other_data_are_neither_kept_nor_taken_for_the_new_ones(make_file):
    plan = Plan((make_file(),), ("drive", "eden"), (1,), peers=False)
    results = Results(plan, environment(None), rows=rows_of(plan))
    results.bounds = {step.dataset: step.bound for step in run(plan) if step.bound}
    old = results.bounds["gauss"].content
    path = make_file(offset=1.0)  # in the place of the other
    steps = list(run(plan, results))
    assert len([step for step in steps if step.row]) == 2
    assert [step.bound.content for step in steps if step.bound] == [load_dataset(path).content] != [old]
    assert (results.rows, results.bounds) == ([], {})


@pytest.mark.parametrize("change", [{"seed": 1}, {"k": (1,)}, {"threads": 1, "repeats": 2}])
def test_another_seed_or_way_of_measuring_is_measured_again(make_file, change):
    plan = Plan((make_file(),), ("drive",), (1,), peers=False)
    results = Results(plan, environment(None), rows=rows_of(plan))
    assert len([step for step in run(replace(plan, **change), results) if step.row]) == 1


def test_data_sets_of_one_name_are_told_apart(make_file, tmp_path):
    first = make_file("same")
    (tmp_path / "sub").mkdir()
    second = tmp_path / "sub" / "same.hdf5"
    second.write_bytes(Path(make_file("same", offset=2.0)).read_bytes())
    names = [row.dataset for row in rows_of(Plan((first, str(second)), ("drive",), (1,), peers=False))]
    assert names == [first, str(second)]


def test_a_ready_made_set_has_its_own_metric_and_queries_in_a_mixed_plan(make_file, tmp_path):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).standard_normal((300, DIM), np.float32))
    np.save(tmp_path / "queries.npy", np.ones((5, DIM), np.float32))
    plan = Plan(
        (str(tmp_path / "mine.npy"), make_file()), ("drive",), (1,), metric="ip",
        queries_from=tmp_path / "queries.npy", peers=False,
    )  # fmt: skip
    assert [(row.metric, row.queries) for row in rows_of(plan)] == [("ip", 5), ("l2", QUERIES)]


def test_vectors_alone_are_a_data_set(tmp_path):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).standard_normal((600, 16), np.float32))
    (row,) = rows_of(Plan((str(tmp_path / "mine.npy"),), ("eden",), (4,), metric="ip", queries=50, peers=False))
    assert (row.dataset, row.metric, row.rows, row.queries) == ("mine", "ip", 550, 50)
    assert row.result.recall[10].mean > 0.7


# --- FAISS


def test_without_faiss_the_own_cells_are_measured(make_file, monkeypatch):
    monkeypatch.setattr(running, "faiss_installed", lambda: False)
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
            assert low < row.result.recall[10].mean < high, (metric, row)
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
