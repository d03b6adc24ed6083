"""What holds for every quantizer of the table: codes are functions of the row, scores are products with
decoded rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarindex.codes import Codes
from polarindex.quantizers import CELLS, EDEN, QJL, PolarQuant, TurboQuant, make_quantizer

ALL_CELLS = [(name, bits) for name, cells in CELLS.items() for bits in cells]
# every name, and widths of one, two and three planes
SOME_CELLS = [(name, bits) for name, bits in ALL_CELLS if bits in (1, 3, 4, 7)]
OTHER_MAKES = [
    lambda d: EDEN(d, 4, rotation="haar"),
    lambda d: TurboQuant(d, 3, variant="prod", matrix="orthogonal"),
    lambda d: QJL(d, m=d + 5, matrix="orthogonal"),
    lambda d: PolarQuant(d, bits_per_level=(5, 3, 0), radius="block"),
]


def quantizers(d: int) -> list:
    return [make_quantizer(name, d, bits) for name, bits in SOME_CELLS] + [make(d) for make in OTHER_MAKES]


NAMES = [f"{name}-{bits}" for name, bits in SOME_CELLS] + ["haar", "prod-orthogonal", "qjl-m", "polar-block"]
each = pytest.mark.parametrize("which", range(len(NAMES)), ids=NAMES)


@pytest.fixture(scope="module")
def made():
    """dim -> one quantizer a name of NAMES, made once."""
    cache = {}

    def make(d: int) -> list:
        if d not in cache:
            cache[d] = quantizers(d)
        return cache[d]

    return make


def same(a: Codes, b: Codes) -> bool:
    return (a.rows == b.rows).all() and (a.factors == b.factors).all() and a.quantizer == b.quantizer


# --- any dimension


@pytest.mark.parametrize(("name", "bits"), ALL_CELLS)
def test_every_cell_codes_dimensions_from_1_to_40(name, bits, gaussian_rows, vnmse):
    """All of them, with wide codes a third. From 16 on, the error is the large-d law's within a factor of 2."""
    ratios = []
    for d in range(1, 41, 1 if bits < 6 else 3):  # a codebook of 256 levels for one dimension takes .3 s
        quantizer = make_quantizer(name, d, bits, seed=d)
        x = gaussian_rows(3, d)
        codes = quantizer.encode(x)
        assert codes.rows.shape == (3, 4 * quantizer.words)
        assert codes.factors.shape == (3, len(quantizer.stages))
        assert codes.bytes_per_vector == quantizer.bytes_per_vector
        x_hat = quantizer.decode(codes)
        assert x_hat.shape == x.shape and x_hat.dtype == np.float32 and np.isfinite(x_hat).all()
        if d >= 16:
            ratios.append(vnmse(x, x_hat).mean() / quantizer.expected_error())
    assert 0.5 < np.mean(ratios) < 2


@each
def test_expected_error_is_the_measured_one(which, made, gaussian_rows, vnmse):
    """Large-d laws at d = 256, 400 rows: 4 % covers the remainder of order 1 / d and the noise."""
    quantizer = made(256)[which]
    x = gaussian_rows(400, 256)
    errors = vnmse(x, quantizer.decode(quantizer.encode(x)))
    assert errors.mean() == pytest.approx(quantizer.expected_error(), rel=0.04)


# --- a code is a function of its row


@each
def test_encoding_is_deterministic_and_does_not_change_its_input(which, made, gaussian_rows):
    quantizer = made(50)[which]
    x = gaussian_rows(20, 50)
    before = x.copy()
    twin = type(quantizer)(**quantizer.parameters())
    assert same(quantizer.encode(x), twin.encode(x))
    assert (x == before).all()


@each
def test_a_rows_code_does_not_depend_on_the_other_rows(which, made, gaussian_rows):
    """Dense maps go through BLAS, whose last place may depend on the batch: one float32 rounding for their
    scales."""
    quantizer = made(50)[which]
    x = gaussian_rows(20, 50)
    whole = quantizer.encode(x)
    order = np.random.default_rng(3).permutation(20)
    shuffled = quantizer.encode(x[order])
    assert (shuffled.rows == whole.rows[order]).all()
    np.testing.assert_allclose(shuffled.factors, whole.factors[order], rtol=1e-6)
    for i in (0, 15, 16, 19):
        alone = quantizer.encode(x[i : i + 1])
        assert (alone.rows[0] == whole.rows[i]).all()
        np.testing.assert_allclose(alone.factors[0], whole.factors[i], rtol=1e-6)


