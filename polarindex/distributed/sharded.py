"""ShardedIndex: one index whose rows lie in many directories."""

from __future__ import annotations

import os
from typing import Any

from polarindex.distributed.build import build
from polarindex.distributed.layout import Layout


class ShardedIndex:
    """An index whose rows lie in shards, by their ids."""

    @classmethod
    def build(cls, source: Any, path: str | os.PathLike[str], **options: Any) -> Layout:
        """Build it: see `build.build`."""
        return build(source, path, **options)
