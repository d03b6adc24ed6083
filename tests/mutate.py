"""Damage a saved index in thousands of ways, load it, and use whatever loads.

    python tests/mutate.py --kind ivf --rounds 20000 --seed 0        random mutations
    python tests/mutate.py --kind flat --truncate                    every file cut at every byte

Law:       a load is an index, or FormatError, FileNotFoundError or PermissionError. It takes no more memory than twice
           the files, and what a new index of such arguments takes. With checksums an index answers as before it was
           damaged. One whose checksums are right for other bytes, or were not asked for, may answer wrongly: it does
           not crash or hang, and raises nothing but ValueError of vectors in it that no index takes (knn_graph).
How:       rounds run in a child process, so that a crash is seen; the files it died of are kept, and its number says
           how to make them again. Mutations draw from `Draw`, so that fuzz_load.py can drive them too."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

import polarindex as pi
from polarindex.checks import LARGEST_ID
from polarindex.indexes import reading
from polarindex.indexes.lock import LOCK_FILES
from polarindex.indexes.manifest import sealed
from polarindex.kernels.limits import MAX_DIMS
from polarindex.quantizers import make_quantizer

DIM, ROWS = 20, 40
SLACK = 4 << 20  # bytes beside twice the files: the manifest as objects, and modules
A_DIM = 1024  # bytes a dimension of the manifest's: a quantizer is made before its first array is read
HANGS = 180  # seconds: machines that many share stand still at times
ADDRESSES = 6 << 30  # bytes of a child: an absurd allocation fails
NUMBERS = (0, 1, -1, 2, 3, 7, 16, 17, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63))
STRANGE = (None, True, False, "", "x", "../x", "/etc/passwd", "a\0b", [], {}, [[]], 0.5, -0.0, 1e300, 10**400, "auto")
SHAPES = ("()", "(0,)", "(-1,)", "(40,)", "(2**62,)", "(4611686018427387904,)", "(3037000500, 3037000500, 4)", "(1e9,)")
TYPES = ("<f4", "<f8", ">f4", "|O", "<u4", "<i8", "|V8", "<M8[s]", "|S999999999", "<U999999999", "|b1", "<c16")
WORDS = (0, 2**32 - 1, 0x7F800000, 0x7FC00000, 0x7FFFFFFF, 0x80000000, 0x7F7FFFFF)  # inf, NaN, largest float32, ...
MAGICS = (b"\x93NUMPY\x01\0", b"\x93NUMPY\x01\0", b"\x93NUMPY\x02\0", b"PK\x03\x04\0\0\0\0", b"\x80\x04cos\nsys")
SPOILT = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)  # by an earlier one
CELLS: dict[str, list[tuple[str, float, str, dict[str, Any]]]] = {
    "flat": [
        ("eden", 4, "int8", {}),
        ("polarquant", 4, "float16", {}),
        ("turboquant-prod", 3, "float32", {}),
        ("eden", 8, "none", {}),
        ("trellis", 2, "none", {"codes": "spectral", "factor_bits": 16}),
    ],
    "ivf": [
        ("eden", 4, "float32", {}),
        ("polarquant", 4, "int8", {}),
        ("turboquant-prod", 3, "float16", {}),
        ("eden", 4, "none", {}),
    ],
}

Files = dict[str, bytes]  # by path inside the index's directory


class Draw:
    """Choices by a seed; fuzz_load.py has another one."""

    def __init__(self, *seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def below(self, n: int) -> int:
        return int(self._rng.integers(max(n, 1)))

    def pick(self, options: Sequence[Any]) -> Any:
        return options[self.below(len(options))]


class Broken(AssertionError):
    """The law does not hold."""


# --- what is damaged


def rows(n: int, seed: int) -> np.ndarray:
    """Most of whose energy is along few axes."""
    spread = np.random.default_rng(seed).standard_normal((n, DIM)) / np.sqrt(np.arange(1, DIM + 1))
    return spread.astype(np.float32) + 1


def made(kind: str, cell: tuple[str, float, str, dict[str, Any]], number: int) -> Any:
    quantizer, bits, store, others = cell
    settings = {"quantizer": quantizer, "bits": bits, "store": store, "metric": ("l2", "cosine", "ip")[number % 3]}
    settings |= others
    index = pi.FlatIndex(DIM, **settings) if kind == "flat" else pi.IVFIndex(DIM, nlist=5, **settings)
    if kind == "ivf" or number % 2 == 0:  # else rows are held
        index.fit(rows(200, 1))
    index.add(rows(ROWS, 2), ids=None if number == 1 else 2**32 * (number % 2) + 3 * np.arange(ROWS))
    index.remove(index.ids[::9])
    return index


def read(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def originals(kind: str, cells: int) -> list[tuple[Files, list[np.ndarray]]]:
    """Saved indexes, and their answers. What is computed once in a process, and is no file's memory, is done here."""
    for name, widths in pi.CELLS.items():
        for bits in widths:
            make_quantizer(name, DIM, bits)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, cell in enumerate(CELLS[kind][:cells]):
            path = Path(folder) / str(number)
            made(kind, cell, number).save(path)
            found.append((read(path), answers(pi.load(path))))
            path = path.with_name(f"{number} with a log")  # and a segment of its own: manifests may change places
            made(kind, cell, number).save(path)
            for seed in (6, 7):
                with pi.open(path) as index:
                    index.remove(index.ids[::11])
                    index.upsert([int(index.ids[1]), 500 + seed], rows(2, seed))
            found.append((without_lock(read(path)), answers(pi.load(path))))
    return found


