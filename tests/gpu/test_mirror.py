"""A device's copy of an index's rows, on emulated devices: what is sent after a change."""

from __future__ import annotations

import numpy as np
import pytest

import polarindex as pi
from polarindex.gpu.layout import Layout
from polarindex.gpu.lists import ListMirror
from polarindex.gpu.mirror import Mirror

DIM = 16


@pytest.fixture
def sent(monkeypatch):
    """Numbers of the rows whose codes are packed, device by device, since it was cleared."""
    numbers, real = [], Mirror.pack

    def pack(self, cp, words, rows, first):
        numbers.extend((self.share.number, row) for row in (range(first, first + len(words)) if rows is None else rows))
        real(self, cp, words, rows, first)

    monkeypatch.setattr(Mirror, "pack", pack)
    return numbers


def follow(gpu, sent):
    """Which positions are sent by the next search; columns are then the arena's."""
    sent.clear()
    found = []
    for mirror in gpu._copies:
        with mirror.current(gpu._arena) as rows:
            n = mirror.share.count(len(gpu))
            positions = mirror.share.positions(np.arange(n))
            for name, there in (("scales", rows.scales), ("shifts", rows.shifts), ("ids", rows.ids)):
                wanted = gpu._arena.take(name, positions).reshape(-1) if name in gpu._arena.columns else None
                assert (there is None) == (wanted is None)
                if wanted is not None:
                    np.testing.assert_array_equal(there.get()[:n], wanted)
        rows_sent = np.array([row for number, row in sent if number == mirror.share.number], np.int64)
        found += mirror.share.positions(rows_sent).tolist()
    return sorted(found)


@pytest.mark.parametrize("numbers", [0, [0, 1]])
def test_the_first_removal_sends_ids_and_what_moved(numbers, rng, devices, sent):
    gpu = pi.gpu.GpuFlatIndex(DIM, device=numbers)
    gpu.add(rng.standard_normal((20_000, DIM)).astype(np.float32))
    assert follow(gpu, sent) == list(range(20_000))
    gpu.remove([17, 19_000])
    assert follow(gpu, sent) == [17, 19_000]
    gpu.add(rng.standard_normal((300, DIM)).astype(np.float32))
    assert follow(gpu, sent) == list(range(19_998, 20_298))
    assert follow(gpu, sent) == []


def test_ids_that_do_not_fit_beside_the_rows_let_all_be_sent_anew(rng, devices, sent):
    n = 2_000
    room = -(-(n + n // 8) // 64) * 64
    gpu = pi.gpu.GpuFlatIndex(DIM, memory=room * 8 + room // 64 * Layout(4, DIM).tile_bytes)  # scales, shifts and codes
    gpu.add(rng.standard_normal((n, DIM)).astype(np.float32))
    assert follow(gpu, sent) == list(range(n))
    gpu.remove([17, 1900])
    assert follow(gpu, sent) == list(range(n - 2))
    (mirror,) = gpu._copies
    assert mirror.nbytes <= mirror.memory


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_words_of_factors_are_floats_on_the_device(metric, rng, devices):
    """Before and after the centre is learned, and rows that changed."""
    x, q = rng.standard_normal((1_300, DIM)).astype(np.float32) + 1, rng.standard_normal((4, DIM)).astype(np.float32)
    gpu = pi.gpu.GpuFlatIndex(DIM, metric, factor_bits=16)
    for rows in (x[:900], x[900:]):
        gpu.add(rows)
        gpu.update([3, 70], 2 * rows[:2])
        found, wanted = gpu.search(q, 7), gpu.to_cpu().search(q, 7, exact_scan=True)
        np.testing.assert_array_equal(found, wanted)
    assert gpu.factor_bits == 16 and pi.FlatIndex(**gpu.parameters()).factor_bits == 16


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_words_of_factors_are_floats_on_the_device_in_lists_too(metric, rng, devices, monkeypatch):
    for name in ("_pack", "_coded_centroids"):  # what has to do with codes is as ever
        monkeypatch.setattr(ListMirror, name, lambda *_: None)
    x = rng.standard_normal((300, DIM)).astype(np.float32)
    index = pi.IVFIndex(DIM, metric, nlist=4, factor_bits=16).fit(x)
    index.add(x)
    held, mirror = index._held, ListMirror(index._coding, "none", 0)
    with mirror.current(held, 1) as listed:
        places = held.rows.used()
        stored = held.rows.rows(places)
        np.testing.assert_array_equal(listed.pages.scales.get()[places], index._coding.scales(stored)[:, 0])
        np.testing.assert_array_equal(listed.pages.shifts.get()[places], index._coding.shifts(stored, held.centroids))
