"""Fronts, and speeds along them."""

from __future__ import annotations

import pytest

from polarindex.bench.front import Point, front, speed_at


def test_a_front_has_no_point_that_another_beats():
    points = [Point(*at) for at in [(0.9, 100), (0.8, 90), (0.95, 50), (0.95, 40), (0.97, 50), (0.5, 300), (0.9, 100)]]
    assert front(points) == [Point(0.5, 300), Point(0.9, 100), Point(0.97, 50)]
    assert front([]) == []


def test_a_front_keeps_exactly_the_points_that_none_beats(rng):
    points = [Point(float(r), float(s)) for r, s in rng.integers(0, 20, (60, 2))]
    unbeaten = {p for p in points if not any(o != p and o.recall >= p.recall and o.speed >= p.speed for o in points)}
    assert front(points) == sorted(unbeaten)


def test_between_two_points_the_logarithm_of_speed_is_linear():
    points = [Point(0.8, 1000, "a"), Point(0.9, 10, "b")]
    assert speed_at(0.85, points).value == pytest.approx(100)
    assert speed_at(0.825, points).value == pytest.approx(10**2.5)
    assert speed_at(0.85, points).label == "b"  # has the recall
    assert speed_at(0.8, points) == (1000, "a", False)
    assert speed_at(0.9, points) == (10, "b", False)


def test_nothing_is_made_up_beyond_the_ends():
    points = [Point(0.8, 1000, "a"), Point(0.9, 10, "b")]
    assert speed_at(0.91, points) is None
    assert speed_at(0.5, points) == (1000, "a", True)
    assert speed_at(0.5, []) is None
