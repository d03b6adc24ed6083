"""The mutations of mutate.py, chosen and made smaller by hypothesis, for as long as one likes.

    python tests/fuzz_load.py --minutes 60

A failure is shown as hypothesis shows it, with the choices that lead to it. A crash ends the child process; the files
that it died of are kept."""

from __future__ import annotations

import argparse
import faulthandler
import resource
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis
import mutate
from hypothesis import strategies


class Drawn(mutate.Draw):
    """Choices that hypothesis makes."""

    def __init__(self, data: strategies.DataObject) -> None:
        self._data = data

    def below(self, n: int) -> int:
        return self._data.draw(strategies.integers(0, max(n, 1) - 1))

    def pick(self, options: Sequence[Any]) -> Any:
        return options[self.below(len(options))]


def child(minutes: float, seed: int, place: Path) -> None:
    warnings.simplefilter("ignore")
    bases = {kind: mutate.originals(kind, 2) for kind in mutate.CELLS}
    resource.setrlimit(resource.RLIMIT_AS, (mutate.ADDRESSES, mutate.ADDRESSES))
    end, count = time.monotonic() + 60 * minutes, 0

    @hypothesis.settings(
        max_examples=500, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(strategies.data())
    def damaged(data: strategies.DataObject) -> None:
        nonlocal count
        faulthandler.dump_traceback_later(mutate.HANGS, exit=True)
        draw = Drawn(data)
        files, wanted = mutate.mutated(bases[draw.pick(sorted(bases))], draw)
        mutate.written(files, place / "index", draw)
        mutate.tried(place / "index", draw, wanted)
        count += 1

    while time.monotonic() < end:
        hypothesis.seed(seed)(damaged)()
        seed += 1
    faulthandler.cancel_dump_traceback_later()
    sys.stdout.write(f"{count} examples, the next seed is {seed}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.minutes, asked.seed, asked.child)
        return 0
    return mutate.watched([sys.executable, __file__, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
