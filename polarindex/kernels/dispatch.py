"""Which instruction set the kernels use: the best that the compiler may emit, or the one POLARINDEX_ISA names.

It is Numba's target that is asked, not the CPU: an AVX-512 instruction that Numba was told not to use (NUMBA_CPU_NAME,
NUMBA_CPU_FEATURES) does not raise, it aborts the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from numba.core.registry import cpu_target

from polarindex.kernels.neon import emits_sdot, is_arm64
from polarindex.kernels.simd import SETS

GENERIC = "generic"  # plain loops, no register types
VARIABLE = "POLARINDEX_ISA"


@lru_cache(maxsize=1)
def available() -> tuple[str, ...]:
    """Instruction sets that can run here, best first; "generic" always can."""
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    if is_arm64(triple):
        held = {"neon", "dotprod"} if emits_sdot(triple, cpu, features) else set()
    else:
        held = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    able = (name for name, facts in SETS.items() if any(wanted <= held for wanted in facts.features))
    return (*able, GENERIC)


def selected() -> str:
    """The set to use now. ValueError where POLARINDEX_ISA, which is read once, names one that cannot run here."""
    return _chosen or _choose(os.environ.get(VARIABLE) or available()[0])


_chosen = ""  # asking the environment takes .8 us, a twentieth of the shortest search


def _choose(name: str) -> str:
    global _chosen
    if name and name not in available():
        raise ValueError(f"{VARIABLE} must be one of {', '.join(map(repr, available()))} here; got {name!r}")
    _chosen = name
    return name


@contextmanager
def using(name: str) -> Iterator[None]:
    """`selected()` is this set while the block runs, in all threads."""
    before = _chosen
    _choose(name)
    try:
        yield
    finally:
        _choose(before)