@pytest.mark.parametrize("name", ["eden", "turboquant", "polarquant", "polarquant-published", "drive-biased"])
def test_chunks_and_blocks_do_not_show(name, gaussian_rows):
    """encode reads 4,096 rows at a time, decode and scores 1,024."""
    quantizer = make_quantizer(name, 24, CELLS[name][0])
    x = gaussian_rows(4099, 24)
    codes = quantizer.encode(x)
    for start, stop in [(0, 1), (1020, 1030), (4090, 4099)]:
        assert same(codes[start:stop], quantizer.encode(x[start:stop]))
    x_hat = quantizer.decode(codes)
    for n in (1, 1023, 1024, 1025, 4099):
        assert (quantizer.decode(codes[:n]) == x_hat[:n]).all()
        assert (quantizer.decode(codes[n - 1 : n]) == x_hat[n - 1 : n]).all()
    scores = quantizer.scores(x[:2], codes)
    np.testing.assert_allclose(scores, x[:2] @ x_hat.T, atol=1e-5 * 24)


# --- scale


@each
@settings(derandomize=True, deadline=None, max_examples=6, database=None)
@given(power=st.integers(-10, 10))
def test_powers_of_two_scale_the_factors_exactly_and_leave_the_codes(which, made, gaussian_rows, power):
    quantizer = made(50)[which]
    x = gaussian_rows(8, 50)
    codes, scaled = quantizer.encode(x), quantizer.encode(x * np.float32(2.0**power))
    if isinstance(quantizer, PolarQuant) and quantizer.radius == "block":  # the radii are in the code
        assert (quantizer.decode(scaled) == quantizer.decode(codes) * np.float32(2.0**power)).all()
    else:
        assert (scaled.rows == codes.rows).all()
        assert (scaled.factors == codes.factors * np.float32(2.0**power)).all()


@each
def test_relative_error_does_not_depend_on_length(which, made, gaussian_rows, vnmse):
    """To 1e-6, from 1e-3 to 1e3; float16 radii round differently at each length: 2e-5."""
    quantizer = made(50)[which]
    x = gaussian_rows(100, 50)
    half = isinstance(quantizer, PolarQuant) and quantizer.radius == "block"
    error = vnmse(x, quantizer.decode(quantizer.encode(x))).mean()
    for scale in (1e-3, 1e3):
        y = x * np.float32(scale)
        scaled = vnmse(y, quantizer.decode(quantizer.encode(y))).mean()
        assert scaled == pytest.approx(error, rel=0, abs=2e-5 if half else 1e-6)


@each
def test_very_short_and_very_long_rows_are_coded_as_well_as_others(which, made, gaussian_rows, vnmse):
    quantizer = made(50)[which]
    if isinstance(quantizer, PolarQuant) and quantizer.radius == "block":
        pytest.skip("float16 radii: see test_polarquant.py")
    x = gaussian_rows(100, 50)
    error = vnmse(x, quantizer.decode(quantizer.encode(x))).mean()
    for scale in (1e-30, 1e30):
        y = x * np.float32(scale)
        scaled = vnmse(y, quantizer.decode(quantizer.encode(y))).mean()
        assert scaled == pytest.approx(error, rel=0.02)


@each
def test_rows_shorter_than_float32s_normal_range_decode_to_something_finite(which, made, gaussian_rows):
    quantizer = made(50)[which]
    if isinstance(quantizer, PolarQuant) and quantizer.radius == "block":
        pytest.skip("float16 radii: see test_polarquant.py")
    x = np.concatenate([gaussian_rows(4, 50) * np.float32(1e-39), np.full((1, 50), 1e-45, np.float32)])
    x_hat = quantizer.decode(quantizer.encode(x))
    assert np.isfinite(x_hat).all() and (np.abs(x_hat) < 1e-37).all()


@each
def test_rows_too_long_for_float32_sums_are_refused_by_their_number(which, made, gaussian_rows):
    """Never silently coded as NaN: rotating 50 values of 3e38 overflows."""
    quantizer = made(50)[which]
    x = gaussian_rows(5, 50).copy()
    x[3] = 3e38
    with pytest.raises(ValueError, match=r"^x\[3\]"):
        quantizer.encode(x)


@each
def test_zero_rows_decode_to_zero_beside_others(which, made, gaussian_rows):
    quantizer = made(50)[which]
    x = gaussian_rows(5, 50).copy()
    x[[0, 3]] = 0
    codes = quantizer.encode(x)
    x_hat = quantizer.decode(codes)
    assert (x_hat[[0, 3]] == 0).all() and (x_hat[[1, 2, 4]] != 0).any(axis=1).all()
    assert (quantizer.scores(x, codes)[:, [0, 3]] == 0).all()
    encoded = quantizer.encode_rows(x, integer=True)
    assert (encoded.energies[[0, 3]] == 0).all()


