"""What the site needs beyond MkDocs: mathematics as MathML and figures in the text's colour, without a script.

Law:       the pages that are built need no network and no JavaScript to be read.
How:       arithmatex marks formulas; latex2mathml turns them into MathML, which browsers draw themselves. The figures
           of `docs/figures` are put into the page, where their `currentColor` is that of the page, light or dark.
Why:       MathJax and KaTeX would be a megabyte of scripts, or a request to somebody else's machine.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_FIGURE = re.compile(r'<p><img alt="([^"]*)" src="[^"]*?images/(how-[a-z-]+\.svg)"\s*/?></p>')


def on_page_content(page_html: str, config: Any, **_: Any) -> str:
    """Called by MkDocs with the HTML of every page."""
    images = Path(config["docs_dir"]) / "images"
    page_html = _FORMULA.sub(_mathml, page_html)
    return _FIGURE.sub(lambda found: _inlined(images / found[2], found[1]), page_html)


def _mathml(found: re.Match[str]) -> str:
    formula = html.unescape(found[2]).strip()
    if found[1] == "div":
        return f'<div class="formula">{convert(formula, display="block")}</div>'
    return convert(formula)


def _inlined(path: Path, title: str) -> str:
    """A figure as part of the page. Its style, which follows the system's colours, gives way to the page's."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"<style id=\"standalone\">.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    return f'<div class="figure">{text}</div>'
