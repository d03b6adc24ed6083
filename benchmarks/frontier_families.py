"""The libraries by their names in tables and pictures. Nothing but Python is needed here."""

from __future__ import annotations

POLARINDEX = "polarindex"
PQ = "FAISS PQ fast scan"
RABITQ = "FAISS RaBitQ fast scan"
RABITQLIB = "rabitqlib IVF"
SCANN = "ScaNN"
HNSWLIB = "hnswlib"
FAMILIES = (POLARINDEX, PQ, RABITQ, RABITQLIB, SCANN, HNSWLIB)


def is_peer(family: str) -> bool:
    return not family.startswith("polarindex")


def is_faiss(family: str) -> bool:
    return family.startswith("FAISS")
