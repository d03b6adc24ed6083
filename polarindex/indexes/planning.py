"""Which index to make for so many vectors: kind, bits, lists and store, and the bytes that it will take.

Law:       bytes are those of `index.nbytes` after one `add`, computed from the columns that the index itself would
           have; only how lists share pages is estimated (half a page of each is spare).
Rules:     recalls are those of the harder of two data sets (GloVe-100, 331,479 rows, cosine; Fashion-MNIST, 60,000 x
           784, l2), 10 of the 10 nearest, 1,000 queries, all lists probed. They are rules of thumb.
Not here:  how to search the index then (tuning.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from polarindex import checks
from polarindex.codes import PANEL
from polarindex.indexes.arena import allocated_rows, block_rows
from polarindex.indexes.base import Index
from polarindex.indexes.coarse import COARSE_BITS
from polarindex.indexes.coding import METRICS, Coding
from polarindex.indexes.flat import CENTRE_ROWS, FlatIndex
from polarindex.indexes.grouping import group_size
from polarindex.indexes.ivf import IVFIndex, auto_nlist
from polarindex.indexes.lists import ROWS, Lists
from polarindex.indexes.originals import STORES, original_columns
from polarindex.indexes.residuals import ResidualCoding
from polarindex.quantizers import make_quantizer

QUANTIZER = "eden"
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


@dataclass(frozen=True)
class Plan:
    """An index that is suggested.

    Attributes
    ----------
    kind : {"flat", "ivf"}
    n, dim, metric
        As asked.
    bits, store, nlist
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
    bits: int
    store: str
    nlist: int | None
    recall: float
    nbytes: int
    parts: dict[str, int]
    reason: str

    @property
    def bytes_per_vector(self) -> float:
        """Predicted, everything counted."""
        return self.nbytes / self.n

    def make(self, **arguments: Any) -> Index:
        """The index, empty; other arguments of its constructor, as seed, may be given. Fit an IVFIndex, then add."""
        chosen: dict[str, Any] = {"metric": self.metric, "bits": self.bits, "store": self.store}
        if self.nlist is None:
            return FlatIndex(self.dim, **{**chosen, **arguments})
        return IVFIndex(self.dim, **{**chosen, "nlist": self.nlist, **arguments})


