"""Indexes: a quantizer's codes, ids and scales in blocks, and the search over them."""
