"""Compress the keys and values of an attention layer with every quantizer, and see what becomes of its output.

Seen: a table, and a picture if a path is given, of the relative error |o - o_hat| / |o| of attention outputs by bits.
For keys the unbiased codes (`eden`) err least: a code that shortens them all makes every score smaller, which softmax
takes for a higher temperature. For values the codes of least error (`eden-biased`, `turboquant`) are ahead at 1 bit.
What spends its bits on signs of projections (`qjl`, `turboquant-prod`) errs more at equal bits. Keys are coded less
their mean, which is free: what is added to all keys adds the same to every score, and softmax does not see it.

**Keys and values are random**: independent normal coordinates, four of 128 with ten times the spread, as the key
channels of language models have, and queries that attend to some keys strongly. No model is run, so figures are of
this layer and of no model.

    pip install 'polarindex[plot]'
    python examples/kv_cache.py [errors.png]
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from polarindex import CELLS, make_quantizer

NAMES, BITS = ("eden", "eden-biased", "turboquant", "turboquant-prod", "polarquant", "qjl"), (1, 2, 3, 4)
Floats = NDArray[np.float32]


def layer(tokens: int, queries: int, dim: int, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Queries (queries, dim), keys and values (tokens, dim) of one head."""
    rng = np.random.default_rng(seed)
    spread = np.ones(dim)
    spread[rng.choice(dim, 4, replace=False)] = 10.0
    keys = rng.standard_normal((tokens, dim)) * spread + rng.standard_normal(dim)
    liked = keys[rng.choice(tokens, queries)]
    asked = (liked - keys.mean(axis=0)) / spread**2 + 0.5 * rng.standard_normal((queries, dim)) / spread
    return asked.astype(np.float32), keys.astype(np.float32), rng.standard_normal((tokens, dim)).astype(np.float32)


def attention(queries: Floats, keys: Floats, values: Floats) -> NDArray[np.float64]:
    """softmax(Q K' / sqrt(d)) V, (queries, dim)."""
    scores = queries.astype(np.float64) @ keys.T / np.sqrt(keys.shape[1])
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)) @ values


def coded(x: Floats, name: str, bits: int, seed: int) -> Floats:
    """What a code of the rows less their mean gives back."""
    mean = x.mean(axis=0)
    quantizer = make_quantizer(name, x.shape[1], bits, seed)
    return mean + quantizer.decode(quantizer.encode(x - mean))


def errors(name: str, bits: int, tokens: int = 1024, queries: int = 64, dim: int = 128) -> dict[str, float]:
    """Relative errors of the outputs with coded keys, with coded values, and with both."""
    q, keys, values = layer(tokens, queries, dim)
    exact = attention(q, keys, values)
    keys_hat, values_hat = coded(keys, name, bits, seed=1), coded(values, name, bits, seed=2)
    outputs = {
        "keys": attention(q, keys_hat, values),
        "values": attention(q, keys, values_hat),
        "both": attention(q, keys_hat, values_hat),
    }
    size = np.linalg.norm(exact, axis=1)
    return {what: float((np.linalg.norm(output - exact, axis=1) / size).mean()) for what, output in outputs.items()}


def draw(found: dict[tuple[str, int], dict[str, float]], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, what in zip(figure.subplots(1, 2, sharey=True), ("keys", "values"), strict=True):
        for name in NAMES:
            cells = [(bits, found[name, bits][what]) for bits in BITS if (name, bits) in found]
            axes.semilogy(*zip(*cells, strict=True), "o-", label=name)
        axes.set(title=f"{what} coded", xlabel="bits a coordinate", xticks=BITS)
    figure.axes[0].set_ylabel("relative error of the outputs")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main(path: str | None = None) -> None:
    found = {(name, bits): errors(name, bits) for name in NAMES for bits in BITS if bits in CELLS[name]}
    columns = ("code", "bits", "bytes a token", "keys coded", "values coded", "both")
    table = Table(*columns, title="Error of attention outputs")
    for (name, bits), error in found.items():
        size = 2 * make_quantizer(name, 128, bits).bytes_per_vector
        table.add_row(name, str(bits), str(size), *(f"{error[what]:.3f}" for what in ("keys", "values", "both")))
    Console().print(table)
    if path:
        draw(found, path)


if __name__ == "__main__":
    main(*sys.argv[1:2])
