"""The training step on a CPU: products through NumPy's own BLAS, loops compiled by Numba.

    memory.py         how compiled code reads a row: sizes, numbers and addresses
    compiled.py       how a kernel's text is compiled and cached
    loops.py          kernels that are printed from formulas: loops over elements and rows
    rows.py           kernels that are written by hand, each with the reason
    parts.py          what several kernels have in common
    blas.py           the matrix product of NumPy's BLAS, called from compiled code
    machine.py        the loop that runs a program of those
    buffers.py        what a program is made of, and the arrays that all share
    program.py        a plan and a batch size as such a program
    fused_step.py     the step

The step is tested against :func:`xpnet.step.make_train_step`. A layer, loss or rule that cannot be
printed runs its portable formula inside the step. Loops run on one thread: a second thread pool
beside that of the BLAS would make each wait for the other.
"""
