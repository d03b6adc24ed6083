"""Which Ray cluster: what is wrong with an address, or with the installation, is said at once."""

from __future__ import annotations

import sys

import pytest

import polarindex as pi
from polarindex.distributed import ShardedIndex, actors

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray and its processes warn of much that is not ours


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nobody_listens_is_named(address):
    pytest.importorskip("ray", reason="needs Ray: pip install 'polarindex[distributed]'")
    with pytest.raises(ConnectionError, match=f"no Ray cluster answers at {address}"):
        ShardedIndex.connect("name", address=address)


def test_so_is_one_of_the_environment(monkeypatch):
    pytest.importorskip("ray", reason="needs Ray: pip install 'polarindex[distributed]'")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConnectionError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        actors.connected(None)


def test_without_ray_the_extra_is_named(monkeypatch, rows, tmp_path):
    ShardedIndex.build(rows[:500], tmp_path / "index", num_shards=2, nlist=4, engine="local", processes=1)
    monkeypatch.setitem(sys.modules, "ray", None)
    for call in (lambda: ShardedIndex.open(tmp_path / "index"), lambda: ShardedIndex.connect("name")):
        with pytest.raises(pi.MissingExtraError, match=r"pip install 'polarindex\[distributed\]'"):
            call()
