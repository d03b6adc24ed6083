"""Make the embedded samples from the full data sets. The same files and versions give the same bytes.

    python datasets/prepare_samples.py FASHION_MNIST.hdf5 GLOVE.hdf5

FASHION_MNIST  fashion-mnist-784-euclidean.hdf5, as ann-benchmarks.com has it
GLOVE          glove-6b-100-angular.hdf5, as prepare_glove.py makes it

Fashion-MNIST: the first 10,000 rows and 1,000 queries, as uint8. GloVe: 20,000 rows and 1,000 queries drawn
at random (the first rows would be frequent words only), as float16; the sample's values are the float16 ones,
and its neighbours are exact for those.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from polarindex.sweep.groundtruth import exact_neighbors
from polarindex.sweep.hdf5 import Dataset, write_dataset

NEIGHBORS = 100
SAMPLES = Path(__file__).resolve().parent / "samples"


def main() -> None:
    """Read the two full sets, write the two samples."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fashion_mnist", type=Path)
    parser.add_argument("glove", type=Path)
    parser.add_argument("--out", type=Path, default=SAMPLES)
    arguments = parser.parse_args()
    with h5py.File(arguments.fashion_mnist, "r") as file:
        train, test = file["train"][:10_000].astype(np.uint8), file["test"][:1_000].astype(np.uint8)
    write(
        arguments.out, "fashion-mnist-sample", "l2", train, test, licence="MIT, Copyright 2017 Zalando SE",
        source="https://github.com/zalandoresearch/fashion-mnist: first 10,000 training, 1,000 test images",
    )  # fmt: skip
    with h5py.File(arguments.glove, "r") as file:
        train, test = draw(file["train"], 20_000, seed=0), draw(file["test"], 1_000, seed=1)
    write(
        arguments.out, "glove-sample", "cosine", train, test, licence="PDDL 1.0",
        source="https://nlp.stanford.edu/projects/glove: GloVe 6B, 100 dimensions; random words, float16",
    )  # fmt: skip


def draw(rows: h5py.Dataset, n: int, seed: int) -> NDArray[np.float16]:
    """n rows at random, in the order of the file, rounded to float16."""
    chosen = np.sort(np.random.Generator(np.random.PCG64(seed)).choice(len(rows), n, replace=False))
    return rows[:][chosen].astype(np.float16)


def write(
    folder: Path,
    name: str,
    metric: str,
    train: NDArray[Any],
    test: NDArray[Any],
    *,
    licence: str,
    source: str,
) -> None:
    """Find the exact neighbours and write `folder`/`name`.hdf5."""
    neighbors, distances = exact_neighbors(train, test, NEIGHBORS, metric)
    sample = Dataset(name, metric, train, test, neighbors, distances, licence, source)
    write_dataset(sample, folder / f"{name}.hdf5")
    print(f"{name}: {len(train):,} x {sample.dim}, {(folder / f'{name}.hdf5').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
