"""A reader of saved indexes by docs/file-format.md alone, in NumPy: for eden and drive, and as an example.

    python tests/read_index.py my-index

Every row is scored for a query, by its code and, where originals are kept, by these. It is slow, and not careful: it
checks the checksums and trusts the rest."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import xxhash

UPPER = {1: [127], 2: [38, 127], 3: [14, 45, 79, 127], 4: [6, 18, 31, 44, 58, 75, 96, 127]}


Rows = dict[str, np.ndarray]  # by name: "codes" (n, words), "scales", "shifts", "ids", "originals", in lists "lists"


class Saved:
    """Ids (n,) of the rows, in the order of their `scores` (n,) and `exact_scores` (n,) for a query (dim,)."""

    def __init__(self, folder: str | Path) -> None:
        self.manifest = read_manifest(Path(folder) / "manifest.json")
        (segment,) = self.manifest["segments"]
        arrays = read_arrays(Path(folder) / segment["name"], segment["files"])
        self.parameters = self.manifest["parameters"]
        (self.stage,) = self.manifest["layout"]
        self.mu, self.centroids = arrays["centre"], arrays.get("centroids")
        self.flat = self.manifest.get("kind", "flat") == "flat"
        state = self.manifest["state"]
        law = state.get("factors")
        rows = flat_rows(arrays, segment["rows"], law) if self.flat else list_rows(arrays, state, self.stage["words"])
        for n, changes in read_log(Path(folder), self.manifest.get("log")):
            rows = changed_flat(rows, n, changes, law) if self.flat else changed_lists(rows, n, changes, law)
        self.rows, self.ids, self.n = rows, rows["ids"], len(rows["ids"])

    def scores(self, q: np.ndarray) -> np.ndarray:
        """Squared distances or similarities (n,) float32, to the last bit those of a search by codes."""
        metric = self.parameters["metric"]
        factor = 2 if metric == "l2" else 1
        q = unit(q) if metric == "cosine" else q
        centred = q - self.mu
        y = rotated(centred, self.parameters["seed"])
        peak = np.abs(y).max()
        asked = np.rint(y * (127.0 / np.float64(peak))).astype(np.int64) if peak > 0 else np.zeros(len(y), np.int64)
        gain = peak * np.float32(factor / 127)
        codes = levels(self.rows["codes"], self.stage["dims"], self.parameters["bits"])
        products = (codes @ asked).astype(np.float32)
        keys = self.rows["shifts"] + (products * gain) * self.rows["scales"]
        wide, mu = centred.astype(np.float64), self.mu.astype(np.float64)
        if self.flat:
            return (wide @ wide - keys if metric == "l2" else q @ mu + keys).astype(np.float32)
        near, lists = self.centroids - self.mu, self.rows["lists"]
        if metric == "l2":
            offsets = -((centred - near).astype(np.float64) ** 2).sum(axis=1)
            return -(keys + offsets.astype(np.float32)[lists])
        offsets = near.astype(np.float64) @ wide + (near @ mu).astype(np.float32)
        return (keys + offsets.astype(np.float32)[lists] + q @ mu).astype(np.float32)

    def exact_scores(self, q: np.ndarray) -> np.ndarray:
        """The same by the stored originals."""
        x = self.rows["originals"].astype(np.float32)
        if "original_scales" in self.rows:
            x = x * self.rows["original_scales"][:, None]
        if self.parameters["metric"] == "l2":
            return ((x - q).astype(np.float64) ** 2).sum(axis=1).astype(np.float32)
        products = x.astype(np.float64) @ q
        if self.parameters["metric"] == "cosine":
            products /= np.sqrt((x.astype(np.float64) ** 2).sum(axis=1) * (q.astype(np.float64) ** 2).sum())
        return products.astype(np.float32)


# --- files


def read_manifest(path: Path) -> dict:
    manifest = json.loads(path.read_bytes())
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    if manifest["format"] != "polarindex" or manifest["version"] not in (1, 2):
        raise ValueError(f"{path} is of another format or version")
    if xxhash.xxh3_64_hexdigest(text.encode()) != manifest["checksum"]:
        raise ValueError(f"{path} is damaged")
    return manifest


def read_arrays(folder: Path, files: dict) -> dict[str, np.ndarray]:
    sums = np.load(folder / "checksums.npy")
    found = {}
    for file, facts in files.items():
        data = (folder / file).read_bytes()
        blocks = [xxhash.xxh3_64_intdigest(data[at : at + 2**20]) for at in range(0, len(data), 2**20)]
        mine, sums = sums[: len(blocks)], sums[len(blocks) :]
        if len(data) != facts["bytes"] or blocks != mine.tolist():
            raise ValueError(f"{folder / file} is damaged")
        if xxhash.xxh3_64_hexdigest(mine.astype("<u8").tobytes()) != facts["checksum"]:
            raise ValueError(f"{folder / 'checksums.npy'} is damaged")
        found[file.removesuffix(".npy")] = np.load(folder / file)
    return found


def read_log(folder: Path, log: dict | None) -> list[tuple[int, Rows]]:
    """The number of rows after every record, and its arrays."""
    if log is None:
        return []
    data = (folder / log["name"]).read_bytes()[: log["bytes"]]
    if len(data) != log["bytes"] or xxhash.xxh3_64_hexdigest(data) != log["checksum"]:
        raise ValueError(f"{folder / log['name']} is damaged")
    at, records = 0, []
    for _ in range(log["records"]):
        text = json.loads(data[at + 24 : at + 24 + int.from_bytes(data[at + 8 : at + 16], "little")])
        at += 24 + int.from_bytes(data[at + 8 : at + 16], "little")
        arrays = {}
        for name, size in text["arrays"].items():
            arrays[name] = np.load(io.BytesIO(data[at : at + size]))
            at += size
        records.append((text["rows"], arrays))
    return records


# --- rows


def factors(words: np.ndarray, law: dict) -> tuple[np.ndarray, np.ndarray]:
    """Scales and shifts (n,) float32 of words (n,) uint32."""
    scale = (words >> np.uint32(14) << np.uint32(13)).view(np.float32)
    t = (words & 0x3FFF).astype(np.int64)
    t = np.where(t < 8192, t, t - 16384)
    across, own, core = (np.float32(law[name]) for name in ("across", "own", "core"))
    return scale, scale * ((across + own * scale) * (t * np.abs(t)).astype(np.float32) + core * scale)


def flat_rows(arrays: Rows, n: int, law: dict | None) -> Rows:
    names = sorted(name for name in arrays if name.startswith("codes"))
    parts = [arrays[name] for name in names]
    plain = [part.transpose(0, 2, 1).reshape(-1, part.shape[1]) if part.ndim == 3 else part for part in parts]
    rows = {name: arrays[name] for name in ("originals", "original_scales") if name in arrays}
    if law is None:
        scales, shifts = arrays["scales"][:, 0], arrays.get("shifts", np.zeros(n, np.float32))
    else:
        scales, shifts = factors(arrays["factors"], law)
    return rows | {
        "codes": np.concatenate([part[:n] for part in plain], axis=1),
        "scales": scales,
        "shifts": shifts,
        "ids": arrays.get("ids", np.arange(n)),
    }


def changed_flat(rows: Rows, n: int, arrays: Rows, law: dict | None) -> Rows:
    """The rows after a record: n, of which it has some."""
    at = arrays["positions"]
    changes = flat_rows({"ids": at} | arrays, len(at), law)
    after = {}
    for name, column in rows.items():
        after[name] = np.zeros((n, *column.shape[1:]), column.dtype)
        after[name][: len(column)] = column[:n]
        after[name][at] = changes[name]
    return after


def list_rows(arrays: Rows, state: dict, words: int) -> Rows:
    pages, places, lists, page = arrays["rows"], [], [], 0
    for number, size in enumerate(arrays["sizes"]):
        for i in range(-(-size // 16)):
            filled = (size - 1) % 16 + 1 if i == 0 else 16
            places += [16 * page + lane for lane in range(filled)]
            lists += [number] * filled
            page += 1
    at = np.array(places, int)
    rows = pages.transpose(0, 2, 1).reshape(-1, pages.shape[1])[at]
    after = words + 2
    if "factors" in state:
        after = words + 1
        scales, shifts = factors(np.ascontiguousarray(rows[:, words]), state["factors"])
    else:
        scales, shifts = (np.ascontiguousarray(rows[:, words + i]).view(np.float32) for i in range(2))
    ids = rows[:, after].astype(np.int64)
    if state["wide_ids"]:
        ids |= rows[:, after + 1].astype(np.int64) << 32
    kept = {name: arrays[name][at] for name in ("originals", "original_scales") if name in arrays}
    numbers = {"ids": ids, "lists": np.array(lists, int)}
    return kept | numbers | {"codes": rows[:, :words], "scales": scales, "shifts": shifts}


def changed_lists(rows: Rows, n: int, arrays: Rows, law: dict | None) -> Rows:
    """The rows after a record: those whose ids it has are gone, or others now."""
    scales, shifts = arrays["factors"].T if law is None else factors(arrays["factors"][:, 0], law)
    stays = ~np.isin(rows["ids"], np.concatenate([arrays["ids"], arrays["removed"]]))
    changes = arrays | {"scales": scales, "shifts": shifts}
    after = {name: np.concatenate([column[stays], changes[name]]) for name, column in rows.items()}
    if len(after["ids"]) != n:
        raise ValueError(f"a record leaves {len(after['ids'])} rows, wanted {n}")
    return after


# --- codes and queries


def levels(words: np.ndarray, dims: int, bits: int) -> np.ndarray:
    """(n, dims) int64 of codes (n, words) uint32."""
    if bits == 8:
        codes = np.ascontiguousarray(words).view(np.uint8)[:, :dims].astype(np.int64)
        return np.maximum(codes - 128, -127)
    j = np.arange(dims)
    word, bit = j // 32, 8 * (j % 4) + j % 32 // 4
    planes = words.reshape(len(words), bits, -1)
    codes = np.zeros((len(words), dims), np.int64)
    for p in range(bits):
        codes = 2 * codes + (planes[:, p, word] >> bit.astype(np.uint32) & 1)
    upper = np.array(UPPER[bits])
    return np.concatenate([-upper[::-1], upper])[codes]


def rotated(x: np.ndarray, seed: int) -> np.ndarray:
    """R x (dim,) float32."""
    d = len(x)
    p = 1 << (d.bit_length() - 1)
    windows = [0] if p == d else [0, d - p]
    words = np.random.PCG64([1, seed]).random_raw(3 * d * (1 + len(windows))).reshape(-1, 3, d)
    signs = np.where(words[1:] >> np.uint64(63), np.float32(-1), np.float32(1))
    y = x
    for r in range(3):
        y = signs[0, r] * y[np.argsort(words[0, r], kind="stable")]
        for w, first in enumerate(windows):
            if w:
                y[first:p] *= signs[w, r, first:p]
            y[first : first + p] = transformed(y[first : first + p])
    return y


def transformed(y: np.ndarray) -> np.ndarray:
    p, half = len(y), 1
    while half < p:
        a, b = y.reshape(-1, 2, half).transpose(1, 0, 2)
        y = np.stack([a + b, a - b], axis=1).reshape(p)
        half *= 2
    return y * np.float32(1 / np.sqrt(p))


def unit(q: np.ndarray) -> np.ndarray:
    wide = q.astype(np.float64)
    return (wide / np.sqrt(wide @ wide)).astype(np.float32)


if __name__ == "__main__":
    saved = Saved(sys.argv[1])
    about = ", ".join(f"{key} {value}" for key, value in saved.parameters.items())
    sys.stdout.write(f"{saved.n} rows; {about}\n")
