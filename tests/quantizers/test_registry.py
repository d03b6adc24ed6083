"""The table of quantizers: what exists is made by its name, what does not is refused with what does."""

from __future__ import annotations

import pytest

from polarindex.quantizers import CELLS, DRIVE, EDEN, QJL, PolarQuant, Trellis, TurboQuant, make_quantizer
from polarindex.quantizers.base import ErrorLaw, Quantizer

ALL_CELLS = [(name, bits) for name, cells in CELLS.items() for bits in cells]

EXPECTED = {
    "eden": EDEN(20, 3, 7),
    "eden-biased": EDEN(20, 3, 7, unbiased=False),
    "eden-refined": EDEN(20, 3, 7, refined=True),
    "drive": DRIVE(20, 1, 7),
    "drive-biased": DRIVE(20, 1, 7, unbiased=False),
    "turboquant": TurboQuant(20, 3, 7),
    "turboquant-prod": TurboQuant(20, 3, 7, variant="prod"),
    "polarquant": PolarQuant(20, 3, 7),
    "polarquant-published": PolarQuant(20, 4, 7, bits_per_level=(4, 2, 2, 2), radius="block"),
    "qjl": QJL(20, 3, 7),
    "trellis": Trellis(20, 3, 7),
    "trellis-12": Trellis(20, 3, 7, window=12),
}


def test_the_table_names_every_published_quantizer_and_its_bits():
    eight = tuple(range(1, 9))
    assert CELLS == {
        "eden": eight,
        "eden-biased": eight,
        "eden-refined": eight[2:],
        "drive": (1,),
        "drive-biased": (1,),
        "turboquant": eight,
        "turboquant-prod": eight,
        "polarquant": eight,
        "polarquant-published": (4,),
        "qjl": eight,
        "trellis": (1, 2, 3, 4),
        "trellis-12": (1, 2, 3, 4),
    }


@pytest.mark.parametrize("name", EXPECTED)
def test_a_name_makes_the_published_setting(name):
    assert make_quantizer(name, 20, EXPECTED[name].bits, 7) == EXPECTED[name]


@pytest.mark.parametrize(("name", "bits"), ALL_CELLS)
def test_every_cell_describes_itself(name, bits):
    quantizer = make_quantizer(name, 24, bits, 1)
    assert isinstance(quantizer, Quantizer)
    assert (quantizer.dim, quantizer.bits, quantizer.seed) == (24, bits, 1)
    law = quantizer.error_law()
    assert isinstance(law, ErrorLaw) and 0 <= law.shrink < 1 and law.spread > 0
    assert (law.shrink == 0) == quantizer.unbiased
    assert quantizer.expected_error() == pytest.approx(law.shrink**2 + law.spread)


def test_more_bits_cost_more_and_err_less():
    for name, cells in CELLS.items():
        made = [make_quantizer(name, 64, bits) for bits in cells]
        for fewer, more in zip(made, made[1:], strict=False):
            assert fewer.bytes_per_vector < more.bytes_per_vector
            assert fewer.expected_error() > more.expected_error()


def test_options_reach_the_class():
    assert make_quantizer("qjl", 20, 1, m=33).m == 33
    assert make_quantizer("turboquant-prod", 20, 2, matrix="orthogonal").matrix == "orthogonal"
    assert make_quantizer("eden", 20).bits == 4


@pytest.mark.parametrize(
    ("arguments", "error", "parts"),
    [
        (
            ("edn", 8),
            ValueError,
            [
                "quantizer must be one of 'eden', 'eden-biased', 'eden-refined',",
                "'trellis', 'trellis-12'; got 'edn'",
            ],
        ),
        ((None, 8), TypeError, ["quantizer must be one of", "got None"]),
        (
            ("eden", 8, 9),
            ValueError,
            ["bits for quantizer 'eden' must be one of 1, 2, 3, 4, 5, 6, 7, 8; got 9"],
        ),
        (("drive", 8, 2), ValueError, ["bits for quantizer 'drive' must be one of 1; got 2"]),
        (("trellis-12", 8, 5), ValueError, ["bits for quantizer 'trellis-12' must be one of 1, 2, 3, 4; got 5"]),
        (("polarquant-published", 8, 3), ValueError, ["must be one of 4; got 3"]),
        (("eden", 8, 2.0), TypeError, ["bits must be an integer, got 2.0"]),
        (("eden", 0, 2), ValueError, ["dim must be at least 1, got 0"]),
        (("eden", 8, 2, -1), ValueError, ["seed must be at least 0, got -1"]),
    ],
)
def test_errors_are_one_line_and_list_what_exists(arguments, error, parts):
    with pytest.raises(error) as caught:
        make_quantizer(*arguments)
    text = str(caught.value)
    assert "\n" not in text and all(part in text for part in parts), text
