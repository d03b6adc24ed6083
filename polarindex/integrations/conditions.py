"""Filters over metadata, written as dicts, as functions of the metadata.

    {"year": 2024, "lang": {"$in": ["en", "de"]}, "$or": [{"pages": {"$lt": 100}}, {"short": True}]}

Law:       all entries of a dict must hold. A field that is missing satisfies $ne, $nin and $not alone; values of
           types that have no order satisfy none of $gt, $gte, $lt and $lte; True is not 1.
Why:       what is wrong with a filter is said before the first document is looked at."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

Metadata = Mapping[str, Any]
Condition = Callable[[Metadata], bool]

_ORDERS = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}
_MISSING = object()


def condition(filter: Mapping[str, Any]) -> Condition:
    """A filter as a function that says whether some metadata satisfies it.

    Operators are $eq, $ne, $in, $nin, $gt, $gte, $lt, $lte of a field, and $and, $or (lists of filters) and $not (a
    filter, or what a field must not satisfy); a field with a plain value means $eq.

    Raises
    ------
    TypeError, ValueError
        The filter is not one; the message names the part.
    """
    if not isinstance(filter, Mapping):
        raise TypeError(f"filter must be a dict, got {type(filter).__name__}")
    parts = [_part(name, value) for name, value in filter.items()]
    return lambda metadata: all(part(metadata) for part in parts)


def _part(name: Any, value: Any) -> Condition:
    """One entry of a filter."""
    if not isinstance(name, str):
        raise TypeError(f"filter must have strings as keys, got {name!r}")
    if name == "$not":
        inner = condition(value)
        return lambda metadata: not inner(metadata)
    if name in ("$and", "$or"):
        if not isinstance(value, (list, tuple)) or not value:
            raise TypeError(f"{name} must have a list of filters, got {value!r:.60}")
        inners = [condition(inner) for inner in value]
        quantifier = all if name == "$and" else any
        return lambda metadata: quantifier(inner(metadata) for inner in inners)
    if name.startswith("$"):
        raise ValueError(f"filter has the operator {name!r}, which is none of $and, $or, $not; others are of a field")
    test = _test(name, value)
    return lambda metadata: test(metadata.get(name, _MISSING))


def _test(name: str, value: Any) -> Callable[[Any], bool]:
    """What a field's value must satisfy."""
    if not (isinstance(value, Mapping) and any(isinstance(key, str) and key.startswith("$") for key in value)):
        return lambda own: _same(own, value)
    tests = [_operator(name, symbol, operand) for symbol, operand in value.items()]
    return lambda own: all(test(own) for test in tests)


def _operator(name: str, symbol: Any, operand: Any) -> Callable[[Any], bool]:
    if symbol == "$eq":
        return lambda own: _same(own, operand)
    if symbol == "$ne":
        return lambda own: not _same(own, operand)
    if symbol in ("$in", "$nin"):
        if isinstance(operand, (str, bytes, Mapping)) or not hasattr(operand, "__iter__"):
            raise TypeError(f"{symbol} of {name!r} must have a list of values, got {type(operand).__name__}")
        values, wanted = list(operand), symbol == "$in"
        return lambda own: any(_same(own, value) for value in values) is wanted
    if symbol in _ORDERS:
        return lambda own: _ordered(_ORDERS[symbol], own, operand)
    if symbol == "$not":
        inner = _test(name, operand)
        return lambda own: not inner(own)
    known = ", ".join(("$eq", "$ne", "$in", "$nin", *_ORDERS, "$not"))
    raise ValueError(f"{name!r} has the operator {symbol!r}, which is none of {known}")


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, bool) is isinstance(b, bool) and bool(a == b)


def _ordered(compare: Callable[[Any, Any], Any], own: Any, operand: Any) -> bool:
    if own is _MISSING or isinstance(own, bool) is not isinstance(operand, bool):
        return False
    try:
        return bool(compare(own, operand))
    except TypeError:
        return False
