"""Some rows of the published tables measured again: does each lie in its stated interval?

    python -m benchmarks.again --data FOLDER ... --sets NAME,... --engines TEXT;... [--suite flat|frontier]
                               [--repeats 3]

Prints a line a row with what was stated and what is found now, recall and queries a second; exit code 1 if a recall
lies outside. Times of another machine need not agree: then only the share of them that does is of interest.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.kept import newest
from benchmarks.published import asked, grid, parsed, parser, sources
from polarindex.bench.compare import compare_codes, compare_lists
from polarindex.bench.measure import speed_interval

Cell = dict[str, Any]


def main() -> int:
    arguments = parser(__doc__, repeats=3, queries=200, singles=50)
    arguments.add_argument("--suite", choices=("flat", "frontier"), default="flat")
    options = parsed(arguments)
    stated = newest(options.suite)
    if stated is None:
        raise SystemExit(f"{options.suite} has no results yet")
    found: list[Cell] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "again.json"
        for source in sources(options):
            if options.suite == "flat":
                result = compare_codes(source, out, **asked(options))
            else:
                result = compare_lists(source, out, grid=grid(source.name, options.quick), **asked(options))
        found = result["cells"]
    before = {_key(cell): cell for cell in stated["cells"]}
    both = [(before[_key(cell)], cell) for cell in found if _key(cell) in before]
    return _compared(both)


def _key(cell: Cell) -> tuple[str, ...]:
    return cell["set"], cell["family"], cell["engine"], cell["mode"], repr(sorted(cell["setting"].items()))


def _compared(pairs: list[tuple[Cell, Cell]]) -> int:
    """A line a pair of stated and found; the exit code."""
    as_fast = as_good = 0
    for stated, found in pairs:
        low, high = speed_interval(stated)
        fast = low <= found["queries_per_s"] <= high
        good = stated["recall_low"] <= found["recall"] <= stated["recall_high"]
        as_fast, as_good = as_fast + fast, as_good + good
        print(
            f"{stated['set']} {stated['family']}, {stated['engine']}, {stated['mode']}: recall {found['recall']:.3f} "
            f"({stated['recall_low']:.3f}-{stated['recall_high']:.3f}{'' if good else ', outside'}), "
            f"{found['queries_per_s']:,.0f}/s ({low:,.0f}-{high:,.0f}{'' if fast else ', outside'})"
        )
    print(f"in their intervals: {as_good} of {len(pairs)} recalls, {as_fast} of {len(pairs)} times")
    return int(as_good < len(pairs) or not pairs)


if __name__ == "__main__":
    raise SystemExit(main())
