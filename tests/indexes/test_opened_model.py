"""An opened index against a model, two dicts of vectors: what is in memory, and what a crash must leave."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import polarindex as pi
from polarindex.indexes import opened

DIM, NLIST, MOST = 20, 4, 1200
KNOWN_IDS = st.lists(st.integers(0, 10**6), max_size=12)  # numbers of ids that are there


class Model(RuleBasedStateMachine):
    """A writer, a reader, and what both must hold; without the disk's time, which is not the matter here."""

    def __init__(self):
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "index"
        self.quick = [mock.patch("os.fsync"), mock.patch("os.fdatasync", create=True)]
        self.few = mock.patch.object(opened, "_FEW", 40)  # so that larger changes are new segments
        for patch in (*self.quick, self.few):
            patch.start()

    def teardown(self):
        self.writer = self.reader = None
        for patch in (*self.quick, self.few):
            patch.stop()
        self.folder.cleanup()

    @initialize(
        seed=st.integers(0, 2**32 - 1),
        kind=st.sampled_from(["flat", "ivf"]),
        n=st.sampled_from([0, 60, 1000]),
        store=st.sampled_from(["float32", "int8"]),
    )
    def begin(self, seed, kind, n, store):
        self.rng = np.random.default_rng(seed)
        if kind == "flat":
            index = pi.FlatIndex(DIM, store=store)
        else:
            index = pi.IVFIndex(DIM, nlist=NLIST, store=store).fit(self.vectors(60))
        self.rows = {}
        self.took(index.add(self.vectors(n)), index)
        index.save(self.path)
        self.durable = self.rows.copy()
        self.writer, self.reader = pi.open(self.path), pi.open(self.path, read_only=True)
        self.seen = self.rows.copy()

    def vectors(self, n):
        return self.rng.standard_normal((n, DIM)).astype(np.float32)

    def known(self, numbers):
        """Some ids that are there, each once."""
        ids = sorted(self.rows)
        return np.array(sorted({ids[number % len(ids)] for number in numbers}) if ids else [], np.int64)

    def took(self, ids, index):
        self.rows.update(zip(ids.tolist(), map(bytes, index.reconstruct(ids)), strict=True))

    def holds(self, index, rows):
        ids = index.ids
        assert len(ids) == len(rows)
        assert dict(zip(ids.tolist(), map(bytes, index.reconstruct(ids)), strict=True)) == rows

    # --- changes

    @precondition(lambda self: len(self.rows) < MOST)
    @rule(n=st.sampled_from([0, 1, 15, 60]))
    def add(self, n):
        self.took(self.writer.add(self.vectors(n)), self.writer)

    @rule(numbers=KNOWN_IDS)
    def remove(self, numbers):
        ids = self.known(numbers)
        self.writer.remove(self.rng.permutation(ids))
        for ident in ids.tolist():
            del self.rows[ident]

    @rule(share=st.sampled_from([0.3, 1.0]))
    def remove_many(self, share):
        self.remove(np.flatnonzero(self.rng.random(len(self.rows)) < share).tolist())

    @rule(numbers=KNOWN_IDS, new=st.lists(st.one_of(st.integers(0, 2000), st.integers(2**32, 2**33)), max_size=8))
    def upsert(self, numbers, new):
        ids = self.rng.permutation(np.union1d(self.known(numbers), np.array(new, np.int64)))
        self.writer.upsert(ids, self.vectors(len(ids)))
        self.took(ids, self.writer)

    @precondition(lambda self: self.writer.kind == "ivf" and len(self.rows) > 20)
    @rule(nlist=st.sampled_from([3, NLIST]))
    def rebalance(self, nlist):
        self.writer.rebalance(nlist=nlist)

    # --- what becomes durable

    @rule(act=st.sampled_from(["sync", "sync", "sync", "compact"]))
    def sync(self, act):
        getattr(self.writer, act)()
        self.durable = self.rows.copy()
        self.holds(pi.load(self.path), self.durable)

    @rule()
    def refresh(self):
        self.holds(self.reader, self.seen)
        self.reader.refresh()
        self.seen = self.durable.copy()
        self.holds(self.reader, self.seen)
        assert self.reader.refresh() is False

    @rule(mmap=st.booleans())
    def close_and_open(self, mmap):
        self.writer.close()
        self.durable = self.rows.copy()
        self.writer = pi.open(self.path, mmap=mmap)
        self.holds(self.writer, self.durable)

    @rule(mmap=st.booleans(), tail=st.binary(max_size=60), remain=st.booleans())
    def crash(self, mmap, tail, remain):
        """What is in memory is gone; what lies beyond the log's length is anything."""
        self.writer = None
        for path in self.path.glob("log-*"):
            with open(path, "ab") as file:
                file.write(tail)
        if remain:
            shutil.copytree(next(self.path.glob("segment-*")), self.path / "segment-000000000000", dirs_exist_ok=True)
        self.rows = self.durable.copy()
        self.writer = pi.open(self.path, mmap=mmap)
        self.holds(self.writer, self.durable)
        assert self.writer.add(self.vectors(1)) == self.writer._id_map.next_id - 1
        self.took(self.writer.ids[self.writer.ids == self.writer._id_map.next_id - 1], self.writer)

    @rule(nq=st.sampled_from([1, 4]), k=st.sampled_from([1, 10]))
    def search(self, nq, k):
        """What was made durable is searched as the writer does it, to the bit."""
        self.sync("sync")
        q, everywhere = self.vectors(nq), {} if self.writer.kind == "flat" else {"nprobe": NLIST}
        self.refresh()
        loaded = pi.load(self.path, mmap=True)
        if self.writer.kind == "flat":
            np.testing.assert_array_equal(self.writer.ids, loaded.ids)
            np.testing.assert_array_equal(self.writer.ids, self.reader.ids)
        found = self.writer.search(q, k, **everywhere)
        for index in (self.reader, loaded):
            for mine, other in zip(found, index.search(q, k, **everywhere), strict=True):
                np.testing.assert_array_equal(mine, other)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=25)


@pytest.mark.soak
class TestModelForLong(Model.TestCase):
    settings = settings(max_examples=60, stateful_step_count=50)
