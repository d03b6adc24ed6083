"""Indexes of trellis codes do all that others do, and every instruction set gives the same answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import polarindex as pi
from polarindex import kernels
from polarindex.indexes import halves
from polarindex.indexes.probing import Probes
from polarindex.kernels import dispatch

DIM = 50


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, DIM)) + rng.standard_normal((1, DIM))).astype(np.float32)


def filled(metric="l2", bits=2, quantizer="trellis", **arguments):
    index = pi.FlatIndex(DIM, metric, bits, quantizer, **arguments)
    index.add(rows(1200))
    return index


def same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("quantizer", "bits"), [*(("trellis", bits) for bits in (1, 2, 3, 4)), ("trellis-12", 1)])
def test_every_instruction_set_has_the_same_answers(monkeypatch, quantizer, bits):
    """Codes too; with filters, for one query and for many."""
    answers = []
    for name in (kernels.available()[0], kernels.GENERIC):
        monkeypatch.setattr(dispatch, "_chosen", name)
        index, q = filled("cosine", bits, quantizer), rows(9, 1)
        asked = itertools.product((q, q[:1]), (None, np.arange(1200) % 3 == 0))
        found = [index.search(part, 20, filter=mask) for part, mask in asked]
        answers.append([part for one in found for part in one] + [index.reconstruct(index.ids)])
    same(*answers)


@pytest.mark.parametrize("exact_scan", [False, True])
def test_all_codes_are_scanned_in_full_whatever_is_asked_for(exact_scan):
    """There is no first pass: a ring has no first planes."""
    index, q = filled(), rows(30, 1)
    registers = kernels.available()[0] != kernels.GENERIC
    said = f"full scan ({kernels.selected()})" if registers else "full scan in steps"
    assert index.info()["scan"] == {"batch": said, "single": said}
    same(index.search(q, 10, exact_scan=exact_scan), index.search(q, 10, num_threads=2))
    for i in range(3):
        same(index.search(q[i], 10, exact_scan=exact_scan), [part[i] for part in index.search(q, 10)])


def test_bytes_are_those_of_the_bits():
    """50 coordinates of 3 bits in 5 words, a scale and a shift; planes would take 6 words."""
    assert filled(bits=3).bytes_per_vector == 4 * 5 + 4 + 4
    assert pi.FlatIndex(DIM, bits=3).bytes_per_vector == 4 * 6 + 4 + 4


@pytest.mark.parametrize("quantizer", ["trellis", "trellis-12"])
def test_saved_mapped_and_logged_it_is_the_same_index(tmp_path, quantizer):
    index, q = filled(quantizer=quantizer, store="int8"), rows(5, 1)
    index.save(tmp_path / "saved")
    for mmap in (False, True):
        same(pi.load(tmp_path / "saved", mmap=mmap).search(q, 10), index.search(q, 10))
    with pi.open(tmp_path / "saved") as opened:
        opened.add(rows(40, 2))
        opened.remove([3, 1150])
        opened.sync()
    index.add(rows(40, 2))
    index.remove([3, 1150])
    again = pi.load(tmp_path / "saved")
    same(again.search(q, 10), index.search(q, 10))
    same(again.range_search(q, 60.0), index.range_search(q, 60.0))


def test_range_search_has_what_search_has():
    index, q = filled("ip", 4), rows(4, 1)
    distances, ids = index.search(q, 1200)
    lims, found, names = index.range_search(q, float(distances[0, 100]))
    assert lims[1] == 101
    same((found[:101], names[:101]), (distances[0, :101], ids[0, :101]))


def test_errors_are_as_large_as_they_are_said_to_be():
    index, q = filled("ip", 1), rows(50, 1)
    distances, ids, errors = index.search(q, 50, return_error=True)
    exact = np.einsum("ij,ikj->ik", q.astype(np.float64), rows(1200)[ids].astype(np.float64))
    # the best 50 of 1,200 are those with luck: more than one standard error, and not many
    assert 0.7 < np.sqrt(np.mean(((distances - exact) / errors) ** 2)) < 2


# --- in lists


def listed(metric="l2", bits=3, quantizer="trellis", **options):
    """Rows in 8 lists, whose first pages are part empty."""
    index = pi.IVFIndex(DIM, metric, bits, quantizer, nlist=8, **options).fit(rows(1200))
    index.add(rows(1200))
    index.remove(np.arange(0, 300, 7))
    return index


def searched(index):
    """Answers alone, two together and in a batch; of few lists and all; by filters; for more rows than there are."""
    asked = [(rows(nq, 1), nprobe, only) for nq in (1, 2, 20) for nprobe in (3, 8) for only in (None, index.ids[::3])]
    found = [index.search(q, 20, nprobe=nprobe, filter=only) for q, nprobe, only in asked]
    return [*found, index.search(rows(3, 2), 1300, nprobe=8), index.search(rows(1, 2), 1300, nprobe=8)]


FIRST_SET = kernels.available()[0]
LISTED = [("l2", 3, {}), ("ip", 1, {}), ("cosine", 4, {}), ("cosine", 2, {"factor_bits": 16})]
LISTED += [("l2", 2, {"store": "float32", "spill": 0.5})]


@pytest.mark.parametrize(("metric", "bits", "options"), LISTED)
@pytest.mark.parametrize("quantizer", ["trellis", pytest.param("trellis-12", marks=pytest.mark.slow)])
def test_lists_in_registers_have_the_answers_of_steps_bit_for_bit(quantizer, metric, bits, options):
    index = listed(metric, bits, quantizer, **options)
    assert index.info()["scan"] == (f"in registers ({FIRST_SET})" if FIRST_SET != kernels.GENERIC else "in steps")
    found = searched(index)
    with kernels.using(kernels.GENERIC):
        assert index.info()["scan"] == "in steps"
        for one, other in zip(found, searched(index), strict=True):
            same(one, other)


@pytest.mark.isa
@pytest.mark.parametrize("isa", kernels.available()[1:-1])
@pytest.mark.parametrize("quantizer", ["trellis", "trellis-12"])
def test_every_instruction_set_finds_the_same_in_lists(quantizer, isa):
    index = listed(quantizer=quantizer)
    found = searched(index)
    with kernels.using(isa):
        assert index.info()["scan"] == f"in registers ({isa})"
        for one, other in zip(found, searched(index), strict=True):
            same(one, other)


def test_a_mapped_inverted_file_is_the_same_index(tmp_path):
    index = listed()
    index.save(tmp_path / "saved")
    for mmap in (False, True):
        for one, other in zip(searched(pi.load(tmp_path / "saved", mmap=mmap)), searched(index), strict=True):
            same(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["trellis", "trellis-12"])
def test_ranges_and_queries_that_are_prepared_elsewhere_are_those_of_a_search(quantizer):
    index, q = listed("ip", 4, quantizer), rows(5, 1)
    distances, ids = index.search(q, 30, nprobe=3, exact_scan=True)
    question, constants = halves.asked(index, q, Probes(3), 8, halves.in_registers(index))
    assert isinstance(question, halves.ListQuestion) or FIRST_SET == kernels.GENERIC
    part = halves.candidates(index, question, None, 30, None, True)
    same(halves.best([part], constants, 30, 30, "ip"), (distances, ids))
    for radius in (-1e9, float(distances[0, 20]), 1e9):
        found = index.range_search(q, radius, nprobe=3)
        with kernels.using(kernels.GENERIC):
            same(found, index.range_search(q, radius, nprobe=3))
    lims, _, names = index.range_search(q, float(distances[0, 20]), nprobe=3)
    np.testing.assert_array_equal(names[: lims[1]][:21], ids[0, :21])


def test_lists_find_what_is_near():
    x, q = rows(1200), rows(20, 1)
    lists = pi.IVFIndex(DIM, bits=3, quantizer="trellis", nlist=8, store="float32").fit(x)
    lists.add(x)
    _, ids = lists.search(q, 10, nprobe=8, gap=None, rerank=4)
    truth = np.argsort(((q[:, None] - x) ** 2).sum(axis=2), axis=1)[:, :10]
    assert np.mean([len(set(one) & set(other)) / 10 for one, other in zip(ids, truth, strict=True)]) > 0.99


def test_rings_have_no_first_planes():
    with pytest.raises(ValueError, match=r"scan_bits=1 needs a code .* got Trellis"):
        pi.IVFIndex(DIM, bits=3, quantizer="trellis", scan_bits=1)


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match="bits for quantizer 'trellis' must be one of 1, 2, 3, 4; got 5"):
        pi.FlatIndex(DIM, bits=5, quantizer="trellis")
