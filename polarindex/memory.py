"""Arrays that begin on a cache line, which kernels' 64-byte loads want: NumPy aligns to 16 bytes.

A load that straddles two lines takes twice the time; from an array off by 16, every 64-byte load does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LINE = 64  # bytes


def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros whose first byte is at a multiple of 64; pages that are never written cost no memory, as in np.zeros."""
    kind = np.dtype(dtype)
    nbytes = math.prod(shape) * kind.itemsize
    room = np.zeros(nbytes + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + nbytes].view(kind).reshape(shape)


def aligned_copy(array: NDArray[Any]) -> NDArray[Any]:
    """A C-contiguous copy whose first byte is at a multiple of 64."""
    copy = aligned_zeros(array.shape, array.dtype)
    copy[...] = array
    return copy
