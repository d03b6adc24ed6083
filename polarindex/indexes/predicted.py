"""The bytes that an index will take: of rows, of what finds them, and of what was learned.

Law:       bytes are those of `index.nbytes` after one `add`, computed from the columns that the index itself would
           have; only how lists share pages is estimated (half a page of each is spare).
Not here:  which index to make (planning.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from polarindex.codes import PANEL, LineLayout
from polarindex.indexes.arena import allocated_rows, block_rows
from polarindex.indexes.coarse import COARSE_BITS
from polarindex.indexes.coding import Coding
from polarindex.indexes.flat import CENTRE_ROWS
from polarindex.indexes.grouping import group_size
from polarindex.indexes.lists import ROWS, Lists
from polarindex.indexes.originals import original_columns
from polarindex.indexes.residuals import ResidualCoding
from polarindex.quantizers import make_quantizer
from polarindex.rotations import Basis

QUANTIZER = "eden"
Segments = Sequence[tuple[int, int]]


class _Code(NamedTuple):
    """Of a row's code: words, scales, and 16-bit halves of a scale; coordinates that are coded; and bytes of axes."""

    words: int
    scales: int
    halves: int
    mapped: int
    axes: int


def _code(dim: int, bits: float, segments: Segments | None) -> _Code:
    if segments is None:
        quantizer = make_quantizer(QUANTIZER, dim, int(bits), 0)
        return _Code(quantizer.words, len(quantizer.stages), 2, sum(stage.map.dims for stage in quantizer.stages), 0)
    words = sum(LineLayout(m, b).words for m, b in segments)
    axes = sum(Basis.bytes_of(m, dim) for m, _ in segments)
    return _Code(words, len(segments), 1, sum(m for m, _ in segments), axes)


def predicted_bytes(
    n: int,
    dim: int,
    metric: str,
    bits: float,
    store: str,
    nlist: int | None,
    scan_bits: int | None = None,
    spill: float = 0.0,
    segments: Segments | None = None,
    tails: bool = False,
    factor_bits: int = 32,
) -> dict[str, int]:
    """What `nbytes` of an index with n rows is made of.

    nlist is None for a flat one; scan_bits and spill are as of IVFIndex; segments (dims, bits) are those of spectral
    codes, None for plain ones, whose factors may have 16 bits; tails : whether a flat index stores the lengths of what
    is behind the first of them.
    """
    code, short = _code(dim, bits, segments), factor_bits == 16
    if nlist is None:
        parts = _flat_bytes(n, dim, metric, store, code, tails, short)
    else:
        head = ResidualCoding(make_quantizer(QUANTIZER, dim, int(bits), 0), metric, scan_bits).head if scan_bits else 0
        parts = _list_bytes(n, dim, metric, store, nlist, head, code, short)
    if spill and nlist is not None:
        parts["copies"] = _copies_bytes(round(spill * n), code, nlist, short)
    return parts | ({"axes": code.axes} if code.axes else {})


def _flat_bytes(n: int, dim: int, metric: str, store: str, code: _Code, tails: bool, short: bool) -> dict[str, int]:
    quantizer = make_quantizer(QUANTIZER, dim, 1, 0)
    plain = Coding(quantizer, metric, store, True, short=short)  # whose other columns are those of all
    others = {name: column.row_bytes for name, column in plain.columns().items() if not name.startswith("codes")}
    if n >= CENTRE_ROWS:
        del others["held"]
    if not short:
        others["scales"] = 2 * code.halves * code.scales + 2 * tails
    spare = allocated_rows(n, block_rows(4 * code.words)) - n
    return {
        "codes": n * 4 * code.words,
        "scales and shifts": n * sum(others.get(name, 0) for name in ("scales", "shifts", "factors")),
        "originals": n * sum(others.get(name, 0) for name in ("originals", "original_scales", "held")),
        "spare room": spare * (4 * code.words + sum(others.values())),
        "centre": 4 * dim,
    }


def _factors(code: _Code) -> int:
    """Words of a row's scales."""
    return -(-code.halves * code.scales // 2)


def _list_bytes(
    n: int, dim: int, metric: str, store: str, nlist: int, head: int, code: _Code, short: bool
) -> dict[str, int]:
    lists = Lists(1, head + code.words, _factors(code), original_columns(store, dim), short)
    pages = _pages(n, nlist)
    rows = allocated_rows(pages * PANEL, lists.arena.block_rows)
    originals = lists.bytes_per_row - lists.arena.columns[ROWS].row_bytes
    coarse = Lists(1, make_quantizer(QUANTIZER, dim, COARSE_BITS, 0).words, 1, {})
    coded = sum(
        allocated_rows(-(-count // PANEL) * PANEL, coarse.arena.block_rows) * coarse.bytes_per_row
        for count in (nlist, -(-nlist // group_size(nlist, dim)))
    )
    directions = dim if metric == "cosine" else 0
    return {
        "codes": 4 * n * code.words,
        "scales and shifts": 4 * n * (lists.id_word - lists.scale_word + head),
        "ids": 4 * n,
        "originals": n * originals,
        "spare room": (rows - n) * lists.bytes_per_row,
        "chains of pages": _chain_bytes(pages, nlist),
        "centroids": 4 * nlist * (2 * dim + code.mapped + directions + 1) + coded,
    }


def _copies_bytes(n: int, code: _Code, nlist: int, short: bool) -> int:
    """Of the codes of n rows in second lists."""
    lists = Lists(1, code.words, _factors(code), {}, short)
    pages = _pages(n, nlist)
    rows = allocated_rows(pages * PANEL, lists.arena.block_rows)
    return rows * lists.bytes_per_row + _chain_bytes(pages, nlist)


def _pages(n: int, nlist: int) -> int:
    """Pages of n rows: half a page of each list is spare."""
    return -(-n // PANEL) + round(nlist * (PANEL - 1) / (2 * PANEL))


def _chain_bytes(pages: int, nlist: int) -> int:
    """Of the tables of pages, which grow by halves."""
    return 12 * nlist + 8 * max(pages + pages // 2, 64)
