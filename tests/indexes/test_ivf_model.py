"""IVFIndex against a model, a dict of vectors: any sequence of changes, searches, saves and loads."""

from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import polarindex as pi

NLIST = 4
MOST = 200
INTEGERS = st.integers(0, 2**32 - 1)
KNOWN_IDS = st.lists(st.integers(0, 10**6), max_size=12)  # numbers of ids that are there


class Model(RuleBasedStateMachine):
    """An index and a dict id -> vector that are changed alike.

    With originals every row of every list is a candidate, so a search must find exactly the nearest, with ties by
    id; rows may then lie in second lists. Without, distances are estimates, and a search must find those
    that are nearest by what a range search without a bound says, up to rounding: ways of a search may sum in other
    orders.
    """

    def __init__(self):
        super().__init__()
        self.folder = TemporaryDirectory()

    def teardown(self):
        self.index = None
        self.folder.cleanup()

    @initialize(
        seed=INTEGERS,
        dim=st.sampled_from([24, 31, 32, 33]),
        metric=st.sampled_from(["l2", "cosine"]),
        stored=st.sampled_from([("none", 0.0), ("float32", 0.0), ("float32", 0.6), ("float32", 1.0)]),
    )
    def begin(self, seed, dim, metric, stored):
        self.rng = np.random.default_rng(seed)
        self.dim, self.metric, (self.store, spill) = dim, metric, stored
        self.centres = 3 * self.rng.standard_normal((NLIST, dim))
        self.index = pi.IVFIndex(dim, metric, nlist=NLIST, store=self.store, spill=spill).fit(self.vectors(60))
        self.vectors_of, self.next_id = {}, 0

    # --- changes

    def vectors(self, n):
        """Clustered, so that lists differ in size; some vectors come twice, so that there are ties."""
        which = np.minimum(self.rng.geometric(0.5, n) - 1, NLIST - 1)
        x = (self.centres[which] + self.rng.standard_normal((n, self.dim))).astype(np.float32)
        if n > 3:
            x[1] = x[0]
        return x

    def known(self, numbers):
        """Some ids that are there, each once."""
        ids = sorted(self.vectors_of)
        return np.array(sorted({ids[number % len(ids)] for number in numbers}) if ids else [], np.int64)

    def took(self, ids, x):
        self.vectors_of.update(zip(ids.tolist(), x, strict=True))
        self.next_id = max(self.next_id, int(ids.max(initial=-1)) + 1)

    @precondition(lambda self: len(self.vectors_of) < MOST)
    @rule(n=st.integers(0, 70))
    def add(self, n):
        x = self.vectors(n)
        ids = self.index.add(x)
        np.testing.assert_array_equal(ids, np.arange(self.next_id, self.next_id + n))
        self.took(ids, x)

    @precondition(lambda self: len(self.vectors_of) < MOST)
    @rule(chosen=st.lists(st.one_of(st.integers(0, 400), st.integers(2**32 - 4, 2**33)), unique=True, max_size=20))
    def add_under_ids(self, chosen):
        ids = np.array(chosen, np.int64)
        if there := self.vectors_of.keys() & set(chosen):
            with pytest.raises(ValueError, match="in the index already"):
                self.index.add(self.vectors(len(ids)), ids=ids)
            ids = np.setdiff1d(ids, list(there))
        x = self.vectors(len(ids))
        self.index.add(x, ids=ids)
        self.took(ids, x)

    @rule(numbers=KNOWN_IDS)
    def remove(self, numbers):
        ids = self.known(numbers)
        assert self.index.remove(self.rng.permutation(ids)) == len(ids)
        for ident in ids.tolist():
            del self.vectors_of[ident]
        assert self.index.remove(ids, missing="ignore") == 0

    @rule(share=st.sampled_from([0.5, 0.9, 1.0]))
    def remove_many(self, share):
        ids = np.array(sorted(self.vectors_of), np.int64)
        self.remove(np.flatnonzero(self.rng.random(len(ids)) < share).tolist())

    @rule(numbers=KNOWN_IDS)
    def update(self, numbers):
        ids = self.known(numbers)
        x = self.vectors(len(ids))
        self.index.update(ids, x)
        self.took(ids, x)

    @rule(numbers=KNOWN_IDS, new=st.lists(st.integers(0, 500), max_size=8))
    def upsert(self, numbers, new):
        ids = self.rng.permutation(np.union1d(self.known(numbers), np.array(new, np.int64)))
        x = self.vectors(len(ids))
        self.index.upsert(ids, x)
        self.took(ids, x)

    @rule(bad=st.sampled_from(["nan", "unknown id"]))
    def fail(self, bad):
        """An error changes nothing."""
        x = self.vectors(20)
        ids = np.concatenate([self.known(range(10)), 10**6 + np.arange(20)])[:20]
        if bad == "nan":
            x[19, 3] = np.nan
            for change in (self.index.add, lambda x: self.index.upsert(ids, x)):
                with pytest.raises(ValueError, match=r"x\[19\]"):
                    change(x)
        else:
            with pytest.raises(KeyError, match="10000"):
                self.index.update(ids, x)
            with pytest.raises(KeyError, match="10000"):
                self.index.remove(ids)

    @rule(mmap=st.booleans())
    def save_and_load(self, mmap):
        with mock.patch("os.fsync"), mock.patch("os.fdatasync", create=True):  # the disk's time is not the matter here
            self.index.save(f"{self.folder.name}/index")
        self.index = pi.load(f"{self.folder.name}/index", mmap=mmap)

    # --- what must hold

    @invariant()
    def holds_the_same(self):
        assert len(self.index) == len(self.vectors_of)
        ids = self.index.ids
        assert len(ids) == len(self.vectors_of) and set(ids.tolist()) == self.vectors_of.keys()
        assert self.index.info()["next_id"] == self.next_id
        x = self.index.reconstruct(ids)
        if self.store == "float32" and len(ids):
            np.testing.assert_array_equal(x, np.array([self.vectors_of[i] for i in ids.tolist()]))

    @rule(nq=st.sampled_from([1, 3, 20]), k=st.sampled_from([1, 5, 300]), by=st.sampled_from(["none", "mask", "ids"]))
    def search(self, nq, k, by):
        ids = self.index.ids
        mask = self.rng.random(len(ids)) < (1 if by == "none" else 0.4)
        filter = {"none": None, "mask": mask, "ids": ids[mask]}[by]
        q, allowed = self.vectors(nq), np.sort(ids[mask])
        stored = self.store == "float32"
        arguments = {"rerank": MOST} if stored else {}
        distances, found = self.index.search(q, k, nprobe=NLIST, filter=filter, **arguments)
        scores = self.exact(q, allowed) if stored else self.estimated(q, allowed)
        for i in range(nq):
            order = np.lexsort((allowed, scores[i] if self.metric == "l2" else -scores[i]))[:k]
            mine = found[i, : len(order)]
            assert len(np.unique(mine)) == len(mine) and np.isin(mine, allowed).all()
            assert (found[i, len(order) :] == -1).all() and np.isinf(distances[i, len(order) :]).all()
            if stored:
                np.testing.assert_array_equal(mine, allowed[order])
                np.testing.assert_array_equal(distances[i, : len(order)], scores[i, order])
                continue
            for other in (scores[i, order], scores[i, np.searchsorted(allowed, mine)]):
                np.testing.assert_allclose(distances[i, : len(order)], other, rtol=1e-5, atol=1e-5)
        few = self.index.search(q, k, nprobe=1, filter=filter)[1]
        assert np.isin(few, np.append(allowed, -1)).all()
        assert all(len(np.unique(row[row >= 0])) == (row >= 0).sum() for row in few)

    def exact(self, q, ids):
        """(nq, n) float32, as kernels.reference.rescore_rows has it."""
        x = np.array([self.vectors_of[i] for i in ids.tolist()], np.float32).reshape(-1, self.dim)
        if self.metric == "l2":
            return np.square((q[:, None] - x).astype(np.float64)).sum(axis=2).astype(np.float32)
        q, x = q.astype(np.float64), x.astype(np.float64)
        return (q @ x.T / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(x, axis=1)).astype(np.float32)

    def estimated(self, q, ids):
        """(nq, n) float32, what a range search without a bound says, under the ids asked for."""
        lims, distances, found = self.index.range_search(q, 1e30 if self.metric == "l2" else -1e30)
        everyone = np.sort(self.index.ids)
        scores = np.empty((len(q), len(everyone)), np.float32)
        for i in range(len(q)):
            mine = slice(lims[i], lims[i + 1])
            assert len(found[mine]) == len(everyone)
            scores[i, np.searchsorted(everyone, found[mine])] = distances[mine]
        return scores[:, np.searchsorted(everyone, ids)]


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=30)


@pytest.mark.soak
class TestModelForLong(Model.TestCase):
    settings = settings(max_examples=80, stateful_step_count=60)