# --- scores


@each
def test_scores_are_inner_products_with_decoded_rows(which, made, gaussian_rows):
    quantizer = made(50)[which]
    x, q = gaussian_rows(30, 50), gaussian_rows(4, 50, seed=1)
    codes = quantizer.encode(x)
    x_hat = quantizer.decode(codes).astype(np.float64)
    expected = q.astype(np.float64) @ x_hat.T
    scores = quantizer.scores(q, codes)
    assert scores.shape == (4, 30) and scores.dtype == np.float32
    slack = 2e-6 * np.outer(np.linalg.norm(q, axis=1), np.linalg.norm(x, axis=1)) * 5
    assert (np.abs(scores - expected) <= slack).all()
    single = quantizer.scores(q[0], codes)
    assert single.shape == (30,)
    np.testing.assert_allclose(single, scores[0], atol=slack.max())
    assert quantizer.scores(q[:0], codes).shape == (0, 30)
    assert quantizer.scores(q, codes[:0]).shape == (4, 0)


@each
def test_code_scores_are_symmetric(which, made, gaussian_rows):
    quantizer = made(50)[which]
    a, b = quantizer.encode(gaussian_rows(6, 50)), quantizer.encode(gaussian_rows(9, 50, seed=1))
    scores = quantizer.code_scores(a, b)
    assert scores.shape == (6, 9) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, quantizer.code_scores(b, a).T, atol=5e-4)
    if not isinstance(quantizer, QJL):  # whose estimate is the angle's
        expected = quantizer.decode(a).astype(np.float64) @ quantizer.decode(b).T.astype(np.float64)
        np.testing.assert_allclose(scores, expected, atol=5e-4)
    assert quantizer.code_scores(a[:0], b).shape == (0, 9)
    assert quantizer.code_scores(a, b[:0]).shape == (6, 0)


# --- codes as a container


@each
def test_decoding_commutes_with_slicing_and_concatenation(which, made, gaussian_rows):
    quantizer = made(33)[which]
    x = gaussian_rows(40, 33)
    codes = quantizer.encode(x)
    x_hat = quantizer.decode(codes)
    mask = np.arange(40) % 3 == 1
    slices = [slice(None), slice(5, 23), slice(None, None, -7), slice(0, 0)]
    for key in (*slices, mask, np.array([3, 3, 39, 0]), [1, 2]):
        np.testing.assert_allclose(quantizer.decode(codes[key]), x_hat[key], atol=1e-5)
    joined = Codes.concatenate([codes[:7], codes[7:7], codes[7:]])
    assert same(joined, codes) and len(joined) == 40
    assert [len(part) for part in codes[:3]] == [1, 1, 1]


@each
def test_all_overhead_is_counted(which, made, gaussian_rows):
    quantizer = made(50)[which]
    codes = quantizer.encode(gaussian_rows(7, 50))
    assert codes.nbytes == codes.rows.nbytes + codes.factors.nbytes == 7 * codes.bytes_per_vector
    assert codes.bytes_per_vector == quantizer.bytes_per_vector
    assert codes.bits_per_dim == pytest.approx(8 * codes.bytes_per_vector / 50)


@pytest.mark.parametrize(
    ("name", "dim", "bits", "size"),
    [
        ("eden", 128, 4, 64 + 4),
        ("eden", 128, 1, 16 + 4),
        ("eden", 100, 3, 3 * 16 + 4),  # three planes, each padded to whole words
        ("eden", 784, 7, 7 * 100 + 4),
        ("turboquant-prod", 100, 1, 16 + 4),
        ("turboquant-prod", 100, 4, 3 * 16 + 16 + 8),  # two scales: |x| and the residual's length
        ("qjl", 100, 3, 40 + 4),  # 300 signs in 10 words
        ("trellis", 100, 3, 40 + 4),
        ("trellis", 784, 4, 392 + 4),
        ("trellis-12", 784, 1, 100 + 4),
        ("polarquant-published", 128, 4, 64 + 4),  # 62 bits a block of 16, to whole words; a scale of 1
        ("polarquant-published", 100, 4, 56 + 4),  # padded to 112 = 7 blocks: 54.25 bytes, to whole words 56
        ("polarquant", 100, 4, 64 + 4),  # padded to 128
    ],
)
def test_bytes_per_vector_of_known_cells(name, dim, bits, size):
    assert make_quantizer(name, dim, bits).bytes_per_vector == size