def plan(
    n: int, dim: int, target_recall: float = 0.95, memory: int | None = None, metric: str = "l2", k: int = 10
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

    Originals as int8 find at most .993, as float16 .999.

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
    wanted = "flat" if n < LISTED or n * dim <= SCANNED else "ivf"
    options = _options(wanted, n, dim, metric, target)
    fitting = [one for one in options if budget is None or one.nbytes <= budget]
    if not fitting and wanted == "ivf":  # no centroids and no ids
        fitting = [one for one in _options("flat", n, dim, metric, target) if budget is None or one.nbytes <= budget]
    if not fitting:
        least = min(one.nbytes for kind in ("flat", "ivf") for one in _options(kind, n, dim, metric, target))
        raise ValueError(
            f"memory={memory} is too little: {n} vectors of {dim} coordinates take at least {least} bytes (1 bit each)"
        )
    reaching = [one for one in fitting if one.enough]
    best = min(reaching, key=_size) if reaching else max(fitting, key=lambda one: (one.recall, -one.nbytes))
    reason = _reason(best, wanted, target, budget, bool(reaching), n, dim)
    return Plan(n=n, dim=dim, metric=metric, nbytes=best.nbytes, reason=reason, **best.chosen())


class _Option(NamedTuple):
    """An index that may be suggested; `enough`: its recall leaves room for lists that are not probed."""

    kind: str
    bits: int
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


def _options(kind: str, n: int, dim: int, metric: str, target: float) -> list[_Option]:
    nlist = auto_nlist(n) if kind == "ivf" else None
    needed = target + (1 - target) * (_UNPROBED if kind == "ivf" else 0)
    found = []
    for bits in CODES[kind]:
        for store in STORES:
            recall = CODES[kind][bits] if store == "none" else min(RERANKED[kind][bits], ROUNDED[store])
            parts = predicted_bytes(n, dim, metric, bits, store, nlist)
            found.append(_Option(kind, bits, store, nlist, recall, recall >= needed, parts))
    return found


def _reason(best: _Option, wanted: str, target: float, budget: int | None, reached: bool, n: int, dim: int) -> str:
    if best.kind == "ivf":
        parts = [f"{n} x {dim} coordinates are too many to scan for every query, so they go into {best.nlist} lists"]
    elif wanted == "flat":
        parts = [f"{n} x {dim} coordinates are few enough to scan for every query"]
    else:
        parts = ["lists do not fit into the memory, so every query scans all codes"]
    codes = f"{best.bits}-bit codes" + ("" if best.store == "none" else f" and {best.store} originals to re-rank by")
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


def predicted_bytes(
    n: int,
    dim: int,
    metric: str,
    bits: int,
    store: str,
    nlist: int | None,
    scan_bits: int | None = None,
    spill: float = 0.0,
) -> dict[str, int]:
    """What `nbytes` of an index with n rows is made of.

    nlist is None for a flat one; scan_bits and spill are as of IVFIndex.
    """
    if nlist is None:
        return _flat_bytes(n, dim, metric, bits, store)
    parts = _list_bytes(n, dim, metric, bits, store, nlist, scan_bits)
    return parts | {"copies": _copies_bytes(round(spill * n), dim, bits, nlist)} if spill else parts


def _flat_bytes(n: int, dim: int, metric: str, bits: int, store: str) -> dict[str, int]:
    quantizer = make_quantizer(QUANTIZER, dim, bits, 0)
    columns = {name: column.row_bytes for name, column in Coding(quantizer, metric, store, True).columns().items()}
    if n >= CENTRE_ROWS:
        del columns["held"]
    spare = allocated_rows(n, block_rows(4 * quantizer.words)) - n
    return {
        "codes": n * sum(size for name, size in columns.items() if name.startswith("codes")),
        "scales and shifts": n * (columns["scales"] + columns.get("shifts", 0)),
        "originals": n * sum(columns.get(name, 0) for name in ("originals", "original_scales", "held")),
        "spare room": spare * sum(columns.values()),
        "centre": 4 * dim,
    }


def _list_bytes(
    n: int, dim: int, metric: str, bits: int, store: str, nlist: int, scan_bits: int | None
) -> dict[str, int]:
    quantizer = make_quantizer(QUANTIZER, dim, bits, 0)
    coding, stages = ResidualCoding(quantizer, metric, scan_bits), len(quantizer.stages)
    lists = Lists(1, coding.words, stages, original_columns(store, dim))
    pages = _pages(n, nlist)
    rows = allocated_rows(pages * PANEL, lists.arena.block_rows)
    originals = lists.bytes_per_row - lists.arena.columns[ROWS].row_bytes
    coarse = Lists(1, make_quantizer(QUANTIZER, dim, COARSE_BITS, 0).words, 1, {})
    coded = sum(
        allocated_rows(-(-count // PANEL) * PANEL, coarse.arena.block_rows) * coarse.bytes_per_row
        for count in (nlist, -(-nlist // group_size(nlist, dim)))
    )
    mapped = sum(stage.map.dims for stage in quantizer.stages)
    directions = dim if metric == "cosine" else 0
    return {
        "codes": 4 * n * quantizer.words,
        "scales and shifts": 4 * n * (stages + 1 + coding.head),
        "ids": 4 * n,
        "originals": n * originals,
        "spare room": (rows - n) * lists.bytes_per_row,
        "chains of pages": _chain_bytes(pages, nlist),
        "centroids": 4 * nlist * (2 * dim + mapped + directions + 1) + coded,
    }


def _copies_bytes(n: int, dim: int, bits: int, nlist: int) -> int:
    """Of the codes of n rows in second lists."""
    quantizer = make_quantizer(QUANTIZER, dim, bits, 0)
    lists = Lists(1, quantizer.words, len(quantizer.stages), {})
    pages = _pages(n, nlist)
    rows = allocated_rows(pages * PANEL, lists.arena.block_rows)
    return rows * lists.bytes_per_row + _chain_bytes(pages, nlist)


def _pages(n: int, nlist: int) -> int:
    """Pages of n rows: half a page of each list is spare."""
    return -(-n // PANEL) + round(nlist * (PANEL - 1) / (2 * PANEL))


def _chain_bytes(pages: int, nlist: int) -> int:
    """Of the tables of pages, which grow by halves."""
    return 12 * nlist + 8 * max(pages + pages // 2, 64)
