"""What a flat index has learned beside its centre: a spectral quantizer, as files have it and as `info` tells it.

Law:       the state and the basis give back the quantizer, bit for bit; nothing is learned again from a file.
Drift:     energies along a segment are estimated from codes and scales alone, so that they can be told of the rows that
           are in the index now. What no segment has shows in |r|^2, which l2 and cosine store; of inner products it is
           not known, and shares are then of what is coded."""

from __future__ import annotations

from typing import Any

import numpy as np

from polarindex import checks
from polarindex.allocation import inner_error
from polarindex.codes import float_scales
from polarindex.indexes.arena import Arena
from polarindex.indexes.coding import Coding, Doubles
from polarindex.indexes.saved import Read, SavedArray, check_points, whole
from polarindex.quantizers.base import Quantizer
from polarindex.quantizers.spectral import Spectral
from polarindex.spectra import capped
from polarindex.vectors import squared_norms

_SAMPLE = 2048  # rows by which drift is judged


def state_of(quantizer: Quantizer) -> dict[str, Any] | None:
    """What JSON can hold of a spectral quantizer; None for a plain one."""
    if not isinstance(quantizer, Spectral):
        return None
    return {"segments": [list(segment) for segment in quantizer.segments], "shares": list(quantizer.shares)}


def arrays_of(quantizer: Quantizer) -> dict[str, SavedArray]:
    """And its arrays."""
    return {"basis": whole(quantizer.basis)} if isinstance(quantizer, Spectral) else {}


def quantizer_of(state: dict[str, Any], bits: float, seed: int, dim: int, read: Read) -> Spectral:
    """The quantizer again; ValueError and its like say what cannot be."""
    segments = [(checks.integer(m, "dims", 1, dim), checks.integer(b, "bits", 1, 8)) for m, b in state["segments"]]
    basis = read("basis", (sum(m for m, _ in segments), dim), np.float32, in_memory=True)
    check_points(basis, "basis.npy")
    return Spectral(dim, bits, seed, basis, segments, state["shares"])


def told(coding: Coding, arena: Arena) -> dict[str, Any]:
    """What `info` says: the segments, and the shares of energy in the first and in none, when learned and now."""
    quantizer = coding.quantizer
    if not isinstance(quantizer, Spectral):
        return {"learned": coding.centre.frozen, "segments": None}
    found = {
        "learned": True,
        "segments": [list(segment) for segment in quantizer.segments],
        "head_learned": quantizer.shares[0],
        "left_out_learned": quantizer.shares[-1],
    }
    if not arena.n:
        return found
    energies, totals = _energies(coding, quantizer, arena)
    weights = capped(np.sqrt(totals)) ** 2
    whole_energy = max(float(weights @ totals), np.finfo(np.float64).tiny)
    coded = [float(weights @ own) / whole_energy for own in energies]
    if coding.metric == "ip":
        kept = 1 - quantizer.shares[-1]
        return {**found, "head_learned": quantizer.shares[0] / kept, "left_out_learned": None, "head_now": coded[0]}
    return {**found, "head_now": coded[0], "left_out_now": max(0.0, 1 - sum(coded))}


def _energies(coding: Coding, quantizer: Spectral, arena: Arena) -> tuple[list[Doubles], Doubles]:
    """Of some rows spread over the arena: estimates of what each segment has of |r|^2, and |r|^2."""
    positions = np.unique(np.linspace(0, arena.n - 1, min(_SAMPLE, arena.n)).astype(np.int64))
    scales = float_scales(arena.take("scales", positions)).astype(np.float64)
    parts = quantizer.split(coding.words(arena, positions))
    energies = []
    for s, (stage, part, words) in enumerate(zip(quantizer.stages, quantizer.segments, parts, strict=True)):
        levels = stage.levels(words)[:, : part.dims].astype(np.float32)
        energies.append(scales[:, s] ** 2 * squared_norms(levels) / (1 + inner_error(part.bits)))
    if coding.metric == "ip":
        return energies, np.sum(energies, axis=0)
    if coding.metric == "l2":
        return energies, -arena.take("shifts", positions).astype(np.float64)
    mu2 = float(squared_norms(coding.centre.mu[None])[0])
    shifts = arena.take("shifts", positions).astype(np.float64) if coding.shifted else np.zeros(len(positions))
    return energies, np.maximum(1 - mu2 - 2 * shifts, 0)
