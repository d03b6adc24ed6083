"""Compiling ahead of time: tiny indexes are filled, changed, searched, saved and loaded in every way there is.

Law:       what was done here compiles nothing when it is done again, with data of any size, in this process or in a
           later one of the same Numba on the same machine.
Why so:    what really runs is really compiled; a list of kernels and types would be wrong at the next change."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codes import PANEL
from polarindex.indexes.coding import METRICS
from polarindex.indexes.factors import FactorLaw
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.halves import some_question
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.lines import READ_BITS
from polarindex.indexes.originals import STORES
from polarindex.indexes.scan import SegmentProducts, integer_queries, merged
from polarindex.indexes.segment_factors import SegmentLaw
from polarindex.indexes.segment_planes import AloneScan, segment_planes
from polarindex.indexes.segments import segment_code, table_stages
from polarindex.indexes.storage import load
from polarindex.quantizers import CELLS, make_quantizer
from polarindex.quantizers.spectral import Spectral
from polarindex.rotations import ROTATIONS, SKETCHES

Floats = NDArray[np.float32]
AnyIndex = FlatIndex | IVFIndex

_DIM = 48  # not a power of two, and with a last word that is not full
_ROWS = 40
_PATHS = ("eden", "polarquant")  # scanned in registers, and by decoding
_RINGS = ("trellis", "trellis-12")  # with kernels of their own, each one text for all bits
_TILES = (1, 2, 4, 9)  # numbers of queries: every way to fill a tile of registers
_KINDS: dict[str, Callable[..., AnyIndex]] = {"flat": FlatIndex, "ivf": partial(IVFIndex, nlist=3)}

Progress = Callable[[int, int, str], None]


class Warmed(NamedTuple):
    """What `warmup` did.

    compiled : names of the kernels that were not in the cache, one each time
    seconds : wall clock
    folder : where the kernels are kept, or None where nothing can be kept
    """

    compiled: tuple[str, ...]
    seconds: float
    folder: Path | None


def warmup(
    isas: Sequence[str] | None = None, progress: Progress | None = None, bits: Sequence[int] | None = None
) -> Warmed:
    """Compile what indexes and quantizers need here, and keep it in Numba's cache.

    Parameters
    ----------
    isas : sequence of str, optional
        Instruction sets, of kernels.available(); default: the one in use.
    progress : callable, optional
        Called with (done, total, what is next).
    bits : sequence of int, optional
        Of the codes; default: all there are.
    """
    kernels.expect_compilation()
    before, started = len(kernels.compiled()), time.perf_counter()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((_ROWS, _DIM)).astype(np.float32)
    steps = [(isa, *step) for isa in isas or [kernels.selected()] for step in _steps(x, bits)]
    for number, (isa, label, step) in enumerate(steps):
        if progress:
            progress(number, len(steps), f"{isa}, {label}")
        with kernels.using(isa):
            step()
    if progress:
        progress(len(steps), len(steps), "")
    return Warmed(kernels.compiled()[before:], time.perf_counter() - started, kernels.cache_folder())


def _steps(x: Floats, chosen: Sequence[int] | None = None) -> list[tuple[str, Callable[[], object]]]:
    """What there is to do: names and functions. The first that uses a kernel waits for it."""
    cells = [(name, bits) for name, all_bits in CELLS.items() for bits in all_bits if chosen is None or bits in chosen]
    cases: list[dict[str, Any]] = [
        *({"metric": metric, "center": center} for metric in METRICS for center in (True, False)),
        *({"store": store} for store in STORES[1:]),
    ]
    settings = [{"kind": kind, "quantizer": name, **case} for kind in _KINDS for case in cases for name in _PATHS]
    settings += [{"kind": "flat", "quantizer": name} for name in _RINGS]
    ring_bits = [bits for bits in CELLS[_RINGS[0]] if chosen is None or bits in chosen][:1]
    stored: list[dict[str, Any]] = [  # a search of lists is compiled for what originals are of
        {"kind": "ivf", "bits": bits, "store": store}
        for bits in READ_BITS
        for store in STORES[1:]
        if chosen is None or bits in chosen
    ]
    stored += [
        {"kind": "ivf", "bits": bits, "store": store, "quantizer": name}
        for name in _RINGS
        for bits in ring_bits
        for store in STORES[1:]
    ]
    stored.append({"kind": "ivf", "store": "float32", "spill": 0.5})
    stored.append({"kind": "ivf", "bits": 4, "scan_bits": 1})  # each of the other five would take half a minute
    if chosen is not None and 4 not in chosen:  # the default, which these have
        settings, stored = [], [one for one in stored if one.get("bits", 4) in chosen]
    return [
        *((f"{name} {bits} bit", partial(_use_cell, x, name, bits)) for name, bits in cells),
        *((", ".join(map(str, one.values())), partial(_use_saved, x, **one)) for one in settings),
        *((", ".join(map(str, one.values())), partial(_use, x, **one)) for one in stored),
        ("merging", _merge),
        *((f"parts of {one} bit", partial(_use_apart, x, one)) for one in READ_BITS if not chosen or one in chosen),
        *((f"parts, {name}", partial(_use_apart, x, bits, name)) for name in _RINGS for bits in ring_bits),
        *((f"spectral {bits} bit", partial(_use_segment, x, bits)) for bits in chosen or CELLS["eden"]),
        ("spectral", partial(_use, _decaying(x), "flat", codes="spectral", bits=4)),  # in two segments
        *(
            (f"spectral lists, {one}", partial(_use, x, "ivf", codes="spectral", bits=0.75, store=one))
            for one in ("none", "float16", "int8")  # float32 is read as none are
        ),
        *((f"{one} rotation", partial(_encode, x, "eden", {"rotation": one})) for one in ROTATIONS),
        *((f"{one} matrix", partial(_encode, x, "qjl", {"matrix": one})) for one in SKETCHES),
    ]


def _use_cell(x: Floats, name: str, bits: int) -> None:
    _encode(x, name, {"bits": bits})
    _encode(_read_only(x), name, {"bits": bits})
    for kind in _KINDS:
        _use(x, kind, bits=bits, quantizer=name)


def _merge() -> None:
    """What several threads, or devices, have found; and words of factors."""
    FactorLaw(1.0, 1.0, 1.0).floats(np.zeros(PANEL, np.uint32))
    SegmentLaw(np.ones(2), 0.1, 0.0, 1.0).opened(np.zeros((1, 2, PANEL), np.uint16))
    found = np.zeros((1, 2), np.float32), np.arange(2, dtype=np.int64)[None]
    merged([found, found])


def _use_apart(x: Floats, bits: int, quantizer: str = "eden") -> None:
    """Lists whose queries are prepared by one index and answered by another."""
    some_question(IVFIndex(_DIM, bits=bits, quantizer=quantizer, nlist=3).fit(x))


def _encode(x: Floats, name: str, options: dict[str, Any]) -> None:
    """A quantizer without an index: one row, many rows; codes are read-only, as those off a wire are, if x is."""
    quantizer = make_quantizer(name, _DIM, **options)
    for rows in (x, x[:1]):
        codes = quantizer.encode(rows)
        for array in (codes.rows, codes.factors):
            array.flags.writeable = rows.flags.writeable
        quantizer.decode(codes)
        quantizer.scores(rows, codes)
        quantizer.code_scores(codes, codes)


def _decaying(x: Floats) -> Floats:
    """Rows most of whose energy is along few axes."""
    return np.asarray(x / np.arange(1, x.shape[1] + 1), np.float32)


def _use_segment(x: Floats, bits: int) -> None:
    """A spectral quantizer whose first segment has so many bits, and scans of it."""
    rows = np.eye(_DIM, dtype=np.float32)
    quantizer = Spectral(_DIM, bits, 0, rows, [(_DIM - 16, bits), (16, 1)], [0.5, 0.5, 0])
    quantizer.decode(quantizer.encode(x))
    words = quantizer.encode_rows(x, integer=True).words
    panels = np.zeros((-(-len(words) // PANEL), quantizer.words, PANEL), np.uint32)
    kernels.to_panels(words, 0, panels)
    stages = table_stages(quantizer) or []
    for count in _TILES if kernels.selected() != kernels.GENERIC else ():
        for pieces, stage in zip(integer_queries(quantizer, x[:count], 1.0), stages, strict=True):
            SegmentProducts(pieces[0], stage, 0)(panels)
    code = segment_code(quantizer, kernels.selected())
    if code is not None and code.planes:  # what is read first in indexes larger than those here
        pieces = [own[0] for own in integer_queries(quantizer, x[:1], 1.0)]
        AloneScan(code, segment_planes(stages, quantizer.shares, (1,)), pieces)


def _use(x: Floats, kind: str, **arguments: Any) -> AnyIndex:
    """An index's life, with the caller's arrays writable and read-only."""
    index = _KINDS[kind](_DIM, **arguments)
    fixed = _read_only(x)
    if isinstance(index, IVFIndex):
        index.fit(x)
    else:
        index.add(x[:1])  # with no centre yet
        index.add(fixed[1:4])
    if index.center or not len(index):
        index.fit(fixed)
    _search(index, x)
    index.add(fixed)
    index.add(x, ids=_read_only(np.arange(100, 100 + len(x))))  # ids are stored from here on
    index.upsert(np.arange(99, 99 + len(x)), x)
    index.update([99], fixed[:1])
    index.remove(_read_only(np.arange(100, 103)))
    index.add(x[:1], ids=[1000])
    _search(index, x)
    _search(index, fixed)
    index.remove(index.ids[8:])  # much of it: memory is given back
    _search(index, x)
    return index


def _use_saved(x: Floats, kind: str, **arguments: Any) -> None:
    """The same, and a life after a file; apart, for every save waits for the disk."""
    index = _use(x, kind, **arguments)
    with TemporaryDirectory() as folder:
        index.save(Path(folder) / "index")
        for mmap in (False, True):
            again = load(Path(folder) / "index", mmap=mmap)
            _search(again, x)
            again.add(x)
            del again  # Windows does not remove files that are mapped


def _search(index: AnyIndex, x: Floats) -> None:
    mask = np.ones(len(index), bool)
    mask[:1] = False
    for count in _TILES:
        for exact_scan in (False, True):
            index.search(x[:count], 3, exact_scan=exact_scan)
            index.search(x[:count], 3, exact_scan=exact_scan, filter=mask)
    index.search(x[0], 3, filter=index.ids, return_error=True)
    index.search(x[:2], 3, filter=[mask, None])
    index.range_search(x[:2], 1.0)
    index.range_search(x[:2], 1.0, filter=mask)
    index.reconstruct(index.ids[:1])
    index.reconstruct(_read_only(index.ids))


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A view that cannot be written, for which Numba compiles anew."""
    view = array.view()
    view.flags.writeable = False
    return view
