"""EDEN (Vargaftik et al., ICML 2022, arXiv:2108.08842): Lloyd-Max levels of N(0, 1) and one scale a vector."""

from __future__ import annotations

from typing import Any, ClassVar

from polarindex import checks
from polarindex.codebooks import normal_codebook
from polarindex.quantizers.scalar import ScalarQuantizer, Scale


class EDEN(ScalarQuantizer):
    """The default quantizer: b bits a coordinate and one float32 a vector.

    Parameters
    ----------
    dim : int
    bits : int
        1 to 8. At 1 bit this is DRIVE, and, without a centre and with exact queries, 1-bit RaBitQ.
    seed : int
    unbiased : bool
        True: x_hat is unbiased, vNMSE D / (1 - D) with D the Lloyd-Max distortion: .5708, .1331, .0358, .0096 at
        1-4 bits. False: the scale of least squared error, vNMSE D: .3634, .1175, .0345, .0095.
    refined : bool
        True: of five gains of a row the one whose code has the largest cosine with it; codes of as many bytes and less
        error from 3 bits on, above all in few dimensions, for three times the time of coding.
    rotation : {"hadamard", "haar"}
    """

    name: ClassVar[str] = "eden"

    def __init__(
        self,
        dim: int,
        bits: int = 4,
        seed: int = 0,
        *,
        unbiased: bool = True,
        refined: bool = False,
        rotation: str = "hadamard",
    ) -> None:
        bits = checks.integer(bits, "bits", low=1, high=8)
        scale: Scale = "unbiased" if checks.flag(unbiased, "unbiased") else "biased"
        super().__init__(dim, bits, seed, rotation, normal_codebook(bits), scale, checks.flag(refined, "refined"))

    def parameters(self) -> dict[str, Any]:
        found = {**super().parameters(), "unbiased": self.unbiased}
        return found | {"refined": True} if self.refined else found
