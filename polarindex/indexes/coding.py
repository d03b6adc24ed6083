"""From vectors to an index's columns and from scan keys to distances: the score law, relative to one centre.

    x -> (cosine: unit length) -> r = x - mu -> quantizer -> codes, scales, shifts
    q -> (cosine: unit length) -> q' = q - mu -> scan -> key -> + constant of the query -> distance

Law:       g = <q', r_hat> = sum over stages of  scale * <A q', levels>;
           l2              |q'|^2 + E - 2 g         key = shift + 2 g, shift = -E    (E: quantizers.base.Encoded)
           ip, cosine      <q, mu> + <mu, r> + g    key = shift + g,   shift = <mu, r>
Words:     with factor_bits=16 scale and shift are one column of words, `factors` (factors.py), or of halves where there
           are segments (segment_factors.py).
Why mu:    only <q', r> is estimated, so the error is proportional to |x - mu|; and because R (q - mu) is made int8,
           not R q, that holds for data far from the origin too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.checks import VectorSource
from polarindex.codes import Words, float_scales, upper_halves, upper_halves_above
from polarindex.indexes.arena import Arena, Column, Positions
from polarindex.indexes.factors import law_of, shortened
from polarindex.indexes.originals import original_columns, pack_originals
from polarindex.indexes.segment_factors import Law, SegmentLaw, halves_of, segment_law
from polarindex.indexes.threads import available_cores, run_all
from polarindex.quantizers import Quantizer, spectral
from polarindex.quantizers.base import Encoded
from polarindex.quantizers.spectral import Spectral
from polarindex.spectra import SAMPLE_ROWS
from polarindex.vectors import bounded_rows, mean_and_energy, squared_norms, unit_rows

METRICS = ("l2", "ip", "cosine")
_LAW_ROWS = 2048  # by which the factors of segments are learned

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]


class Centre(NamedTuple):
    """What rows are coded against.

    mu : (dim,) float32
    frozen : bool
        False while it is still zero for want of data.
    quantizer : Quantizer
        Of rows less mu; a spectral one is learned together with it.
    energy_removed : float
        The share of mean |x|^2 that subtracting mu takes away, on the rows it was learned from.
    law : what words of scales and shifts mean, of a spectral quantizer's segments halves; None where these are columns
        of their own
    """

    mu: Floats
    frozen: bool
    quantizer: Quantizer
    energy_removed: float = 0.0
    law: Law | None = None


class Sample:
    """Evenly spread rows of some that are seen one chunk after the other, at most so many.

    rows : (m, dim) float32
    """

    def __init__(self, n: int, dim: int, most: int) -> None:
        count = min(n, most)
        self.rows = np.empty((count, dim), np.float32)
        self._positions = np.linspace(0, max(n - 1, 0), count).astype(np.int64)
        self._seen = 0

    def seen(self, x: Floats) -> Floats:
        """Take what is wanted of the next rows x, which are returned."""
        first, last = np.searchsorted(self._positions, [self._seen, self._seen + len(x)])
        self.rows[first:last] = x[self._positions[first:last] - self._seen]
        self._seen += len(x)
        return x


class Coding:
    """How one index codes rows and reads keys: metric, store, and the centre and quantizer of the moment.

    spectral : the bits of the spectral quantizer that is to be learned together with the centre; None for none.
    short : whether scale and shift share words
    """

    def __init__(
        self,
        quantizer: Quantizer,
        metric: str,
        store: str,
        center: bool,
        spectral: float | None = None,
        short: bool = False,
    ) -> None:
        self.metric = metric
        self.store = store
        self.center = center
        self.spectral = spectral
        self.code = quantizer.name  # of a spectral quantizer's segments
        self.shifted = metric == "l2" or center  # without a centre, <mu, r> is 0 for ever and not stored
        frozen = not center and spectral is None
        self.short = short
        self.centre = self.centre_at(np.zeros(quantizer.dim, np.float32), frozen, quantizer)

    def centre_at(
        self, mu: Floats, frozen: bool, quantizer: Quantizer, energy_removed: float = 0.0, rows: Floats | None = None
    ) -> Centre:
        """The centre at mu; rows (n, dim) less it are what a law of segments is learned from."""
        law: Law | None = None
        if self.short and isinstance(quantizer, Spectral):
            law = segment_law(quantizer, self.metric, mu, np.empty((0, len(mu)), np.float32) if rows is None else rows)
        elif self.short:
            law = law_of(quantizer, self.metric, mu)
        return Centre(mu, frozen, quantizer, energy_removed, law)

    @property
    def quantizer(self) -> Quantizer:
        return self.centre.quantizer

    @property
    def factor(self) -> float:
        """What multiplies g in a key."""
        return 2.0 if self.metric == "l2" else 1.0

    # --- rows

    def columns(self) -> dict[str, Column]:
        """The arena's columns; "held" are rows kept as float32 until the centre is frozen."""
        float32, columns = np.dtype(np.float32), self.code_columns(self.quantizer)
        if self.shifted and not self.short:
            columns["shifts"] = Column(float32)
        if not self.centre.frozen:
            columns["held"] = Column(float32, (self.quantizer.dim,))
        return columns | original_columns(self.store, self.quantizer.dim)

    def code_columns(self, quantizer: Quantizer) -> dict[str, Column]:
        """The columns of a quantizer's codes, scales and lengths of tails, or of codes and words of factors."""
        codes = {
            f"codes{i}": Column(np.dtype(np.uint32), (part.words,), part.lined)
            for i, part in enumerate(quantizer.parts)
        }
        tails = {} if quantizer.head == len(quantizer.stages) else {"tails": Column(np.dtype(np.uint16))}
        if self.short and isinstance(quantizer, Spectral):
            return {**codes, "factors": Column(np.dtype(np.uint16), (halves_of(len(quantizer.stages)),), True), **tails}
        if self.short:
            return codes | {"factors": Column(np.dtype(np.uint32))}
        kind = np.dtype(np.uint16 if quantizer.short_scales else np.float32)
        return {**codes, "scales": Column(kind, (len(quantizer.stages),), quantizer.segmented), **tails}

    def codable(self, x: Floats, name: str, start: int = 0) -> Floats:
        """Rows of unit length for cosine, else x itself; ValueError names a zero row (cosine) or one too long."""
        return (unit_rows if self.metric == "cosine" else bounded_rows)(x, name, start)

    def coded(self, source: VectorSource, centre: Centre) -> Iterator[Columns]:
        """Columns of the source's rows, chunk by chunk; as many chunks at a time as there are cores.

        The error of the first bad row is raised, whichever chunk is coded first.
        """
        cores = available_cores()
        chunks = source.chunks()
        while together := list(itertools.islice(chunks, cores)):
            codable = [(start, self.codable(x, source.name, start)) for start, x in together]

            def code(part: tuple[int, Floats]) -> Columns | Exception:
                try:
                    return self.coded_columns(part[1], centre, part[0])
                except Exception as error:
                    return error

            for (start, x), (_, rows), columns in zip(together, codable, run_all(code, codable, cores), strict=True):
                if isinstance(columns, Exception):
                    raise columns
                columns |= pack_originals(x, self.store, start)
                if not centre.frozen:
                    columns["held"] = rows
                yield columns

    def coded_columns(self, rows: Floats, centre: Centre, start: int = 0) -> Columns:
        """Codes, scales and shifts of codable rows (n, dim) against a centre; `start` numbers the first in messages."""
        quantizer = centre.quantizer
        return self.columns_of(quantizer.encode_rows(rows, integer=True, start=start, mu=centre.mu), centre, start)

    def columns_of(self, encoded: Encoded, centre: Centre, start: int = 0) -> Columns:
        """Codes, scales and shifts of rows encoded against a centre; `start` numbers the first in messages."""
        quantizer = centre.quantizer
        columns: Columns = {
            f"codes{i}": encoded.words[:, part.first : part.first + part.words]
            for i, part in enumerate(quantizer.parts)
        }
        if encoded.tails is not None:
            columns["tails"] = upper_halves_above(encoded.tails)
        if isinstance(centre.law, SegmentLaw):
            columns["factors"] = centre.law.rows(encoded.scales, self._shifts(encoded), start)
            return columns
        if centre.law is not None:
            encoded = shortened(encoded, quantizer.unbiased)
            columns["factors"] = centre.law.words(encoded.scales[:, 0], self._shifts(encoded), start)
            return columns
        columns["scales"] = upper_halves(encoded.scales) if quantizer.short_scales else encoded.scales
        if self.shifted:
            columns["shifts"] = self._shifts(encoded).astype(np.float32)
        return columns

    def _shifts(self, encoded: Encoded) -> Doubles:
        if self.metric == "l2":
            return -encoded.energies
        if encoded.excess is not None and self.metric == "cosine":  # a near query has about the length of r
            return encoded.offsets - encoded.excess
        return encoded.offsets

    def learned(self, held: Floats, source: VectorSource) -> Centre:
        """What is learned of held rows (codable) and the source's, frozen: their mean, and a spectral quantizer."""
        sample = Sample(len(held) + source.n, source.dim, SAMPLE_ROWS if self.spectral is not None else 0)
        new = (self.codable(x, source.name, start) for start, x in source.chunks())
        mu, energy = mean_and_energy(map(sample.seen, itertools.chain([held], new)), source.dim)
        mu = mu if self.center else np.zeros_like(mu)
        removed = float(np.dot(mu.astype(np.float64), mu))
        quantizer, some = self.quantizer, None
        if self.spectral is not None:
            centred = sample.rows - mu
            quantizer = spectral.learned(centred, self.spectral, quantizer.seed, code=self.code, short=self.short)
            some = centred[:: -(-len(centred) // _LAW_ROWS)]
        return self.centre_at(mu, True, quantizer, removed / energy if energy > 0 else 0.0, some)

    def decoded_at(self, arena: Arena, positions: Positions) -> Floats:
        """`decoded` of the rows at some positions."""
        return self.decoded(self.words(arena, positions), self.scales(arena, positions))

    def scales(self, arena: Arena, positions: Positions) -> Floats:
        """(m, s) float32 of the rows at some positions, one a stage."""
        if self.centre.law is None:
            return float_scales(arena.take("scales", positions))
        return self.centre.law.taken(arena.take("factors", positions))[0]

    def shifts(self, arena: Arena, positions: Positions) -> Floats:
        """(m,) float32 of the rows at some positions, 0 where there are none."""
        if self.centre.law is None:
            return arena.take("shifts", positions) if self.shifted else np.zeros(len(positions), np.float32)
        return self.centre.law.taken(arena.take("factors", positions))[1]

    def decoded(self, words: Words, scales: Floats) -> Floats:
        """r_hat (n, dim) float32 of rows of codes, as the scan sees them: relative to the centre."""
        parts = self.quantizer.split(words)
        values = [
            stage.levels(part)[:, : stage.map.dims] * scales[:, s, None]
            for s, (stage, part) in enumerate(zip(self.quantizer.stages, parts, strict=True))
        ]
        return self.quantizer.join(values)

    def reconstructed(self, arena: Arena, positions: Positions) -> Floats:
        """x_hat (n, dim) float32 of the rows at some positions; of unit length for cosine."""
        x = self.decoded_at(arena, positions) + self.centre.mu
        if self.metric == "cosine":
            norms = np.sqrt(squared_norms(x))
            x /= np.where(norms > 0, norms, 1).astype(np.float32)[:, None]
        return x

    def some(self, arena: Arena, most: int) -> tuple[Words, Floats, Doubles | None]:
        """Codes' words and scales of at most so many rows spread over the arena, and |r|^2, which ip does not tell."""
        positions = np.unique(np.linspace(0, arena.n - 1, min(most, arena.n)).astype(np.int64))
        words, scales = self.words(arena, positions), self.scales(arena, positions)
        if self.metric == "ip":
            return words, scales, None
        shifts = self.shifts(arena, positions).astype(np.float64)
        if self.metric == "l2":
            return words, scales, -shifts
        mu2 = float(squared_norms(self.centre.mu[None])[0])
        return words, scales, np.maximum(1 - mu2 - 2 * shifts, 0)

    def words(self, arena: Arena, positions: Positions) -> Words:
        """Rows of words (n, w) of the codes at some positions."""
        return np.concatenate([arena.take(f"codes{i}", positions) for i in range(len(self.quantizer.parts))], axis=1)

    # --- queries

    def constants(self, queries: Floats) -> Doubles:
        """(nq,): |q'|^2 for l2, <q, mu> for ip and cosine."""
        if self.metric == "l2":
            return squared_norms(queries - self.centre.mu)
        return np.einsum("ij,j->i", queries, self.centre.mu, dtype=np.float64)

    def ordered(self, keys: Floats, ids: NDArray[np.int64], constants: Doubles) -> Floats:
        """Distances (nq, k) of the best keys, best first; ids (nq, k) follow, with -1 for empty places.

        Keys that differ may round to one distance: their order is then that of ids.
        """
        distances = np.empty_like(keys)
        kernels.settle(keys, ids, constants, self.metric == "l2", distances)
        return distances

    def distances(self, keys: Floats, constants: Doubles) -> Floats:
        """Squared distances or similarities float32 of keys (nq, m); empty places stay infinite.

        A squared distance is an estimate and may be below 0: cut at 0, the nearest vectors would be in no order.
        """
        if self.metric == "l2":
            return (constants[:, None] - keys).astype(np.float32)
        return (constants[:, None] + keys).astype(np.float32)

    def errors(self, query: Floats, decoded: Floats) -> Floats:
        """One standard error of a query's (dim,) estimates: sqrt(bias^2 + variance) by quantizers.base.ErrorLaw.

        |r| and <q', r>, which the law asks for, are themselves estimated from r_hat = decoded (n, dim).
        """
        law, q = self.quantizer.error_law(integer=True), query - self.centre.mu
        bias = self.factor * law.shrink / (1 - law.shrink) * (decoded.astype(np.float64) @ q)
        if self.metric == "l2" and not self.quantizer.unbiased:  # the distance holds |r_hat|^2 in place of |r|^2
            bias -= (1 - (1 - law.shrink) ** 2 - law.spread) * self.quantizer.energies(decoded)
        variance = self.quantizer.variances(q[None], decoded, q)
        return np.sqrt(bias**2 + self.factor**2 * variance).astype(np.float32)
