"""How a kernel is compiled: serial, GIL released, no fast-math, kept in Numba's disk cache where there is one.

A kernel takes arrays, fills `out` arrays, and calls no kernel of another file: Numba's disk cache looks only at the
file that defines a function, so a callee edited elsewhere would go unnoticed (tests/test_layers.py checks it).
No fast-math anywhere: rotations, codes and scores are the same bits on every machine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba

_LOG = logging.getLogger("polarindex")
_OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy"}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` at its first call; cached on disk unless no cache folder can be written."""
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError as error:  # "no locator available": neither the package folder nor the user's cache is writable
        _LOG.warning("kernel %s is compiled anew in every process: %s", function.__name__, error)
        return numba.njit(**_OPTIONS)(function)
