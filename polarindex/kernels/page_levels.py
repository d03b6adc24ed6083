"""A page of any code as lines of levels, or multiplied as it is decoded: planes are woven, rings are cut into windows.

Law:       levels are those of weave.unwoven_page, or of reference.unpack_ring and the book's levels, on every set.
How:       the tag says what a code is. Numba leaves out what is asked of None, so that a scan of planes, whose book is
           None, has nothing of rings in it. Rings of a query alone go from register to register where 256 levels are
           in registers; other sets, which look two levels up at a time in memory, decode a page before queries meet
           it."""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from polarindex.kernels.compile import inlined
from polarindex.kernels.lanes import moved
from polarindex.kernels.lines import dot_alone
from polarindex.kernels.ring import dot_ring, open_book, ring_panel
from polarindex.kernels.simd import constant, planes_of, window_of
from polarindex.kernels.weave import dot_page, load_table, unwoven_page, wide_tables

decoded_first = constant(lambda isa: bool(isa.window) and not isa.tables, types.boolean)


@intrinsic
def _book_in(typing, isa, table):
    """The table of a code, an address, where it is a book, or else None."""

    def code(context, builder, sig, args):
        return args[1] if isa.window else context.get_dummy_value()

    return (table if isa.window else types.none)(isa, table), code


@inlined
def level_source(isa, table):
    """What levels are looked up by, for the functions below; table: the address of 16 levels, or of a book."""
    return load_table(isa, table), _book_in(isa, table)


@inlined
def lines_of_page(isa, words, quads):
    """Lines of levels, four coordinates each; words: of a plane, quads: of a query."""
    if window_of(isa):
        return quads
    return words if planes_of(isa) == 8 else 8 * words


@inlined
def _fill(isa, page, at, words, register, book, m, lines, first):
    if book is None:
        unwoven_page(isa, page, at, words, register, lines, first)
    else:
        ring_panel(isa, page, at, words, open_book(isa, book), m, moved(lines, first))


@inlined
def page_levels(isa, page, at, words, source, m, lines, first):
    """The m lines of levels of the page at element `at`, from lines[first] on."""
    register, book = source
    _fill(isa, page, at, words, register, book, m, lines, first)


@inlined
def _dot(isa, acc, page, register, book, quads, q):
    block, at, words, m, lines, half = page
    if book is None:
        return dot_page(isa, acc, block, at, words, register, half, quads, q)
    if wide_tables(isa):
        bits, table, _, _ = open_book(isa, book)
        return dot_ring(isa, acc, block, at, words, bits, table, m, quads, q)
    return dot_alone(isa, acc, lines, half, m, quads, q)


@inlined
def dot_levels_of(isa, acc, page, source, quads, q):
    """Add the products of a page, of the part that starts at vector `half`, with the quads of one query.

    page = (block, at: where it begins, words, m, lines: its levels where it is decoded_first, half)
    """
    register, book = source
    return _dot(isa, acc, page, register, book, quads, q)
