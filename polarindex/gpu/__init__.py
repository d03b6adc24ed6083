"""Indexes on an NVIDIA GPU: the extra `gpu`. Names are loaded at first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["GpuFlatIndex", "GpuIVFIndex"]

_MODULES = {"GpuFlatIndex": "flat", "GpuIVFIndex": "ivf"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'polarindex.gpu' has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"polarindex.gpu.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
