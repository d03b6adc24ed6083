"""Codes alone, every library: recall by bytes and time when all rows are scanned and no original is kept.

    python -m benchmarks.flat --data FOLDER ... [--sets NAME,...] [--engines TEXT;...] [--quick] [--repeats 3]
                              [--queries 200] [--singles 50] [--out FILE.json]

Writes flat.json of this machine and its tables in docs/benchmarks.md. A set that is measured again replaces its rows;
--quick or some --engines go to flat-partial.json. It is `polarindex bench --suites codes` on the published sets.
"""

from __future__ import annotations

from benchmarks import report
from benchmarks.kept import place
from benchmarks.published import asked, parsed, parser, sources
from polarindex.bench.compare import compare_codes


def main() -> None:
    options = parsed(parser(__doc__, repeats=3, queries=200, singles=50))
    whole = not (options.quick or options.engines)
    out = options.out or place("flat" if whole else "flat-partial")
    for source in sources(options):
        compare_codes(source, out, **asked(options))
    print(f"wrote {out}")
    if out == place("flat"):
        report.write()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("stopped; what was written is whole") from None
