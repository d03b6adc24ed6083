"""What is said of the vectors that a command reads, while it reads them."""

from __future__ import annotations

import numpy as np
import pytest

import polarindex as pi
from polarindex.cli.rows import passes
from polarindex.sweep.stacked import Stacked


@pytest.mark.parametrize(("kind", "n"), [("flat", 60), ("flat", 1100), ("ivf", 60)])
def test_passes_are_as_many_as_an_index_makes(rng, kind, n):
    rows, begun = Stacked([("a", rng.standard_normal((n, 8), np.float32))]), []
    index = pi.FlatIndex(8) if kind == "flat" else pi.IVFIndex(8, nlist=4).fit(rows)
    rows.watch(lambda done, total, what, unit: begun.append(what), *(wanted := passes(index, n)))
    index.add(rows)
    assert list(dict.fromkeys(begun)) == list(wanted) and begun[-1] == "coding"
    assert passes(index, 60) == (("coding",) if kind == "flat" else ("finding lists", "coding"))
