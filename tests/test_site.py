"""The site of docs/: it builds without a warning, asks no network, and fits a screen and a phone, light and dark."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")
pytest.importorskip("mkdocstrings", reason="the extra 'docs' is not installed")
pytest.importorskip("latex2mathml", reason="the extra 'docs' is not installed")

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OUTSIDE = re.compile(r"""<(?:script|link|img|iframe|source)[^>]*(?:src|href)=["']?(?:https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stderr
    return folder


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_every_page_is_in_the_site_and_asks_no_network(site):
    built = {str(path.relative_to(site).with_suffix(".md")) for path in pages(site)}
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert written <= built
    asking = [str(path) for path in pages(site) if OUTSIDE.search(path.read_text(encoding="utf-8"))]
    assert asking == []


def test_every_formula_is_mathml_and_every_figure_a_part_of_its_page(site):
    texts = {path.name: path.read_text(encoding="utf-8") for path in pages(site)}
    assert [name for name, text in texts.items() if "arithmatex" in text] == []
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "how").glob("*.md"))
    assert sum(text.count('<math xmlns') for text in texts.values()) >= written.count("$$") // 2 > 0
    assert sum(text.count('<div class="figure"><svg') for text in texts.values()) == written.count("(../images/how-")


def test_the_reference_has_every_public_name(site):
    import polarindex

    text = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    named = polarindex.__all__
    assert [name for name in named if not re.search(rf'id="polarindex\.(?:[\w.]+\.)?{name}"', text)] == []


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        found = driver.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield found
        found.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")], ids=["a screen", "a phone, dark"])
def test_every_page_fits_and_complains_of_nothing(site, address, browser, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, wrong = context.new_page(), []
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith((address, "data:")) else None)
    page.on("response", lambda got: wrong.append(got.url) if got.status >= 400 else None)
    for path in pages(site):
        name = str(path.relative_to(site))
        page.goto(f"{address}/{name}", wait_until="load")
        if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
            wrong.append(f"{name} is wider than {width}")
        if page.evaluate("[...document.images].some(image => image.complete && !image.naturalWidth)"):
            wrong.append(f"{name} lacks a picture")
        if path.name == "404.html":
            continue
        shown = page.evaluate("document.body.getAttribute('data-md-color-scheme')")
        assert shown == {"light": "default", "dark": "slate"}[scheme]
    context.close()
    assert wrong == []


def test_search_finds_a_page_without_network(address, browser):
    page = browser.new_page()
    page.goto(f"{address}/index.html", wait_until="load")
    page.fill("input.md-search__input", "water-filling")
    page.wait_for_selector(".md-search-result__link[href*='how/bounds.html']", state="attached", timeout=15_000)
    page.close()
