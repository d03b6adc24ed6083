"""Imports point down, and modules keep the house rules that a linter does not know. Read from the source text."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import polarindex

LAYERS = [
    "errors",
    "memory",
    "arrays",
    "checks",
    "kernels",
    "vectors",
    "rotations",
    "spectra",
    "codebooks",
    "codes",
    "allocation",
    "quantizers",
    "indexes",
    "convert",
    "records",
    "integrations",
    "sweep",
    "distributed",
    "gpu",
    "bench",
    "cli",
    "__main__",
]
OPTIONAL = {
    *("cuda", "cupy", "cupy_backends", "faiss", "haystack", "hnswlib", "joblib", "langchain_core"),
    *("llama_index", "matplotlib", "pandas", "plotly", "polars", "pyarrow", "safetensors", "scipy", "sklearn", "tomli"),
    *("ray", "torch", "usearch", "yaml"),
}
ADAPTERS = {  # modules whose classes are a framework's, so that they import it; nothing imports them
    "polarindex.integrations.haystack": {"haystack"},
    "polarindex.integrations.langchain": {"langchain_core"},
    "polarindex.integrations.llamaindex": {"llama_index"},
    "polarindex.integrations.sklearn": {"joblib", "scipy", "sklearn"},
}

PACKAGE = Path(polarindex.__file__).parent
MODULES = {
    ".".join(("polarindex", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[ast.stmt, str]]:
    """Every imported name, dotted and absolute, with its statement; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node, f"{source}.{alias.name}") for alias in node.names)


def layer(name: str) -> str | None:
    """The layer of a dotted name; None outside the package and for `polarindex.__version__`."""
    parts = name.split(".")
    return parts[1] if parts[0] == "polarindex" and parts[1:] not in ([], ["__version__"]) else None


def upward(source: str, module: str, is_package: bool = False) -> list[str]:
    """The imports of a module that point up, or from a kernel to anything but errors."""
    own = layer(module)
    if own is None:
        return []
    allowed = {"errors", "kernels"} if own == "kernels" else set(LAYERS[: LAYERS.index(own) + 1])
    wanted = [name for _, name in imports(ast.parse(source), module, is_package)]
    return [name for name in wanted if layer(name) is not None and layer(name) not in allowed]


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: not function bodies, not `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from at_import(node)


def read(module: str) -> tuple[str, bool]:
    return MODULES[module].read_text(encoding="utf-8"), MODULES[module].name == "__init__.py"


def test_every_file_has_a_layer():
    assert {layer(module) for module in MODULES} - {None} <= set(LAYERS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    source, is_package = read(module)
    assert upward(source, module, is_package) == []


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("polarindex.codes", "from polarindex.indexes.flat import FlatIndex", ["polarindex.indexes.flat.FlatIndex"]),
        ("polarindex.codes", "from polarindex import checks, cli", ["polarindex.cli"]),
        ("polarindex.codes", "import polarindex.sweep", ["polarindex.sweep"]),
        ("polarindex.codes", "from polarindex import FlatIndex", ["polarindex.FlatIndex"]),
        ("polarindex.codes", "from polarindex import __version__", []),
        ("polarindex.codes", "def f():\n    from . import quantizers", ["polarindex.quantizers"]),
        ("polarindex.indexes.flat", "from ..sweep import run", ["polarindex.sweep.run"]),
        ("polarindex.indexes.flat", "from . import arena\nfrom .ids import IdMap", []),
        ("polarindex.kernels.scan", "from polarindex import checks, errors", ["polarindex.checks"]),
        ("polarindex", "from polarindex.cli import main", []),
    ],
)
def test_an_import_that_points_up_is_found(module, line, found):
    assert upward(line, module) == found


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_printed_or_asserted(module):
    """Output belongs to the command line's console; `python -O` drops assertions, so they check no argument."""
    tree = ast.parse(read(module)[0])
    prints = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert [node.lineno for node in prints + asserts] == []


@pytest.mark.parametrize("module", MODULES)
def test_optional_packages_are_imported_where_they_are_used(module):
    source, is_package = read(module)
    tree = ast.parse(source)
    running = set(at_import(tree))
    names = [name for node, name in imports(tree, module, is_package) if node in running]
    assert {name.split(".")[0] for name in names} & OPTIONAL == ADAPTERS.get(module, set())


def test_nothing_imports_an_adapter():
    for module in MODULES:
        source, is_package = read(module)
        wanted = {name for _, name in imports(ast.parse(source), module, is_package)}
        adapters = {name for name in wanted for adapter in ADAPTERS if f"{name}.".startswith(f"{adapter}.")}
        assert not adapters, module


def test_an_import_in_a_function_is_not_at_import_time():
    source = "if TYPE_CHECKING:\n    import torch\ntry:\n    import faiss\nexcept ImportError:\n    pass\n"
    tree = ast.parse(source + "class C:\n    import scipy\ndef f():\n    import matplotlib\n")
    running = set(at_import(tree))
    assert [name for node, name in imports(tree, "polarindex.codes", False) if node in running] == ["faiss", "scipy"]
