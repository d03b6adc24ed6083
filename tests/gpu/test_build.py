"""Every kernel compiles for every generation, with no registers spilled to speak of and no wgmma serialised.

It needs NVRTC, not a card.
"""

from __future__ import annotations

import re

import pytest

import polarindex as pi
from polarindex.gpu import build as builder
from polarindex.gpu.layout import Layout
from polarindex.gpu.places import Form
from polarindex.gpu.probing import scan_shape
from polarindex.gpu.shapes import Card, shape
from polarindex.gpu.source import lists_source, scan_source, source

pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC's bindings are not installed")
try:
    builder._nvrtc()
except pi.MissingExtraError as error:
    pytest.skip(str(error), allow_module_level=True)

H100 = Card((9, 0), 132, 232_448)
CARDS = {"wgmma": H100, "mma": Card((8, 0), 108, 166_912), "dp4a": Card((7, 5), 40, 65_536)}
ARCHITECTURES = ("sm_75", "sm_80", "sm_120")
FEW_BYTES = 48  # once a tile, outside the loop over its chunks
SPILLS = re.compile(r"(\d+) bytes spill stores")


def built(text, architecture, macros):
    found = builder.build(text, architecture, macros, cached=False)
    assert found.code[:4] == b"\x7fELF"
    assert "C75" not in found.said, found.said  # ptxas: wgmma is serialised
    return found.said


def check_scan(card, layout, nq, instruction=None):
    form = shape(card, layout, nq, instruction)
    said = built(scan_source(form.instruction, form.queries), card.architecture, form.macros(layout))
    filter_alone = said.split("Compiling entry function 'scan_filter'")[1]
    assert int(SPILLS.search(filter_alone)[1]) <= FEW_BYTES, (form, said)


@pytest.mark.parametrize(("instruction", "nq"), [("wgmma", 1), ("mma", 16), ("dp4a", 1)])
def test_the_scan_of_four_bits_compiles(instruction, nq):
    check_scan(CARDS[instruction], Layout(4, 1024), nq, instruction)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("dim", [128, 1024, 1536])
@pytest.mark.parametrize("nq", [1, 32, 256, 1024])
def test_every_shape_of_wgmma_compiles(bits, dim, nq):
    check_scan(H100, Layout(bits, dim), nq)


@pytest.mark.slow
@pytest.mark.parametrize("card", [CARDS["mma"], Card((12, 0), 84, 101_376), CARDS["dp4a"]])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("nq", [1, 16, 256])
def test_every_shape_of_other_cards_compiles(card, bits, nq):
    check_scan(card, Layout(bits, 1024), nq)


@pytest.mark.parametrize(
    "architecture", [*(pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES), "sm_90a"]
)
def test_what_surrounds_the_scan_compiles(architecture):
    for name in ("topk", "pack", "send"):
        built(source(name), architecture, {"BITS": 3, "DIM": 128})
    built(source("pack"), architecture, {"BITS": 3, "DIM": 128, "UNIT_ROWS": 16})
    said = built(lists_source("probe"), architecture, {"BITS": 8, "DIM": 128})
    assert not any(map(int, SPILLS.findall(said))), said
    card = H100 if architecture == "sm_90a" else CARDS["dp4a"]
    for dim in (100, 1024):
        said = built(source("encode"), architecture, Form.of(dim, card).macros(card, 4))
        assert all(int(count) <= FEW_BYTES for count in SPILLS.findall(said)), said


def check_lists(architecture, layout, queries):
    """The scan of lists or of centroids, whichever reads such codes, and what comes before and after it."""
    mma = architecture != "sm_75"
    form = scan_shape(H100 if mma else CARDS["dp4a"], layout, queries)
    assert form.mma == mma
    said = built(lists_source("scan", form.queries), architecture, form.macros(layout))
    for name in ("scan_lists", *(["scan_centroids"] if layout.bits == 8 else [])):
        alone = said.split(f"Compiling entry function '{name}'")[1]
        assert int(SPILLS.search(alone)[1]) <= FEW_BYTES, (form, said)
    said = built(lists_source("best"), architecture, {"BITS": layout.bits, "DIM": layout.padded})
    assert int(SPILLS.search(said)[1]) == 0, said


@pytest.mark.parametrize(("bits", "queries"), [(4, 32), (8, 8)])
def test_the_search_of_lists_compiles(bits, queries):
    check_lists("sm_90a", Layout(bits, 128), queries)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "sm_90a"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("dim", [128, 1024])
@pytest.mark.parametrize("queries", [1, 32])
def test_every_shape_of_the_search_of_lists_compiles(architecture, bits, dim, queries):
    check_lists(architecture, Layout(bits, dim), queries)


def test_a_kernel_is_compiled_once_and_then_read(tmp_path, monkeypatch):
    monkeypatch.setenv("POLARINDEX_CACHE", str(tmp_path))
    text = 'extern "C" __global__ void nothing() {}'
    first = builder.build(text, "sm_80", {"A": 1})
    assert first.said
    again = builder.build(text, "sm_80", {"A": 1})
    assert (again.code, again.said) == (first.code, "")
    assert builder.build(text, "sm_80", {"A": 2}).said  # other macros are another kernel
    assert builder.build(text, "sm_90", {"A": 1}).said


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch, caplog):
    (tmp_path / "gpu").write_text("a file in the way")
    monkeypatch.setenv("POLARINDEX_CACHE", str(tmp_path))
    assert builder.build('extern "C" __global__ void nothing() {}', "sm_80", {}).code
    assert "compiled anew" in caplog.text


def test_a_text_that_does_not_compile_is_a_gpu_error_with_the_compilers_words():
    with pytest.raises(pi.GpuError, match="undefined"):
        builder.build("void f() { g(); }", "sm_80", {}, cached=False)


def test_without_a_gpu_the_cause_is_named():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        with pytest.raises(pi.GpuError, match="no GPU can be used"):
            pi.FlatIndex(8).to_gpu()
        with pytest.raises(pi.GpuError, match="no GPU can be used"):
            pi.IVFIndex(8).to_gpu()
    else:
        pytest.skip("there is a GPU")


def test_without_cupy_the_extra_is_named(monkeypatch):
    import sys

    from polarindex.gpu.device import device

    device.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(pi.MissingExtraError, match=r"polarindex\[gpu\]"):
        pi.gpu.GpuFlatIndex(8)
    with pytest.raises(pi.MissingExtraError, match=r"polarindex\[gpu\]"):
        pi.gpu.GpuIVFIndex(8)
