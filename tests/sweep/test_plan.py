"""Which cells a plan has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polarindex.sweep.plan import METHODS, PEERS, QUICK, Plan, subquantizers


def test_every_existing_cell_is_planned_once():
    planned = [(cell.method, cell.bits) for cell in Plan().cells(60_000, 784, peers=False)]
    assert planned == [(name, bits) for name in QUICK for bits in (1, 2, 3, 4, 8) if bits in METHODS[name]]


def test_spectral_codes_are_planned_for_both_kinds_of_index():
    methods = "eden", "spectral", "spectral-trellis"
    cells = Plan(quantizers=methods, bits=(2,), indexes=("flat", "ivf"), peers=False).cells(60_000, 784)
    for method in methods:
        assert {cell.index for cell in cells if cell.method == method} == {"flat", "ivf"}


def test_bits_and_names_restrict_the_cells():
    cells = Plan(quantizers=("qjl", "drive"), bits=(2, 1, 2), peers=False).cells(1000, 100)
    assert [(cell.method, cell.bits) for cell in cells] == [("qjl", 1), ("qjl", 2), ("drive", 1)]


@pytest.mark.parametrize("dim", [1, 2, 25, 96, 100, 101, 128, 768, 784, 1536])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_subquantizers_are_the_divisor_nearest_to_the_wanted_rate(dim, bits):
    found = subquantizers(dim, bits)
    assert dim % found == 0
    nearer = [m for m in range(1, dim + 1) if dim % m == 0 and abs(m - dim * bits / 4) < abs(found - dim * bits / 4)]
    assert nearer == []


def test_peers_come_last_and_no_code_is_measured_twice():
    cells = Plan(quantizers=("eden",)).cells(60_000, 784)
    peers = [cell for cell in cells if cell.subquantizers]
    assert cells[-len(peers) :] == tuple(peers)
    wanted = [(peer, m) for peer in PEERS for m in (196, 392, 784)]
    assert [(cell.method, cell.subquantizers) for cell in peers] == wanted
    assert [cell.bits for cell in peers] == [1, 2, 4] * 2


def test_a_peers_bits_are_those_it_really_spends():
    cells = Plan(quantizers=("eden",), bits=(1,)).cells(60_000, 25)
    assert [cell.bits for cell in cells if cell.subquantizers] == [4 * 5 / 25] * 2


@pytest.mark.parametrize("plan", [Plan(peers=False), Plan(quantizers=("eden",), bits=(8,))])
def test_no_peers_where_unwanted_or_beyond_their_bits(plan):
    assert not any(cell.subquantizers for cell in plan.cells(1000, 64))


def test_equal_plans_are_equal_and_have_equal_cells():
    assert Plan(seed=3) == Plan(seed=3) != Plan(seed=4)
    assert hash(Plan(seed=3)) == hash(Plan(seed=3))
    assert Plan(seed=3).cells(9, 100) == Plan(seed=3).cells(9, 100)
    assert Plan(seed=3).key == Plan(seed=3).key != Plan(seed=4).key


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("datasets", (), "datasets must have at least one entry"),
        ("quantizers", (), "quantizers must have at least one entry"),
        ("quantizers", ("edn",), "quantizers must be one of 'eden'"),
        ("bits", (), "bits must have at least one entry"),
        ("bits", (0,), "bits must be from 1 to 8, got 0"),
        ("bits", (9,), "bits must be from 1 to 8, got 9"),
        ("k", (0,), "k must be at least 1, got 0"),
        ("rows", 0, "rows must be at least 1, got 0"),
        ("queries", -1, "queries must be at least 1, got -1"),
        ("threads", 0, "threads must be at least 1, got 0"),
        ("seed", -1, "seed must be at least 0, got -1"),
        ("indexes", ("hnsw",), "indexes must be one of 'flat', 'ivf'"),
        ("stores", ("disk",), "stores must be one of 'none'"),
        ("nlist", 0, "nlist must be at least 1, got 0"),
        ("nprobe", (0,), "nprobe must be at least 1, got 0"),
        ("rerank", (), "rerank must have at least one entry"),
        ("metric", "l1", "metric must be one of 'l2'"),
        ("repeats", 0, "repeats must be at least 1, got 0"),
    ],
)
def test_a_bad_argument_is_named(argument, value, message):
    with pytest.raises(ValueError, match=message):
        replace(Plan(), **{argument: value})


def test_lists_are_probed_from_a_256th_to_all_of_them_by_doubling():
    cells = Plan(quantizers=("eden",), bits=(4,), indexes=("ivf",)).cells(60_000, 784)
    assert {cell.nlist for cell in cells} == {980}
    assert [cell.nprobe for cell in cells] == [4, 8, 16, 32, 64, 128, 256, 512, 980]


def test_more_lists_than_there_are_cannot_be_probed():
    plan = Plan(quantizers=("eden",), bits=(4,), indexes=("ivf",), nlist=100, nprobe=(500, 3, 100))
    assert [(cell.nlist, cell.nprobe) for cell in plan.cells(5000, 10)] == [(100, 3), (100, 100)]
    assert [(cell.nlist, cell.nprobe) for cell in plan.cells(50, 10)] == [(50, 3), (50, 50)]


def test_cells_of_an_index_follow_each_other():
    plan = Plan(bits=(1, 4), indexes=("flat", "ivf"), stores=("none", "float16"), rerank=(8, 2))
    builds = [cell.build for cell in plan.cells(10_000, 64)]
    changes = [build for build, before in zip(builds, [None, *builds], strict=False) if build != before]
    assert len(changes) == len(set(builds))
    ways = {(cell.store, cell.rerank) for cell in plan.cells(10_000, 64)}
    assert ways == {("none", 0), ("float16", 2), ("float16", 8)}


def test_a_plan_as_data_is_plain_and_whole():
    plan = Plan(nprobe=(1, 2), metric="ip")
    again = {name: tuple(value) if isinstance(value, list) else value for name, value in plan.as_dict().items()}
    assert Plan(**again) == plan
    assert {type(value) for value in plan.as_dict().values()} <= {list, int, bool, str, type(None)}


def test_a_plans_key_is_the_same_on_every_machine():
    assert Plan().key == "343bd5f608385883"


def test_a_plan_without_cells_says_which_bits_exist():
    with pytest.raises(ValueError, match="none of the quantizers exists at bits 2, 4: drive has 1"):
        Plan(quantizers=("drive",), bits=(2, 4))
