"""How much memory this process and this machine have in use, as Linux counts it; None elsewhere."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path


def resident() -> int | None:
    return _status("VmRSS")


def peak_resident() -> int | None:
    """The most since `reset_peak`.

    getrusage has the most since a process began, of its parent's memory too, and so would hide a build that needs
    less than loading the rows did.
    """
    return _status("VmHWM")


def settle() -> None:
    """Give back what is free already, so that it is not counted."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc
        pass


def reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def available() -> int | None:
    """What all processes together can still have."""
    return _kilobytes("/proc/meminfo", "MemAvailable")


def _status(key: str) -> int | None:
    return _kilobytes("/proc/self/status", key)


def _kilobytes(path: str, key: str) -> int | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), None)


