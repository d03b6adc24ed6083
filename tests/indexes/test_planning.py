"""Plans: the bytes they predict, the memory they keep to, and the index they make."""

import numpy as np
import pytest

import polarindex as pi
from polarindex.indexes.planning import LISTED, SCANNED, predicted_bytes

CASES = [(1, "none", "cosine", 40), (4, "float16", "l2", 24), (2, "int8", "ip", 24), (8, "none", "l2", 96)]


@pytest.mark.parametrize("kind", ["flat", pytest.param("ivf", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("bits", "store", "metric", "dim"), CASES)
def test_predicted_bytes_are_those_of_the_index(kind, bits, store, metric, dim):
    """Of a flat index exactly; of lists, whose sizes nobody knows, to a tenth."""
    x = np.random.default_rng(0).standard_normal((8_000, dim)).astype(np.float32)
    if kind == "flat":
        index, nlist = pi.FlatIndex(dim, metric, bits, store=store), None
    else:
        index = pi.IVFIndex(dim, metric, bits, store=store).fit(x, n=8_000)
        nlist = index.nlist
    index.add(x)
    index.search(x[:1])  # which codes the centroids
    predicted = sum(predicted_bytes(8_000, dim, metric, bits, store, nlist).values())
    if kind == "flat":
        assert predicted == index.nbytes
    else:
        assert abs(predicted / index.nbytes - 1) < 0.1


@pytest.mark.parametrize("n", [1, 500, 5000])
def test_a_plan_makes_the_index_it_speaks_of(n):
    plan = pi.plan(n, 32, 0.9, metric="cosine")
    index = plan.make(seed=3)
    assert isinstance(index, pi.FlatIndex) and (plan.kind, plan.nlist) == ("flat", None)
    told = index.parameters()
    assert (told["metric"], told["bits"], told["store"], told["seed"]) == ("cosine", plan.bits, plan.store, 3)
    index.add(np.random.default_rng(0).standard_normal((n, 32)))
    assert index.nbytes == plan.nbytes == sum(plan.parts.values())
    assert plan.bytes_per_vector == plan.nbytes / n


def test_many_rows_go_into_lists():
    plan = pi.plan(1_000_000, 768)
    index = plan.make()
    assert isinstance(index, pi.IVFIndex) and index.nlist == plan.nlist == 4000
    assert "4000 lists" in plan.reason and "tune()" in plan.reason
    assert pi.plan(SCANNED // 64, 64).kind == "flat" and pi.plan(SCANNED // 64 + 1, 64).kind == "ivf"
    assert pi.plan(LISTED - 1, 60_000).kind == "flat"


def test_more_recall_takes_more_bytes_and_is_foreseen():
    plans = [pi.plan(2_000_000, 128, target) for target in (0.6, 0.8, 0.9, 0.95, 0.99, 0.998)]
    sizes = [plan.nbytes for plan in plans]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2] < sizes[-1]
    for plan, target in zip(plans, (0.6, 0.8, 0.9, 0.95, 0.99, 0.998), strict=True):
        assert plan.recall >= target
        assert f"{target:g}" in plan.reason


def test_memory_is_kept_to():
    least = pi.plan(1_000_000, 128, 0.0)
    for memory in (40_000_000, 80_000_000, 400_000_000):
        plan = pi.plan(1_000_000, 128, 0.99, memory)
        assert plan.nbytes <= memory and str(memory) in plan.reason
        assert ("not to be expected" in plan.reason) == (plan.recall < 0.99)
    tight = pi.plan(1_000_000, 128, 0.99, least.nbytes - 1)
    assert tight.kind == "flat" and "lists do not fit" in tight.reason


def test_too_little_memory_names_the_least_there_is():
    with pytest.raises(ValueError, match="memory=1000 is too little: .* at least [0-9]+ bytes") as raised:
        pi.plan(1_000_000, 128, memory=1000)
    least = int(str(raised.value).split("at least ")[1].split()[0])
    assert pi.plan(1_000_000, 128, memory=least).nbytes == least
    with pytest.raises(ValueError, match="memory"):
        pi.plan(1_000_000, 128, memory=least - 1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, ValueError, "n must be at least 1"),
        ({"n": 1.5}, TypeError, "n must be an integer"),
        ({"dim": 0}, ValueError, "dim must be at least 1"),
        ({"target_recall": 2}, ValueError, "target_recall must be from 0 to 1"),
        ({"memory": -1}, ValueError, "memory must be at least 0"),
        ({"memory": "1 GB"}, TypeError, "memory must be an integer"),
        ({"metric": "l1"}, ValueError, "metric must be one of"),
        ({"k": 0}, ValueError, "k must be at least 1"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        pi.plan(**{"n": 100, "dim": 8, **arguments})


def decaying(n, dim, seed=0):
    """Rows whose energy along hidden axes falls as 1 / j^2."""
    axes = np.linalg.qr(np.random.default_rng(7).standard_normal((dim, dim)))[0]
    rows = np.random.default_rng(seed).standard_normal((n, dim)) / np.arange(1, dim + 1) @ axes
    return (rows + 0.1).astype(np.float32)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize(
    ("bits", "store", "metric", "dim"), [(1, "none", "cosine", 40), (4, "int8", "l2", 160), (6, "none", "ip", 40)]
)
def test_predicted_bytes_are_those_of_an_index_with_spectral_codes(kind, bits, store, metric, dim):
    n = 8_000
    x = decaying(n, dim)
    known = {"metric": metric, "bits": bits, "store": store, "codes": "spectral"}
    index = pi.FlatIndex(dim, **known) if kind == "flat" else pi.IVFIndex(dim, **known).fit(x)
    index.add(x)
    index.search(x[:1])
    nlist, code = getattr(index, "nlist", None), index.quantizer
    tails = code.head < len(code.segments)
    assert tails == (dim == 160)
    parts = predicted_bytes(n, dim, metric, bits, store, nlist, segments=code.segments, tails=tails)
    assert sum(parts.values()) == pytest.approx(index.nbytes, rel=0.1 if nlist else 1e-9)


@pytest.mark.parametrize("n", [50_000, 2_000_000])
def test_a_sample_lets_spectral_codes_save_bytes(n):
    x = decaying(5000, 64)
    plain, found = pi.plan(n, 64, 0.8), pi.plan(n, 64, 0.8, sample=x)
    assert (plain.kind, found.kind) == ("flat" if n < 100_000 else "ivf",) * 2
    assert (plain.codes, found.codes) == ("plain", "spectral") and found.recall >= 0.8
    assert found.nbytes < 0.8 * plain.nbytes and "spectral codes" in found.reason
    assert found.make().parameters()["codes"] == "spectral" and found.make().bits == found.bits


def test_spectral_codes_are_not_suggested_where_spectra_are_flat_or_scans_would_take_long():
    flat = np.random.default_rng(0).standard_normal((5000, 64)).astype(np.float32)
    assert all(pi.plan(n, 64, 0.8, sample=flat) == pi.plan(n, 64, 0.8) for n in (50_000, 2_000_000))
    assert pi.plan(480_000, 64, 0.8, sample=decaying(5000, 64)) == pi.plan(480_000, 64, 0.8)


@pytest.mark.parametrize(
    ("sample", "error", "message"),
    [
        (np.zeros((2000, 9)), ValueError, "9 columns"),
        (np.zeros((100, 8)), ValueError, "sample must hold at least 1024 vectors of 8 coordinates, got 100"),
        ("rows", TypeError, "sample"),
        (np.full((2000, 8), np.nan), ValueError, r"sample\[0\] is not finite"),
    ],
)
def test_a_bad_sample_is_named(sample, error, message):
    with pytest.raises(error, match=message):
        pi.plan(100_000, 8, sample=sample)
