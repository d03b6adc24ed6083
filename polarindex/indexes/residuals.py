"""From vectors to an inverted file's rows and from scan keys to distances: the score law, relative to list centroids.

    x -> (cosine: unit length) -> nearest centroid c -> r = x - c -> quantizer -> codes, scales, shift
    q -> (cosine: unit length) -> q' = q - mu -> scan -> key -> + constant of the query -> distance

Law:       c' = c - mu, g = sum over stages of  scale * <A q', levels>,  cross = the same of c'; only <q' - c', r> is
           estimated:
           l2              |q' - c'|^2 + E + 2 cross - 2 g          key = shift + 2 g + offset, shift = -E - 2 cross,
                                                                    offset = -|q' - c'|^2, distance = -key
           ip, cosine      <q, mu> + <mu, c'> + <q', c'>            key = shift + g + offset, shift = <c, r> - cross,
                             + <c, r> - cross + g                   offset = <q', c'> + <mu, c'>
Why:       the int8 query R (q - mu) serves every list, and a row still costs two floats.
Prefix:    where a search scans the first planes of the codes only, these have a scale (unbiased) and a shift of their
           own, by the same law with E = |r|^2; both come before the code in a row's words.
Words:     with factor_bits=16 scale and shift are one word (factors.py).
Short:     scales of 16 bits, one a segment of a spectral code, come after the code, two in a word.
Source:    residuals of lists: IVFADC, Jegou et al. 2011; with an unbiased scale: RaBitQ 2024."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex.codebooks import prefix_levels
from polarindex.codes import Words, float_scales, upper_halves
from polarindex.indexes.factors import FactorLaw, law_of, scales_of, shortened
from polarindex.indexes.lines import lined_stage
from polarindex.indexes.originals import score_rows
from polarindex.kernels.limits import INNER_PRODUCT, L2
from polarindex.quantizers import Quantizer
from polarindex.quantizers.base import Centres, TableStage
from polarindex.vectors import bounded_rows, squared_norms, unit_rows

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Numbers = NDArray[np.int32]


class Centroids:
    """What rows are coded against. What follows from centroids and centre is worked out when it is first asked for,
    so that a file opens at once.

    coding : how they are
    full : (nlist, dim) float32, c
    mu : (dim,) float32, the index's centre, zero without one
    spread : float
        Mean |r|^2 of the rows that the centroids were learned from.
    limit : float, optional
        Which rows lie in a second list, see spilling.py; None where no row does.
    law : what words of scales and shifts mean; None where these are floats
    """

    def __init__(
        self,
        coding: ResidualCoding,
        full: Floats,
        mu: Floats,
        spread: float,
        limit: float | None = None,
        law: FactorLaw | None = None,
    ) -> None:
        self.coding = coding
        self.full, self.mu, self.spread, self.limit = full, mu, spread, limit
        self.law = law

    @property
    def nbytes(self) -> int:
        """Of the centroids and of what was worked out so far."""
        made = vars(self)
        arrays = [self.full, self.mu, *(made[name] for name in ("relative", "constants") if name in made)]
        return sum(array.nbytes for array in arrays + (self.centres.mapped if "centres" in made else []))

    @cached_property
    def relative(self) -> Floats:
        """(nlist, dim) float32, c' = c - mu."""
        return self.full - self.mu

    @cached_property
    def constants(self) -> Floats:
        """(nlist,) float32, <mu, c'> for ip and cosine, 0 for l2."""
        if self.coding.metric == "l2":
            return np.zeros(len(self.full), np.float32)
        return np.einsum("ij,j->i", self.relative, self.mu, dtype=np.float64).astype(np.float32)

    @cached_property
    def centres(self) -> Centres:
        """The centroids as the quantizer wants them."""
        return Centres(self.full, [stage.map.forward(self.relative) for stage in self.coding.quantizer.stages])


