"""Which cells a plan has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polarindex.quantizers import CELLS
from polarindex.sweep.plan import PEERS, Plan, subquantizers


def test_every_existing_cell_is_planned_once():
    planned = [(cell.method, cell.bits) for cell in Plan().cells(784, peers=False)]
    assert planned == [(name, bits) for name in CELLS for bits in (1, 2, 3, 4, 8) if bits in CELLS[name]]


def test_bits_and_names_restrict_the_cells():
    cells = Plan(quantizers=("qjl", "drive"), bits=(2, 1, 2), peers=False).cells(100)
    assert [(cell.method, cell.bits) for cell in cells] == [("qjl", 1), ("qjl", 2), ("drive", 1)]


@pytest.mark.parametrize("dim", [1, 2, 25, 96, 100, 101, 128, 768, 784, 1536])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_subquantizers_are_the_divisor_nearest_to_the_wanted_rate(dim, bits):
    found = subquantizers(dim, bits)
    assert dim % found == 0
    nearer = [m for m in range(1, dim + 1) if dim % m == 0 and abs(m - dim * bits / 4) < abs(found - dim * bits / 4)]
    assert nearer == []


def test_peers_come_last_and_no_code_is_measured_twice():
    cells = Plan(quantizers=("eden",)).cells(784)
    peers = [cell for cell in cells if cell.subquantizers]
    assert cells[-len(peers) :] == tuple(peers)
    wanted = [(peer, m) for peer in PEERS for m in (196, 392, 784)]
    assert [(cell.method, cell.subquantizers) for cell in peers] == wanted
    assert [cell.bits for cell in peers] == [1, 2, 4] * 2


def test_a_peers_bits_are_those_it_really_spends():
    cells = Plan(quantizers=("eden",), bits=(1,)).cells(25)
    assert [cell.bits for cell in cells if cell.subquantizers] == [4 * 5 / 25] * 2


@pytest.mark.parametrize("plan", [Plan(peers=False), Plan(quantizers=("eden",), bits=(8,))])
def test_no_peers_where_unwanted_or_beyond_their_bits(plan):
    assert not any(cell.subquantizers for cell in plan.cells(64))


def test_equal_plans_are_equal_and_have_equal_cells():
    assert Plan(seed=3) == Plan(seed=3) != Plan(seed=4)
    assert hash(Plan(seed=3)) == hash(Plan(seed=3))
    assert Plan(seed=3).cells(100) == Plan(seed=3).cells(100)


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
    ],
)
def test_a_bad_argument_is_named(argument, value, message):
    with pytest.raises(ValueError, match=message):
        replace(Plan(), **{argument: value})


def test_a_plan_without_cells_says_which_bits_exist():
    with pytest.raises(ValueError, match="none of the quantizers exists at bits 2, 4: drive has 1"):
        Plan(quantizers=("drive",), bits=(2, 4))