def test_an_integer_is_no_index_of_codes(gaussian_rows):
    codes = EDEN(8).encode(gaussian_rows(3, 8))
    for key in (1, np.int64(-1)):
        with pytest.raises(TypeError, match="slice, a mask or an array of row numbers, got the integer"):
            codes[key]


def test_codes_say_what_they_are(gaussian_rows):
    codes = EDEN(32, 4).encode(gaussian_rows(3, 32))
    assert repr(codes).startswith("Codes(n=3, dim=32, bits_per_dim=5.000, EDEN(dim=32, bits=4, seed=0")


def test_empty_sets_are_coded(gaussian_rows):
    for quantizer in quantizers(10):
        codes = quantizer.encode(np.empty((0, 10), np.float32))
        assert len(codes) == 0 and codes.nbytes == 0
        assert quantizer.decode(codes).shape == (0, 10)
        assert len(Codes.concatenate([codes, quantizer.encode(gaussian_rows(2, 10))])) == 2


# --- whose codes


def test_equal_arguments_make_equal_quantizers_and_any_other_argument_another():
    unlike = [
        EDEN(16, 4),
        EDEN(16, 4, seed=1),
        EDEN(16, 3),
        EDEN(17, 4),
        EDEN(16, 4, unbiased=False),
        EDEN(16, 4, rotation="haar"),
        TurboQuant(16, 4),
        TurboQuant(16, 4, variant="prod"),
        TurboQuant(16, 4, variant="prod", matrix="orthogonal"),
        QJL(16, 4),
        QJL(16, m=5),
        PolarQuant(16, 4),
        PolarQuant(16, 4, radius="block"),
        PolarQuant(16, bits_per_level=(4, 2, 2, 3)),
    ]
    for i, a in enumerate(unlike):
        twin = type(a)(**a.parameters())
        assert a == twin and hash(a) == hash(twin) and repr(a) == repr(twin)
        for b in unlike[:i]:
            assert a != b


def test_codes_of_another_quantizer_are_refused_by_name(gaussian_rows):
    mine, other = EDEN(16, 4), EDEN(16, 4, seed=1)
    x = gaussian_rows(3, 16)
    codes, foreign = mine.encode(x), other.encode(x)
    calls = {
        "codes": [lambda: mine.decode(foreign), lambda: mine.scores(x, foreign)],
        "a": [lambda: mine.code_scores(foreign, codes)],
        "b": [lambda: mine.code_scores(codes, foreign)],
    }
    for argument, functions in calls.items():
        for call in functions:
            with pytest.raises(
                ValueError, match=rf"^{argument} were made by EDEN\(.*seed=1.*seed=0"
            ) as caught:
                call()
            assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="codes must be Codes, as encode.. returns them, got ndarray"):
        mine.decode(codes.rows)
    with pytest.raises(ValueError, match="different quantizers do not mix"):
        Codes.concatenate([codes, foreign])
    with pytest.raises(ValueError, match="at least one Codes"):
        Codes.concatenate([])


def test_bad_rows_are_refused_by_name(gaussian_rows):
    quantizer = EDEN(4)
    x = gaussian_rows(5, 4).copy()
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"^x\[3\] is not finite"):
        quantizer.encode(x)
    with pytest.raises(ValueError, match=r"^x has 3 columns but"):
        quantizer.encode(x[:, :3])
    with pytest.raises(ValueError, match=r"^queries has 3 columns but"):
        quantizer.scores(x[:, :3], quantizer.encode(x[:3]))
    with pytest.raises(TypeError, match="^x must hold real numbers"):
        quantizer.encode(x.astype(complex))


# --- what an index stores


@each
@pytest.mark.parametrize("d", [50, 128])
def test_energies_are_what_a_squared_distance_wants(which, d, made, gaussian_rows, decode_integers):
    """|x|^2 beside an unbiased scale, |x_hat|^2 of the stored integer levels beside any other."""
    quantizer = made(d)[which]
    x = gaussian_rows(40, d)
    encoded = quantizer.encode_rows(x, integer=True)
    target = x.astype(np.float64) if quantizer.unbiased else decode_integers(quantizer, encoded)
    np.testing.assert_allclose(encoded.energies, (target**2).sum(axis=1), rtol=2e-6)


@each
def test_integer_levels_cost_little(which, made, gaussian_rows, vnmse, decode_integers):
    """int8 adds at most a twelfth of a squared unit a coordinate, on any stage."""
    quantizer = made(128)[which]
    x = gaussian_rows(400, 128)
    exact = vnmse(x, quantizer.decode(quantizer.encode(x))).mean()
    rounded = vnmse(x, decode_integers(quantizer, quantizer.encode_rows(x, integer=True))).mean()
    assert rounded - exact < 1.5e-4