class ResidualCoding:
    """How one inverted file codes rows and reads keys: metric, quantizer, and the planes that a scan reads.

    Attributes
    ----------
    prefix : (2^scan_bits,) int8, the levels of the first planes, or None where all are scanned
    first_stage : the quantizer's stage with these levels for its codes
    head : words before the code: the prefix's scale and shift
    scale_word : the first word after the code, where scales are
    words : of a row before its factors: head, code and scales of 16 bits
    stages : scales that are factors, each a float32
    short : whether scale and shift are one word
    partly : whether a scan may read a first part of the codes for most rows: first planes, or first segments
    """

    def __init__(
        self, quantizer: Quantizer, metric: str, scan_bits: int | None = None, short: bool = False
    ) -> None:
        self.quantizer = quantizer
        self.metric = metric
        self.short = short
        self.head, self.stages, halves = 0, len(quantizer.stages), 0
        if quantizer.short_scales:
            self.stages, halves = 0, self.stages
        self.prefix: NDArray[np.int8] | None = None
        self.first_stage: TableStage | None = None
        stage = lined_stage(quantizer)
        if scan_bits is not None and stage is not None:
            self.head, self.prefix = 2, prefix_levels(stage.thresholds, scan_bits)
            table = np.repeat(self.prefix, 1 << (stage.layout.bits - scan_bits))
            self.first_stage = TableStage(
                stage.map, stage.layout.bits, table.astype(np.float64), table, stage.thresholds
            )
        self.scale_word = self.head + quantizer.words
        self.words = self.scale_word + -(-halves // 2)
        self.partly = scan_bits is not None or quantizer.short_scales

    @property
    def factor(self) -> float:
        """What multiplies g in a key."""
        return 2.0 if self.metric == "l2" else 1.0

    def centroids(
        self, full: Floats, mu: Floats, spread: float, limit: float | None = None, law: FactorLaw | None = None
    ) -> Centroids:
        """With a law that follows from them, unless one is given: a file has that of its rows."""
        if self.short and law is None:
            law = law_of(self.quantizer, self.metric, mu, full)
        return Centroids(self, full, mu, spread, limit, law)

    def codable(self, x: Floats, name: str, start: int = 0) -> Floats:
        """Rows of unit length for cosine, else x itself; ValueError names a zero row (cosine) or one too long."""
        return (unit_rows if self.metric == "cosine" else bounded_rows)(x, name, start)

    def coded(
        self, rows: Floats, lists: Numbers, centroids: Centroids, start: int = 0
    ) -> tuple[Words, NDArray[Any]]:
        """Words (n, words) and factors, as of Lists.factors_of, of codable rows in their lists."""
        levels = self.first_stage.table if self.first_stage else None
        encoded = self.quantizer.encode_in_lists(rows, centroids.centres, lists, start, levels)
        if self.short:
            encoded = shortened(encoded, self.quantizer.unbiased)
        words, prefix, offsets = encoded.words, encoded.prefix, encoded.offsets
        if encoded.excess is not None and self.metric == "cosine":  # of a near query q' - c' has about the length of r
            offsets = offsets - encoded.excess
        shifts = self._shifts(encoded.energies, offsets, encoded.crosses)
        if centroids.law is not None:
            return words, centroids.law.words(encoded.scales[:, 0], shifts, start)[:, None]
        factors = _factors(encoded.scales[:, : self.stages], shifts)
        if prefix:
            first = _factors(prefix.scales[:, None], self._shifts(prefix.energies, offsets, prefix.crosses))
            words = np.concatenate([first.view(np.uint32), words], axis=1)
        if self.words > self.scale_word:
            halves = np.zeros((len(words), 2 * (self.words - self.scale_word)), np.uint16)
            halves[:, : encoded.scales.shape[1]] = upper_halves(encoded.scales)
            words = np.concatenate([words, halves.view(np.uint32)], axis=1)
        return words, factors

    def _shifts(self, energies: Doubles, offsets: Doubles, crosses: Doubles) -> Doubles:
        return -energies - 2 * crosses if self.metric == "l2" else offsets - crosses

    def code_words(self, rows: Words) -> Words:
        """The code's words (n, w) of rows of words."""
        return np.ascontiguousarray(rows[:, self.head : self.scale_word])

    def scales(self, rows: Words) -> Floats:
        """Scales (n, s), one a stage of the quantizer, of rows of words."""
        if self.short:
            return scales_of(np.ascontiguousarray(rows[:, self.words : self.words + 1]))
        if self.words == self.scale_word:
            return np.ascontiguousarray(rows[:, self.words : self.words + self.stages]).view(np.float32)
        halves = np.ascontiguousarray(rows[:, self.scale_word : self.words]).view(np.uint16)
        return float_scales(halves[:, : len(self.quantizer.stages)])

    def shifts(self, rows: Words, centroids: Centroids) -> Floats:
        """Shifts (n,) of rows of words."""
        if centroids.law is not None:
            return centroids.law.floats(rows[:, self.words])[1]
        return np.ascontiguousarray(rows[:, self.words + self.stages]).view(np.float32)

    def first_factors(self, rows: Words) -> Floats:
        """Scales and shifts (n, 2) of the first planes of rows of words."""
        return np.ascontiguousarray(rows[:, : self.head]).view(np.float32)

    def decoded(self, words: Words, scales: Floats) -> Floats:
        """r_hat (n, dim) float32 of codes, as the scan sees them: relative to the lists' centroids."""
        values = [
            stage.levels(part)[:, : stage.map.dims] * scales[:, s, None]
            for s, (stage, part) in enumerate(zip(self.quantizer.stages, self.quantizer.split(words), strict=True))
        ]
        return self.quantizer.join(values)

    def reconstructed(self, words: Words, scales: Floats, lists: Numbers, centroids: Centroids) -> Floats:
        """x_hat (n, dim) float32; of unit length for cosine."""
        x = self.decoded(words, scales) + centroids.full[lists]
        if self.metric == "cosine":
            norms = np.sqrt(squared_norms(x))
            x /= np.where(norms > 0, norms, 1).astype(np.float32)[:, None]
        return x

    # --- queries

    def constants(self, queries: Floats, centroids: Centroids) -> Doubles:
        """(nq,) what is added to a key: 0 for l2, <q, mu> for ip and cosine."""
        if self.metric == "l2":
            return np.zeros(len(queries))
        return np.einsum("ij,j->i", queries, centroids.mu, dtype=np.float64)

    def offsets(self, centred: Floats, lists: Numbers, centroids: Centroids) -> Floats:
        """(nq, m) float32 offsets of every query for some lists (m,): the sums of kernels.answer, to the bit."""
        sums = np.empty((len(centred), len(lists)))
        metric = L2 if self.metric == "l2" else INNER_PRODUCT
        score_rows(centroids.relative, np.tile(lists, (len(centred), 1)), centred, metric, sums)
        return (-sums if self.metric == "l2" else sums + centroids.constants[lists]).astype(np.float32)

    def errors(self, query: Floats, decoded: Floats, lists: Numbers, centroids: Centroids) -> Floats:
        """One standard error of a query's (dim,) estimates: sqrt(bias^2 + variance) by quantizers.base.ErrorLaw.

        |r| and <q' - c', r>, which the law asks for, are themselves estimated from r_hat = decoded (n, dim).
        """
        law, away = self.quantizer.error_law(integer=True), query - centroids.full[lists]
        products = np.einsum("ij,ij->i", decoded, away, dtype=np.float64)
        bias = self.factor * law.shrink / (1 - law.shrink) * products
        if self.metric == "l2" and not self.quantizer.unbiased:  # the distance holds |r_hat|^2 in place of |r|^2
            bias -= (1 - (1 - law.shrink) ** 2 - law.spread) * self.quantizer.energies(decoded)
        variance = self.quantizer.variances(away, decoded, query - centroids.mu)
        return np.sqrt(bias**2 + self.factor**2 * variance).astype(np.float32)

    def residual_energies(self, decoded: Floats, shifts: Floats, lists: Numbers, centroids: Centroids) -> Doubles:
        """(n,) |r|^2 of coded rows: what their shifts tell of it, or else estimates from r_hat = decoded (n, dim)."""
        crosses = np.einsum("ij,ij->i", decoded, centroids.relative[lists], dtype=np.float64)
        if self.metric == "cosine":  # 1 = |c|^2 + 2 <c, r> + |r|^2
            return 1 - squared_norms(centroids.full[lists]) - 2 * (shifts + crosses)
        if self.metric == "l2" and self.quantizer.unbiased:
            return -shifts - 2 * crosses
        return self.quantizer.energies(decoded)


def _factors(scales: Floats, shifts: Doubles) -> Floats:
    return np.concatenate([scales, shifts.astype(np.float32)[:, None]], axis=1)
