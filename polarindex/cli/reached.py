"""The index that a command searches: of a directory, of a sharded one, or one that a Ray cluster serves.

    DIRECTORY                an index, or a sharded one, which is served to this command alone, to read
    ray:///NAME              what the cluster of this machine serves as NAME (serve-shards)
    ray://HOST:PORT/NAME     what another cluster serves, through Ray's client server there (port 10001)"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polarindex.distributed import ShardedIndex
    from polarindex.indexes.flat import FlatIndex
    from polarindex.indexes.ivf import IVFIndex

    Reached = FlatIndex | IVFIndex | ShardedIndex

_SCHEME = "ray:"


@contextmanager
def reached(index: Path, mmap: bool = False) -> Iterator[Reached]:
    """The index that an argument names, for as long as the block runs."""
    from polarindex.distributed import ShardedIndex
    from polarindex.distributed.layout import SHARDED
    from polarindex.indexes.storage import load

    if index.parts[:1] == (_SCHEME,):  # a Path has made one slash of two
        name, address = _named(index)
        with ShardedIndex.connect(name, address=address) as held:
            yield held
    elif (index / SHARDED).exists():
        with ShardedIndex.open(index, read_only=True, address="local") as held:
            yield held
    else:
        yield load(index, mmap=mmap)


def _named(index: Path) -> tuple[str, str | None]:
    """The name and the cluster's address, None for that of this machine."""
    rest = index.parts[1:]
    if not 1 <= len(rest) <= 2:
        raise ValueError(f"{index} is no name of a served index; give ray:///NAME or ray://HOST:PORT/NAME")
    return rest[-1], f"ray://{rest[0]}" if len(rest) == 2 else None
