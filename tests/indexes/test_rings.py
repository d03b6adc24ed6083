"""Indexes of trellis codes do all that others do, and every instruction set gives the same answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import polarindex as pi
from polarindex import kernels
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


@pytest.mark.parametrize("quantizer", ["trellis", "trellis-12"])
def test_lists_are_scanned_in_steps_and_find_the_same_as_all_rows(quantizer):
    x, q = rows(1200), rows(20, 1)
    lists = pi.IVFIndex(DIM, bits=3, quantizer=quantizer, nlist=8, store="float16").fit(x)
    lists.add(x)
    assert lists.info()["scan"] == "in steps"
    _, ids = lists.search(q, 10, nprobe=8, gap=None, rerank=4)
    truth = np.argsort(((q[:, None] - x) ** 2).sum(axis=2), axis=1)[:, :10]
    assert np.mean([len(set(one) & set(other)) / 10 for one, other in zip(ids, truth, strict=True)]) > 0.99
    with pytest.raises(ValueError, match=r"scan_bits=1 needs a code .* got Trellis"):
        pi.IVFIndex(DIM, bits=3, quantizer="trellis", scan_bits=1)


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match="bits for quantizer 'trellis' must be one of 1, 2, 3, 4; got 5"):
        pi.FlatIndex(DIM, bits=5, quantizer="trellis")
