"""The page of a sweep: in itself, and as a browser shows it."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from polarindex.sweep.page import write_page
from polarindex.sweep.plan import METHODS, PEERS, Plan
from polarindex.sweep.results import Results, environment

pytest.importorskip("plotly")
_EACH = 16  # rows of a method and set in conftest.py's results: four widths, flat and with three numbers of lists
ROWS = _EACH * len((*METHODS, *PEERS))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def path(make_results, tmp_path):
    found = make_results("first set", "second </script><b>", lists=True)
    write_page(found, tmp_path / "sweep.html")
    return tmp_path / "sweep.html"


def test_the_page_holds_all_rows_and_asks_no_network(path, make_results):
    text = path.read_text(encoding="utf-8")
    own = text.split("<script>")[0] + text.split("<script>")[-1]
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", own)
    data = json.loads(re.search(r"const DATA = (.*);\n", own)[1])
    assert len(data["rows"]) == len(make_results("a", "b", lists=True).rows)
    assert set(data["headings"]) == {"first set", "second </script><b>"}


def test_no_measured_cell_is_no_page(tmp_path):
    with pytest.raises(ValueError, match="no page without a measured cell"):
        write_page(Results(Plan(("set",)), environment(None)), tmp_path / "sweep.html")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        quiet = ["--no-sandbox", "--disable-background-networking"]
        found = driver.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield found
        found.close()


@pytest.fixture(params=[(1300, "light"), (390, "dark")], ids=["a screen", "a phone, dark"])
def shown(request, browser, path):
    """The page, opened; what it complains of or asks for elsewhere makes the test fail."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []


    def said(message) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    def asked(request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            complaints.append(request.url)

    page.on("console", said)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", asked)
    page.goto(path.as_uri())
    page.wait_for_selector("#build .plot-container")
    yield page
    assert complaints == []
    context.close()


def points(page, plot: str) -> int:
    return page.evaluate(f"document.getElementById('{plot}').data.reduce((sum, trace) => sum + trace.x.length, 0)")


@pytest.mark.slow
def test_every_plot_is_drawn(shown):
    for plot, some in (("recall", 60), ("speed", ROWS), ("distortion", 60), ("build", 120)):
        assert points(shown, plot) >= some
        assert shown.locator(f"#{plot} .main-svg").count() > 0
    assert shown.locator("#table tbody tr").count() == ROWS


@pytest.mark.slow
def test_nothing_is_wider_than_the_screen(shown):
    assert shown.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.slow
def test_a_filter_hides_a_method_everywhere(shown):
    before = points(shown, "recall")
    shown.locator("label.chip", has=shown.locator("input[value='qjl']")).click()
    assert points(shown, "recall") == before - 4
    assert shown.locator("#table tbody tr").count() == ROWS - _EACH
    assert "qjl" not in shown.locator("#table tbody").inner_text()


@pytest.mark.slow
def test_everything_hidden_is_no_error(shown):
    for box in shown.locator("input[name='bits']").all():
        box.evaluate("box => box.click()")
    assert shown.locator("#table tbody tr").count() == 0


@pytest.mark.slow
def test_the_table_sorts_and_searches(shown):
    shown.locator("th button", has_text="bytes").click()
    sizes = [float(text) for text in shown.locator("#table tbody tr td:nth-child(8)").all_inner_texts()]
    assert sizes == sorted(sizes)
    shown.locator("th button", has_text="bytes").click()
    sizes = [float(text) for text in shown.locator("#table tbody tr td:nth-child(8)").all_inner_texts()]
    assert sizes == sorted(sizes, reverse=True)
    shown.locator("#search").fill("turboquant-prod ivf")
    assert shown.locator("#table tbody tr").count() == 12


@pytest.mark.slow
def test_another_data_set_and_another_k_are_shown(shown):
    shown.locator("#dataset").select_option("second </script><b>")
    assert shown.locator("#heading").inner_text().startswith("second </script><b>: 10,000")
    shown.locator("#k").select_option("1")
    assert "recall@1 " in shown.locator("#recall").inner_text() + " "


@pytest.mark.slow
def test_a_point_tells_what_it_is(shown):
    shown.locator("#recall").scroll_into_view_if_needed()
    shown.evaluate("Plotly.Fx.hover('recall', [{curveNumber: 0, pointNumber: 0}])")
    text = shown.locator("#recall .hoverlayer").text_content()
    assert "eden" in text
    assert "106 bytes" in text


@pytest.mark.slow
def test_light_and_dark_can_be_changed(shown):
    before = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    shown.locator("#theme").click()
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") != before
    shown.locator("#theme").click()
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == before
