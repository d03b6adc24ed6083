"""The quantizers, each as published and under its own name, and one table of which exist.

Credit: random rotation, sign code and both scales: DRIVE 2021. Lloyd-Max levels at b bits: EDEN 2022. Centring, error
bound, quantized queries: RaBitQ 2024, its multi-bit grid 2025. Sign sketch for inner products: QJL 2024. Recursive
polar codes: PolarQuant 2025. Unscaled Lloyd-Max code and its QJL residual: TurboQuant 2025. Trellis-coded quantization:
Marcellin and Fischer 1990, its trellis of shifted bits QTIP 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from polarindex import checks
from polarindex.codes import Codes
from polarindex.quantizers.base import ErrorLaw, Quantizer
from polarindex.quantizers.drive import DRIVE
from polarindex.quantizers.eden import EDEN
from polarindex.quantizers.polarquant import PUBLISHED, PolarQuant
from polarindex.quantizers.qjl import QJL
from polarindex.quantizers.trellis import Trellis
from polarindex.quantizers.turboquant import TurboQuant

_ONE_TO_EIGHT = tuple(range(1, 9))

# name -> (constructor, bits that exist). Sweeps and indexes read this table.
_REGISTRY: dict[str, tuple[Callable[..., Quantizer], tuple[int, ...]]] = {
    "eden": (EDEN, _ONE_TO_EIGHT),
    "eden-biased": (partial(EDEN, unbiased=False), _ONE_TO_EIGHT),
    "eden-refined": (partial(EDEN, refined=True), (3, 4, 5, 6, 7, 8)),
    "drive": (DRIVE, (1,)),
    "drive-biased": (partial(DRIVE, unbiased=False), (1,)),
    "turboquant": (TurboQuant, _ONE_TO_EIGHT),
    "turboquant-prod": (partial(TurboQuant, variant="prod"), _ONE_TO_EIGHT),
    "polarquant": (PolarQuant, _ONE_TO_EIGHT),
    "polarquant-published": (partial(PolarQuant, bits_per_level=PUBLISHED, radius="block"), (4,)),
    "qjl": (QJL, _ONE_TO_EIGHT),
    "trellis": (Trellis, (1, 2, 3, 4)),
    "trellis-12": (partial(Trellis, window=12), (1, 2, 3, 4)),
}

CELLS: dict[str, tuple[int, ...]] = {name: bits for name, (_, bits) in _REGISTRY.items()}
"""The quantizers by name, and the bits that exist for each."""


def make_quantizer(name: str, dim: int, bits: int = 4, seed: int = 0, **options: Any) -> Quantizer:
    """The quantizer `name` of the table CELLS for `dim` coordinates at `bits` bits.

    Further keywords go to its class. ValueError for a name or a number of bits that does not exist, naming those
    that do.

    Examples
    --------
    >>> import numpy as np
    >>> import polarindex as pi
    >>> x = np.random.default_rng(0).standard_normal((100, 64), np.float32)
    >>> quantizer = pi.make_quantizer("eden", 64, bits=2)
    >>> codes = quantizer.encode(x)
    >>> codes.nbytes, x.nbytes
    (2000, 25600)
    >>> quantizer.decode(codes).shape
    (100, 64)
    """
    constructor, cells = _REGISTRY[checks.choice(name, "quantizer", tuple(_REGISTRY))]
    bits = checks.integer(bits, "bits")
    if bits not in cells:
        raise ValueError(f"bits for quantizer {name!r} must be one of {', '.join(map(str, cells))}; got {bits}")
    return constructor(dim, bits, seed, **options)


__all__ = [
    "CELLS",
    "DRIVE",
    "EDEN",
    "QJL",
    "Codes",
    "ErrorLaw",
    "PolarQuant",
    "Quantizer",
    "Trellis",
    "TurboQuant",
    "make_quantizer",
]