def without_lock(files: Files) -> Files:
    """Without the files of the lock, of which each round makes its own."""
    return {name: data for name, data in files.items() if name not in LOCK_FILES}


# --- what is done with what loads


def answers(index: Any, trusted: bool = True) -> list[np.ndarray]:
    """All that can be asked; not `trusted`: of an index that may hold vectors that are no numbers."""
    ids = index.ids
    known = np.unique(ids[(ids >= 0) & (ids <= LARGEST_ID)])
    q = rows(3, 3)
    found = [ids, index.reconstruct(known), *index.range_search(q, 14.0)]
    with contextlib.suppress(() if trusted else ValueError):
        graph = index.knn_graph(2)
        found += [graph.indptr, graph.indices, graph.distances]
    for more in ({}, {"filter": known[::2]}, {"rerank": 0, "return_error": True}, {"query_bits": 16}):
        found += index.search(q, 3, **more)
    index.info()
    return found


def changed(index: Any) -> None:
    """Rows taken and given; a damaged file may hold ids that an index refuses to touch."""
    ids = index.ids
    known = np.unique(ids[(ids >= 0) & (ids < LARGEST_ID)])
    with contextlib.suppress(ValueError):
        index.remove(known[::3])
        index.upsert(known[:5], rows(len(known[:5]), 4))
        index.add(rows(3, 5))
    index.search(rows(3, 3), 3)


def loaded(path: Path, size: int, **how: bool) -> Any:
    """The index at a path, None where it is refused; Broken for any other error, and where it takes too much memory."""
    most = 2 * size + SLACK + A_DIM * _dim(path)
    index, took = _load(path, how)
    if took > most:  # Python makes its table of interned strings anew after many loads, which takes 4 to 8 MB
        took = _taken_by_a_new_process(path, how)
    if took > most:
        raise Broken(f"{took:,} bytes were taken for files of {size:,}")
    return index


def _load(path: Path, how: dict[str, bool]) -> tuple[Any, int]:
    """The index, None where it is refused, and how many bytes were taken at the most."""
    tracemalloc.start()
    index, before = None, tracemalloc.get_traced_memory()[0]
    try:
        index = pi.load(path, **how)
    except (FileNotFoundError, PermissionError):
        pass
    except pi.FormatError as error:
        if "\n" in str(error) or str(path.parent) not in str(error):
            raise Broken(f"the message names no file, or has many lines: {error}") from error
    finally:
        took = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    return index, took


