"""Where results are kept: results/MACHINE/VERSION/NAME.json, of every machine and version that measured something.

Law:       a program writes into the folder of the machine it runs on; pages show the newest file of a name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from polarindex.sweep.cache import written_whole
from polarindex.sweep.results import environment

RESULTS = Path(__file__).parent / "results"


def place(name: str) -> Path:
    """The file of a benchmark's results on this machine, with this version."""
    facts = environment(threads=1)
    machine = re.sub(r"[^a-z0-9]+", "-", f"{facts['cpu']} {facts['cores']} cores".lower()).strip("-")
    return RESULTS / machine / facts["versions"]["polarindex"] / f"{name}.json"


def keep(name: str, result: dict[str, Any]) -> None:
    """Write a benchmark's results of this machine."""
    with written_whole(place(name)) as path:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def newest(name: str) -> dict[str, Any] | None:
    """The results of a benchmark that were measured last, on any machine; None where there are none."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob(f"*/*/{name}.json"))]
    return max(found, key=_date, default=None)


def names(pattern: str) -> list[str]:
    """The benchmarks of a pattern that were measured anywhere."""
    return sorted({path.stem for path in RESULTS.glob(f"*/*/{pattern}.json")})


def _date(result: dict[str, Any]) -> str:
    """When it was measured, or its last part."""
    parts = [result, *result.get("runs", [])]
    return max(str(part.get("environment", {}).get("date", "")) for part in parts)
