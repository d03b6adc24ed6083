"""The note of a build: read again as it was put, and said to be damaged or another version's where it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polarindex.distributed import plan
from polarindex.distributed.plan import Plan
from polarindex.errors import FormatError
from polarindex.indexes import manifest

PLAN = Plan({"metric": "l2", "num_shards": 2}, {"rows": 1000, "dim": 4}, 300, 900)


@given(rows=st.integers(1, 10**12), range_rows=st.integers(1, 10**6))
def test_ranges_are_all_rows_once(rows, range_rows):
    there = PLAN._replace(source={"rows": rows}, range_rows=range_rows)
    assert (there.ranges - 1) * range_rows < rows <= there.ranges * range_rows
    some = {0, there.ranges // 2, there.ranges - 1}
    for number in some:
        span = there.range(number)
        assert span.start == number * range_rows and 0 < span.stop - span.start <= range_rows
    assert there.range(there.ranges - 1).stop == rows


def test_a_plan_is_read_as_it_was_put(tmp_path):
    assert plan.read(tmp_path) is None
    plan.put(tmp_path, PLAN)
    assert plan.read(tmp_path) == PLAN


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"version": 2}, "is of another version of polarindex; remove"),
        ({"range_rows": 0}, "describes no build; remove"),
        ({"source": {}}, "describes no build; remove"),
        ({"asked": 3}, "describes no build; remove"),
    ],
)
def test_a_plan_that_cannot_be_is_said(changed, said, tmp_path):
    plan.put(tmp_path, PLAN)
    path = tmp_path / plan.PLAN
    path.write_text(json.dumps(manifest.sealed(json.loads(path.read_text()) | changed)))
    with pytest.raises(FormatError, match=said):
        plan.read(tmp_path)


def test_a_damaged_plan_is_said(tmp_path):
    plan.put(tmp_path, PLAN)
    path = tmp_path / plan.PLAN
    path.write_text(path.read_text().replace("300", "301"))
    with pytest.raises(FormatError, match=r"plan\.json is damaged: its checksum does not match"):
        plan.read(tmp_path)


def test_ids_are_known_again():
    assert plan.digest(None) is None
    assert plan.digest(np.arange(5)) == plan.digest(np.arange(5)) != plan.digest(np.arange(6))
