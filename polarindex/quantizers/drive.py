"""DRIVE (Vargaftik et al., NeurIPS 2021, arXiv:2105.08339): the signs of a rotated vector and one scale."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from polarindex import checks
from polarindex.codebooks import Codebook
from polarindex.quantizers.scalar import ScalarQuantizer, Scale

# Signs of N(0, 1) with the best common length: distortion 1 - 2 / pi.
_SIGNS = Codebook(np.array([-1.0, 1.0]), np.zeros(1), 1 - 2 / np.pi)


class DRIVE(ScalarQuantizer):
    """One bit a coordinate and one float32 a vector.

    Parameters
    ----------
    dim : int
    bits : int
        Always 1.
    seed : int
    unbiased : bool
        True: S = |x|^2 / |Rx|_1, vNMSE pi / 2 - 1. False: S = |Rx|_1 / d, vNMSE (1 - 2 / pi)(1 - 1 / d).
    rotation : {"hadamard", "haar"}
    """

    name: ClassVar[str] = "drive"

    def __init__(
        self, dim: int, bits: int = 1, seed: int = 0, *, unbiased: bool = True, rotation: str = "hadamard"
    ) -> None:
        bits = checks.integer(bits, "bits", low=1, high=1)
        scale: Scale = "unbiased" if checks.flag(unbiased, "unbiased") else "biased"
        super().__init__(dim, bits, seed, rotation, _SIGNS, scale)

    def parameters(self) -> dict[str, Any]:
        return {**super().parameters(), "unbiased": self.unbiased}
