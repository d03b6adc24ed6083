"""The two instructions of "neon" (ARM64 with the dot-product extension), and the same integers without them.

Law:       sdot: acc[lane] += the four signed products of the lane's bytes; tbl: table[index] for every byte.
Portable:  in a module for another processor each is written out in plain LLVM operations. Slow, and never chosen by
           dispatch.available(); so that what "neon" computes can be run and tested on every machine.
Source:    Arm Architecture Reference Manual, SDOT (vector, by element) and TBL; LLVM's llvm.aarch64.neon.*."""

from __future__ import annotations

from llvmlite import binding, ir

NBYTES = 16  # of a register
_BYTES = ir.VectorType(ir.IntType(8), NBYTES)
_WORDS = ir.VectorType(ir.IntType(32), NBYTES // 4)

# What LLVM multiplies and adds by an sdot wherever the target machine has one.
_PROBE = """
define i32 @probe(<16 x i8> %a, <16 x i8> %b) {
  %x = sext <16 x i8> %a to <16 x i32>
  %y = sext <16 x i8> %b to <16 x i32>
  %xy = mul <16 x i32> %x, %y
  %sum = call i32 @llvm.vector.reduce.add.v16i32(<16 x i32> %xy)
  ret i32 %sum
}
declare i32 @llvm.vector.reduce.add.v16i32(<16 x i32>)
"""


def is_arm64(triple: str) -> bool:
    return triple.startswith(("aarch64-", "arm64-"))


def emits_sdot(triple: str, cpu: str, features: str) -> bool:
    """Whether LLVM has the dot-product instructions of an ARM64 target.

    Tried, not looked up: the extension may come with the processor's name (apple-m1, neoverse-n1) and not be among
    the features.
    """
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features)
    return "sdot" in machine.emit_assembly(binding.parse_assembly(_PROBE))


def sdot(builder: ir.IRBuilder, acc: ir.Value, levels: ir.Value, query: ir.Value) -> ir.Value:
    """acc[lane] += the four products of signed bytes; acc <4 x i32>, levels and query <16 x i8>."""
    if is_arm64(builder.module.triple):
        return _call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", acc.type, [acc, levels, query])
    for t in range(4):
        some = ir.Constant(_WORDS, list(range(t, NBYTES, 4)))
        one, other = (builder.sext(builder.shuffle_vector(part, part, some), _WORDS) for part in (levels, query))
        acc = builder.add(acc, builder.mul(one, other))
    return acc


def tbl(builder: ir.IRBuilder, table: ir.Value, index: ir.Value) -> ir.Value:
    """table[index] for every byte, index under 16; <16 x i8> all."""
    if is_arm64(builder.module.triple):
        return _call(builder, "llvm.aarch64.neon.tbl1.v16i8", table.type, [table, index])
    found = ir.Constant(_BYTES, ir.Undefined)
    for i in range(NBYTES):
        lane = ir.Constant(ir.IntType(32), i)
        value = builder.extract_element(table, builder.extract_element(index, lane))
        found = builder.insert_element(found, value, lane)
    return found


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(builder.module.declare_intrinsic(name, fnty=kind), arguments)
