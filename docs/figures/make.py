"""Write the figures of "How it works", their data, and the tables of numbers in its pages.

    python docs/figures/make.py             # computes all of it: half a minute
    python docs/figures/make.py --check     # computes nothing: do pictures and tables show what figures.json holds?

tests/test_figures.py computes the data again and compares.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from data import BITS, FIGURES
from drawing import digest, drawn
from tables import TABLES

DOCS = Path(__file__).resolve().parents[1]
KEPT = DOCS / "figures" / "figures.json"
BLOCK = re.compile(r"(<!-- figures: ([^\n]*?) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def rounded(value: Any) -> Any:
    """As it is kept: numbers to four digits, which is more than a picture shows."""
    if isinstance(value, dict):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def picture(name: str) -> Path:
    return DOCS / "images" / f"how-{name}.svg"


def filled(text: str, kept: dict[str, Any]) -> str:
    """A page with the tables that the data give."""
    return BLOCK.sub(lambda found: found[1] + "\n".join([*TABLES[found[2]](kept, BITS), found[3]]), text)


def stale(kept: dict[str, Any]) -> list[str]:
    """Files that do not show the data."""
    pictures = [picture(name) for name, found in kept.items() if digest(found) not in picture(name).read_text("utf-8")]
    pages = [page for page in sorted(DOCS.rglob("*.md")) if filled(text := page.read_text("utf-8"), kept) != text]
    return [str(path.relative_to(DOCS)) for path in (*pictures, *pages)]


def main() -> int:
    if "--check" in sys.argv[1:]:
        wrong = stale(json.loads(KEPT.read_text("utf-8")))
        print("\n".join(wrong))
        return int(bool(wrong))
    kept = {name: rounded(compute()) for name, compute in FIGURES.items()}
    lines = (f"{json.dumps(name)}: {json.dumps(found)}" for name, found in kept.items())
    KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
    for name, found in kept.items():
        picture(name).write_text(drawn(name, found), "utf-8")
    for page in DOCS.rglob("*.md"):
        text = page.read_text("utf-8")
        if (now := filled(text, kept)) != text:
            page.write_text(now, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
