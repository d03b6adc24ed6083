"""Filters that are dicts: each operator, what is missing, what has no order, and what is no filter."""

from __future__ import annotations

import pytest

from polarindex.integrations.conditions import condition

ROW = {"n": 5, "f": 2.5, "s": "text", "yes": True, "none": None, "list": [1, 2], "dict": {"a": 1}}


@pytest.mark.parametrize(
    "filter",
    [
        {},
        {"n": 5},
        {"n": 5.0},
        {"s": "text", "yes": True},
        {"list": [1, 2]},
        {"dict": {"a": 1}},
        {"none": None},
        {"n": {"$eq": 5}},
        {"n": {"$ne": 6}},
        {"n": {"$in": [1, 5]}},
        {"n": {"$in": {5}}},
        {"n": {"$nin": [1, "5"]}},
        {"n": {"$gt": 4, "$lt": 6}},
        {"n": {"$gte": 5, "$lte": 5}},
        {"s": {"$gt": "tex"}},
        {"n": {"$not": {"$gt": 5}}},
        {"missing": {"$ne": 1}},
        {"missing": {"$nin": [1]}},
        {"missing": {"$not": {"$eq": 1}}},
        {"$not": {"missing": 1}},
        {"$and": [{"n": 5}, {"s": "text"}]},
        {"$or": [{"n": 6}, {"s": "text"}]},
        {"$or": [{"n": 6}, {"$and": [{"yes": True}, {"$not": {"yes": False}}]}]},
    ],
    ids=str,
)
def test_what_is_satisfied(filter):
    assert condition(filter)(ROW)
    assert not condition({"$not": filter})(ROW)


@pytest.mark.parametrize(
    "filter",
    [
        {"n": 6},
        {"n": 5, "s": "other"},
        {"yes": 1},
        {"n": {"$in": []}},
        {"yes": {"$in": [1]}},
        {"n": {"$nin": [5]}},
        {"n": {"$ne": 5}},
        {"n": {"$gt": 5}},
        {"n": {"$gt": "4"}},
        {"s": {"$lt": 3}},
        {"none": {"$gte": 0}},
        {"yes": {"$gt": 0}},
        {"list": {"$gt": 0}},
        {"missing": 1},
        {"missing": None},
        {"missing": {"$lt": 1}},
        {"missing": {"$in": [None]}},
        {"$and": [{"n": 5}, {"s": "other"}]},
        {"$or": [{"n": 6}, {"s": "other"}]},
    ],
    ids=str,
)
def test_what_is_not_satisfied(filter):
    assert not condition(filter)(ROW)


@pytest.mark.parametrize(
    ("filter", "error", "message"),
    [
        ([], TypeError, "filter must be a dict, got list"),
        ({1: 2}, TypeError, "filter must have strings as keys, got 1"),
        ({"$xor": []}, ValueError, "filter has the operator '\\$xor'"),
        ({"n": {"$near": 5}}, ValueError, "'n' has the operator '\\$near', which is none of \\$eq, \\$ne"),
        ({"n": {"$gt": 5, "other": 1}}, ValueError, "'n' has the operator 'other'"),
        ({"$and": {"n": 5}}, TypeError, "\\$and must have a list of filters"),
        ({"$or": []}, TypeError, "\\$or must have a list of filters"),
        ({"$not": 5}, TypeError, "filter must be a dict, got int"),
        ({"n": {"$in": "abc"}}, TypeError, "\\$in of 'n' must have a list of values, got str"),
        ({"n": {"$nin": 3}}, TypeError, "\\$nin of 'n' must have a list of values, got int"),
        ({"$or": [{"n": {"$bad": 1}}]}, ValueError, "\\$bad"),
    ],
    ids=str,
)
def test_what_is_no_filter_is_refused_before_a_row_is_seen(filter, error, message):
    with pytest.raises(error, match=message):
        condition(filter)
