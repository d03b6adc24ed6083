"""The tables by which lanes rotate rows give the CPU's bits, and no two lanes of an access meet in a bank."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from polarindex.gpu import reference
from polarindex.gpu.places import PASSES, SLOT, Form, accesses, coloured, tables
from polarindex.gpu.shapes import Card
from polarindex.kernels import reference as kernels
from polarindex.rotations import HadamardRotation

DIMS = (1, 2, 3, 17, 31, 32, 33, 63, 64, 100, 128, 200, 384, 768, 784, 1000, 1024, 1536, 2000, 2048, 4096)
FORMS = [Form(dim, side) for dim in DIMS for side in (1, 2) if Form(dim, side).rows <= 32]
H100, TURING = Card((9, 0), 132, 232_448), Card((7, 5), 40, 65_536)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_lanes_rotate_as_the_reference_to_the_bit(form, rng):
    rotation = HadamardRotation(form.dim, 7)
    x = (rng.standard_normal((3, form.dim)) * np.exp(rng.standard_normal((3, 1)))).astype(np.float32)
    made = tables(form, rotation)
    assert_array_equal(reference.rotate(form, made, rotation.plan[4], x), kernels.rotate(x, *rotation.plan))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_no_two_lanes_of_a_gather_have_one_bank(form):
    """Nor two rows of a warp: they begin as many banks apart as a row has lanes."""
    rotation = HadamardRotation(form.dim, 3)
    made = tables(form, rotation)
    first, waves = form.groups(0, 0), form.size // (1 << form.passes[0]) // form.wave
    for mine in made.reads.reshape(3, -1):
        slots = reference.registers(mine, *first.shape).reshape(waves, form.wave, -1)
        assert (np.sort(slots % form.wave, axis=1) == np.arange(form.wave)[:, None]).all()
    assert (form.stride - form.lanes) % 32 == 0


@pytest.mark.parametrize("form", [form for form in FORMS if len(form.windows) == 1], ids=str)
def test_no_two_lanes_that_write_for_the_next_round_have_one_bank(form):
    made, levels = tables(form, HadamardRotation(form.dim, 3)), form.passes[-1]
    groups = form.size >> levels
    for mine in made.writes.reshape(3, -1):
        slots = (reference.registers(mine, groups, 1 << levels) & SLOT).reshape(groups // form.wave, form.wave, -1)
        assert (np.sort(slots % form.wave, axis=1) == np.arange(form.wave)[:, None]).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 9))
def test_as_many_colours_as_edges_of_a_node_suffice(seed, nodes, colours):
    """Edges of a graph in which every node has at most `colours`: several between the same nodes too."""
    rng = np.random.default_rng(seed)
    kept = rng.random(nodes * colours) < rng.random()
    left = np.repeat(np.arange(nodes), colours)[kept]
    right = rng.permutation(np.repeat(np.arange(nodes), colours))[kept]
    found = coloured(left, right, colours)
    assert ((found >= 0) & (found < colours)).all()
    for side in (left, right):
        assert len(set(zip(side.tolist(), found.tolist(), strict=True))) == len(side)


@given(st.integers(1, 3000), st.integers(0, 2**32 - 1))
def test_lanes_add_in_the_order_of_the_cpu(d, seed):
    terms = np.random.default_rng(seed).standard_normal((2, d)) * 10.0 ** np.arange(-8, 8, 16 / d)[:d]
    assert_array_equal(reference.together(Form(1024, 1), terms), kernels._in_parts(terms))


def test_every_coordinate_is_read_once_a_round():
    form = Form(1000, 2)
    order = HadamardRotation(1000, 5).plan[0][0]
    found = accesses(form, order)
    assert np.bincount(found).max() <= form.wave
    assert np.bincount(found).sum() == 1000


@pytest.mark.parametrize("card", [H100, TURING])
@pytest.mark.parametrize("dim", [1, 63, 64, 128, 1024, 1536, 2047, 2048, 4096, 7000])
def test_a_form_is_one_that_the_card_and_the_kernel_have_room_for(dim, card):
    form = Form.of(dim, card)
    macros = form.macros(card, 4)
    assert form.passes in PASSES and sum(form.passes) == form.size.bit_length() - 1
    assert form.size >> form.passes[0] >= form.lanes and form.rows <= 32
    assert form.stride <= SLOT  # a slot has 15 bits
    assert 32 * macros["WARPS"] * macros["BLOCKS"] <= 1024
    assert form.fits(card)


def test_rows_too_long_for_a_small_card_are_refused():
    assert Form.of(8192, H100).fits(H100)
    assert not Form.of(8192, TURING).fits(TURING)
