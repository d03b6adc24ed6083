"""PolarQuant's recursive polar transform of rotated rows, and its inverse from angle codes by table.

Field order of a row: the d/2 angles of level 1, the d/4 of level 2, ..., so that a level is one slice.
"""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import kernel


@kernel
def polar_angles(y, depth, angles, radii):
    """Level 1: atan2 of pairs, in [0, 2 pi]; level l >= 2: atan of pairs of radii, in [0, pi / 2].

    y (n, d) float32, d divisible by 2^depth; angles (n, d - d / 2^depth) float32; radii (n, d / 2^depth) float64.
    """
    n, d = y.shape
    row = np.empty(d, np.float64)
    for i in range(n):
        for j in range(d):
            row[j] = y[i, j]
        count = d // 2
        at = 0
        for level in range(depth):
            for j in range(count):
                first = row[2 * j]
                second = row[2 * j + 1]
                angle = np.arctan2(second, first)
                if level == 0 and angle < 0.0:
                    angle += 2.0 * np.pi
                angles[i, at + j] = angle
                row[j] = np.sqrt(first * first + second * second)
            at += count
            count //= 2
        for j in range(d >> depth):
            radii[i, j] = row[j]


@kernel
def polar_vectors(codes, radii, depth, offsets, cosines, sines, out):
    """Undo polar_angles: out[i] from codes (n, f) uint16 and radii (n, d / 2^depth).

    cosines, sines hold all levels' tables one after the other, level l's from offsets[l - 1] on; out (n, d) float.
    """
    n, d = out.shape
    for i in range(n):
        for j in range(d >> depth):
            out[i, j] = radii[i, j]
        at = codes.shape[1]
        for level in range(depth - 1, -1, -1):
            count = d >> (level + 1)
            at -= count
            for j in range(count - 1, -1, -1):
                entry = offsets[level] + codes[i, at + j]
                radius = out[i, j]
                out[i, 2 * j] = radius * cosines[entry]
                out[i, 2 * j + 1] = radius * sines[entry]


@kernel
def round_rows(values, levels, peaks):
    """levels[i, j] = rint(values[i, j] * 127 / peaks[i]), peaks[i] = max |values[i]|; a zero row gives zeros.

    values (n, d) float32; levels (n, d) int8; peaks (n,) float32.
    """
    for i in range(values.shape[0]):
        peak = np.float32(0)
        for j in range(values.shape[1]):
            peak = max(peak, abs(values[i, j]))
        peaks[i] = peak
        gain = 127.0 / np.float64(peak) if peak > 0 else 0.0  # float64: 127 / peak may be beyond float32
        for j in range(values.shape[1]):
            levels[i, j] = np.int8(np.rint(values[i, j] * gain))
