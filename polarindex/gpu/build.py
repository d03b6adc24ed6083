"""From CUDA C++ to machine code by NVRTC: once a text, architecture and compiler, then from the disk.

Law:       the key is everything the result depends on, so a cached file is never stale; a file is there whole or not
           at all. A file that cannot be written costs a compilation the next time, and one line in the log.
Cost:      .4 to 2.6 s a kernel at its first use on a machine.
No card:   compiling needs neither a driver nor a GPU: CI compiles every kernel for three architectures."""

from __future__ import annotations

import hashlib
import logging
from typing import Any, NamedTuple

from polarindex.errors import GpuError, MissingExtraError
from polarindex.sweep.cache import cache_folder, written_whole

_LOG = logging.getLogger("polarindex")


class Built(NamedTuple):
    """Machine code, and what the compiler said: empty where it came from the disk."""

    code: bytes
    said: str


def build(text: str, architecture: str, macros: dict[str, int], *, cached: bool = True) -> Built:
    """Machine code (a cubin) of a text.

    Parameters
    ----------
    text : CUDA C++
    architecture : such as "sm_90a"
    macros : defined before the text
    cached : look on the disk, and keep it there

    Raises
    ------
    MissingExtraError
        NVRTC is not installed.
    GpuError
        It does not compile; the message is the compiler's.
    """
    options = [f"--gpu-architecture={architecture}", "--std=c++17", "--ptxas-options=-v", "--diag-suppress=177"]
    options += [f"-D{name}={value}" for name, value in sorted(macros.items())]
    nvrtc, version = _nvrtc()
    key = hashlib.sha256("\0".join([text, *options, version]).encode()).hexdigest()
    path = cache_folder() / "gpu" / f"{key}.cubin"
    if cached:
        try:
            return Built(path.read_bytes(), "")
        except OSError:
            pass
    built = _compiled(nvrtc, text, options)
    if cached:
        try:
            with written_whole(path) as target:
                target.write_bytes(built.code)
        except OSError as error:
            _LOG.warning("GPU kernels are compiled anew in each process, %s cannot be written: %s", path, error)
    return built


def _nvrtc() -> tuple[Any, str]:
    """The bindings, and the version of the library behind them."""
    try:
        from cuda.bindings import nvrtc

        error, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as cause:  # the bindings are there, the library is not
        raise MissingExtraError(f"GPU indexes need NVRTC: pip install 'polarindex[gpu]' ({cause})") from cause
    return nvrtc, f"{major}.{minor}"


def _compiled(nvrtc: Any, text: str, options: list[str]) -> Built:
    _, program = nvrtc.nvrtcCreateProgram(text.encode(), b"polarindex.cu", 0, [], [])
    try:
        (error,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = bytearray(size)
        nvrtc.nvrtcGetProgramLog(program, log)
        said = bytes(log).rstrip(b"\0").decode(errors="replace")
        if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise GpuError(f"a kernel does not compile with {' '.join(options)}: {error.name}\n{said}")
        _, size = nvrtc.nvrtcGetCUBINSize(program)
        code = bytearray(size)
        nvrtc.nvrtcGetCUBIN(program, code)
        return Built(bytes(code), said)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
