"""Arrays that begin on a cache line, and memory that cannot be had, said before it is asked for.

A load that straddles two lines takes twice the time; from an array off by 16, as NumPy aligns, every 64-byte load does.

Known:     the limit of the process's addresses (RLIMIT_AS), the limits of its control groups (version 2, and where a
           container shows them version 1), and what the system has left, swap included. Where none of these can be
           read, as on macOS and Windows, nothing is known and an allocation fails or not by itself.
Why first: systems promise more than they have. A doomed request succeeds, and the process is killed when it writes."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LINE = 64  # bytes
_ASKED_FROM = 1 << 26  # bytes: for less the files are not read, which takes .1 ms
_NO_LIMIT = 1 << 60

Reading = tuple[int, str]  # bytes that may still be had, and who says so


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


def on_a_line(array: NDArray[Any]) -> NDArray[Any]:
    """The array itself where its first byte is at a multiple of 64, else a copy that is."""
    return array if array.ctypes.data % LINE == 0 else aligned_copy(array)


def require(nbytes: int, what: str) -> None:
    """MemoryError where so many bytes more can surely not be had; `what` needs them."""
    if nbytes < _ASKED_FROM:
        return
    left, limit = min(_readings(), default=(_NO_LIMIT, ""))
    if nbytes > left:
        raise MemoryError(f"{what} need {nbytes:,} bytes, and {max(left, 0):,} are available ({limit})")


def _readings() -> Iterator[Reading]:
    if not sys.platform.startswith("linux"):
        return
    for read in (_left_of_addresses, _left_of_group, _left_of_system):
        try:
            yield from read()
        except (OSError, ValueError, KeyError, IndexError):  # not there, or written in another way
            continue


def _left_of_addresses() -> Iterator[Reading]:
    import resource  # Unix alone has it

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        yield limit - pages * os.sysconf("SC_PAGE_SIZE"), "RLIMIT_AS, the limit of this process's addresses"


def _left_of_group(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> Iterator[Reading]:
    """What each control group that the process is in, and each of these' parents, has left."""
    for line in Path(membership).read_text(encoding="ascii").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = Path(root, controllers)
        files = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        here = top / name.lstrip("/")
        for folder in (here, *here.parents):
            if (folder / files[0]).is_file():
                yield from _left_of_folder(folder, *files)
            if folder == top:
                break


def _left_of_folder(folder: Path, limit_file: str, usage_file: str) -> Iterator[Reading]:
    text = (folder / limit_file).read_text(encoding="ascii").strip()
    if text == "max" or int(text) >= _NO_LIMIT:
        return
    used = int((folder / usage_file).read_text(encoding="ascii"))
    lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    stat = dict(line.split() for line in lines)
    cached = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))  # given back to who asks
    yield int(text) - used + cached + 1024 * _kilobytes()["SwapFree:"], f"the limit of the control group {folder}"


def _left_of_system() -> Iterator[Reading]:
    kilobytes = _kilobytes()
    yield 1024 * (kilobytes["MemAvailable:"] + kilobytes["SwapFree:"]), "MemAvailable and SwapFree of this machine"


def _kilobytes() -> dict[str, int]:
    """What /proc/meminfo says, by its names."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return {words[0]: int(words[1]) for words in lines}
