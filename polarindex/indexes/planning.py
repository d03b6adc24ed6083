"""Which index to make for so many vectors: kind, codes, bits, lists and store, and the bytes that it will take.

Rules:     recalls are those of the harder of two data sets (GloVe-100, 331,479 rows, cosine; Fashion-MNIST, 60,000 x
           784, l2), 10 of the 10 nearest, 1,000 queries, all lists probed. They are rules of thumb.
Spectral:  of a sample's spectrum, codes err as plain ones of more bits would, and find what these find.
Not here:  the bytes (predicted.py); how to search the index then (tuning.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.allocation import Segment, allocate, head_of, inner_error, plain_error
from polarindex.indexes.base import Index
from polarindex.indexes.coding import METRICS, Sample
from polarindex.indexes.factors import checked_factor_bits
from polarindex.indexes.flat import CENTRE_ROWS, ROWS_A_DIM, FlatIndex
from polarindex.indexes.ivf import IVFIndex, auto_nlist
from polarindex.indexes.kmeans import kmeans
from polarindex.indexes.originals import STORES
from polarindex.indexes.predicted import predicted_bytes
from polarindex.indexes.spilling import homes
from polarindex.quantizers.spectral import LEAST_GAIN
from polarindex.spectra import SAMPLE_ROWS, spectrum
from polarindex.vectors import bounded_rows, unit_rows

Floats = NDArray[np.float32]

CODES = {  # recall by codes alone
    "flat": {1: 0.478, 2: 0.720, 3: 0.845, 4: 0.915, 8: 0.989},
    "ivf": {1: 0.628, 2: 0.810, 3: 0.895, 4: 0.942, 8: 0.991},
}
RERANKED = {  # recall with the four best candidates a result scored by float32 originals
    "flat": {1: 0.785, 2: 0.976, 3: 0.999, 4: 1.0, 8: 1.0},
    "ivf": {1: 0.919, 2: 0.996, 3: 0.999, 4: 1.0, 8: 1.0},
}
ROUNDED = {"float32": 1.0, "float16": 0.999, "int8": 0.993}  # what originals that are rounded find at most
SCANNED = 1 << 25  # coordinates: a full scan takes a query alone about 1 ms, and .2 ms in a batch (docs/benchmarks.md)
LISTED = 10_000  # rows, fewer are not worth lists
_UNPROBED = 0.2  # of what a target allows to miss, what is left for lists that are not probed
_BITS = (0.5, 0.75, 1, 1.5, 2, 2.5, 3, 4, 6, 8)  # of spectral codes
# bits -> times as long as of plain codes a scan of spectral ones takes for a query alone: the most of Fashion-MNIST,
# MiniLM, SIFT and GloVe, 60,000 rows each (`single_slower` of benchmarks/spectral.py); of lists 1.3
_SLOWER = {1: 1.6, 2: 1.51, 4: 2.12}
_ROWS_A_LIST = 32  # of a sample, to learn what residuals are like


@dataclass(frozen=True)
class Plan:
    """An index that is suggested.

    Attributes
    ----------
    kind : {"flat", "ivf"}
    n, dim, metric
        As asked.
    bits, store, nlist, codes, factor_bits
        The constructor's arguments; nlist is None for a flat index.
    recall : float
        The rule's recall, of codes (and originals), before lists are left out.
    nbytes : int
        Predicted, everything counted.
    parts : dict
        Bytes by what they are for.
    reason : str
        In words.
    """

    kind: str
    n: int
    dim: int
    metric: str
    bits: float
    store: str
    nlist: int | None
    recall: float
    nbytes: int
    parts: dict[str, int]
    reason: str
    codes: str = "plain"
    factor_bits: int = 32

    @property
    def bytes_per_vector(self) -> float:
        """Predicted, everything counted."""
        return self.nbytes / self.n

    def make(self, **arguments: Any) -> Index:
        """The index, empty; other arguments of its constructor, as seed, may be given. Fit an IVFIndex, then add."""
        chosen: dict[str, Any] = {"metric": self.metric, "bits": self.bits, "store": self.store, "codes": self.codes}
        chosen["factor_bits"] = self.factor_bits
        if self.nlist is None:
            return FlatIndex(self.dim, **{**chosen, **arguments})
        return IVFIndex(self.dim, **{**chosen, "nlist": self.nlist, **arguments})


def plan(
    n: int,
    dim: int,
    target_recall: float = 0.95,
    memory: int | None = None,
    metric: str = "l2",
    k: int = 10,
    sample: Any = None,
    factor_bits: int = 32,
) -> Plan:
    """Suggest the smallest index that should reach a recall.

    Parameters
    ----------
    n, dim : int
        Vectors and their coordinates.
    target_recall : float
        The share of the k nearest that is to be found, in [0, 1].
    memory : int, optional
        Bytes that the index may take. Where none that fits should reach the recall, the most accurate that fits.
    metric : {"l2", "ip", "cosine"}
    k : int
        Results a query; where it is more than n, all rows are found.
    sample : (m, dim) array-like, optional
        Vectors like those to come, at least 1,024 and 4 dim; up to 20,000 are used. With it spectral codes are
        considered too, which may need fewer bits: where every code is scanned only as far as their scan, which may
        take longer, takes no longer than that of plain codes may. That takes seconds.
    factor_bits : {32, 16}
        Of the index, as of FlatIndex; spectral codes, which have scales of 16 bits, are then not considered.

    Returns
    -------
    Plan
        `make()` makes the index; `reason` says why this one.

    Raises
    ------
    ValueError
        Not even 1 bit a coordinate fits; the message names the least that is needed.

    Notes
    -----
    Up to 33 million coordinates (n x dim), or 10,000 rows, every code is scanned: a query alone then takes about a
    millisecond on one core. Above, lists are probed; `IVFIndex.tune` finds how many.

    Rules of thumb, not promises, for k = 10: the recall on the harder of two real data sets (GloVe-100, Fashion-MNIST),
    with all lists probed. Random vectors are harder, and so may be yours: measure with `polarindex sweep`.

        bits                              1      2      3      4      8
        flat, codes alone               .48    .72    .85    .92    .99
        flat, re-ranked (default, 4)    .79    .98   1.00   1.00   1.00
        ivf, codes alone                .63    .81    .90    .94    .99
        ivf, re-ranked (default, 4)     .92   1.00   1.00   1.00   1.00

    Originals as int8 find at most .993, as float16 .999. Of spectral codes the recall is that of plain ones with the
    same error in the sample's spectrum.

    Bytes are predicted for one `add` with ids that continue. The table id -> row that removing, updating and looking
    up ids build takes 32 to 64 bytes a vector more, and a flat index whose ids do not just count 8.

    Examples
    --------
    >>> import polarindex as pi
    >>> found = pi.plan(20_000, 384, target_recall=0.9)
    >>> found.kind, found.bits, found.store
    ('flat', 4, 'none')
    >>> index = found.make(seed=1)
    """
    n, dim = checks.integer(n, "n", low=1), checks.integer(dim, "dim", low=1)
    target = checks.real(target_recall, "target_recall", low=0, high=1)
    budget = None if memory is None else checks.integer(memory, "memory", low=0)
    metric = checks.choice(metric, "metric", METRICS)
    checks.integer(k, "k", low=1)
    factor_bits = checked_factor_bits(factor_bits)
    rows = None if sample is None else _centred(sample, dim, metric)
    wanted = "flat" if n < LISTED or n * dim <= SCANNED else "ivf"
    options = _options(wanted, n, dim, metric, target, rows, factor_bits)
    fitting = [one for one in options if budget is None or one.nbytes <= budget]
    if not fitting and wanted == "ivf":  # no centroids and no ids
        others = _options("flat", n, dim, metric, target, rows, factor_bits)
        options, fitting = options + others, [one for one in others if budget is None or one.nbytes <= budget]
    if not fitting:
        least = min(options, key=_size)
        raise ValueError(
            f"memory={memory} is too little: {n} vectors of {dim} coordinates take at least {least.nbytes} bytes "
            f"({least.bits:g} bit{'s' * (least.bits > 1)} each)"
        )
    reaching = [one for one in fitting if one.enough]
    best = min(reaching, key=_size) if reaching else max(fitting, key=lambda one: (one.recall, -one.nbytes))
    reason = _reason(best, wanted, target, budget, bool(reaching), n, dim)
    told = {**best.chosen(), "factor_bits": factor_bits}
    return Plan(n=n, dim=dim, metric=metric, nbytes=best.nbytes, reason=reason, **told)


class _Option(NamedTuple):
    """An index that may be suggested; `enough`: its recall leaves room for lists that are not probed."""

    kind: str
    codes: str
    bits: float
    store: str
    nlist: int | None
    recall: float
    enough: bool
    parts: dict[str, int]

    @property
    def nbytes(self) -> int:
        return sum(self.parts.values())

    def chosen(self) -> dict[str, Any]:
        """What a Plan takes over."""
        return {name: value for name, value in self._asdict().items() if name != "enough"}


def _size(option: _Option) -> int:
    return option.nbytes


def _options(
    kind: str, n: int, dim: int, metric: str, target: float, rows: Floats | None, factor_bits: int
) -> list[_Option]:
    nlist = auto_nlist(n) if kind == "ivf" else None
    needed = target + (1 - target) * (_UNPROBED if kind == "ivf" else 0)
    codes = [_Codes("plain", bits, bits, None) for bits in CODES[kind]]
    if rows is not None and factor_bits == 32:
        most = np.inf if kind == "ivf" or n < LISTED else SCANNED / (n * dim)
        codes += [one for one in _spectral(rows, nlist) if _slower(one.bits) <= most]
    found = []
    for name, bits, equal, segments, tails in codes:
        for store in STORES:
            recall = _known(CODES[kind], equal)
            if store != "none":
                recall = min(_known(RERANKED[kind], equal), ROUNDED[store])
            parts = predicted_bytes(
                n, dim, metric, bits, store, nlist, segments=segments, tails=tails, factor_bits=factor_bits
            )
            found.append(_Option(kind, name, bits, store, nlist, recall, recall >= needed, parts))
    return found


class _Codes(NamedTuple):
    """Codes that may be suggested; `equal`: bits of plain ones that err as they do; `tails`: see predicted_bytes."""

    codes: str
    bits: float
    equal: float
    segments: tuple[Segment, ...] | None
    tails: bool = False


def _spectral(rows: Floats, nlist: int | None) -> list[_Codes]:
    """Spectral codes for rows like these, or, in lists, for what is left of them less the lists' centroids.

    Those that save LEAST_GAIN of what plain codes of as many bits, if there were such, would err.
    """
    if nlist is not None:
        centroids = kmeans(rows, max(1, min(nlist, len(rows) // _ROWS_A_LIST))).centroids
        rows = rows - centroids[homes(rows, centroids, None).first]
    found = spectrum(rows)
    if found is None:
        return []
    codes, whole = [], plain_error(found.energies, 1) / inner_error(1)
    errors = -np.log([inner_error(bits) for bits in range(9)])
    for bits in _BITS:
        best = allocate(found.energies, bits, nlist is not None)
        if best.segments and best.error <= (1 - LEAST_GAIN) * whole * np.exp(-np.interp(bits, range(9), errors)):
            equal = float(np.interp(-np.log(max(best.error / whole, 1e-30)), errors, range(9)))
            head = head_of(rows.shape[1], bits, best.shares(found.energies)[:-1])
            codes.append(_Codes("spectral", bits, equal, best.segments, head < len(best.segments)))
    return codes


def _slower(bits: float) -> float:
    """_SLOWER, in between along a line, and beyond its ends as there."""
    return float(np.interp(bits, list(_SLOWER), list(_SLOWER.values())))


def _known(recalls: dict[int, float], bits: float) -> float:
    """The recall of plain codes of so many bits, in between along a line; none without any."""
    return float(np.interp(bits, [0, *recalls], [0.0, *recalls.values()]))


def _centred(sample: Any, dim: int, metric: str) -> Floats:
    """Rows of a sample less their mean, of unit length before for cosine."""
    source, least = checks.vectors(sample, "sample", dim), max(CENTRE_ROWS, ROWS_A_DIM * dim)
    if source.n < least:
        raise ValueError(f"sample must hold at least {least} vectors of {dim} coordinates, got {source.n}")
    some = Sample(source.n, dim, SAMPLE_ROWS)
    for start, x in source.chunks():
        some.seen((unit_rows if metric == "cosine" else bounded_rows)(x, "sample", start))
    return some.rows - some.rows.mean(axis=0, dtype=np.float64).astype(np.float32)


def _reason(best: _Option, wanted: str, target: float, budget: int | None, reached: bool, n: int, dim: int) -> str:
    if best.kind == "ivf":
        parts = [f"{n} x {dim} coordinates are too many to scan for every query, so they go into {best.nlist} lists"]
    elif wanted == "flat":
        parts = [f"{n} x {dim} coordinates are few enough to scan for every query"]
    else:
        parts = ["lists do not fit into the memory, so every query scans all codes"]
    name = "codes" if best.codes == "plain" else f"{best.codes} codes"
    codes = f"{best.bits:g}-bit {name}" + ("" if best.store == "none" else f" and {best.store} originals to re-rank by")
    found = f"{codes} find about {best.recall:.3f} of the true neighbours"
    if reached:
        fits = "" if budget is None else f" and fits into {budget}"
        parts.append(f"{found}, and nothing smaller reaches {target:g}; it takes {best.nbytes} bytes{fits}")
    elif budget is not None:
        parts.append(f"{found}, the most that fits into {budget} bytes: {target:g} is not to be expected")
    else:
        parts.append(f"{found}, the most there is: {target:g} is not to be expected")
    if best.kind == "ivf":
        parts.append("tune() finds how many lists to probe")
    return "; ".join(parts) + "."
