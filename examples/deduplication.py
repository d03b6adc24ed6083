"""Find near-duplicates: a range search proposes, the originals decide.

Seen: copies of images that were made darker, shifted in brightness or given noise are found among others, and the
true duplicates that Fashion-MNIST itself has. A range search by 4-bit codes estimates distances; asking for a little
more than the radius and then looking at the stored originals gives exact pairs at a fraction of the comparisons.

    python examples/deduplication.py
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import polarindex as pi
from polarindex.sweep.dataset import load_dataset

Images = NDArray[np.float32]
Pairs = set[tuple[int, int]]
RADIUS = 500.0  # a distance: of 784 pixels of 0 to 255, 18 each
MARGIN = 1.15  # of squared distances: what the codes may err by


def with_copies(images: Images, copies: int, seed: int = 0) -> tuple[Images, Pairs]:
    """Images followed by changed copies of some, and the pairs (original, copy) that this makes."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(images), copies, replace=False)
    changed = images[chosen] * rng.uniform(0.93, 1.0, (copies, 1)) + rng.normal(0, 6, (copies, images.shape[1]))
    everything = np.concatenate([images, np.clip(changed, 0, 255)]).astype(np.float32)
    return everything, {(int(row), len(images) + place) for place, row in enumerate(chosen)}


def candidates(index: pi.FlatIndex, images: Images, radius: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of rows (i < j) whose estimated distance is within the radius, and a margin."""
    lims, _, near = index.range_search(images, MARGIN * radius**2)
    rows = np.repeat(np.arange(len(images)), np.diff(lims))
    ordered = rows < near
    return rows[ordered], near[ordered]


def duplicates(images: Images, radius: float = RADIUS) -> tuple[Pairs, int]:
    """All pairs of images within the radius that the codes propose, and how many they proposed."""
    index = pi.FlatIndex(images.shape[1], metric="l2", bits=4)
    index.add(images)
    first, second = candidates(index, images, radius)
    exact = ((images[first] - images[second]) ** 2).sum(axis=1)
    kept = exact <= radius**2
    return set(zip(first[kept].tolist(), second[kept].tolist(), strict=True)), len(first)


def all_pairs(images: Images, radius: float = RADIUS) -> Pairs:
    """The same by comparing every image with every other."""
    squares = (images.astype(np.float64) ** 2).sum(axis=1)
    near = squares[:, None] + squares - 2.0 * (images.astype(np.float64) @ images.T) <= radius**2
    return set(zip(*(part.tolist() for part in np.nonzero(np.triu(near, 1))), strict=True))


def main() -> None:
    sample = load_dataset("fashion-mnist-sample").train[:4_000].astype(np.float32)
    images, planted = with_copies(sample, 200)
    found, proposed = duplicates(images)
    exact = all_pairs(images)
    comparisons = len(images) * (len(images) - 1) // 2
    print(f"{len(images):,} images, {comparisons:,} pairs, of which codes proposed {proposed:,}")
    print(f"{len(found):,} pairs within the radius; {len(exact):,} by comparing all; {len(exact - found)} missed")
    print(f"of {len(planted)} copies {len(planted & found)} were found")
    print(f"{len(found - planted):,} further pairs are alike among the images themselves")


if __name__ == "__main__":
    main()
