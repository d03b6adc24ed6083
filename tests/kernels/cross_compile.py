"""The assembly of a kernel for a processor that this machine does not have. A program, not a test:

    python cross_compile.py TRIPLE CPU FEATURES ISA ROWS PLANES KERNEL

KERNEL is scan_lines or scan_lists.

Numba compiles for the process it runs in. Here its modules name the other processor from the first line on, so that
intrinsics choose its instructions and LLVM optimises for it, and nothing is handed to the engine that would run it.
A process of its own, for LLVM ends it where it has no instruction for an intrinsic. Exit status 3: this LLVM was built
without the processor."""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import binding
from numba import types
from numba.core import codegen, cpu, dispatcher


def assembly(triple: str, name: str, features: str, isa: str, rows: int, planes: int, kernel: str) -> str:
    target = binding.Target.from_triple(triple)
    machine = target.create_target_machine(cpu=name, features=features, opt=3)
    compiled = []

    class OtherCodegen(codegen.JITCPUCodegen):
        def _init(self, module: Any) -> None:
            super()._init(module)
            self._tm, self._data_layout = machine, str(machine.target_data)

        def _create_empty_module(self, name: str) -> Any:
            module = super()._create_empty_module(name)
            if self._data_layout:  # else it is the module of the engine
                module.triple = triple
            return module

        def magic_tuple(self) -> tuple[str, str, str]:
            return triple, name, features

        def _add_module(self, module: Any) -> None: ...

        def _scan_and_fix_unresolved_refs(self, module: Any) -> None: ...

    def keep(self: Any, library: Any, fndesc: Any, env: Any) -> Any:
        library._ensure_finalized()
        compiled.append(library)
        return [].append  # a function that is not Python, of each one its own; never called

    def not_cached(self: Any) -> None:
        raise RuntimeError("code of another processor")

    codegen.JITCPUCodegen = OtherCodegen
    cpu.CPUContext.get_executable = keep
    dispatcher.Dispatcher.enable_caching = not_cached

    from polarindex import kernels
    from polarindex.kernels.simd import IsaType

    def array(kind: Any, ndim: int) -> Any:
        return types.Array(kind, ndim, "C")

    floats, longs, ints = array(types.float32, 1), array(types.int64, 1), array(types.int32, 1)
    lines, bytes8 = array(types.uint32, 3), array(types.uint8, 1)
    arguments = {
        "scan_lines": (
            IsaType(isa, rows, planes),
            types.Tuple((lines, lines, array(types.uint32, 2))),
            types.int64,
            types.int64,
            array(types.int8, 1),
            types.Tuple((array(types.int32, 3), ints, floats)),
            types.UniTuple(floats, 2),
            types.Tuple((longs, types.int64)),
            bytes8,
            types.Tuple((array(types.float32, 2), array(types.int64, 2))),
        ),
        "scan_lists": (
            IsaType(isa, rows, planes),
            IsaType(isa, 1, planes),
            types.Tuple((longs, types.int64, types.int64, types.int64)),
            types.Tuple((types.int64, array(types.int8, 1), types.int64, types.int64, types.int64, floats)),
            types.UniTuple(ints, 2),
            types.Tuple((ints, longs, ints, floats, longs)),
            types.Tuple((array(types.int32, 2), ints, floats)),
            bytes8,
            types.Tuple((floats, ints, longs, floats)),
            types.int64,
        ),
    }
    getattr(kernels, kernel).compile(arguments[kernel])
    return machine.emit_assembly(compiled[-1]._final_module)


if __name__ == "__main__":
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    *target, rows, planes, kernel = sys.argv[1:]
    try:
        binding.Target.from_triple(target[0])
    except RuntimeError as error:
        sys.stderr.write(str(error))
        sys.exit(3)
    sys.stdout.write(assembly(*target, int(rows), int(planes), kernel))
