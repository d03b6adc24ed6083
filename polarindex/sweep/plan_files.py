"""Plans in files, TOML, YAML or JSON: the fields of Plan by name; a list, or one value, where Plan has a tuple.

    datasets = ["my.npy", "glove-sample"]
    quantizers = "eden"
    bits = [1, 2, 4]
    indexes = ["flat", "ivf"]

Law:       a name that Plan has not is an error, so is a value of another type: nothing in a file is passed over."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from polarindex.errors import FormatError, MissingExtraError
from polarindex.sweep.plan import Plan


def read_plan(path: Path) -> Plan:
    """The plan in a .toml, .yaml, .yml or .json file.

    FormatError for a file that is not written so or holds another name, ValueError for a value that Plan refuses,
    TypeError for one of a wrong type, MissingExtraError where a reader is missing.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise FormatError(f"{path}: plans are read from {', '.join(_READERS)}; got {path.suffix or 'no ending'!r}")
    text = path.read_bytes()
    try:
        values = read(text.decode("utf-8-sig"))
    except MissingExtraError:
        raise
    except Exception as error:  # each reader has its own
        raise FormatError(f"{path} is not valid {path.suffix[1:]}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise FormatError(f"{path} must hold names and values, as in bits = [1, 2]; got a {type(values).__name__}")
    return plan_of(values, str(path))


def plan_of(values: dict[str, Any], source: str) -> Plan:
    """The plan whose fields have these values; `source` is for messages."""
    kinds = {part.name: str(part.type) for part in fields(Plan)}
    unknown = [str(name) for name in values if name not in kinds]
    if unknown:
        raise FormatError(f"{source}: a plan has no {unknown[0]!r}; it has {', '.join(kinds)}")
    return Plan(**{name: _value(value, kinds[name], f"{source}: {name}") for name, value in values.items()})


def _value(value: Any, kind: str, name: str) -> Any:
    if not kind.startswith("tuple"):
        wanted: tuple[type, ...] = (bool,) if kind == "bool" else (int,) if kind.startswith("int") else (str,)
        _check_type(value, (*wanted, type(None)) if "None" in kind else wanted, name)
        return value
    entries = value if isinstance(value, list) else [value]
    for entry in entries:
        _check_type(entry, (str,) if "str" in kind else (int,), name)
    return tuple(entries)


def _check_type(value: Any, wanted: tuple[type, ...], name: str) -> None:
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise TypeError(f"{name} must be of type {wanted[0].__name__}, got {value!r}")


def _toml(text: str) -> Any:
    try:
        reader = import_module("tomllib")  # from Python 3.11 on
    except ImportError:
        reader = _extra("tomli")
    return reader.loads(text)


def _yaml(text: str) -> Any:
    return _extra("yaml").safe_load(text)


def _extra(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"{name} is not installed; get it with: pip install 'polarindex[files]'") from error


_READERS: dict[str, Callable[[str], Any]] = {".toml": _toml, ".yaml": _yaml, ".yml": _yaml, ".json": json.loads}
