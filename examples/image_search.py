"""Find clothes that look like others: Fashion-MNIST, by its pixels, from 1 bit a pixel.

Seen: a picture with a row for each query, the query on the left and its nearest images beside it; a red frame is one
that an exact search does not have among as many. 108 bytes an image do most of what 784 do.

    pip install 'polarindex[plot]'
    python examples/image_search.py [hits.png]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import polarindex as pi
from polarindex.sweep.dataset import load_dataset

QUERIES, NEAREST, BITS = (0, 3, 7, 12, 19), 8, 1
SIDE = 28  # pixels


def search(images: NDArray, queries: NDArray, bits: int, k: int) -> tuple[pi.FlatIndex, NDArray[np.int64]]:
    """An index of the images, and the rows (nq, k) that are nearest to some queries."""
    index = pi.FlatIndex(images.shape[1], metric="l2", bits=bits)
    index.add(images)  # bytes are taken as they are
    return index, index.search(queries, k)[1]


def picture(images: NDArray, queries: NDArray, found: NDArray[np.int64], exact: NDArray[np.integer]) -> Figure:
    """Queries on the left, what was found on the right."""
    rows, columns = found.shape
    figure = Figure(figsize=(1.1 * (columns + 1), 1.15 * rows), layout="constrained")
    for axes, query, near, truth in zip(figure.subplots(rows, columns + 1), queries, found, exact, strict=True):
        for place, pixels in zip(axes, [query, *images[near]], strict=True):
            place.imshow(pixels.reshape(SIDE, SIDE), cmap="gray_r")
            place.set(xticks=[], yticks=[])
        axes[0].set_ylabel("query")
        for place, number in zip(axes[1:], near, strict=True):
            right = number in truth
            for spine in place.spines.values():
                spine.set(color="#bbbbbb" if right else "#dc2626", linewidth=1 if right else 3)
    return figure


def main(path: str = "hits.png") -> None:
    sample = load_dataset("fashion-mnist-sample")
    queries, exact = sample.test[list(QUERIES)], sample.neighbors[list(QUERIES), :NEAREST]
    index, found = search(sample.train, queries, BITS, NEAREST)
    picture(sample.train, queries, found, exact).savefig(path, dpi=110)
    everyone = zip(index.search(sample.test, NEAREST)[1], sample.neighbors[:, :NEAREST], strict=True)
    recall = np.mean([np.isin(row, truth).mean() for row, truth in everyone])
    print(f"{Path(path)}: {index.bytes_per_vector} bytes an image in place of {sample.train.shape[1]}")
    print(f"{recall:.0%} of the {NEAREST} nearest images are found, over {len(sample.test):,} queries")


if __name__ == "__main__":
    main(*sys.argv[1:2])
