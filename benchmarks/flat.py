"""Codes alone, every library: recall by bytes and time when all rows are scanned and no original is kept.

    python benchmarks/flat.py --data FOLDER ... [--sets NAME,...] [--engines TEXT,...] [--quick] [--repeats 3]
                              [--queries 200] [--singles 50] [--out FILE.json]

Writes benchmarks/results/flat.json and its tables in docs/benchmarks.md. A set that is measured again replaces its
rows. Engines, processes, clocks and files are those of frontier.py; --quick or some --engines go to flat-partial.json.
"""

from __future__ import annotations

import argparse
import os

import readme_tables
from flat_grid import flat_plans, left_out
from frontier import add_arguments, checked, empty, kept, measure, named, sources, without
from frontier_data import load
from kernels import ONE_THREAD, RESULTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, repeats=3, queries=200, singles=50)
    options = checked(parser)
    whole = not (options.quick or options.engines)
    out = options.out or RESULTS / ("flat.json" if whole else "flat-partial.json")
    os.environ.update(dict.fromkeys((*ONE_THREAD, "RAYON_NUM_THREADS"), "1"))
    result = kept(out) if whole else empty()
    for source in sources(options):
        data = load(source)
        (n, dim), metric = data.x.shape, data.metric
        del data
        result = without(result, source.name)
        for family, why in left_out(n, dim, metric).items():
            result["skipped"].append({"set": source.name, "family": family, "engine": "all", "why": why})
        chosen = [plan for plan in flat_plans(n, dim, metric) if named(plan, options.engines)]
        measure(source, chosen, options, result, out)
    print(f"wrote {out}")
    if out.resolve() == (RESULTS / "flat.json").resolve():
        readme_tables.write()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("stopped; what was written is whole") from None
