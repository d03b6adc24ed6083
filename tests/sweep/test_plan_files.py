"""Plans in files."""

from __future__ import annotations

import json

import pytest

from polarindex.errors import FormatError, MissingExtraError
from polarindex.sweep import plan_files
from polarindex.sweep.plan import Plan
from polarindex.sweep.plan_files import read_plan

SETS, KINDS, STORES = ("x.npy", "glove-sample"), ("flat", "ivf"), ("none", "int8")
PLAN = Plan(SETS, ("eden",), (1, 4), KINDS, STORES, 64, (1, 8), metric="ip", seed=3)
TOML = """
datasets = ["x.npy", "glove-sample"]
quantizers = "eden"
bits = [1, 4]
indexes = ["flat", "ivf"]
stores = ["none", "int8"]
nlist = 64
nprobe = [1, 8]
metric = "ip"
seed = 3
"""
YAML = """
datasets: [x.npy, glove-sample]
quantizers: eden
bits: [1, 4]
indexes: [flat, ivf]
stores: [none, int8]
nlist: 64
nprobe: [1, 8]
metric: ip
seed: 3
"""


def test_a_plan_reads_the_same_from_every_format(tmp_path):
    pytest.importorskip("yaml")
    texts = {"p.toml": TOML, "p.yaml": YAML, "p.yml": YAML, "p.json": json.dumps(PLAN.as_dict())}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert read_plan(tmp_path / name) == PLAN


def test_what_is_not_said_is_as_in_plan(tmp_path):
    (tmp_path / "p.toml").write_text("")
    assert read_plan(tmp_path / "p.toml") == Plan()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("bitts = [1]", FormatError, "a plan has no 'bitts'; it has datasets, quantizers"),
        ("bits = [1", FormatError, "p.toml is not valid toml"),
        ("bits = [9]", ValueError, "bits must be from 1 to 8, got 9"),
        ('bits = ["1"]', TypeError, "p.toml: bits must be of type int, got '1'"),
        ("bits = [true]", TypeError, "bits must be of type int, got True"),
        ("datasets = [1]", TypeError, "datasets must be of type str, got 1"),
        ('seed = "0"', TypeError, "seed must be of type int, got '0'"),
        ("peers = 1", TypeError, "peers must be of type bool, got 1"),
        ('nlist = "auto"', TypeError, "nlist must be of type int, got 'auto'"),
        ('metric = "l1"', ValueError, "metric must be one of 'l2'"),
    ],
)
def test_what_a_plan_cannot_mean_is_said(text, error, message, tmp_path):
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(error, match=message):
        read_plan(tmp_path / "p.toml")


def test_other_files_are_no_plans(tmp_path):
    (tmp_path / "p.txt").write_text(TOML)
    with pytest.raises(FormatError, match=r"plans are read from \.toml, \.yaml, \.yml, \.json; got '\.txt'"):
        read_plan(tmp_path / "p.txt")
    (tmp_path / "p.json").write_text("[1]")
    with pytest.raises(FormatError, match="must hold names and values, .* got a list"):
        read_plan(tmp_path / "p.json")


def test_yaml_makes_no_objects(tmp_path):
    pytest.importorskip("yaml")
    (tmp_path / "p.yaml").write_text("seed: !!python/object/apply:os.getpid []")
    with pytest.raises(FormatError, match="p.yaml is not valid yaml"):
        read_plan(tmp_path / "p.yaml")


def test_a_missing_reader_names_the_extra(tmp_path, monkeypatch):
    def missing(name: str):
        raise ImportError(name)

    monkeypatch.setattr(plan_files, "import_module", missing)
    (tmp_path / "p.yaml").write_text(YAML)
    with pytest.raises(MissingExtraError, match=r"pip install 'polarindex\[files\]'"):
        read_plan(tmp_path / "p.yaml")
