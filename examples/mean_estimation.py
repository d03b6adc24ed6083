"""The mean of many clients' vectors, from one bit a coordinate each: DRIVE's use (arXiv:2105.08339).

Every client codes its vector under a rotation of its own and sends the code; the server decodes and averages.
Errors of unbiased codes cancel: the mean's error falls as 1 / clients. Biased codes, each the better
reconstruction of its own vector, all shrink towards zero, and no number of clients averages that away.

    python examples/mean_estimation.py
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from polarindex import make_quantizer

CLIENTS = (1, 10, 100, 1000)
CODES = (("drive", 1), ("drive-biased", 1), ("eden", 2), ("eden-biased", 2), ("eden", 4))


def client_vectors(clients: int, dim: int) -> Iterator[NDArray[np.float32]]:
    """Gradient-like vectors (1, dim): a common part and a part of each client's own, of equal energy."""
    common = np.random.default_rng(0).lognormal(size=dim)
    for client in range(1, clients + 1):
        own = np.random.default_rng(client).standard_normal(dim) * np.sqrt((common**2).mean())
        yield (common + own).astype(np.float32)[None]


def mean_errors(name: str, bits: int, clients: tuple[int, ...], dim: int) -> list[float]:
    """|mean of decoded - mean|^2 / mean |x|^2 after each number of clients."""
    gap, energy = np.zeros(dim), 0.0
    errors = []
    for client, x in enumerate(client_vectors(max(clients), dim), start=1):
        quantizer = make_quantizer(
            name, dim, bits, seed=client
        )  # rotations of their own: errors must not agree
        gap += quantizer.decode(quantizer.encode(x))[0] - x[0]
        energy += float((x**2).sum())
        if client in clients:
            errors.append(float((gap**2).sum()) / client / energy)
    return errors


def main() -> None:
    dim = 1000
    table = Table(
        "code",
        "bits",
        "bytes",
        *(f"n = {n:,}" for n in CLIENTS),
        title="Error of the mean of n clients' vectors",
    )
    for name, bits in CODES:
        size = make_quantizer(name, dim, bits).bytes_per_vector
        errors = mean_errors(name, bits, CLIENTS, dim)
        table.add_row(name, str(bits), str(size), *(f"{error:.6f}" for error in errors))
    Console().print(table)


if __name__ == "__main__":
    main()
