"""The bottom layer: arrays in, `out` arrays filled. No checks, no threads, nothing imported from above.

Each name below is loaded from its file at first use, so that Numba is imported only when a kernel is needed.
`reference.py` says in NumPy what every one of them computes.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_FILES = {
    "cache_folder": "compile",
    "compiled": "compile",
    "expect_compilation": "compile",
    "rotate": "hadamard",
    "rotate_back": "hadamard",
    "quantize": "scalar",
    "encode": "encoding",
    "peak": "moments",
    "add_moments": "moments",
    "normalise": "moments",
    "pack_plane": "pack",
    "unpack_plane": "pack",
    "to_panels": "pack",
    "codes_to_levels": "pack",
    "pack_fields": "bitstream",
    "unpack_fields": "bitstream",
    "polar_angles": "polar",
    "polar_vectors": "polar",
    "round_rows": "polar",
    "dot": "scan",
    "add_scores": "scan",
    "scan_lines": "lines",
    "tile_queries": "lines",
    "dot_lines": "lines",
    "scan_staged": "staged",
    "nibble_tables": "staged",
    "stage_queries": "staged",
    "Isa": "simd",
    "available": "dispatch",
    "selected": "dispatch",
    "GENERIC": "dispatch",
    "using": "dispatch",
    "offer": "topk",
    "select": "topk",
    "sort_rows": "topk",
    "settle": "topk",
    "table_insert": "idtable",
    "table_find": "idtable",
    "table_remove": "idtable",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
    globals()[name] = value
    return value
