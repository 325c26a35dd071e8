"""The lower bounds: a step's matrix products alone, by the library that xpnet's own step calls.

On a GPU there is a second one: with the products, a copy of as many bytes as all the rest of
xpnet's step reads and writes. What is slower than that by much has more to do than its arithmetic.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from xpnet.bench.contender import Contender
from xpnet.bench.model import moved_bytes
from xpnet.bench.networks import LIMIT, Network, drawn
from xpnet.bench.setting import Setting
from xpnet.errors import BackendError
from xpnet.kernels.cuda.buffers import many_blocks
from xpnet.kernels.cuda.executor import Executor
from xpnet.kernels.cuda.lanes import Recorded
from xpnet.kernels.cuda.padding import padded_widths
from xpnet.kernels.cuda.sources import PACK, WRITTEN
from xpnet.typing import Array

__all__ = ["bytes_limit", "gemm_limit"]

Place = Callable[[np.ndarray], Array]
THREADS = 256  # of a block


def gemm_limit(network: Network, setting: Setting) -> Contender:
    """Return NumPy's products on a CPU, or cuBLAS's on a GPU, replayed as one CUDA graph."""
    if setting.on_gpu:
        return _on_gpu(network, setting, 0)
    if setting.narrow:
        msg = f"the {LIMIT} on a CPU is NumPy's: use --precision float32 or float64; "
        msg += f"got {setting.narrow}"
        raise BackendError(msg)

    def place(host: np.ndarray) -> Array:
        return host.astype(setting.dtype)

    triples = products(network, place, place)

    def step() -> None:
        for left, right, out in triples:
            np.matmul(left, right, out=out)

    return Contender(step, lambda: None)


def bytes_limit(network: Network, setting: Setting) -> Contender:
    """Return cuBLAS's products and a copy of the rest's bytes, replayed as one CUDA graph."""
    return _on_gpu(network, setting, sum(moved_bytes(network, setting).values()))


def _on_gpu(network: Network, setting: Setting, copied: int) -> Contender:
    executor = setting.executor()
    with executor.active():
        return replayed_products(network, executor, copied)


def replayed_products(network: Network, executor: Executor, copied: int = 0) -> Contender:
    """Return the products with the fused step's dtypes, dW having that of the weights.

    Widths are padded to what is fastest, as in the step. Half of the bytes ``copied`` are read, and
    half are written.
    """

    def stored(host: np.ndarray) -> Array:
        if executor.stored != "uint16":
            return executor.place(host.astype(executor.stored))
        return executor.place((host.view(np.uint32) >> 16).astype(np.uint16))  # bfloat16's bits

    def wide(host: np.ndarray) -> Array:
        return executor.place(host.astype(executor.dtype))

    *others, last = network.widths
    of_last = padded_widths([last], executor.pack)
    padded = replace(network, widths=(*padded_widths(others, executor.pack), *of_last))
    triples = products(padded, _once(stored, executor), _once(wide, executor))
    calls = [executor.product(*triple) for triple in triples]
    note = f"a CUDA graph of {len(calls)} cuBLAS calls"
    last = executor.empty((1,), executor.dtype)
    if copied:
        size = copied // 2 // last.itemsize
        x, y = (executor.empty((size,), executor.dtype) for _ in range(2))
        grid = many_blocks(-(-copied // 2 // PACK), THREADS), 1
        calls.append(executor.launch(WRITTEN["copied"], grid, THREADS, x, y, size, None))
        note += f" and a copy of {copied / 1e6:,.2f} MB, read and written"
    for call in calls:  # lets cuBLAS load its kernels, which it cannot do during capture
        call()
    replay = executor.capture(list(map(Recorded, calls)))

    def step(kept: list = calls) -> None:  # the buffers are the calls'
        replay()

    return Contender(step, lambda: executor.to_host(last), lambda: note)


def _once(place: Place, executor: Executor) -> Place:
    """Place what is the same from the host once, and copy it there: that is faster."""
    kept: dict[int, tuple[np.ndarray, Array]] = {}

    def placed(host: np.ndarray) -> Array:
        if id(host) not in kept:
            kept[id(host)] = host, place(host)
            return kept[id(host)][1]
        first = kept[id(host)][1]
        copy = executor.empty(tuple(first.shape), str(first.dtype))
        executor.copy(copy, first)
        return copy

    return placed


def products(network: Network, stored: Place, wide: Place) -> list[tuple[Array, Array, Array]]:
    """Return (left, right, out) for each product of a step: x W, then x.T dz and dz W.T.

    ``stored`` places activations and weights, ``wide`` the weights' gradients. All buffers hold
    normally distributed numbers of realistic size: a GPU is faster on zeros.
    """
    N, widths = network.batch_size, network.widths
    pairs = list(itertools.pairwise(widths))
    numbers = drawn(max(N, *widths) * max(widths))

    @cache
    def normal(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return numbers[: rows * columns].reshape(rows, columns) * np.float32(scale)

    W = [stored(normal(i, j, i**-0.5)) for i, j in pairs]
    a = [stored(normal(N, width)) for width in widths]
    da = [stored(normal(N, width)) for width in widths]
    dW = [wide(normal(i, j)) for i, j in pairs]
    forward = [(a[n], W[n], a[n + 1]) for n in range(len(W))]
    backward = []
    for n in reversed(range(len(W))):
        backward.append((a[n].T, da[n + 1], dW[n]))
        if n:
            backward.append((da[n + 1], W[n].T, da[n]))
    return forward + backward
