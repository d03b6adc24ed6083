"""The same rows, queries and clock for every library: polarindex and six others.

Two questions: what codes find by themselves when all rows are scanned (codes.py), and how fast an approximate index
answers at a recall (lists.py). `polarindex bench` asks them of a user's vectors, benchmarks/ of the published sets."""
