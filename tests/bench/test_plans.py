"""Which engines are compared on which sets."""

from __future__ import annotations

import pytest

from benchmarks.published import GRIDS, grid
from polarindex.bench.codes import code_plans, left_out
from polarindex.bench.engines import ENGINES
from polarindex.bench.families import FAMILIES, FLAT_FAMILIES
from polarindex.bench.lists import grid_of, list_plans
from polarindex.bench.plans import every, spread


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("quick", [False, True])
def test_every_published_set_has_engines_of_every_family(name, quick):
    sound(list(list_plans(grid(name, quick))))


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize(("n", "dim"), [(300, 7), (100_000, 384), (60_000, 784), (10_000_000, 96)])
def test_any_set_has_engines_of_every_family_that_look_into_lists_it_has(n, dim, metric):
    chosen = grid_of(n, dim, metric)
    assert max(chosen.probes) <= min(chosen.lists)
    assert 0.5 <= chosen.lists[0] / n**0.5 <= 2 or n < 16**2
    sound(list(list_plans(chosen)))


def sound(plans):
    """Every family, names of their own, libraries that are known, settings for each."""
    assert {plan.family for plan in plans} == set(FAMILIES)
    assert len({(plan.family, plan.name) for plan in plans}) == len(plans)
    assert {plan.library for plan in plans} <= set(ENGINES)
    assert all(plan.settings for plan in plans)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize(("n", "dim"), [(100_000, 384), (60_000, 784), (1_000_000, 128), (331_479, 100)])
def test_every_family_of_codes_is_measured_or_said_to_be_left_out(n, dim, metric):
    measured = {plan.family for plan in code_plans(n, dim, metric)}
    left = left_out(n, dim, metric)
    assert measured <= set(FLAT_FAMILIES)
    assert set(FLAT_FAMILIES) <= measured | set(left)
    assert not measured & set(left)


def test_an_engine_is_named_by_a_part_of_its_library_family_or_name():
    plan = next(plan for plan in code_plans(1000, 64, "cosine") if plan.library == "scann")
    assert plan.named(()) and plan.named(("SCANN",)) and plan.named(("nothing", "1 bit"))
    assert not plan.named(("faiss", "2 bit"))


def test_a_quick_run_keeps_the_ends_of_the_settings():
    settings = every(nprobe=(1, 2, 3, 4), rerank=(1, 2, 3))
    assert len(settings) == 12
    kept = spread(settings, 5)
    assert len(kept) == 5 and kept[0] == settings[0] and kept[-1] == settings[-1]
    assert spread(settings, 12) == settings
