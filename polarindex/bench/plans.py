"""An engine to build and the settings it is asked with: data, read by what measures, by tables and pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

Setting = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Plan:
    """An engine to build, and how it is asked.

    library : of engines.ENGINES
    family : its line in tables and pictures
    name : what it is within the family
    """

    library: str
    family: str
    name: str
    build: dict[str, Any]
    settings: tuple[Setting, ...] = field(repr=False)

    def named(self, parts: tuple[str, ...]) -> bool:
        """Whether its library, family or name holds one of the parts, in small or large letters; or there are none."""
        words = f"{self.library} {self.family} {self.name}".lower()
        return not parts or any(part.lower() in words for part in parts)


def every(**choices: tuple[Any, ...]) -> tuple[Setting, ...]:
    """All combinations."""
    return tuple(dict(zip(choices, values, strict=True)) for values in product(*choices.values()))


def spread(settings: tuple[Setting, ...], count: int) -> tuple[Setting, ...]:
    """At most so many of the settings, first and last among them, evenly spaced."""
    if len(settings) <= count:
        return settings
    return tuple(settings[round(at * (len(settings) - 1) / (count - 1))] for at in range(count))
