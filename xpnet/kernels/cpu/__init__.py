"""The training step on a CPU: products through NumPy's own BLAS, loops compiled by Numba.

    blas.py        the matrix product of NumPy's BLAS, called from compiled code
    elements.py    activations and dropout, forward and backward, bias included
    losses.py      losses with their gradients, bias and totals included
    updates.py     each update rule, and clipping, as one pass over the flat vector
    machine.py     the loop that runs a program of those
    program.py     a model and a batch size as such a program
    step.py        the step

The step is held to :func:`xpnet.step.make_train_step`. A layer, loss or rule without a kernel takes
its portable formula inside the step. Loops run on one thread: a second pool of threads beside that
of the BLAS makes both wait for each other.
"""