def _taken_by_a_new_process(path: Path, how: dict[str, bool]) -> int:
    """What `_load` says in one, where nothing is left of earlier loads."""
    command = [sys.executable, __file__, "--measure", str(path), json.dumps(how)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def opened(path: Path, draw: Draw, wanted: list[np.ndarray] | None) -> None:
    """Open the index at a path, change it and sync; what was whole must then be loaded with these changes."""
    try:
        index = pi.open(path, mmap=bool(draw.below(2)))
    except (FileNotFoundError, PermissionError, pi.FormatError):
        return
    with contextlib.suppress(() if wanted is not None else ValueError), index:  # else: of ids that are there twice
        changed(index)
    if wanted is not None:
        again, ids = pi.load(path), np.sort(index.ids)
        if not np.array_equal(np.sort(again.ids), ids):
            raise Broken("what was synced is not there")
        if not np.array_equal(again.reconstruct(ids), index.reconstruct(ids)):
            raise Broken("what was synced is there otherwise")


def _dim(path: Path) -> int:
    """The dimensions of the manifest, where an index can have so many."""
    try:
        dim = json.loads(reading.read_all(path / "manifest.json", 1 << 20))["parameters"]["dim"]
    except (*SPOILT, OSError):
        return 0
    return dim if isinstance(dim, int) and 0 < dim <= MAX_DIMS else 0


def tried(path: Path, draw: Draw, wanted: list[np.ndarray] | None) -> int:
    """Load the index at a path in every way; how many loads succeeded. `wanted`: the answers of a checked index."""
    size = sum(entry.lstat().st_size for entry in path.rglob("*")) if path.is_dir() else 0
    count = 0
    for how in ({}, {"verify": False}, {"mmap": True}, {"mmap": True, "verify": True}, {"mmap": True, "verify": False}):
        index = loaded(path, size, **how)
        if index is None:
            continue
        count += 1
        found = answers(index, trusted=False)
        whole = how in ({}, {"mmap": True, "verify": True})
        if whole and wanted is not None and not all(map(np.array_equal, found, wanted)):
            raise Broken("another answer was accepted")
        if draw.below(4) == 0:
            changed(index)
    problems = pi.verify(path) if path.is_dir() else []
    if wanted is None and not problems and count == 0:
        raise Broken("verify has nothing to say of what does not load")
    if path.is_dir() and draw.below(3) == 0:
        opened(path, draw, None if problems else wanted)
    return count


# --- how it is damaged: each takes files, and tells whether to make checksums right again


def flip(files: Files, draw: Draw) -> None:
    name = draw.pick(sorted(files))
    data = bytearray(files[name])
    for _ in range(1 + draw.below(4)):
        if data:
            data[draw.below(len(data))] ^= draw.pick((1 << draw.below(8), 255))
    files[name] = bytes(data)


def splice(files: Files, draw: Draw) -> None:
    """Bytes removed, or others put in: zeros, noise, or a piece of another file."""
    name = draw.pick(sorted(files))
    data, at, count = files[name], draw.below(len(files[name]) + 1), draw.pick((1, 2, 4, 64, 200))
    source = files[draw.pick(sorted(files))]
    start = draw.below(len(source))
    piece = draw.pick((b"", bytes(count), source[start : start + count]))
    gone = draw.pick((0, count, len(piece)))
    files[name] = data[:at] + piece + data[at + gone :]


def cut(files: Files, draw: Draw) -> None:
    name = draw.pick(sorted(files))
    files[name] = files[name][: draw.below(len(files[name]))]


def swap(files: Files, draw: Draw) -> None:
    one, other = draw.pick(sorted(files)), draw.pick(sorted(files))
    files[one], files[other] = files[other], files[one]


def drop(files: Files, draw: Draw) -> None:
    del files[draw.pick(sorted(files))]


def values(files: Files, draw: Draw) -> None:
    """Words of an array, or of a log, replaced by extreme ones."""
    name = draw.pick([name for name in sorted(files) if name.endswith(".npy") or name.startswith("log-")])
    data, start = bytearray(files[name]), 128 if name.endswith(".npy") else 0
    for _ in range(draw.pick((1, 3, 50))):
        at = start + 4 * draw.below((len(data) - start) // 4)
        data[at : at + 4] = draw.pick(WORDS).to_bytes(4, "little")
    files[name] = bytes(data)


def shape(files: Files, draw: Draw) -> None:
    """Another header."""
    name = draw.pick([name for name in sorted(files) if name.endswith(".npy")])
    order = draw.pick(("False", "False", "True"))
    text = f"{{'descr': '{draw.pick(TYPES)}', 'fortran_order': {order}, 'shape': {draw.pick(SHAPES)}, }}"
    if draw.below(4) == 0:
        text = draw.pick(("__import__('os').abort()", "[" * 5000, "-" * 5000 + "1", "{" * 100, "'" * 7))
    start = 10 + int.from_bytes(files[name][8:10], "little")
    body = text.encode() + b" " * (-(10 + len(text) + 1) % 64) + b"\n"
    files[name] = draw.pick(MAGICS) + len(body).to_bytes(2, "little") + body + files[name][start:]


def entry(files: Files, draw: Draw) -> None:
    """Entries of the manifest changed, dropped, or put elsewhere."""
    manifest = json.loads(files["manifest.json"])
    _change(manifest, draw)
    files["manifest.json"] = json.dumps(manifest).encode()


def told(files: Files, draw: Draw) -> None:
    """Entries of a log's first record changed, dropped, or put elsewhere, with the right length of its text."""
    name = draw.pick([name for name in sorted(files) if name.startswith("log-")])
    length = int.from_bytes(files[name][8:16], "little")
    entries = json.loads(files[name][24 : 24 + length])
    _change(entries, draw)
    text = json.dumps(entries).encode()
    data = files[name]
    files[name] = data[:8] + len(text).to_bytes(8, "little") + data[16:24] + text + data[24 + length :]


def _change(entries: Any, draw: Draw) -> None:
    for _ in range(1 + draw.below(2)):
        *path, last = draw.pick(list(_paths(entries)))
        parent = entries
        for key in path:
            parent = parent[key]
        if draw.below(4) == 0 and isinstance(parent, dict):
            del parent[last]
        elif draw.below(4) == 0 and isinstance(parent, dict):
            parent[draw.pick(("x", "../../x.npy", "dim", "ids.npy", ""))] = parent.pop(last)
        elif isinstance(parent[last], int) and draw.below(3):
            parent[last] = draw.pick((*NUMBERS, parent[last] + 1, parent[last] - 1, 2 * parent[last]))
        else:
            parent[last] = draw.pick((*STRANGE, *NUMBERS))


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(inner, (dict, list)):
            yield from _paths(inner, (*path, key))


def text(files: Files, draw: Draw) -> None:
    """A manifest that is hardly JSON."""
    good = files["manifest.json"]
    number = draw.below(6)
    files["manifest.json"] = (
        b"[" * 100_000,
        b'{"a":' * 990 + b"1" + b"}" * 990,
        good.replace(b'"rows":', b'"rows": 1, "rows":'),
        good.replace(b'"state":', b'"x": [NaN, Infinity], "state":'),
        good + b" " * (2 << 20),
        good.decode().encode("utf-16"),
    )[number]


OPERATIONS: tuple[Callable[[Files, Draw], None], ...] = (
    flip, flip, splice, splice, cut, swap, drop, values, values, values, shape, entry, entry, entry, entry, text,
    told, told,
)  # fmt: skip


def mutated(bases: list[tuple[Files, list[np.ndarray]]], draw: Draw) -> tuple[Files, list[np.ndarray] | None]:
    """Damaged files, and the answers that only undamaged ones could give; None where checksums were made right."""
    files, wanted = draw.pick(bases)
    files = dict(files)
    forged = draw.below(2) == 1
    with contextlib.suppress(*SPOILT):
        if draw.below(12) == 0:  # parts of another index
            other = draw.pick(bases)[0]
            names = {Path(name).name: name for name in files}
            for name, data in other.items():
                if draw.below(3) == 0:
                    files[names.get(Path(name).name, name)] = data
        for _ in range(1 + draw.below(2)):
            draw.pick(OPERATIONS)(files, draw)
    if forged:
        seal(files)
    return files, None if forged else wanted


def seal(files: Files) -> None:
    """Make lengths and checksums right, as far as the manifest can be read."""
    try:
        manifest = json.loads(files["manifest.json"])
        folder, facts = manifest["segments"][0]["name"], manifest["segments"][0]["files"]
        sums = [np.empty(0, np.uint64)]
        for file, about in facts.items():
            data = files[f"{folder}/{file}"]
            parts = [data[at : at + reading.BLOCK_BYTES] for at in range(0, len(data), reading.BLOCK_BYTES)]
            sums.append(np.array([xxhash.xxh3_64_intdigest(part) for part in parts], np.uint64))
            about.update(bytes=len(data), checksum=reading.digest(sums[-1]))
        everything = np.concatenate(sums)
        files[f"{folder}/checksums.npy"] = reading.header(everything.shape, everything.dtype) + everything.tobytes()
    except SPOILT:
        pass
    with contextlib.suppress(*SPOILT):
        manifest = manifest if "manifest" in locals() else json.loads(files["manifest.json"])
        if "log" in manifest:
            with contextlib.suppress(*SPOILT):
                data = files[manifest["log"]["name"]]
                manifest["log"].update(bytes=len(data), checksum=xxhash.xxh3_64_hexdigest(data))
        files["manifest.json"] = json.dumps(sealed(manifest)).encode()


def written(files: Files, path: Path, draw: Draw) -> None:
    """Files on the disk; of one in some, something else in its place."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for name, data in files.items():
        with contextlib.suppress(OSError, ValueError):  # names that cannot be
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    if files and draw.below(20) == 0:
        name = path / draw.pick(sorted(files))
        with contextlib.suppress(OSError, ValueError):
            draw.pick((_moved_out, _pipe, _folder, _device))(name)
    if draw.below(20) == 0:
        name = path / draw.pick(LOCK_FILES)
        name.write_text("process 1 on elsewhere")
        draw.pick((_moved_out, _pipe, _folder, _device))(name)


def _pipe(name: Path) -> None:
    name.unlink()
    os.mkfifo(name)


def _folder(name: Path) -> None:
    name.unlink()
    name.mkdir()


def _device(name: Path) -> None:
    name.unlink()
    name.symlink_to("/dev/zero")


def _moved_out(name: Path) -> None:
    """A link to what was there."""
    away = name.with_name(f"away-{name.name}")
    name.rename(away)
    name.symlink_to(away)


# --- rounds


def truncations(bases: list[tuple[Files, list[np.ndarray]]]) -> Iterator[Files]:
    for files, _ in bases:
        for name, data in files.items():
            for length in range(len(data)):
                yield files | {name: data[:length]}


def child(kind: str, rounds: int, seed: int, first: int, every: int, cells: int, place: Path) -> None:
    """Do rounds, telling in a file which one it is."""
    warnings.simplefilter("ignore")
    bases = originals(kind, cells)
    if not all(np.array_equal(a, b) for a, b in zip(bases[0][1], originals(kind, 1)[0][1], strict=True)):
        raise Broken("the answers of an index differ from run to run")
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    cuts = itertools.islice(enumerate(truncations(bases[-1:])), 0, None, every) if every else None  # which has a log
    count = loads = 0
    for number in range(first, first + rounds):
        draw = Draw(seed, number)
        (place / "round").write_text(str(number))
        faulthandler.dump_traceback_later(HANGS, exit=True)
        if cuts is None:
            files, wanted = mutated(bases, draw)
            written(files, place / "index", draw)
            loads += tried(place / "index", draw, wanted)
        else:
            files = next((files for _, files in cuts), None)
            if files is None:
                break
            written(files, place / "index", Draw(1))
            for how in ({}, {"verify": False}, {"mmap": True}):
                if loaded(place / "index", 1 << 20, **how) is not None and how.get("verify") is not False:
                    if not how.get("mmap"):
                        raise Broken("a truncated file was read")
        count += 1
    faulthandler.cancel_dump_traceback_later()
    sys.stdout.write(f"{kind}: {count} rounds, seed {seed}; {loads} loads gave an index\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=sorted(CELLS), default="flat")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first round")
    parser.add_argument("--cells", type=int, default=5, help="how many quantizers and stores")
    parser.add_argument("--truncate", action="store_true", help="cut every file at every byte instead")
    parser.add_argument("--every", type=int, default=1, help="of the cuts, one in so many")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        for kind in CELLS:
            originals(kind, 1)
        sys.stdout.write(str(_load(Path(asked.measure[0]), json.loads(asked.measure[1]))[1]))
        return 0
    if asked.child:
        rounds = 10**9 if asked.truncate else asked.rounds
        every = asked.every if asked.truncate else 0
        child(asked.kind, rounds, asked.seed, asked.first, every, asked.cells, asked.child)
        return 0
    return watched([sys.executable, __file__, *sys.argv[1:]])


def watched(command: list[str]) -> int:
    """Run rounds in a child; what it died of is kept."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    place = Path(tempfile.mkdtemp(prefix="polarindex-mutate-", dir=shared))
    code = subprocess.run([*command, "--child", str(place)]).returncode
    if code == 0:
        shutil.rmtree(place)
        return 0
    number = (place / "round").read_text() if (place / "round").exists() else "none"
    sys.stderr.write(f"round {number} ended with exit code {code}; its files are in {place / 'index'}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
