"""The training step on a GPU: fused kernels, products through cuBLAS, replayed as one CUDA graph.

    *.cu, *.cuh        the kernels: the formulas of xpnet.ops and xpnet.optim.optimizers, fused
    sources.py         the kernels as one translation unit, and the parameters of each
    executor.py        what the step needs from a device, and CuPy's implementation
    blas.py            matrix products through our own cuBLAS handle
    work.py            what a stage can use
    stages.py          a model as stages, each with a forward and a backward
    row_stages.py      the stages that work along rows or columns
    rules.py           the kernel of each loss and of each update rule
    buffers.py         what is trained, and the buffers shared by all batch sizes
    batch_program.py   the work of one batch size on static buffers
    graphed_step.py    the step, and its graph

The step is tested against :func:`xpnet.step.make_train_step`. It names no device: it is given an
executor, and the tests give it one that runs the same kernel sources on the CPU.
"""
