"""The libraries by their names in tables and pictures."""

from __future__ import annotations

POLARINDEX = "polarindex"
PQ = "FAISS PQ fast scan"
RABITQ = "FAISS RaBitQ fast scan"
RABITQLIB = "rabitqlib IVF"
SCANN = "ScaNN"
HNSWLIB, USEARCH = "hnswlib", "usearch"
FAMILIES = (POLARINDEX, PQ, RABITQ, RABITQLIB, SCANN, HNSWLIB, USEARCH)

ROTATED_PQ, LEARNED_PQ = "FAISS RR + PQ fast scan", "FAISS OPQ + PQ fast scan"
PLAIN_RABITQ, EDEN, TURBO = "FAISS RaBitQ", "FAISS EDEN", "FAISS TurboQuant mse"
ONE_LIST, TURBOVEC = "rabitqlib, one list", "turbovec"
FLAT_FAMILIES = (
    POLARINDEX, PQ, ROTATED_PQ, LEARNED_PQ, PLAIN_RABITQ, RABITQ, EDEN, TURBO, ONE_LIST, TURBOVEC, SCANN, USEARCH
)  # fmt: skip


def is_peer(family: str) -> bool:
    return not family.startswith("polarindex")


def is_faiss(family: str) -> bool:
    return family.startswith("FAISS")
