"""Scalar quantization of rotated rows, with the two sums from which every scale of the family is made."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import kernel


@kernel
def quantize(y, gains, thresholds, levels, codes, dots, energies):
    """codes[i, j] = how many thresholds are <= gains[i] * y[i, j]; dots = <y, levels>, energies = |levels|^2.

    y (n, d) float32; gains (n,) float32; thresholds (2^b - 1,) float32 ascending; levels (2^b,) float64;
    codes (n, d) uint8; dots, energies (n,) float64, summed in the order of j.
    """
    n, d = y.shape
    half = (thresholds.size + 1) // 2
    for i in range(n):
        gain = gains[i]
        dot = 0.0
        energy = 0.0
        for j in range(d):
            z = gain * y[i, j]
            code = 0
            step = half
            while step > 0:
                if z >= thresholds[code + step - 1]:
                    code += step
                step //= 2
            codes[i, j] = code
            level = levels[code]
            dot += np.float64(y[i, j]) * level
            energy += level * level
        dots[i] = dot
        energies[i] = energy
