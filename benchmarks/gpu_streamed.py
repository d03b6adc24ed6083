"""Indexes larger than a GPU's memory, and on several GPUs: beside plain copies over the bus, and beside one GPU.

    python -m benchmarks.gpu_streamed [--quick]

Writes gpu_streamed.json of this machine. `streams` and `filters` are searches of Gaussian rows that were coded on the
device, with queries there, from the sample to sorted results on the host; `several` is `search` from NumPy to NumPy.
Times are medians of a clock on the wall, in milliseconds. The plain copy is of the same pinned memory to the same
buffers, with nothing else to do.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu import coded
from benchmarks.kept import keep
from polarindex.bench.result import machine
from polarindex.gpu.device import device
from polarindex.gpu.encode import Coder, coder
from polarindex.gpu.flat import GpuFlatIndex
from polarindex.gpu.search import Chosen, Rows, Search, chosen
from polarindex.gpu.streamed import StreamedSearch
from polarindex.gpu.tiles import Tiles

Row = dict[str, Any]
Mask = NDArray[np.bool_]

DIM, BITS, K = 1024, 4, 10
ROWS = 1 << 22  # 2.1 GB of codes
MEMORY = {"a quarter": 1 << 29, "a tenth": 200_000_000}
BATCHES = (1, 16, 256, 1024, 4096)
SEVERAL_DIM, SEVERAL_ROWS, SEVERAL_BATCHES = 256, 1 << 23, (1, 16, 256, 1024, 4096)


def waited(call: Callable[[], object], repeats: int = 9) -> float:
    """Median milliseconds of a call that waits for its results."""
    for _ in range(2):
        call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1e3 * float(np.median(times))


def plain_copy(cp: Any, tiles: Tiles, blocks: int) -> float:
    """Bytes a second of nothing but copies of whole blocks to the buffers."""

    def copy() -> None:
        for block in range(blocks):
            there, here = tiles.lanes[block % 2].address, tiles.address(block)
            cp.cuda.runtime.memcpyAsync(there, here, tiles.block_bytes, 1, tiles.stream.ptr)
        tiles.stream.synchronize()

    return 1e3 * blocks * tiles.block_bytes / waited(copy)


def search_of(cp: Any, made: Coder, rows: Rows, nq: int, which: Chosen) -> Callable[[], object]:
    """A search of `nq` new queries, all of it but their preparation and memory."""
    kind = Search if rows.beyond is None else StreamedSearch
    q, mu = cp.random.standard_normal((nq, DIM), dtype=cp.float32), cp.zeros(DIM, cp.float32)

    def prepare(held: int) -> tuple[Any, Any]:
        return made.queries(cp, q, mu, 2.0, rows.layout.padded, held)

    search = kind(device(0), cp, rows, prepare, nq, K, which)

    def run() -> object:
        search.arguments["raised"] = 0
        search.run()
        return search.results()

    return run


def sent_bytes(rows: Rows, which: Chosen) -> int:
    """What a search of these tiles copies."""
    if rows.beyond is None:
        return 0
    numbers = np.arange(which.tile_count) if which.numbers is None else which.numbers
    return int((numbers >= rows.beyond.home.resident).sum()) * rows.layout.tile_bytes


def streams(cp: Any, index: GpuFlatIndex, made: Coder, n: int) -> tuple[list[Row], list[Row]]:
    """Searches by what the device holds, and by what a filter leaves."""
    found, filtered, rate = [], [], 0.0
    for name, memory in {"everything": None, **MEMORY}.items():
        rows = coded(cp, index, made, n, memory)
        every, beyond = chosen(cp, None, n), rows.beyond
        if beyond:
            rate = plain_copy(cp, beyond, beyond.home.blocks(every.tile_count) - 1)
        for nq in BATCHES:
            ms, sent = waited(search_of(cp, made, rows, nq, every)), sent_bytes(rows, every)
            row: Row = {"memory": memory, "resident": name, "nq": nq, "ms": ms, "sent": sent, "copy_bytes_s": rate}
            found.append(row | {"of_copy_rate": sent / (ms / 1e3) / rate if sent else None})
            print(found[-1], flush=True)
        if name == "a tenth":
            filtered = [filtered_row(cp, made, rows, n, *case, rate) for case in filters(n)]
        del rows, beyond
        cp.get_default_memory_pool().free_all_blocks()
    return found, filtered


def filters(n: int) -> list[tuple[str, Mask]]:
    """Masks (n,): in one range, and at random."""
    rng = np.random.default_rng(0)
    position = np.arange(n)
    found = [("a tenth, in one range", (position >= n // 2) & (position < n // 2 + n // 10))]
    return found + [(f"{share:.2%}, at random", rng.random(n) < share) for share in (0.01, 0.001, 0.0001)]


def filtered_row(cp: Any, made: Coder, rows: Rows, n: int, name: str, mask: Mask, rate: float) -> Row:
    which = chosen(cp, mask.astype(np.uint8), n)
    ms, sent = waited(search_of(cp, made, rows, 1, which)), sent_bytes(rows, which)
    row = {"filter": name, "ms": ms, "sent": sent, "of_copy_rate": sent / (ms / 1e3) / rate}
    print(row, flush=True)
    return row


def several(cp: Any, n: int) -> list[Row]:
    """The same index on one GPU, on two, and on all there are; all of it there, and a quarter."""
    count = cp.cuda.runtime.getDeviceCount()
    if count < 2:
        return []
    index = GpuFlatIndex(SEVERAL_DIM, bits=BITS)
    for _ in range(0, n, 1 << 20):
        index.add(cp.random.standard_normal((min(n, 1 << 20), SEVERAL_DIM), dtype=cp.float32))
    cp.get_default_memory_pool().free_all_blocks()
    q = np.random.default_rng(0).standard_normal((max(SEVERAL_BATCHES), SEVERAL_DIM)).astype(np.float32)
    codes, found = len(index) * SEVERAL_DIM * BITS // 8, []
    for memory in (None, codes // 4 + 9 * len(index)):
        answers: dict[int, Any] = {}
        for gpus in dict.fromkeys((1, 2, count)):
            there = index.to_gpu(list(range(gpus)), None if memory is None else memory // gpus)
            for nq in SEVERAL_BATCHES:
                some = q[:nq]
                distances, ids = there.search(some, K)
                alone = answers.setdefault(nq, (distances, ids))
                if (alone[1] != ids).any() or (alone[0] != distances).any():
                    raise SystemExit(f"{gpus} GPUs answer {nq} queries unlike one")
                ms = waited(lambda there=there, some=some: there.search(some, K))  # type: ignore[misc]
                streamed = sum(one["streamed"] for one in there.info()["device"])
                found.append({"gpus": gpus, "streamed": streamed, "nq": nq, "ms": ms})
                print(found[-1], flush=True)
            del there
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows; writes nothing")
    options = parser.parse_args()
    part = 4 if options.quick else 1
    index = GpuFlatIndex(DIM, bits=BITS)
    made = coder(device(0), index.quantizer)
    if made is None:
        raise SystemExit(f"rows of {DIM} coordinates are not coded on the device")
    with device(0).use("measuring") as cp:
        found, filtered = streams(cp, index, made, ROWS // part)
        together = several(cp, SEVERAL_ROWS // part)
    facts = {"environment": machine(), "card": device(0).name, "dim": DIM, "bits": BITS, "k": K}
    sizes = {"rows": ROWS, "several_dim": SEVERAL_DIM, "several_rows": SEVERAL_ROWS}
    if not options.quick:
        keep("gpu_streamed", {**facts, **sizes, "streams": found, "filters": filtered, "several": together})


if __name__ == "__main__":
    main()
