"""The text of the kernels: files of source/, and the one matrix instruction whose operands must be listed."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

SCANS = ("wgmma", "mma", "dp4a")


@cache
def scan_source(instruction: str, queries: int) -> str:
    """The scan by an instruction of SCANS for so many queries a block."""
    parts = [_text("types.cuh"), _text("codes.cuh"), _text("keys.cuh")]
    if instruction == "wgmma":
        parts.append(_wgmma(queries))
    if instruction == "mma":
        parts.append(_text("mma.cuh"))
    return "\n".join([*parts, _text(f"scan_{instruction}.cu")])


@cache
def source(name: str) -> str:
    """What is not a scan: "topk", "pack", "send" or "encode"."""
    if name == "encode":
        return "\n".join([_text("types.cuh"), _text("votes.cuh"), _text("encode.cu")])
    return "\n".join(["#define NT 1", _text("types.cuh"), _text("codes.cuh"), _text("keys.cuh"), _text(f"{name}.cu")])


@cache
def lists_source(name: str, queries: int = 8) -> str:
    """What searches lists: "probe", "scan", by so many queries a block, or "best"."""
    headers = map(_text, ("types.cuh", "codes.cuh", "keys.cuh", "lists.cuh", "mma.cuh"))
    return "\n".join([f"#define NT {queries}", *headers, _text(f"lists_{name}.cu")])


def _text(name: str) -> str:
    return files("polarindex.gpu").joinpath("source", name).read_text(encoding="utf-8")


def _wgmma(columns: int) -> str:
    """64 rows x 32 coordinates of int8 in registers times 32 x `columns` in shared memory, added to int32 registers."""
    count = columns // 2  # accumulators a thread
    sums = ", ".join(f"%{i}" for i in range(count))
    first = ", ".join(f"%{count + i}" for i in range(4))
    outputs = ", ".join(f'"+r"(d[{i}])' for i in range(count))
    return f"""
template <int N> struct Wgmma;
template <> struct Wgmma<{columns}> {{
  static __device__ __forceinline__ void add(
      int (&d)[{count}], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t desc, int keep) {{
    asm volatile("{{.reg .pred p; setp.ne.b32 p, %{count + 5}, 0;\\n"
      "wgmma.mma_async.sync.aligned.m64n{columns}k32.s32.s8.s8 {{{sums}}}, {{{first}}}, %{count + 4}, p;\\n}}"
      : {outputs}
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(desc), "r"(keep));
  }}
}};
"""
