"""An index that a cluster serves under a name is reached by programs, and by the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from typer.testing import CliRunner

import polarindex as pi
from polarindex.cli import app
from polarindex.distributed import ShardedIndex, actors, served

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray and its processes warn of much that is not ours
NLIST = 16


@pytest.fixture(scope="module")
def path(ray, rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "index"
    ShardedIndex.build(rows[:2_000], path, num_shards=2, nlist=NLIST, engine="local", processes=1)
    end = served.serve(path, "some")
    yield path
    end()
    with pytest.raises(ValueError, match="no index is served as 'some'"):
        ShardedIndex.connect("some")


@pytest.fixture(scope="module")
def whole(path, rows):
    index = pi.load(path / "frame").empty_like()
    index.add(rows[:2_000])
    return index


def assert_finds_the_same(index, whole, q):
    for one, other in zip(index.search(q, 6, nprobe=NLIST), whole.search(q, 6, nprobe=NLIST), strict=True):
        assert_array_equal(one, other)


def test_programs_search_and_change_what_is_served(path, whole, rows):
    with ShardedIndex.connect("some") as one, ShardedIndex.connect("some") as other:
        assert_finds_the_same(one, whole, rows[:20])
        ids = one.add(rows[2_000:2_040])
        assert_array_equal(ids, whole.add(rows[2_000:2_040]))
        assert_finds_the_same(one, whole, rows[:20])
        assert_finds_the_same(other, whole, rows[:20])  # there is one copy, which writes
        for index in (other, whole):
            assert index.remove([3, 4]) == 2
            index.upsert([7, 8_000], rows[:2])
            index.update([9], rows[:1])
        other.sync()
        other.compact()
        assert_finds_the_same(other, whole, rows[:20])
        assert len(other) == len(whole)
        with pytest.raises(ValueError, match="ids holds 8, which is in the index already"):
            one.add(rows[:1], ids=[8])
        with pytest.raises(KeyError, match="id 3 is not in the index"):
            one.remove([3])
    with pytest.raises(RuntimeError, match="closed"):
        one.add(rows[:1])


def test_a_name_is_served_once(path):
    with pytest.raises(ValueError, match="an index is served as 'some' already"):
        served.serve(path, "some")
    with pytest.raises(ValueError, match="without a slash"):
        served.serve(path, "a/b")
    with pytest.raises(pi.LockedError):
        served.serve(path, "other")
    with pytest.raises(ValueError, match="no index is served as 'other' in this Ray cluster; there are 'some'"):
        ShardedIndex.connect("other")


def test_a_front_that_is_killed_comes_back_with_its_shards(ray, path, whole, rows):
    with ShardedIndex.connect("some") as index:
        ray.kill(index._handles.front, no_restart=False)
        assert_finds_the_same(index, whole, rows[:20])
        assert index.add(rows[:1]).tolist() == whole.add(rows[:1]).tolist()
        assert_finds_the_same(index, whole, rows[:20])


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_command_line_queries_what_is_served(path, whole, rows, tmp_path):
    np.save(tmp_path / "q.npy", rows[:3])
    done = run("query", "ray:///some", tmp_path / "q.npy", "-k", 2, "--nprobe", NLIST, "--json")
    assert done.exit_code == 0, done.output
    found = [json.loads(line)["ids"] for line in done.output.splitlines()]
    assert_array_equal(found, whole.search(rows[:3], 2, nprobe=NLIST)[1])
    for index, said in (
        ("ray:///nothing", "no index is served as 'nothing'"),
        ("ray:///a/b/c", "is no name of a served index"),
    ):
        done = run("query", index, tmp_path / "q.npy")
        assert done.exit_code == 2 and said in done.output and done.output.count("\n") == 1


def test_the_command_line_serves_and_stops(ray, rows, tmp_path):
    path = tmp_path / "mine"
    ShardedIndex.build(rows[:500], path, num_shards=2, nlist=4, engine="local", processes=1)
    address = actors.cluster_address()
    done = run("serve-shards", path, "--detach", "--address", address)
    assert done.exit_code == 0, done.output
    with ShardedIndex.connect("mine") as index:
        assert len(index) == 500
    assert run("serve-shards", "--stop", "mine", "--address", address).exit_code == 0
    for wrong, said in (
        ((), "give PATH, to serve it, or --stop NAME"),
        ((tmp_path,), "not a sharded polarindex index"),
        (("--stop", "mine"), "no index is served as 'mine'"),
    ):
        done = run("serve-shards", *wrong)
        assert done.exit_code == 2 and said in done.output and done.output.count("\n") == 1
