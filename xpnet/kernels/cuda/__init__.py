"""The training step on a GPU: fused kernels, products through cuBLAS, replayed as one CUDA graph.

    *.cu, common.cuh   the kernels: the formulas of xpnet.ops and xpnet.optim.optimizers, fused
    sources.py         one translation unit of them, and what each kernel takes
    blas.py            matrix products through our own cuBLAS handle
    work.py            what a stage may ask for
    stages.py, rows.py a model as stages, each with a forward and a backward
    rules.py           which kernel is which loss and which update rule
    buffers.py         what is trained, and the buffers that all batch sizes share
    program.py         the work of one batch size on static buffers
    step.py            the step, and its graph
    executor.py        what a step asks of a device, and CuPy's answer
    transfer.py        batches on their way to the device

The step is held to :func:`xpnet.step.make_train_step`. It names no device: an executor is handed
in, and the tests hand in one that runs the same kernel sources on the CPU.
"""
