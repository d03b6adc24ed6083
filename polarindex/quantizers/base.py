"""What every quantizer of the family is: stages of integer or float levels, and a scale a stage and vector.

Law:       x_hat = sum over stages of  scale_s * A_s^T level_s(code),   A_s a rotation or a sketch;
           <q, x> is estimated by <q, x_hat> = sum of  scale_s * <A_s q, level_s>.
Why:       with that one law, decoding, scoring and scanning are written once; a quantizer says only what its stages
           are and how it chooses codes and scales.
Not here:  the choice of levels (scalar.py, polarquant.py, ...); centres and metrics (indexes)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from polarindex import checks, kernels
from polarindex.codes import Codes, Layout, LineLayout, Part, Words, parts
from polarindex.rotations import LinearMap
from polarindex.vectors import bounded_rows, squared_norms

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_LARGEST = float(np.finfo(np.float32).max)
ONE_GAIN = np.empty(0, np.float32)  # no multiples of a row's gain to choose from
BLOCK = 1024  # rows decoded at a time: temporaries stay at a few MB whatever n is


class Stage(Protocol):
    """One vector of levels a code, and the map into the coordinates it lives in."""

    @property
    def map(self) -> LinearMap: ...

    @property
    def layout(self) -> Layout: ...

    def values(self, words: Words) -> Floats:
        """Float levels (n, map.dims) float32 of this stage's words (n, layout.words)."""

    def levels(self, words: Words) -> NDArray[np.int8]:
        """Integer levels (n, c >= map.dims) int8, as the scan sees them; columns from map.dims on mean nothing."""


class TableStage:
    """Each coordinate's code picks a level from one table of 2^bits."""

    def __init__(
        self, map: LinearMap, bits: int, levels: Doubles, table: NDArray[np.int8], thresholds: Doubles
    ) -> None:
        self.map = map
        self.thresholds = thresholds
        self.layout = LineLayout(map.dims, bits)
        self._values = levels.astype(np.float32)
        self._table = table

    @property
    def table(self) -> NDArray[np.int8]:
        """The integer levels, (2^bits,) int8."""
        return self._table

    def values(self, words: Words) -> Floats:
        return self._values[self.layout.unpack(words)[:, : self.map.dims]]

    def levels(self, words: Words) -> NDArray[np.int8]:
        return looked_up(self.layout.unpack(words), self._table)


def looked_up(codes: NDArray[np.uint8], table: NDArray[np.int8]) -> NDArray[np.int8]:
    """table[codes]."""
    levels = np.empty(codes.shape, np.int8)
    kernels.codes_to_levels(codes, table, levels)
    return levels


class ErrorLaw(NamedTuple):
    """What theory says of <q, x_hat> for a random rotation: mean (1 - shrink) <q, x>, and

    variance  spread * (|q|^2 |x|^2 - <q, x>^2) / (d - 1).   The reconstruction's vNMSE is shrink^2 + spread.
    """

    shrink: float
    spread: float


class Encoded(NamedTuple):
    """Codes as an index stores them.

    words (n, w) uint32; scales (n, s) float32, one a stage; energies (n,) float64, for integer levels: |r|^2 for an
    unbiased scale and |r_hat|^2 for every other, what the squared distance |q|^2 + energy - 2 <q, r_hat> wants;
    offsets (n,) float64, <mu, r>; excess (n,) float64, where scales are short: what their rounding adds to <r, r_hat>,
    which a squared distance then has in `energies`, twice, for it is the error of queries near r; tails (n,) float64,
    where there are stages after the quantizer's `head`: the length of what they have of r_hat.
    """

    words: Words
    scales: Floats
    energies: Doubles
    offsets: Doubles
    excess: Doubles | None = None
    tails: Doubles | None = None


class EncodedResiduals(NamedTuple):
    """Codes of residuals r = x - c, each row with its own centre c, as an inverted file stores them.

    words, scales, energies as in `Encoded`; offsets (n,) float64, <c, r>; crosses (n,) float64, <c', r_hat> with c'
    the centre relative to that of the index; prefix : where other levels of the same codes were asked for; excess as in
    `Encoded`.
    """

    words: Words
    scales: Floats
    energies: Doubles
    offsets: Doubles
    crosses: Doubles
    prefix: Prefix | None = None
    excess: Doubles | None = None


