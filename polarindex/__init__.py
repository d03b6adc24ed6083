"""polarindex: nearest-neighbour search over vectors compressed by random rotations. No training.

>>> import numpy as np, polarindex as pi
>>> x = np.random.default_rng(0).standard_normal((10_000, 128), np.float32)
>>> index = pi.FlatIndex(128, metric="cosine", bits=4)
>>> ids = index.add(x)
>>> similarities, ids = index.search(x[:5], k=10)

Names are loaded at first use: importing the package compiles nothing and starts nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polarindex.convert import from_faiss, from_hnswlib, from_usearch
    from polarindex.errors import (
        FormatError,
        GpuError,
        LockedError,
        MissingDatasetError,
        MissingExtraError,
        NotFittedError,
        ShardError,
    )
    from polarindex.indexes.filters import IdFilter
    from polarindex.indexes.flat import FlatIndex
    from polarindex.indexes.ivf import IVFIndex
    from polarindex.indexes.opened import open
    from polarindex.indexes.planning import plan
    from polarindex.indexes.storage import load, verify
    from polarindex.quantizers import CELLS, make_quantizer

__version__ = "0.1.0"

_HOMES = {
    "CELLS": "quantizers",
    "FlatIndex": "indexes.flat",
    "FormatError": "errors",
    "GpuError": "errors",
    "IVFIndex": "indexes.ivf",
    "IdFilter": "indexes.filters",
    "LockedError": "errors",
    "MissingDatasetError": "errors",
    "MissingExtraError": "errors",
    "NotFittedError": "errors",
    "ShardError": "errors",
    "from_faiss": "convert",
    "from_hnswlib": "convert",
    "from_usearch": "convert",
    "load": "indexes.storage",
    "make_quantizer": "quantizers",
    "open": "indexes.opened",
    "plan": "indexes.planning",
    "verify": "indexes.storage",
}

__all__ = [
    "CELLS",
    "FlatIndex",
    "FormatError",
    "GpuError",
    "IVFIndex",
    "IdFilter",
    "LockedError",
    "MissingDatasetError",
    "MissingExtraError",
    "NotFittedError",
    "ShardError",
    "from_faiss",
    "from_hnswlib",
    "from_usearch",
    "load",
    "make_quantizer",
    "open",
    "plan",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "gpu":
        return import_module("polarindex.gpu")  # which sets itself here
    if name not in _HOMES:
        raise AttributeError(f"module 'polarindex' has no attribute {name!r}")
    value = getattr(import_module(f"polarindex.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
