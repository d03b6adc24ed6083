"""Programs that measure polarindex and its peers: `python -m benchmarks.NAME` from the root of the repository."""
