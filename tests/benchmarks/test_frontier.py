"""Fronts, speeds at a recall, their tables, and the conversation with an engine. No library but NumPy is asked."""

from __future__ import annotations

import importlib
import sys
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = {
    "set": "some-set", "n": 1000, "dim": 8, "metric": "l2", "queries": 100, "singles": 50, "repeats": 3, "quick": False,
    "command": "python ...",
    "environment": {
        "cpu": "a CPU", "cores": 2, "threads": 1, "caches": {}, "versions": {"faiss": "1.0"}, "date": "2030-01-01",
    },
}  # fmt: skip
BUILD = {
    "set": "some-set", "family": "hnswlib", "engine": "M=16", "train_s": None, "train_wall_s": None, "add_s": 2.0,
    "add_wall_s": 2.5, "peak_bytes": 3e6, "held_bytes": None, "bytes_per_vector": 1234.5, "bytes_counted": "serialized",
}  # fmt: skip


def module(name: str) -> ModuleType:
    """A module of benchmarks/, which is a folder of programs and no package."""
    folder = str(ROOT / "benchmarks")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        found = importlib.import_module(name)
    assert folder not in sys.path
    return found


fronts = module("frontier_front")
tables = module("frontier_tables")
families, grid = module("frontier_families"), module("frontier_grid")
Point = fronts.Point


def cell(family: str, recall: float, speed: float, mode: str = "batch", name: str = "some-set") -> dict[str, object]:
    setting = {"nprobe": 1}
    cell = {"set": name, "family": family, "engine": "E", "mode": mode, "setting": setting, "recall": recall}
    return cell | {"queries_per_s": speed}


def result(*cells: dict[str, object], skipped: tuple[dict[str, object], ...] = ()) -> dict[str, object]:
    return {"runs": [RUN], "builds": [BUILD], "cells": list(cells), "skipped": list(skipped)}


# --- fronts


def test_a_front_has_no_point_that_another_beats():
    points = [Point(*at) for at in [(0.9, 100), (0.8, 90), (0.95, 50), (0.95, 40), (0.97, 50), (0.5, 300), (0.9, 100)]]
    assert fronts.front(points) == [Point(0.5, 300), Point(0.9, 100), Point(0.97, 50)]
    assert fronts.front([]) == []


def test_a_front_keeps_exactly_the_points_that_none_beats(rng):
    points = [Point(float(r), float(s)) for r, s in rng.integers(0, 20, (60, 2))]
    unbeaten = {p for p in points if not any(o != p and o.recall >= p.recall and o.speed >= p.speed for o in points)}
    assert fronts.front(points) == sorted(unbeaten)


def test_between_two_points_the_logarithm_of_speed_is_linear():
    points = [Point(0.8, 1000, "a"), Point(0.9, 10, "b")]
    assert fronts.speed_at(0.85, points).value == pytest.approx(100)
    assert fronts.speed_at(0.825, points).value == pytest.approx(10**2.5)
    assert fronts.speed_at(0.85, points).label == "b"  # has the recall
    assert fronts.speed_at(0.8, points) == (1000, "a", False)
    assert fronts.speed_at(0.9, points) == (10, "b", False)


def test_nothing_is_made_up_beyond_the_ends():
    points = [Point(0.8, 1000, "a"), Point(0.9, 10, "b")]
    assert fronts.speed_at(0.91, points) is None
    assert fronts.speed_at(0.5, points) == (1000, "a", True)
    assert fronts.speed_at(0.5, []) is None


# --- tables


def row(lines: list[str], first: str) -> list[str]:
    (line,) = [line for line in lines if line.startswith(f"| {first} |")]
    return [part.strip() for part in line.strip("|").split("|")][1:]


