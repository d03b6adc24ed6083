"""Bounds that kernels rely on, as constants that tests stand on."""

# An int32 sum of products of levels and queries, both int8 in -127 .. 127, cannot wrap up to this many dimensions.
MAX_DIMS = (2**31 - 1) // (127 * 127)

# The id of an empty place in a heap: larger than any that a caller may use.
EMPTY_ID = 2**63 - 1

# Vectors must be shorter, so that a squared distance, at most 4 times a squared length, stays within float32.
LONGEST = (2.0**128 - 2.0**104) ** 0.5 / 8

# How a stored row and a query compare.
L2, INNER_PRODUCT, COSINE = 0, 1, 2

# The store of copies (pages.py): an id word from THROUGH on is one that holds a place in the first lists, of which the
# last BEHIND numbers beside the addresses of blocks tell.
THROUGH, BEHIND = 1 << 32, 5

# Segments of codes in panels (cascade.py): the width of one that is a ring is RING more than a coordinate's bits,
# beside widths of 1 to 8, and the levels of each are LEVELS bytes.
RING, LEVELS = 8, 256

# What scans of rings look levels up by is one run of bytes, a book (ring.py): LEVELS levels, and where what follows is.
BOOK_MIX, BOOK_BITS, BOOK_PAIRS = 256, 320, 384

# Of a word that holds a row's scale and its shift: the lowest bits, of the level that tells the shift (factors.py).
LEVEL_BITS = 14

# Levels of a shift beside the scales of several segments: from so many on steps are wide (factors.py).
KNEE = 84
