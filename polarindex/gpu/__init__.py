"""Indexes on an NVIDIA GPU: the extra `gpu`. Names are loaded at first use."""

from __future__ import annotations

from typing import Any

__all__ = ["GpuFlatIndex"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'polarindex.gpu' has no attribute {name!r}")
    from polarindex.gpu.flat import GpuFlatIndex

    globals()[name] = GpuFlatIndex
    return GpuFlatIndex


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
