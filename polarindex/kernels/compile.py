"""How a kernel is compiled: serial, GIL released, no fast-math, kept in Numba's disk cache where there is one.

A kernel takes arrays and fills `out` arrays. No fast-math anywhere: rotations, codes and scores are the same bits on
every machine.

Cache: Numba keys a cached kernel on the time and size of the file that defines it, and so would keep it when a kernel
or intrinsic that it calls changes in another file. Here the key is a hash of all kernel sources instead.
Said:  the first compilation of a process is said in one line, for it is why a first call takes seconds; a cache that
cannot be used in one more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import xxhash
from numba.core.registry import CPUDispatcher
from numba.core.sigutils import normalize_signature

_LOG = logging.getLogger("polarindex")
_OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy", "no_cfunc_wrapper": True}


class _Part(CPUDispatcher):
    """What only kernels call: how Python would call it is not compiled, with how C would a twelfth of a compilation.

    From Python it runs as Python; called like a kernel it would end the process.
    """

    def __call__(self, *arguments: Any) -> Any:
        return self.py_func(*arguments)


def inlined(function: Callable[..., Any]) -> Any:
    """A part of kernels, compiled into each of them: a call with registers or arrays costs 50 cycles and more."""
    alone = {"nopython": True, "forceinline": True, "no_cpython_wrapper": True}
    return _Part(function, targetoptions={**_OPTIONS, **alone})


def spliced(function: Callable[..., Any]) -> Any:
    """A part of kernels that is written into them and not compiled alone: one with a scan in it would take seconds."""
    return numba.njit(**_OPTIONS, inline="always")(function)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile `function` at its first call; cached on disk where that can be."""
    dispatcher = numba.njit(**_OPTIONS)(function)
    try:
        dispatcher.enable_caching()
    except RuntimeError as error:  # "no locator available": neither the package folder nor the user's cache is writable
        _warn_once(error)
        return dispatcher
    dispatcher._cache._cache_file._source_stamp = sources_stamp()
    dispatcher._cache = _ForgivingCache(dispatcher._cache)
    return dispatcher


def entry(dispatcher: Any, *arguments: Any) -> Callable[..., Any]:
    """A kernel's code for arguments of the types of these, or the kernel where it was not called with such yet.

    It asks for no types and believes what it is given: 2 us a call less, an eighth of the shortest search.
    """
    kinds = tuple(numba.typeof(argument) for argument in arguments)
    found = dispatcher.overloads.get(kinds)
    return found.entry_point if found is not None else dispatcher


class _ForgivingCache:
    """Numba's cache of one kernel, whose failures (full disk, damaged file) cost a compilation and not the call."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, target: Any) -> Any:
        """The kernel for these types, or None where it is to be compiled.

        Two processes that compile at once can leave one's code under the other's types: Numba writes its index and
        its files in two steps. So what is found is asked for its types.
        """
        try:
            found = self._cache.load_overload(signature, target)
        except Exception as error:  # whatever a damaged pickle raises
            _warn_once(error)
            found = None
        if found is not None and found.signature.args == normalize_signature(signature)[0]:
            return found
        _compiled.append(self._cache._py_func.__name__)
        if not _said.is_set():
            _said.set()
            _LOG.warning(_COMPILING)
        return None

    def save_overload(self, *arguments: Any) -> None:
        try:
            self._cache.save_overload(*arguments)
        except Exception as error:
            _warn_once(error)


_COMPILING = (
    "compiling kernels for this machine, once: up to half a minute for a first search; "
    "`polarindex warmup` does it ahead of time"
)
_compiled: list[str] = []
_said, _warned = threading.Event(), threading.Event()


def compiled() -> tuple[str, ...]:
    """Names of the kernels that this process compiled, those left out that it found in the cache."""
    return tuple(_compiled)


def expect_compilation() -> None:
    """From here on nothing is said of compilations: they are what the caller wants."""
    _said.set()


def cache_folder() -> Path | None:
    """The folder where kernels are kept; None where they cannot be."""
    probe = numba.njit(cache_folder)
    try:
        probe.enable_caching()
    except RuntimeError:
        return None
    return None if _warned.is_set() else Path(str(probe.stats.cache_path))


def _warn_once(error: Exception) -> None:
    if not _warned.is_set():
        _warned.set()
        _LOG.warning("kernels are compiled anew in this process, the cache cannot be used: %r", error)


@lru_cache(maxsize=1)
def sources_stamp() -> str:
    """A hash of the text of all kernel files."""
    digest = xxhash.xxh3_128()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
