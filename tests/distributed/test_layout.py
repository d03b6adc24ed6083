"""sharded.json: what it says is read again; what is damaged, foreign or unfinished is an error that says so."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polarindex.distributed import layout
from polarindex.distributed.layout import Layout
from polarindex.errors import FormatError
from polarindex.indexes import manifest

PARAMETERS = {"dim": 4, "metric": "l2", "bits": 4, "quantizer": "eden", "seed": 0, "center": True, "store": "none"}
TWO = Layout("flat", PARAMETERS, ("shard-00000", "shard-00001"), 7)


@given(
    kind=st.sampled_from(["flat", "ivf"]),
    shards=st.integers(1, 300),
    next_id=st.integers(0, 2**63 - 1),
    suffix=st.sampled_from(["", "-0123456789ab"]),
)
def test_what_is_put_is_read_again(kind, shards, next_id, suffix, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    names = tuple(layout.shard_name(number) + suffix for number in range(shards))
    there = Layout(kind, PARAMETERS, names, next_id, "frame" + suffix)
    layout.put(folder, there)
    assert layout.read(folder) == there and there.num_shards == shards
    layout.put(folder, TWO)
    assert layout.read(folder) == TWO
    assert [entry.name for entry in folder.iterdir()] == [layout.SHARDED]


def test_every_byte_that_is_changed_is_noticed(tmp_path):
    layout.put(tmp_path, TWO)
    path = tmp_path / layout.SHARDED
    text = path.read_bytes()
    spaces = {at for at, byte in enumerate(text) if byte in b" \n"}
    for at in range(len(text)):
        path.write_bytes(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
        if at in spaces and json.loads(text) == _parsed(path):
            continue
        with pytest.raises(FormatError, match=r"sharded\.json"):
            layout.read(tmp_path)
    for end in range(0, len(text) - 1, 7):
        path.write_bytes(text[:end])
        with pytest.raises(FormatError, match=r"sharded\.json"):
            layout.read(tmp_path)


def _parsed(path):
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"version": 2}, "has format version 2; this polarindex reads 1"),
        ({"format": "polarindex"}, "is not the manifest of a sharded polarindex index"),
        ({"kind": "tree"}, "kind must be one of"),
        ({"num_shards": 3}, "shards must be 3 different folders"),
        ({"num_shards": 0}, "num_shards must be from 1 to 65536, got 0"),
        ({"shards": ["shard-00000", "shard-00000"]}, "shards must be 2 different folders"),
        ({"shards": ["shard-00000", "../away"]}, "'../away' is no name of a shard's folder"),
        ({"frame": "/etc"}, "'/etc' is no name of a shard's folder"),
        ({"shards": "shard-00000"}, "shards must be a list"),
        ({"routing": "modulo"}, "routing is 'modulo', wanted 'splitmix64-jump'"),
        ({"next_id": -1}, "next_id must be from 0"),
        ({"parameters": []}, "parameters must be a dict"),
    ],
)
def test_what_cannot_be_is_said(changed, said, tmp_path):
    layout.put(tmp_path, TWO)
    path = tmp_path / layout.SHARDED
    path.write_text(json.dumps(manifest.sealed(json.loads(path.read_text()) | changed)))
    with pytest.raises(FormatError) as found:
        layout.read(tmp_path)
    assert said in str(found.value)


def test_an_unfinished_build_says_how_to_go_on(tmp_path):
    (tmp_path / layout.BUILDING).mkdir()
    with pytest.raises(FormatError, match="whose build is not done: give the same build again"):
        layout.read(tmp_path)


def test_another_directory_is_no_sharded_index(tmp_path):
    with pytest.raises(FormatError, match=r"is not a sharded polarindex index: it has no sharded\.json"):
        layout.read(tmp_path)
