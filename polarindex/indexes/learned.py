"""What an index has learned beside centre and lists: a spectral quantizer, as files have it and as `info` tells it.

Law:       the state and the basis give back the quantizer, bit for bit; nothing is learned again from a file.
Drift:     energies along a segment are estimated from codes and scales alone, so that they can be told of the rows that
           are in the index now. What no segment has shows in |r|^2, which l2 and cosine store; of inner products it is
           not known, and shares are then of what is coded.
Not here:  which rows are looked at (flat.py, ivf.py)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from polarindex import checks
from polarindex.codes import Words
from polarindex.indexes.saved import Read, SavedArray, check_points, whole
from polarindex.quantizers.base import Doubles, Floats, Quantizer
from polarindex.quantizers.spectral import Spectral
from polarindex.spectra import capped
from polarindex.vectors import squared_norms

SAMPLE = 2048  # rows by which drift is judged


def state_of(quantizer: Quantizer) -> dict[str, Any] | None:
    """What JSON can hold of a spectral quantizer; None for a plain one."""
    if not isinstance(quantizer, Spectral):
        return None
    return {"segments": [list(segment) for segment in quantizer.segments], "shares": list(quantizer.shares)}


def arrays_of(quantizer: Quantizer) -> dict[str, SavedArray]:
    """And its arrays."""
    return {"basis": whole(quantizer.basis)} if isinstance(quantizer, Spectral) else {}


def quantizer_of(
    state: dict[str, Any], bits: float, seed: int, dim: int, code: str, short: bool, read: Read
) -> Spectral:
    """The quantizer again, of segments coded by `code`, with short scales or others; ValueError and its like say what
    cannot be."""
    segments = [(checks.integer(m, "dims", 1, dim), checks.integer(b, "bits", 1, 8)) for m, b in state["segments"]]
    basis = read("basis", (sum(m for m, _ in segments), dim), np.float32, in_memory=True)
    check_points(basis, "basis.npy")
    return Spectral(dim, bits, seed, basis, segments, state["shares"], code, short)


class Some(NamedTuple):
    """Some of an index's rows: their codes, words (n, w) and scales (n, stages), and |r|^2 (n,), None if unknown."""

    words: Words
    scales: Floats
    energies: Doubles | None


def told(quantizer: Quantizer, learned: bool, some: Some | None) -> dict[str, Any]:
    """What `info` says: the segments, and the shares of energy in the first and in none, when learned and now.

    some : rows spread over the index, about SAMPLE; None where there is no row
    """
    if not isinstance(quantizer, Spectral):
        return {"learned": learned, "segments": None}
    found = {
        "learned": True,
        "segments": [list(segment) for segment in quantizer.segments],
        "code": quantizer.code,
        "head_learned": quantizer.shares[0],
        "left_out_learned": quantizer.shares[-1],
    }
    if some is None:
        return found
    energies = _energies(quantizer, some)
    totals = np.sum(energies, axis=0) if some.energies is None else some.energies
    weights = capped(np.sqrt(totals)) ** 2
    whole_energy = max(float(weights @ totals), np.finfo(np.float64).tiny)
    coded = [float(weights @ own) / whole_energy for own in energies]
    if some.energies is None:
        kept = 1 - quantizer.shares[-1]
        return {**found, "head_learned": quantizer.shares[0] / kept, "left_out_learned": None, "head_now": coded[0]}
    return {**found, "head_now": coded[0], "left_out_now": max(0.0, 1 - sum(coded))}


def _energies(quantizer: Spectral, some: Some) -> list[Doubles]:
    """Estimates (n,) of what each segment has of |r|^2."""
    energies, parts = [], quantizer.split(some.words)
    for s, (stage, part, words) in enumerate(zip(quantizer.stages, quantizer.segments, parts, strict=True)):
        levels = stage.levels(words)[:, : part.dims].astype(np.float32)
        scales = some.scales[:, s].astype(np.float64)
        energies.append(scales**2 * squared_norms(levels) / (1 + quantizer.errors[s]))
    return energies
