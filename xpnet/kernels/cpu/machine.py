"""The loop that runs a program: rows, each a kernel and what it works on."""

from xpnet.kernels.cpu.compiled import jitted, text_of
from xpnet.kernels.cpu.memory import ROW_BYTES, call, store, word

__all__ = ["machine"]


def run(rows, first, last, places, n_places, x, y, weight):
    """Run rows ``first`` to ``last`` of the program at the address ``rows`` on a batch.

    Before that, put the addresses of the batch's arrays where the rows expect them: at the address
    ``places`` are pairs, an address in a row and which of the three arrays belongs there.
    """
    given = (x.ctypes.data, y.ctypes.data, weight.ctypes.data)
    for i in range(n_places):
        store(word(places + 16 * i), given[word(places + 16 * i + 8)])
    for i in range(first, last):
        row = rows + i * ROW_BYTES
        call(word(row), row)  # the first entry of a row is its kernel


machine = jitted(text_of(run))
