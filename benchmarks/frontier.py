"""Recall against queries a second: polarindex's inverted file and, at their best, FAISS, rabitqlib, ScaNN and graphs.

    python -m benchmarks.frontier --data FOLDER ... [--sets NAME,...] [--engines TEXT;...] [--quick] [--repeats 5]
                                  [--out FILE.json]

Writes frontier.json of this machine, its tables in docs/benchmarks.md and docs/images/frontier-*.png. A set that is
measured again replaces its rows; --quick or some --engines go to frontier-partial.json, with tables and pictures beside
it. It is `polarindex bench --suites lists` on the published sets, with settings that were tuned for each.
"""

from __future__ import annotations

from benchmarks import report
from benchmarks.kept import place
from benchmarks.published import asked, grid, parsed, parser, sources
from polarindex.bench.compare import compare_lists
from polarindex.bench.report import LISTS, write_report
from polarindex.bench.result import read


def main() -> None:
    options = parsed(parser(__doc__, repeats=5))
    whole = not (options.quick or options.engines)
    out = options.out or place("frontier" if whole else "frontier-partial")
    for source in sources(options):
        compare_lists(source, out, grid=grid(source.name, options.quick), **asked(options))
    print(f"wrote {out}")
    if out == place("frontier"):
        report.write()
    else:
        write_report({LISTS: read(out)}, out.parent)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("stopped; what was written is whole") from None
