"""The training step on a CPU: products through NumPy's own BLAS, loops compiled by Numba.

    compiled.py       how Numba compiles and caches every kernel
    blas.py           the matrix product of NumPy's BLAS, called from compiled code
    elements.py       activations and dropout, forward and backward, bias included
    normalization.py  layer and batch normalisation, forward and backward
    losses.py         losses with their gradients, bias and totals included
    updates.py        each update rule, and clipping, as one pass over the flat vector
    machine.py        the loop that runs a program of those
    program.py        a model and a batch size as such a program
    fused_step.py     the step

The step is tested against :func:`xpnet.step.make_train_step`. A layer, loss or rule without a
kernel runs its portable formula inside the step. Loops run on one thread: a second thread pool
beside that of the BLAS would make each wait for the other.
"""
