"""The tables of numbers in the pages of "How it works", from the data of the figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Kept = dict[str, Any]
Lines = list[str]


def _table(head: list[str], rows: list[list[Any]]) -> Lines:
    shown = [[cell if isinstance(cell, str) else f"{cell:.4f}" for cell in row] for row in rows]
    return [f"| {' | '.join(head)} |", "| --- " * len(head) + "|", *(f"| {' | '.join(row)} |" for row in shown)]


def _by_bits(first: str, bits: tuple[int, ...], rows: list[list[Any]]) -> Lines:
    return _table([first, *(f"{b} bit{'s' * (b > 1)}" for b in bits)], rows)


def rotation(kept: Kept, bits: tuple[int, ...]) -> Lines:
    found = kept["rotation"]
    rows = [[name, *found[key]] for name, key in (
        ("images as they are", "before by bits"), ("rotated", "after by bits"), ("the law, N(0, 1)", "law by bits"),
    )]  # fmt: skip
    before, after = found["worst hundredth at 2 bits"]
    return [
        *_by_bits("mean squared error of a coordinate", bits, rows),
        "",
        f"One image in a hundred errs by {before:.2f} and more at 2 bits as it is, and by {after:.2f} rotated.",
    ]


def angles(kept: Kept, bits: tuple[int, ...]) -> Lines:
    rows: list[list[Any]] = [
        [str(level), f"1/{2**level}", one["variance"], *one["errors"][:4]]
        for level, one in enumerate(kept["polar"]["levels"], start=1)
    ]
    return _table(["level", "angles a coordinate", "variance, measured", *(f"error at {b}" for b in bits)], rows)


def bounds(kept: Kept, bits: tuple[int, ...]) -> Lines:
    found = kept["bounds"]
    rows: list[list[Any]] = [["Lloyd-Max for N(0, 1)", *found["law"]]]
    for name, codes in found["measured"].items():
        rows += [[f"{code}, {name}", *values] for code, values in codes.items()]
    rows.append(["Shannon, 4⁻ᵇ", *(4.0**-b for b in bits)])
    rows += [[f"bound for the spectrum of {name}", *values] for name, values in found["water-filling"].items()]
    return _by_bits("mean of \\|x − x̂\\|² / \\|x\\|²", bits, rows)


def slopes(kept: Kept, bits: tuple[int, ...]) -> Lines:
    found = kept["scales"]["slopes"]
    law = [1 - one for one in kept["bounds"]["law"]]
    rows = [["fixed scale (`turboquant`)", *found["turboquant"]], ["1 − D, what theory says of it", *law],
            ["unbiased scale (`eden`)", *found["eden"]]]  # fmt: skip
    return _by_bits("slope of estimates", bits, rows)


TABLES: dict[str, Callable[[Kept, tuple[int, ...]], Lines]] = {
    "rotation": rotation,
    "angles": angles,
    "bounds": bounds,
    "slopes": slopes,
}
