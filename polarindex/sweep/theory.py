"""How little a code of some bits can err on given data: the rate-distortion bound of Gaussian rows.

Law:       at rate b bits a coordinate no code has a mean squared error below D(b) where rows are Gaussian with these
           variances; of all data with this covariance the Gaussian are the hardest, so a code that knew the true law
           could do better, one that knows the covariance alone could not be promised less.
Flat:      equal variances give 4^-b, Shannon's bound for random directions. A random rotation makes every coordinate
           look like that, so what lies between 4^-b and D(b) is what oblivious codes leave to codes that learn.
Source:    reverse water-filling; Cover & Thomas, Elements of Information Theory, section 10.3.3."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]


def spectrum(chunks: Iterable[Floats], dim: int) -> NDArray[np.float64]:
    """Eigenvalues (dim,), descending, of the mean of u u' over rows u of length 1: they sum to 1.

    Parameters
    ----------
    chunks : iterable of (m, dim) float32
        Centred rows; those that are zero are left out. Fewer rows than some 10 dim make the spectrum look steeper
        than it is.
    dim : int

    Notes
    -----
    Of unit rows, because vNMSE weighs every row alike, whatever its length.
    """
    gram, count = np.zeros((dim, dim)), 0
    for rows in chunks:
        exact = rows.astype(np.float64)
        norms = np.sqrt(np.einsum("ij,ij->i", exact, exact))
        unit = exact[norms > 0] / norms[norms > 0, None]
        gram += unit.T @ unit
        count += len(unit)
    if not count:
        raise ValueError("rows must have at least one that is not zero, got none")
    return np.maximum(np.linalg.eigvalsh(gram / count)[::-1], 0.0)


def gaussian_bound(variances: ArrayLike, bits: float) -> float:
    """D(bits) / D(0): the least mean squared error at `bits` a coordinate, relative to the sum of the variances.

    Parameters
    ----------
    variances : (d,) array-like
        Of independent Gaussian coordinates, zero or more, not all zero.
    bits : float

    Notes
    -----
    Components above the water level θ are coded to error θ at ½ log2(λ/θ) bits each, those below are left out; θ is
    such that the bits add up to d * bits.
    """
    ordered = np.sort(np.asarray(variances, np.float64))[::-1]
    if ordered.ndim != 1 or not len(ordered) or ordered[-1] < 0 or not ordered[0] > 0:
        raise ValueError(f"variances must be (d,), zero or more and not all zero, got {ordered[:5]} of {ordered.shape}")
    if not bits >= 0:
        raise ValueError(f"bits must be at least 0, got {bits}")
    real = ordered[ordered > 0]
    logs = np.log2(real)
    counts = np.arange(1, len(real) + 1)
    levels = (np.cumsum(logs) - 2 * bits * len(ordered)) / counts  # log2 θ if the first 1, 2, ... are coded
    coded = int(np.flatnonzero(levels <= logs)[-1]) + 1  # the most that all lie above their level
    level = 2.0 ** levels[coded - 1]
    return float((coded * level + real[coded:].sum()) / real.sum())
