"""From vectors to an index's columns and from scan keys to distances: the score law, relative to one centre.

    x -> (cosine: unit length) -> r = x - mu -> quantizer -> codes, scales, shifts
    q -> (cosine: unit length) -> q' = q - mu -> scan -> key -> + constant of the query -> distance

Law:       g = <q', r_hat> = sum over stages of  scale * <A q', levels>;
           l2              |q'|^2 + E - 2 g         key = shift + 2 g, shift = -E    (E: quantizers.base.Encoded)
           ip, cosine      <q, mu> + <mu, r> + g    key = shift + g,   shift = <mu, r>
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
from polarindex.codes import Words
from polarindex.indexes.arena import Arena, Column, Positions
from polarindex.indexes.originals import original_columns, pack_originals
from polarindex.indexes.threads import available_cores, run_all
from polarindex.quantizers import Quantizer
from polarindex.quantizers.base import Encoded
from polarindex.vectors import bounded_rows, mean_and_energy, squared_norms, unit_rows

METRICS = ("l2", "ip", "cosine")

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]


class Centre(NamedTuple):
    """What rows are coded against.

    mu : (dim,) float32
    frozen : bool
        False while it is still zero for want of data.
    energy_removed : float
        The share of mean |x|^2 that subtracting mu takes away, on the rows it was learned from.
    """

    mu: Floats
    frozen: bool
    energy_removed: float = 0.0


class Coding:
    """How one index codes rows and reads keys: metric, quantizer, store, and the centre of the moment."""

    def __init__(self, quantizer: Quantizer, metric: str, store: str, center: bool) -> None:
        self.quantizer = quantizer
        self.metric = metric
        self.store = store
        self.shifted = metric == "l2" or center  # without a centre, <mu, r> is 0 for ever and not stored
        self.centre = Centre(np.zeros(quantizer.dim, np.float32), frozen=not center)

    @property
    def factor(self) -> float:
        """What multiplies g in a key."""
        return 2.0 if self.metric == "l2" else 1.0

    # --- rows

    def columns(self) -> dict[str, Column]:
        """The arena's columns; "held" are rows kept as float32 until the centre is frozen."""
        float32 = np.dtype(np.float32)
        columns = {
            **{
                f"codes{i}": Column(np.dtype(np.uint32), (part.words,), part.lined)
                for i, part in enumerate(self.quantizer.parts)
            },
            "scales": Column(float32, (len(self.quantizer.stages),)),
        }
        if self.shifted:
            columns["shifts"] = Column(float32)
        if not self.centre.frozen:
            columns["held"] = Column(float32, (self.quantizer.dim,))
        return columns | original_columns(self.store, self.quantizer.dim)

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
                    return self.code_columns(part[1], centre, part[0])
                except Exception as error:
                    return error

            for (start, x), (_, rows), columns in zip(together, codable, run_all(code, codable, cores), strict=True):
                if isinstance(columns, Exception):
                    raise columns
                columns |= pack_originals(x, self.store, start)
                if not centre.frozen:
                    columns["held"] = rows
                yield columns

    def code_columns(self, rows: Floats, centre: Centre, start: int = 0) -> Columns:
        """Codes, scales and shifts of codable rows (n, dim) against a centre; `start` numbers the first in messages."""
        return self.columns_of(self.quantizer.encode_rows(rows, integer=True, start=start, mu=centre.mu))

    def columns_of(self, encoded: Encoded) -> Columns:
        """Codes, scales and shifts of encoded rows."""
        columns: Columns = {
            f"codes{i}": encoded.words[:, part.first : part.first + part.words]
            for i, part in enumerate(self.quantizer.parts)
        }
        columns["scales"] = encoded.scales
        if self.metric == "l2":
            columns["shifts"] = (-encoded.energies).astype(np.float32)
        elif self.shifted:
            columns["shifts"] = encoded.offsets.astype(np.float32)
        return columns

    def learned(self, held: Floats, source: VectorSource) -> Centre:
        """The frozen centre that is the mean of held rows (codable) and the source's."""
        new = (self.codable(x, source.name, start) for start, x in source.chunks())
        mu, energy = mean_and_energy(itertools.chain([held], new), source.dim)
        removed = float(np.dot(mu.astype(np.float64), mu))
        return Centre(mu, True, removed / energy if energy > 0 else 0.0)

    def decoded_at(self, arena: Arena, positions: Positions) -> Floats:
        """`decoded` of the rows at some positions."""
        return self.decoded(self.words(arena, positions), arena.take("scales", positions))

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
        law = self.quantizer.error_law(integer=True)
        kept = (1 - law.shrink) ** 2 + law.spread  # E |r_hat|^2 / |r|^2
        q = (query - self.centre.mu).astype(np.float64)
        products = decoded.astype(np.float64) @ q / (1 - law.shrink)
        energies = squared_norms(decoded) / kept
        bias = self.factor * law.shrink * products
        if self.metric == "l2" and not self.quantizer.unbiased:
            bias -= (1 - kept) * energies  # the distance holds |r_hat|^2 in place of |r|^2
        across = np.maximum(energies * (q @ q) - products**2, 0) / max(len(q) - 1, 1)
        variance = law.spread * across + energies * self._rounding(query) / len(q)
        return np.sqrt(bias**2 + self.factor**2 * variance).astype(np.float32)

    def _rounding(self, query: Floats) -> float:
        """The energy that rounding a query (dim,) to int8 in the first stage's coordinates adds as noise."""
        y = self.quantizer.stages[0].map.forward((query - self.centre.mu)[None])
        return float(y.size * (np.abs(y).max() / 127) ** 2 / 12)
