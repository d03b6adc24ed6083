"""Vectors here, everything else in SQLite: a filter is a WHERE clause.

Seen: the nearest words among those that a query of SQL allows, one condition for each question, in one search; that a
filter is exact; and how rows and vectors are removed together. The index keeps ids, the table what belongs to them.

    python examples/hybrid_search.py
"""

from __future__ import annotations

import sqlite3

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import polarindex as pi
from polarindex.sweep.dataset import load_dataset

CONDITIONS = ("price < 5", "colour = 'red' AND price < 20", "colour IN ('green', 'blue') AND stock > 0")


def make_shop(n: int, seed: int = 0) -> sqlite3.Connection:
    """A table of n articles, whose ids are those of the vectors."""
    rng = np.random.default_rng(seed)
    colours = rng.choice(["red", "green", "blue"], n).tolist()
    prices, stock = rng.gamma(2.0, 10.0, n).round(2).tolist(), rng.integers(0, 4, n).tolist()
    shop = sqlite3.connect(":memory:")
    with shop:
        shop.execute("CREATE TABLE article (id INTEGER PRIMARY KEY, colour TEXT, price REAL, stock INTEGER)")
        shop.executemany("INSERT INTO article VALUES (?, ?, ?, ?)", zip(range(n), colours, prices, stock, strict=True))
    return shop


def allowed(shop: sqlite3.Connection, condition: str) -> pi.IdFilter:
    """The articles that a condition is true of. It is the program's own text: never put a user's into SQL."""
    return pi.IdFilter([number for (number,) in shop.execute(f"SELECT id FROM article WHERE {condition}")])


def discontinue(shop: sqlite3.Connection, index: pi.FlatIndex, condition: str) -> int:
    """Remove articles and their vectors; where the index refuses, neither."""
    gone = allowed(shop, condition)
    with shop:  # rolled back by an error
        shop.execute(f"DELETE FROM article WHERE {condition}")
        return index.remove(gone.ids)


def nearest(
    shop: sqlite3.Connection, index: pi.FlatIndex, queries: NDArray, conditions: tuple[str, ...], k: int
) -> NDArray[np.int64]:
    """The k nearest ids (nq, k), each query under a condition of its own."""
    return index.search(queries, k, filter=[allowed(shop, condition) for condition in conditions])[1]


def main() -> None:
    sample = load_dataset("glove-sample")
    vectors = sample.train[:10_000].astype(np.float32)
    shop = make_shop(len(vectors))
    index = pi.FlatIndex(vectors.shape[1], metric="cosine", bits=4)
    index.add(vectors)
    found = nearest(shop, index, sample.test[: len(CONDITIONS)].astype(np.float32), CONDITIONS, k=3)
    table = Table("condition", "allowed", "id", "colour", "price", "stock")
    for condition, ids in zip(CONDITIONS, found, strict=True):
        head = [condition, f"{len(allowed(shop, condition)):,}"]
        for number in ids.tolist():
            (row,) = shop.execute("SELECT colour, price, stock FROM article WHERE id = ?", (number,))
            table.add_row(*head, str(number), *map(str, row), end_section=number == ids[-1])
            head = ["", ""]
    console = Console()
    console.print(table)
    gone = discontinue(shop, index, "stock = 0")
    console.print(f"{gone:,} articles without stock are gone, {len(index):,} are left in both")


if __name__ == "__main__":
    main()
