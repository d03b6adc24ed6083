"""Consoles: results on stdout, everything about the run on stderr."""

from __future__ import annotations

import sys

from rich.console import Console

_WIDE = 160  # where output goes to a file nothing is cut to a screen's width


def out() -> Console:
    """The console for results."""
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def log() -> Console:
    """The console for progress and remarks."""
    return Console(stderr=True, highlight=False, soft_wrap=True)
