"""Pareto fronts of recall and speed, and the speed at a recall.

Law:       a point is on the front if no other has at least its recall and at least its speed. Between two neighbours on
           the front log(queries a second) is linear in recall; beyond the last there is nothing.
Not here:  where points come from (measure.py); tables and pictures (tables.py, picture.py)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple


class Point(NamedTuple):
    """What one engine did with one setting."""

    recall: float
    speed: float  # queries a second
    label: str = ""  # which engine and setting


class Speed(NamedTuple):
    """Queries a second at some recall.

    label : of the point on the front that has at least the recall
    at_least : every point on the front has more recall than asked, so the speed is that of the fastest
    """

    value: float
    label: str
    at_least: bool = False


def front(points: Iterable[Point]) -> list[Point]:
    """The Pareto front, recall ascending and speed descending, both strictly."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.recall, point.speed), reverse=True):
        if not kept or point.speed > kept[-1].speed:
            kept.append(point)
    return kept[::-1]


def speed_at(recall: float, points: list[Point]) -> Speed | None:
    """Queries a second at a recall along a front; None where no point reaches it."""
    beyond = next((at for at, point in enumerate(points) if point.recall >= recall), None)
    if beyond is None:
        return None
    right = points[beyond]
    if right.recall == recall:
        return Speed(right.speed, right.label)
    if beyond == 0:
        return Speed(right.speed, right.label, at_least=True)
    left = points[beyond - 1]
    share = (recall - left.recall) / (right.recall - left.recall)
    return Speed(math.exp((1 - share) * math.log(left.speed) + share * math.log(right.speed)), right.label)
