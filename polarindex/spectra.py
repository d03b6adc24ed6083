"""Where given rows have their energy: principal axes, learned from a sample, and segments of them rotated at random.

Law:       axes are orthonormal, most energy first; a segment's rows of the basis are orthonormal and span its axes,
           so that what a vector has in a segment keeps its length, and its coordinates there look alike.
Why:       a random rotation of all coordinates spreads a row's energy evenly. Embeddings have most of it along few
           axes, and bits are worth most where it is (allocation.py).
Honest:    energies are those of rows that had no part in the axes. Of the rows from which axes are learned the first
           have too much: of 4 d Gaussian rows without any structure 2.2 times the mean.
Robust:    rows count with at most twice the median length, or one that is far off would be an axis.
Not here:  how many bits a segment gets (allocation.py)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.memory import require
from polarindex.rotations import HaarRotation, raw_words
from polarindex.vectors import squared_norms

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SAMPLE_ROWS = 20_000
_CAP = 2.0  # times the median length
_EVERY = 4  # of the rows one in so many is kept for the energies
_PRINCIPAL = 5  # the stream of random numbers, beside those of rotations.py


class Spectrum(NamedTuple):
    """What a sample says of where rows have their energy.

    axes : (dim, dim) float32, a row an axis
    energies : (dim,) float64, the share of all energy that other rows have along each; they sum to 1
    """

    axes: Floats
    energies: Doubles


def spectrum(rows: Floats) -> Spectrum | None:
    """The principal axes of centred rows (n, dim) and the energies along them; None where rows have no energy."""
    dim = rows.shape[1]
    require(40 * dim * dim, f"the covariance of {dim} coordinates")
    lengths = np.sqrt(squared_norms(rows))
    longest = float(lengths.max(initial=0))
    if len(rows) < _EVERY or longest == 0:
        return None
    counted = (rows * (capped(lengths) / longest)[:, None]).astype(np.float32)
    judging = np.arange(len(rows)) % _EVERY == 0
    learning, judged = counted[~judging], counted[judging]
    _, vectors = np.linalg.eigh((learning.T @ learning).astype(np.float64))
    axes = np.ascontiguousarray(vectors.T[::-1].astype(np.float32))
    along = judged @ axes.T
    energies = np.einsum("ij,ij->j", along, along, dtype=np.float64)
    total = energies.sum()
    return Spectrum(axes, energies / total) if total > 0 else None


def capped(lengths: Doubles) -> Doubles:
    """What rows of these lengths are multiplied by: none is then longer than twice the median, zeros apart."""
    there = lengths[lengths > 0]
    if not len(there):
        return np.ones(len(lengths))
    return np.minimum(1, _CAP * np.median(there) / np.maximum(lengths, there.min()))


def rotated_segments(axes: Floats, sizes: tuple[int, ...], seed: int) -> Floats:
    """The basis (sum of sizes, dim) float32: the first axes, `sizes` at a time, rotated at random in each segment."""
    parts, first = [], 0
    for size, own in zip(sizes, raw_words(_PRINCIPAL, seed, len(sizes)), strict=True):
        parts.append(HaarRotation(size, int(own)).matrix @ axes[first : first + size])
        first += size
    return np.concatenate(parts)
