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
    "entry": "compile",
    "rotate": "hadamard",
    "rotate_back": "hadamard",
    "rotate_rows": "hadamard",
    "flips_of": "hadamard",
    "quantize": "scalar",
    "encode": "encoding",
    "encode_residuals": "encoding",
    "centre_rows": "encoding",
    "encode_rotated": "encoding",
    "project": "dense",
    "peak": "moments",
    "add_moments": "moments",
    "normalise": "moments",
    "nearest_rows": "clusters",
    "second_rows": "second",
    "group_rows": "clusters",
    "mean_rows": "clusters",
    "pack_plane": "pack",
    "unpack_plane": "pack",
    "to_panels": "pack",
    "codes_to_levels": "pack",
    "pack_fields": "bitstream",
    "unpack_fields": "bitstream",
    "unpack_ring": "ring",
    "scan_ring": "ring",
    "Step": "costs",
    "encode_trellis": "viterbi",
    "polar_angles": "polar",
    "polar_vectors": "polar",
    "round_rows": "polar",
    "dot": "scan",
    "add_scores": "scan",
    "scan_lines": "lines",
    "tile_queries": "lines",
    "dot_lines": "lines",
    "dot_segment": "segments",
    "scan_segments": "cascade",
    "ask_segments": "reaches",
    "expand_factors": "factors",
    "expand_segment_factors": "factors",
    "scan_alone": "alone",
    "stage_segments": "segment_planes",
    "scan_staged": "staged",
    "nibble_tables": "staged",
    "stage_queries": "staged",
    "Isa": "simd",
    "available": "dispatch",
    "selected": "dispatch",
    "GENERIC": "dispatch",
    "using": "dispatch",
    "scan_lists": "probe",
    "round_queries": "search",
    "nearest_lists": "search",
    "group_by_list": "search",
    "answer": "search",
    "asked_lists": "search",
    "candidates_of": "search",
    "join_jobs": "search",
    "best_by_codes": "search",
    "best_by_originals": "search",
    "answer_by_planes": "prefix",
    "whole_keys": "prefix",
    "answer_by_segments": "segment_lists",
    "within": "within",
    "candidate_room": "candidates",
    "list_pages": "probe",
    "pages_wanted": "pages",
    "place_rows": "pages",
    "link_pages": "pages",
    "remove_rows": "pages",
    "relink": "pages",
    "page_fill": "pages",
    "write_rows": "pages",
    "read_rows": "pages",
    "rescore_rows": "rescore",
    "select": "topk",
    "sort_rows": "topk",
    "merge_lists": "topk",
    "settle": "topk",
    "best_of": "topk",
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