class Prefix(NamedTuple):
    """What `EncodedResiduals` tells, for coarser levels of the codes of one stage and an unbiased scale.

    scales (n,) float32; energies (n,) float64, |r|^2; crosses (n,) float64, of these levels and scales.
    """

    scales: Floats
    energies: Doubles
    crosses: Doubles


class Centres(NamedTuple):
    """Centres of residuals: full (m, dim) float32, and relative to the index's centre, c', as each stage maps it.

    mapped : one array (m, dims) float32 a stage, A_s c'
    """

    full: Floats
    mapped: list[Floats]


class Quantizer(ABC):
    """A vector compressor for `dim` coordinates; two made with equal arguments read each other's codes.

    Parameters
    ----------
    dim : int
        Coordinates a vector, >= 1.
    bits : float
        Code bits a coordinate.
    seed : int
        Of the random rotation.
    """

    name: ClassVar[str]
    short_scales: ClassVar[bool] = False  # whether scales are upper halves of float32 (codes.upper_halves)
    dim: int
    bits: float
    seed: int
    stages: tuple[Stage, ...]
    unbiased: bool

    def __init__(self, dim: int, bits: float, seed: int) -> None:
        self.dim = checks.integer(dim, "dim", low=1)
        self.bits = bits
        self.seed = checks.integer(seed, "seed", low=0)

    # --- what a quantizer says of itself

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """The arguments that make an equal quantizer, as JSON values."""

    @abstractmethod
    def error_law(self, integer: bool = False) -> ErrorLaw:
        """Shrinkage and spread of estimated inner products, in the limit of large dim, with float or integer levels."""

    @abstractmethod
    def encode_residuals(self, r: Floats, integer: bool, start: int) -> tuple[Words, Floats, Doubles]:
        """Words, scales and energies of `Encoded` for rows r (n, dim) float32, the first of them row `start`."""

    def encode_rows(self, x: Floats, integer: bool, start: int = 0, mu: Floats | None = None) -> Encoded:
        """Encode checked rows r = x - mu, x (n, dim) float32, with scales for integer or for float levels.

        mu (dim,) float32, or None for 0; `start` is the number of the first row, for messages.
        """
        r = x if mu is None else x - mu
        offsets = np.zeros(len(x)) if mu is None else np.einsum("ij,j->i", r, mu, dtype=np.float64)
        return Encoded(*self.encode_residuals(r, integer, start), offsets)

    def encode_in_lists(
        self,
        x: Floats,
        centres: Centres,
        lists: NDArray[np.int32],
        start: int = 0,
        prefix: NDArray[np.int8] | None = None,
    ) -> EncodedResiduals:
        """Encode checked rows x (n, dim) float32 relative to centre lists[i] each, with scales for integer levels.

        prefix (2^bits,) int8: also what `Prefix` says, for these levels of the codes of the only stage, a table's.
        """
        c = centres.full[lists]
        r = x - c
        words, scales, energies, _, excess, _ = self.encode_rows(r, True, start)
        offsets = np.einsum("ij,ij->i", c, r, dtype=np.float64)
        crosses = np.zeros(len(x))
        for s, (stage, part, mapped) in enumerate(zip(self.stages, self.split(words), centres.mapped, strict=True)):
            levels = stage.levels(part)[:, : stage.map.dims]
            crosses += scales[:, s] * np.einsum("ij,ij->i", mapped[lists], levels, dtype=np.float64)
        coarse = None if prefix is None else self._prefix(r, words, prefix, centres.mapped[0][lists])
        return EncodedResiduals(words, scales, energies, offsets, crosses, coarse, excess)

    def _prefix(self, r: Floats, words: Words, levels: NDArray[np.int8], mapped: Floats) -> Prefix:
        layout, y = self.stages[0].layout, self.stages[0].map.forward(r)
        chosen = levels[layout.unpack(words)[:, : y.shape[1]]]
        dots, crosses = (np.einsum("ij,ij->i", vectors, chosen, dtype=np.float64) for vectors in (y, mapped))
        return prefix_of(squared_norms(r), dots, crosses)

    def expected_error(self, integer: bool = False) -> float:
        """Theoretical vNMSE, E |x - x_hat|^2 / |x|^2."""
        law = self.error_law(integer)
        return law.shrink**2 + law.spread

    def energies(self, decoded: Floats) -> Doubles:
        """(n,) estimates of |r|^2 from r_hat = decoded (n, dim), of integer levels."""
        law = self.error_law(integer=True)
        return squared_norms(decoded) / ((1 - law.shrink) ** 2 + law.spread)

    def variances(self, away: Floats, decoded: Floats, q: Floats) -> Doubles:
        """(n,) variances of estimates of <away, r> from integer levels, by `ErrorLaw`, and from rounding q to int8.

        away (n, dim) or (1, dim): the query q (dim,) less what is exact of it. |r| and <away, r>, which the law asks
        for, are themselves estimated from r_hat = decoded (n, dim).
        """
        law, energies = self.error_law(integer=True), self.energies(decoded)
        products = np.einsum("ij,ij->i", decoded, away, dtype=np.float64) / (1 - law.shrink)
        across = np.maximum(energies * squared_norms(away) - products**2, 0) / max(len(q) - 1, 1)
        y = self.stages[0].map.forward(q[None])
        rounding = float(y.size * (np.abs(y).max() / 127) ** 2 / 12)  # the energy that rounding adds as noise
        return law.spread * across + energies * rounding / len(q)

    @property
    def head(self) -> int:
        """Leading stages that a scan multiplies with every row; what the others can add is told by their length."""
        return len(self.stages)

    @property
    def segmented(self) -> bool:
        """Whether there are several stages, and an index keeps their codes and scales in panels."""
        return len(self.stages) > 1 and all(part.lined for part in self.parts)

    @property
    def words(self) -> int:
        """32-bit words a row of codes."""
        return sum(stage.layout.words for stage in self.stages)

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of a code with its scales."""
        return 4 * self.words + (2 if self.short_scales else 4) * len(self.stages)

    @property
    def typical_energy(self) -> float | None:
        """What the energy of `Encoded` is of most rows, over their scale squared; None where no word may hold scale and
        shift (indexes/factors.py), as where there are several stages."""
        return None

    @property
    def nbytes(self) -> int:
        """Of what was learned; nothing where all follows from the arguments."""
        return 0

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.parameters().items())
        return f"{type(self).__name__}({arguments})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    # --- the compressor

    def encode(self, x: Any) -> Codes:
        """Compress vectors.

        Parameters
        ----------
        x : (n, dim) array-like of real numbers
            Rounded to float32; never changed.

        Returns
        -------
        Codes
            n rows; zero vectors are coded exactly.

        Raises
        ------
        TypeError, ValueError
            Wrong type, shape or dimension; NaN or infinity (the first bad row is named); values that float32 or the
            code cannot hold.
        """
        source = checks.vectors(x, "x", self.dim)
        longest = _LARGEST / (2 * np.sqrt(self.dim))  # sums of a rotation reach sqrt(d) lengths
        parts = [
            self.encode_rows(bounded_rows(rows, "x", start, longest), integer=False, start=start)
            for start, rows in source.chunks()
        ]
        words = np.concatenate([part.words for part in parts] or [np.empty((0, self.words), np.uint32)])
        scales = np.concatenate([part.scales for part in parts] or [np.empty((0, len(self.stages)), np.float32)])
        return Codes(words.view(np.uint8), scales, self.dim, repr(self))

    def decode(self, codes: Codes) -> Floats:
        """The reconstruction x_hat (n, dim) float32."""
        self._check_codes(codes, "codes")
        out = np.empty((len(codes), self.dim), np.float32)
        for start, stop, values in self._decoded(codes):
            out[start:stop] = self.join(values)
        return out

    def scores(self, queries: Any, codes: Codes) -> Floats:
        """Estimated inner products of exact queries with encoded vectors.

        Parameters
        ----------
        queries : (nq, dim) array-like, or (dim,)
        codes : Codes of n vectors

        Returns
        -------
        scores : (nq, n) float32, or (n,)
            <q, x_hat>. O(nq n dim), with temporaries of fixed size.
        """
        self._check_codes(codes, "codes")
        source = checks.vectors(queries, "queries", self.dim, single=True)
        q = source.array()
        mapped = [stage.map.forward(q) for stage in self.stages]
        out = np.empty((len(q), len(codes)), np.float32)
        for start, stop, values in self._decoded(codes):
            out[:, start:stop] = sum(m @ v.T for m, v in zip(mapped, values, strict=True))
        return out[0] if source.single else out

    def code_scores(self, a: Codes, b: Codes) -> Floats:
        """Inner products of encoded with encoded vectors, <a_hat, b_hat>; (na, nb) float32.

        Not unbiased, whatever the quantizer: both errors come from the same rotation (1-bit codes of vectors at
        angle t give 2 - 4 t / pi in place of 2 cos t, up to a factor). For ranking, keep the queries exact.
        """
        self._check_codes(a, "a")
        self._check_codes(b, "b")
        return self.scores(self.decode(a), b) if len(a) else np.empty((0, len(b)), np.float32)

    # --- pieces that indexes share

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """How an index keeps rows of codes."""
        return parts([stage.layout for stage in self.stages])

    def mapped(self, x: Floats) -> list[Floats]:
        """Rows (n, dim) as each stage's levels see them, (n, dims) float32 a stage."""
        return [stage.map.forward(x) for stage in self.stages]

    def split(self, words: Words) -> list[Words]:
        """Each stage's words of rows (n, words)."""
        ends = np.cumsum([stage.layout.words for stage in self.stages])
        return [words[:, end - stage.layout.words : end] for stage, end in zip(self.stages, ends, strict=True)]

    def join(self, values: list[Floats]) -> Floats:
        """x_hat (n, dim) of scaled levels, one (n, dims) array a stage."""
        parts = [stage.map.adjoint(v) for stage, v in zip(self.stages, values, strict=True)]
        return parts[0] if len(parts) == 1 else np.sum(parts, axis=0, dtype=np.float32)

    def _decoded(self, codes: Codes) -> Iterator[tuple[int, int, list[Floats]]]:
        """(start, stop, scaled float levels a stage) block by block."""
        words = codes.words
        for start in range(0, len(codes), BLOCK):
            stop = min(start + BLOCK, len(codes))
            parts = self.split(words[start:stop])
            yield (
                start,
                stop,
                [
                    stage.values(part) * codes.factors[start:stop, s, None]
                    for s, (stage, part) in enumerate(zip(self.stages, parts, strict=True))
                ],
            )

    def _check_codes(self, codes: Codes, name: str) -> None:
        if not isinstance(codes, Codes):
            raise TypeError(f"{name} must be Codes, as encode() returns them, got {type(codes).__name__}")
        if codes.quantizer != repr(self):
            raise ValueError(f"{name} were made by {codes.quantizer} and cannot be read by {self!r}")


def nearest_levels(
    y: Floats, gains: Doubles, multiples: Floats, thresholds: Floats, levels: Floats
) -> tuple[NDArray[np.uint8], Doubles, Doubles]:
    """Codes (n, d) uint8 of gains_i * y_i, with <y_i, levels> and |levels|^2, each (n,) float64.

    Gains are first taken times the best of `multiples`, if there are any.
    """
    codes = np.empty(y.shape, np.uint8)
    dots, energies = np.empty(len(y)), np.empty(len(y))
    kernels.quantize(
        np.ascontiguousarray(y),
        np.minimum(gains, _LARGEST).astype(np.float32),
        multiples,
        thresholds,
        levels,
        codes,
        dots,
        energies,
    )
    return codes, dots, energies


def prefix_of(norms2: Doubles, dots: Doubles, crosses: Doubles) -> Prefix:
    """Of |r|^2, <R r, levels> and <R c', levels>, each (n,)."""
    scales = ratio(norms2, dots).astype(np.float32)
    return Prefix(scales, norms2, scales * crosses)


def ratio(a: Doubles, b: Doubles) -> Doubles:
    """a / b, and 0 where b is 0: the scale of a zero vector."""
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0)
