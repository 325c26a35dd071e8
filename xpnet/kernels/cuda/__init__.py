"""The training step on a GPU: fused kernels, products by cuBLASLt, replayed as one CUDA graph.

    *.cu, *.cuh          loops and sums; what is computed of an element is printed into them
    printed.py           kernels from the traced formulas of activations, losses and update rules
    sources.py           the kernels of a network as one translation unit; their parameters
    executor.py          what the step needs from a device, and CuPy's implementation
    blas.py              matrix products through our own cuBLAS handle
    blas_lt.py           products by cuBLASLt, with the algorithms that were chosen for them
    matmul.py            a product as cuBLASLt describes it
    choices.py           the algorithms that were chosen, kept in a folder
    measuring.py         how long functions of a stream take
    task.py              what is trained, if there are kernels for all of it
    buffers.py           the buffers shared by all batch sizes
    batch_program.py     the buffers of one batch size, and the calls recorded on them
    layer_operations.py  the launches of each operation of a layer
    step_operations.py   the launches of the whole plan, with loss and update
    begin.py             how steps begin: their numbers, and their rows of the data set
    lanes.py             which launches of a graph may run beside each other
    graph_check.py       whether a graph does what its launches do
    graphed_step.py      the step, and its graph

What is written by hand, because it is not element-wise: softmax and its cross-entropy, batch and
layer normalisation, dropout, sums.

The step is tested against :func:`xpnet.step.make_train_step`. It names no device: it is given an
executor, and the tests give it one that runs the same kernel sources on the CPU.
"""
