"""What would make an index better, in a line each, by what `index.info()` says of it.

Law:       advice names what was seen and the command that mends it, and is silent where nothing is to be done. Numbers
           are the rules of thumb of indexes/planning.py.
Not here:  how it is shown (info.py, build.py)."""

from __future__ import annotations

from typing import Any

from polarindex.indexes.flat import CENTRE_ROWS
from polarindex.indexes.planning import CODES, LISTED, SCANNED
from polarindex.indexes.predicted import QUANTIZER

_LOW_RECALL = 0.9  # by codes alone; with less there is something to gain
_STEEP = 0.1  # of the components: where so few hold most of the energy, codes that learn them find far more


def advice(facts: dict[str, Any], components: int | None = None) -> list[str]:
    """All of it. components: how many hold 90 % of the energy of the stored rows, where that is known."""
    if not facts["n"]:
        return ["the index is empty: polarindex add"]
    found = [*of_kind(facts), *_of_lists(facts), *_of_codes(facts)]
    if facts.get("compact_advised"):
        found.append("the log is longer than the index: polarindex compact writes it anew, smaller and sooner read")
    if components is not None and components <= _STEEP * facts["dim"] and not _spectral(facts):
        found.append(
            f"90 % of the energy lies in {components} of {facts['dim']} components: fewer dimensions, or build with "
            "--codes spectral, may take less room at equal recall; polarindex sweep compares them on your vectors"
        )
    return found


def of_kind(facts: dict[str, Any]) -> list[str]:
    """Whether a flat index has become too large to read all of it."""
    fewest = listed_from(facts["dim"])
    if facts["kind"] != "flat" or facts["n"] < fewest:
        return []
    return [f"every search reads all {facts['n']:,} codes; from about {fewest:,} rows on --index ivf answers sooner"]


def listed_from(dim: int) -> int:
    """From how many rows on an inverted file is worth it."""
    return max(LISTED, SCANNED // dim + 1)


def _spectral(facts: dict[str, Any]) -> bool:
    return bool(facts.get("codes") == "spectral")


def _of_lists(facts: dict[str, Any]) -> list[str]:
    if facts["kind"] != "ivf":
        return []
    found = []
    if facts["rebalance_advised"]:
        found.append(
            f"rows are no longer like those that the lists were learned from (drift {facts['drift']:.2f}, largest list "
            f"{facts['largest_over_mean']:.1f} times the mean): polarindex rebalance learns new ones"
        )
    if not facts["tuned"]:
        found.append("searches read 1 list in 32, untuned: polarindex tune finds the fastest search for a recall")
    if facts["n"] < LISTED:
        found.append(f"{facts['n']:,} rows are few for lists: a flat index finds more, and as soon")
    return found


def _of_codes(facts: dict[str, Any]) -> list[str]:
    found = []
    if facts["kind"] == "flat" and facts["center"] and not facts["center_frozen"]:
        found.append(f"the centre is learned from {CENTRE_ROWS:,} rows on; until then rows are kept whole as well")
    recall = CODES[facts["kind"]].get(facts["bits"], 1.0)
    if facts["quantizer"] == QUANTIZER and not _spectral(facts) and facts["store"] == "none" and recall < _LOW_RECALL:
        found.append(
            f"codes of {facts['bits']} bits alone find about {100 * recall:.0f} % of the 10 nearest (a rule of thumb); "
            "more bits, or --store float16 to re-rank, find more"
        )
    return found
