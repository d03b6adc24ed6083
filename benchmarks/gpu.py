"""A GPU index beside its card: scans, whole searches and coding, the card's copy rate, and PyTorch's brute force.

    python -m benchmarks.gpu [--quick]

Writes gpu.json of this machine. A million Gaussian rows that were coded on the device, and queries that are on the
device and rotated; times are medians of CUDA events, in milliseconds: `steps` one by one, `run` all of them, `graph`
the same as a CUDA graph. `torch` is the product in float16 with all rows and `topk` of it, where PyTorch is installed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.kept import keep
from polarindex.bench.result import machine
from polarindex.gpu.coding import GpuCoding
from polarindex.gpu.device import device
from polarindex.gpu.encode import Coder, Part, coder
from polarindex.gpu.flat import GpuFlatIndex
from polarindex.gpu.layout import table_words
from polarindex.gpu.mirror import Mirror
from polarindex.gpu.search import Rows, Search, chosen
from polarindex.indexes.flat import FlatIndex

ROWS, K = 1_000_000, 10
GRID = [(1024, 4, (1, 16, 128, 256, 1024)), (1024, 8, (1, 1024)), (1024, 3, (1, 1024)), (1024, 2, (1, 1024))]
GRID += [(1024, 1, (1, 1024)), (128, 4, (1, 256, 1024)), (1536, 4, (1, 1024))]


def timed(cp: Any, call: Callable[[], object], repeats: int = 30) -> float:
    """Median milliseconds of a call on the current stream."""
    for _ in range(3):
        call()
    pairs = [(cp.cuda.Event(), cp.cuda.Event()) for _ in range(repeats)]
    for begin, end in pairs:
        begin.record()
        call()
        end.record()
    cp.cuda.get_current_stream().synchronize()
    return float(np.median([cp.cuda.get_elapsed_time(begin, end) for begin, end in pairs]))


def graphed(cp: Any, call: Callable[[], object]) -> float:
    """The same of a graph of the call."""
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        call()
        stream.synchronize()
        stream.begin_capture()
        call()
        graph = stream.end_capture()
        return timed(cp, lambda: graph.launch(stream))


def copy_rate(cp: Any) -> float:
    """Bytes a second that are read and written by a copy on the device."""
    x = cp.random.randint(0, 256, 1 << 30, dtype=cp.uint8)
    y = cp.empty_like(x)
    return 2e3 * x.nbytes / timed(cp, lambda: cp.copyto(y, x))


def coded(cp: Any, index: GpuFlatIndex, made: Coder, n: int, memory: int | None = None) -> Rows:
    """Random rows, coded and packed on the device, where `memory` holds their tiles, and copied from there."""
    mirror, stage = Mirror(index.quantizer, 0, memory), index.quantizer.stages[0]
    mirror.reserve(cp, n, {"scales": np.dtype(np.float32), "shifts": np.dtype(np.float32)})
    mu = cp.zeros(index.dim, cp.float32)
    step = 1 << 17
    for start in range(0, n, step):
        x = cp.random.standard_normal((min(step, n - start), index.dim), dtype=cp.float32)
        words, sums = made.code(cp, x, mu)
        part = slice(start, start + len(x))
        mirror.pack(cp, words if mirror.layout.bits < 8 else levels(cp, stage, words), None, start)
        mirror.column("scales")[part] = (sums[0] / sums[2]).astype(cp.float32)
        mirror.column("shifts")[part] = (-sums[0]).astype(cp.float32)
    cp.cuda.get_current_stream().synchronize()
    columns, beyond = (mirror.column("scales"), mirror.column("shifts")), mirror.beyond
    return Rows(mirror.layout, n, mirror.column("tiles"), *columns, None, table_words(stage, mirror.layout), beyond)


def levels(cp: Any, stage: Any, words: Any) -> Any:
    """Codes of 8 bits as the levels that are packed."""
    return cp.asarray(stage.table.view(np.uint8))[words.view(cp.uint8)].view(cp.uint32)


def scan_rows(cp: Any, dim: int, bits: int, batches: tuple[int, ...], n: int, rate: float) -> list[dict[str, Any]]:
    index = GpuFlatIndex(dim, bits=bits)
    coding: GpuCoding = index._coding
    made = coding.coder
    if made is None:
        raise SystemExit(f"rows of {dim} coordinates are not coded on the device")
    rows, mu, found = coded(cp, index, made, n), cp.zeros(dim, cp.float32), []
    for nq in batches:
        q = cp.random.standard_normal((nq, dim), dtype=cp.float32)

        def prepare(held: int, q: Any = q) -> tuple[Any, Any]:
            return made.queries(cp, q, mu, 2.0, rows.layout.padded, held)

        search = Search(device(0), cp, rows, prepare, nq, K, chosen(cp, None, n))
        search.run()
        search.results()
        row: dict[str, Any] = {"n": n, "dim": dim, "bits": bits, "nq": nq, "k": K, "shape": search.shape._asdict()}
        row["steps"] = {step: timed(cp, getattr(search, step)) for step in ("sample", "threshold", "filter")}
        search.threshold()
        search.filter()
        row["steps"]["best"] = timed(cp, search.best)
        row["hits"] = float(search.counts[:nq].mean())
        row["run"], row["graph"] = timed(cp, search.run), graphed(cp, search.run)
        read = n * (rows.layout.tile_bytes // 64 + 8)  # codes, scales and shifts
        row["of_copy_rate"] = read / (row["steps"]["filter"] / 1e3) / rate
        row["tops"] = 2 * n * rows.layout.padded * nq / row["steps"]["filter"] / 1e9
        found.append(row)
        print({name: row[name] for name in ("dim", "bits", "nq", "run", "graph", "of_copy_rate", "tops")}, flush=True)
    return found


def seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Median seconds of a call that ends when its work is done."""
    call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def coding_rows(cp: Any, n: int) -> list[dict[str, Any]]:
    """Coding from the device's memory; from pinned memory of the host and back, beside a copy there; and by `add`."""
    found = []
    for dim in (128, 384, 768, 1024, 1536):
        made = coder(device(0), GpuFlatIndex(dim).quantizer)
        if made is None:
            continue
        x, mu = cp.random.standard_normal((n, dim), dtype=cp.float32), cp.zeros(dim, cp.float32)
        row: dict[str, Any] = {"dim": dim}
        row["device_rows_s"] = n / timed(cp, lambda made=made, x=x, mu=mu: made.code(cp, x, mu), 7) * 1e3
        pinned = pinned_rows(x[: n // 4])
        row |= pinned_rates(cp, made, pinned, x)
        here = np.array(pinned)
        for name, index, rows in (
            ("add_rows_s", GpuFlatIndex(dim), here),
            ("add_pinned_rows_s", GpuFlatIndex(dim), pinned),
            ("add_device_rows_s", GpuFlatIndex(dim), x[: n // 4]),
            ("add_on_host_rows_s", FlatIndex(dim), here),
        ):
            index.add(here[:2048])
            begin = time.perf_counter()
            index.add(rows)
            row[name] = len(rows) / (time.perf_counter() - begin)
        found.append(row)
        print(found[-1], flush=True)
    return found


def pinned_rows(x: Any) -> Any:
    """Rows of the device in pinned memory of the host."""
    import cupyx

    pinned = cupyx.empty_pinned(x.shape, x.dtype)
    x.get(out=pinned)
    return pinned


def pinned_rates(cp: Any, made: Coder, pinned: Any, room: Any) -> dict[str, float]:
    """Rows a second from pinned memory to codes in pinned memory, and bytes a second of both and of a copy alone."""
    centre = np.zeros(pinned.shape[1], np.float32)
    slices = [slice(at, min(at + made.step, len(pinned))) for at in range(0, len(pinned), made.step)]

    def copy() -> None:
        for part in slices:
            room[part].set(pinned[part])
        cp.cuda.get_current_stream().synchronize()

    def code() -> None:
        parts = (Part(part.start, part.stop, [pinned[part]], lambda part=part: pinned[part]) for part in slices)
        for _ in made.coded(parts, centre):
            pass

    alone, coded = seconds(copy), seconds(code)
    rates = {"pcie_bytes_s": pinned.nbytes / alone, "pinned_bytes_s": pinned.nbytes / coded}
    return rates | {"pinned_rows_s": len(pinned) / coded, "pinned_of_pcie": alone / coded}


def torch_rows(n: int) -> list[dict[str, Any]]:
    try:
        import torch
    except ImportError:
        return []
    found = []
    for dim, batches in ((1024, (1, 16, 256, 1024)), (128, (1, 256, 1024))):
        x = torch.randn(n, dim, dtype=torch.float16, device="cuda")
        for nq in batches:
            q = torch.randn(nq, dim, dtype=torch.float16, device="cuda")
            times = []
            for _ in range(12):
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                (q @ x.T).topk(K)
                end.record()
                end.synchronize()
                times.append(begin.elapsed_time(end))
            found.append({"dim": dim, "nq": nq, "ms": float(np.median(times[2:]))})
            print("torch", found[-1], flush=True)
    if hasattr(torch, "_int_mm"):
        a = torch.randint(-127, 127, (8192, 8192), dtype=torch.int8, device="cuda")
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        for _ in range(3):
            torch._int_mm(a, a.T)
        begin.record()
        for _ in range(10):
            torch._int_mm(a, a.T)
        end.record()
        end.synchronize()
        found.append({"int8_tops": 2 * 8192**3 * 10 / begin.elapsed_time(end) / 1e9})
        print("torch", found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows; writes nothing")
    options = parser.parse_args()
    n = ROWS // 10 if options.quick else ROWS
    with device(0).use("measuring") as cp:
        rate = copy_rate(cp)
        print(f"{device(0).name}: copies {rate / 1e12:.2f} TB/s", flush=True)
        cp.get_default_memory_pool().free_all_blocks()
        scans = [row for dim, bits, batches in GRID for row in scan_rows(cp, dim, bits, batches, n, rate)]
        coding = coding_rows(cp, n)
        cp.get_default_memory_pool().free_all_blocks()
    facts = {"environment": machine(), "card": device(0).name, "copy_bytes_s": rate}
    result = {**facts, "scans": scans, "coding": coding, "torch": torch_rows(n)}
    if not options.quick:
        keep("gpu", result)


if __name__ == "__main__":
    main()
