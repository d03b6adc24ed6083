"""After a warm-up nothing is compiled, whatever is asked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import polarindex as pi
from polarindex import kernels
from polarindex.indexes import warmup

# Indexes of many sizes in many ways, drawn at random; not those of the warm-up. Prints what was compiled and logged.
PROGRAM = """
import json, logging, sys
import numpy as np, polarindex as pi
from polarindex import kernels
from polarindex.indexes import halves
messages = []
class Keep(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())
logging.getLogger("polarindex").addHandler(Keep())
rng = np.random.default_rng(1)
def vectors(n, dim):
    x = rng.standard_normal((n, dim))
    x = [x, x.astype(np.float32), np.asfortranarray(x, np.float32), x.astype(np.float32)[::-1]][rng.integers(4)]
    x.flags.writeable = bool(rng.integers(2))
    return x
cells = [(name, 4) for name, all_bits in pi.CELLS.items() if 4 in all_bits]
for number, (name, bits) in enumerate(6 * cells):
    dim, n = int(rng.choice([1, 2, 33, 64, 100])), int(rng.choice([1, 15, 16, 300, 1500]))
    store = rng.choice(["none", "none", "float32", "float16", "int8"])
    metric = ["l2", "ip", "cosine"][number % 3]
    index = pi.FlatIndex(dim, metric, bits, name, center=bool(rng.integers(2)), store=str(store))
    x = vectors(n, dim)
    index.add(x) if rng.integers(2) else index.add(x, ids=rng.permutation(n) + 7)
    for nq in (1, 2, 3, 5, 8, 9, 30):
        mask = rng.random(len(index)) < 0.7
        for allowed in (None, mask, index.ids[mask], pi.IdFilter(index.ids[mask]), [mask] * nq):
            index.search(vectors(nq, dim), int(rng.integers(1, 20)), filter=allowed, num_threads=1 + nq % 2,
                         exact_scan=bool(rng.integers(2)), return_error=bool(rng.integers(2)))
    index.range_search(vectors(2, dim), 0.5, filter=mask)
    index.remove(index.ids[: n // 3])
    index.upsert(np.arange(5, 10), vectors(5, dim))
    index.update([9], vectors(1, dim))
    index.reconstruct([9, 5])
    if number % 5 == 0:
        index.save(sys.argv[1])
        again = pi.load(sys.argv[1], mmap=bool(rng.integers(2)))
        again.search(vectors(1, dim), 5)
        again.search(vectors(9, dim), 5)
        again.add(vectors(20, dim))
    quantizer = pi.make_quantizer(name, dim, bits)
    codes = quantizer.encode(vectors(n, dim))
    quantizer.decode(codes)
    quantizer.scores(vectors(3, dim), codes[: n // 2])
read = [("eden", 4), ("trellis", 4), ("trellis-12", 4)]
stores = ["none", "float32", "float16", "int8"]
lists = [(*cell, stores[i % 4]) for i, cell in enumerate(4 * cells)]
lists += [(*cell, store) for cell in read for store in stores]
lists = [(*one, None) for one in lists]
lists.append(("eden", 4, "none", 1))
for number, (name, bits, store, planes) in enumerate(lists):
    dim, n = int(rng.choice([2, 33, 64, 100])), int(rng.choice([15, 16, 300, 1500]))
    metric = ["l2", "ip", "cosine"][number % 3]
    settings = {"nlist": int(rng.integers(1, 15)), "center": bool(rng.integers(2)), "store": store, "scan_bits": planes}
    index = pi.IVFIndex(dim, metric, bits, name, **settings)
    index.fit(vectors(1 + n, dim))
    x = vectors(n, dim)
    index.add(x) if rng.integers(2) else index.add(x, ids=rng.permutation(n) + 7 + 2**33)
    for nq in (1, 2, 3, 5, 8, 9, 300):
        mask = rng.random(len(index)) < 0.7
        for allowed in (None, mask, index.ids[mask], pi.IdFilter(index.ids[mask]), [mask] * nq):
            index.search(vectors(nq, dim), int(rng.integers(1, 20)), nprobe=int(rng.integers(1, 20)), filter=allowed,
                         num_threads=1 + nq % 2, query_bits=int(rng.choice([8, 8, 16])),
                         return_error=bool(rng.integers(2)), rerank=3 if store != "none" and rng.integers(2) else None,
                         exact_scan=bool(rng.integers(2)))
    halves.some_question(index)
    index.range_search(vectors(2, dim), 0.5, filter=mask)
    index.remove(index.ids[: n // 3])
    index.upsert(np.arange(5, 10), vectors(5, dim))
    index.update([9], vectors(1, dim))
    index.reconstruct([9, 5])
    if number % 3 == 0:
        index.save(sys.argv[1])
        index = pi.load(sys.argv[1], mmap=bool(rng.integers(2)))
    index.remove(index.ids[n // 3 :])
    index.search(vectors(1, dim), 5)
    index.add(vectors(2 * n, dim))
    index.search(vectors(9, dim), 5)
print(json.dumps([sorted(asked), kernels.compiled(), messages]))
"""


# Every kernel and its types that a process is the first to want, whether it is compiled then or read from the cache.
ASKED = """
import json
from polarindex.kernels import compile
asked, load = set(), compile._ForgivingCache.load_overload
def noted(cache, signature, target):
    asked.add(f"{cache._cache._py_func.__qualname__}{signature}")
    return load(cache, signature, target)
compile._ForgivingCache.load_overload = noted
"""
WARMUP = """
from polarindex.indexes.warmup import warmup
warmup(None, lambda *what: None, [4])
print(json.dumps(sorted(asked)))
"""


@pytest.mark.slow
def test_after_a_warmup_nothing_is_compiled(tmp_path):
    """For codes of 4 bits. With a cache of its own this would take minutes: so what is wanted is compared."""

    def run(program):
        command = [sys.executable, "-c", ASKED + program, str(tmp_path / "index")]
        places = os.environ | {"PYTHONPATH": str(Path(pi.__file__).parents[1])}
        done = subprocess.run(command, env=places, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    warm = run(WARMUP)
    wanted, compiled, messages = run(PROGRAM)
    assert len(wanted) > 50 and sorted(set(wanted) - set(warm)) == []
    assert (compiled, messages) == ([], [])


def test_each_step_is_told_before_it_is_done_and_runs_under_its_set(monkeypatch):
    seen, told = [], []
    steps = [("one", lambda: seen.append(kernels.selected())), ("two", lambda: seen.append(kernels.selected()))]
    monkeypatch.setattr(warmup, "_steps", lambda x, bits: steps)
    before = kernels.selected()
    sets = list(dict.fromkeys((kernels.available()[0], "generic")))
    warmup.warmup(sets, lambda *what: told.append(what))
    assert seen == [name for name in sets for _ in steps]
    assert [done for done, _, _ in told] == list(range(2 * len(sets) + 1))
    assert told[0][2] == f"{sets[0]}, one"
    assert kernels.selected() == before
