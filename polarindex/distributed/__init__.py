"""One index in many directories, on one machine or many: built out of core, served by as many processes.

A code needs no training round, so shards are coded alone: they share what their frame says (dim, seed, centroids, mu),
and their scores compare exactly. Ray, the extra `distributed`, is where machines come in; without it processes of this
machine do the work.
"""

from __future__ import annotations

from polarindex.distributed.sharded import ShardedIndex

__all__ = ["ShardedIndex"]