def test_a_table_has_speeds_of_families_and_ratios_to_the_best_others():
    cells = [
        cell("hnswlib", 0.85, 400), cell("hnswlib", 0.96, 100), cell("polarindex", 0.90, 800),
        cell("polarindex", 0.95, 340), cell("FAISS PQ fast scan", 0.90, 200), cell("FAISS PQ fast scan", 0.80, 999),
        cell("polarindex FlatIndex", 0.99, 9999), cell("hnswlib", 0.999, 1, name="another"),
    ]  # fmt: skip
    lines = tables.speeds(result(*cells, cell("hnswlib", 0.95, 7, "single")), "some-set")
    assert row(lines, "polarindex") == ["800", "340", "-", "-", "-", "-", "E; nprobe 1"]
    assert row(lines, "hnswlib") == ["213", "113", "-", "≥ 7", "7", "-", "E; nprobe 1"]
    assert row(lines, "FAISS PQ fast scan") == ["200", "-", "-", "-", "-", "-", "-"]
    assert row(lines, "polarindex to the best peer") == ["3.76× (hnswlib)", "3.00× (hnswlib)", "-", "-", "-", "-", ""]
    assert row(lines, "polarindex to the best FAISS")[:2] == ["4.00× (FAISS PQ fast scan)", "-"]


def test_a_section_has_everything_and_says_what_was_not_measured():
    why = [{"set": "some-set", "family": "ScaNN", "engine": e, "why": "not installed: no scann"} for e in "AB"]
    why.append({"set": "some-set", "family": "hnswlib", "engine": "M=32", "why": "died"})
    text = "\n".join(tables.block(result(cell("hnswlib", 0.9, 10), skipped=tuple(why))))
    assert "**some-set**, 1,000 × 8, l2" in text
    assert "Not measured: ScaNN (2 engines): not installed: no scann; hnswlib (M=32): died." in text
    assert "![some-set: recall and queries a second](images/frontier-some-set.png)" in text
    assert "| hnswlib | M=16 | 2 |  | 2.5 | 3 |  | 1,234 (serialized) |" in text
    assert text.endswith("50 one by one, `python ...`.")


@pytest.mark.parametrize("held", [None, {"runs": [], "builds": [], "cells": [], "skipped": []}])
def test_a_section_without_results_says_so(held):
    assert tables.block(held)[0].startswith("Not measured yet")


# --- what is measured, and how


def test_recall_counts_the_true_neighbours_found_and_no_missing_ids():
    data = module("frontier_data")
    true = np.arange(40).reshape(2, 20)
    ids = np.full((1, 10), -1)
    assert data.recall(ids, true) == 0
    ids[0, :4] = [9, 3, 10, 21]  # 10 is the eleventh, 21 another query's
    assert data.recall(ids, true) == 0.2


@pytest.mark.parametrize("name", grid.GRIDS)
@pytest.mark.parametrize("quick", [False, True])
def test_every_set_has_engines_of_every_family_under_names_of_their_own(name, quick):
    plans = list(grid.plans(name, quick))
    assert {plan.family for plan in plans} == set(families.FAMILIES)
    assert len({(plan.family, plan.name) for plan in plans}) == len(plans)
    assert {plan.library for plan in plans} <= set(module("frontier_engines").ENGINES)
    assert all(plan.settings for plan in plans)


def test_a_quick_run_keeps_the_ends_of_the_settings():
    settings = grid.every(nprobe=(1, 2, 3, 4), rerank=(1, 2, 3))
    assert len(settings) == 12
    kept = grid.spread(settings, 5)
    assert len(kept) == 5 and kept[0] == settings[0] and kept[-1] == settings[-1]
    assert grid.spread(settings, 12) == settings


def test_an_engine_answers_every_setting_of_a_turn_until_the_pipe_closes():
    worker, engines = module("frontier_worker"), module("frontier_engines")
    asked = []

    class Echo(engines.Engine):
        def set(self, setting):
            self.first = setting["first"]

        def many(self, q):
            asked.append(len(q))
            return np.tile(np.arange(10), (len(q), 1)) + self.first

    ours, theirs = Pipe()
    thread = Thread(target=worker.serve, args=(theirs, Echo(4, "l2"), np.zeros((150, 4), np.float32), 20))
    thread.start()
    for _ in range(2):
        ours.send([{"first": 5}, {"first": 7}])
        what, answers = ours.recv()
        assert what == "done"
        assert [answer.many_ids[0, 0] for answer in answers] == [5, 7]
        assert [answer.singles_ids.shape for answer in answers] == [(20, 10)] * 2
        assert all(answer.many_s >= 0 and answer.singles_s >= 0 for answer in answers)
    ours.send([{"wrong": 1}])
    assert ours.recv() == ("failed", "KeyError: 'first'")
    thread.join(10)
    assert not thread.is_alive()
    assert asked.count(150) == 4  # one that counts a setting and turn
