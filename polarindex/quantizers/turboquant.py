"""TurboQuant (Zandieh, Daliri, Hadian, Mirrokni 2025, arXiv:2504.19874), both of its algorithms."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.codebooks import sphere_codebook
from polarindex.codes import Words
from polarindex.quantizers.base import (
    Centres,
    Doubles,
    Encoded,
    EncodedResiduals,
    ErrorLaw,
    Floats,
    Quantizer,
    Stage,
)
from polarindex.quantizers.scalar import ScalarQuantizer
from polarindex.quantizers.signs import SignSketch
from polarindex.rotations import ROTATIONS, SKETCHES
from polarindex.vectors import squared_norms


class _Mse(ScalarQuantizer):
    """Algorithm 1: Lloyd-Max levels of the sphere's coordinate law, scale |x| / sqrt(d)."""

    def __init__(self, dim: int, bits: int, seed: int, rotation: str) -> None:
        super().__init__(dim, bits, seed, rotation, sphere_codebook(dim, bits), "plain")


class TurboQuant(Quantizer):
    """TurboQuant_mse (biased) and TurboQuant_prod (unbiased).

    Parameters
    ----------
    dim : int
    bits : int
        1 to 8, all included: prod spends one of them on the signs of the residual.
    seed : int
    variant : {"mse", "prod"}
        "mse" is EDEN with the scale fixed to the norm. "prod" codes the residual of a (bits - 1)-bit mse code by
        QJL, with a second float for the residual's norm.
    matrix : {"gaussian", "orthogonal"}
        S of prod: independent normal entries as in Algorithm 2, or orthogonal rows.
    rotation : {"hadamard", "haar"}
    """

    name: ClassVar[str] = "turboquant"
    bits: int

    def __init__(
        self,
        dim: int,
        bits: int = 4,
        seed: int = 0,
        *,
        variant: str = "mse",
        matrix: str = "gaussian",
        rotation: str = "hadamard",
    ) -> None:
        super().__init__(dim, checks.integer(bits, "bits", low=1, high=8), seed)
        self.variant = checks.choice(variant, "variant", ("mse", "prod"))
        self.matrix = checks.choice(matrix, "matrix", tuple(SKETCHES))
        self.rotation = checks.choice(rotation, "rotation", tuple(ROTATIONS))
        self.unbiased = variant == "prod"
        mse_bits = self.bits - (variant == "prod")
        self._mse = _Mse(self.dim, mse_bits, self.seed, rotation) if mse_bits else None
        self._sketch = SignSketch(self.dim, self.dim, matrix, self.seed) if variant == "prod" else None
        stages: tuple[Stage, ...] = self._mse.stages if self._mse else ()
        self.stages = stages + ((self._sketch,) if self._sketch else ())

    def parameters(self) -> dict[str, Any]:
        return {
            "dim": self.dim,
            "bits": self.bits,
            "seed": self.seed,
            "variant": self.variant,
            "matrix": self.matrix,
            "rotation": self.rotation,
        }

    def error_law(self, integer: bool = False) -> ErrorLaw:
        distortion = self._mse.expected_error(integer) if self._mse else 1.0
        if self._sketch:
            return ErrorLaw(0.0, distortion * self._sketch.spread())
        return ErrorLaw(distortion, distortion * (1 - distortion))

    @property
    def typical_energy(self) -> float | None:
        """Of the mse code alone."""
        return self._mse.typical_energy if self._mse and not self._sketch else None

    def encode_rows(self, x: Floats, integer: bool, start: int = 0, mu: Floats | None = None) -> Encoded:
        if self._mse and not self._sketch:
            return self._mse.encode_rows(x, integer, start, mu)
        return super().encode_rows(x, integer, start, mu)

    def encode_in_lists(
        self,
        x: Floats,
        centres: Centres,
        lists: NDArray[np.int32],
        start: int = 0,
        prefix: NDArray[np.int8] | None = None,
    ) -> EncodedResiduals:
        if self._mse and not self._sketch:
            return self._mse.encode_in_lists(x, centres, lists, start, prefix)
        return super().encode_in_lists(x, centres, lists, start, prefix)

    def encode_residuals(self, r: Floats, integer: bool, start: int) -> tuple[Words, Floats, Doubles]:
        residual, words, scales = r, [], []
        if self._mse:
            codes, plain, _, levels = self._mse.quantize_rows(r, integer)
            words.append(self._mse.stage.layout.pack(codes))
            scales.append(plain)
            residual = r - self._mse.stage.map.adjoint(plain[:, None] * levels[codes])
        if self._sketch:
            words.append(self._sketch.pack_signs(residual))
            scales.append((np.sqrt(squared_norms(residual)) * self._sketch.unit_scale).astype(np.float32))
        return np.concatenate(words, axis=1), np.stack(scales, axis=1), squared_norms(r)
