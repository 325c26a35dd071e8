"""The lower bound: a step's matrix products alone, by the library that xpnet's own step calls."""

import itertools
from collections.abc import Callable

import numpy as np

from xpnet.bench.contender import Contender
from xpnet.bench.networks import LIMIT, SEED, Network
from xpnet.bench.setting import Setting
from xpnet.errors import BackendError
from xpnet.kernels.cuda.executor import CupyExecutor, Executor
from xpnet.kernels.cuda.lanes import Recorded
from xpnet.typing import Array

__all__ = ["gemm_limit"]

Place = Callable[[np.ndarray], Array]


def gemm_limit(network: Network, setting: Setting) -> Contender:
    """Return NumPy's products on a CPU, or cuBLAS's on a GPU, replayed as one CUDA graph."""
    if setting.on_gpu:
        backend = setting.backend("cupy")
        tf32 = setting.precision == "tf32"
        executor = CupyExecutor(backend.device, setting.dtype, tf32=tf32, narrow=setting.narrow)
        with executor.active():
            return replayed_products(network, executor)
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


def replayed_products(network: Network, executor: Executor) -> Contender:
    """Return the products with the fused step's dtypes: dW has that of the weights."""

    def stored(host: np.ndarray) -> Array:
        if executor.stored != "uint16":
            return executor.place(host.astype(executor.stored))
        return executor.place((host.view(np.uint32) >> 16).astype(np.uint16))  # bfloat16's bits

    def wide(host: np.ndarray) -> Array:
        return executor.place(host.astype(executor.dtype))

    calls = [executor.product(*triple) for triple in products(network, stored, wide)]
    last = executor.empty((1,), executor.dtype)
    for call in calls:  # lets cuBLAS load its kernels, which it cannot do during capture
        call()
    replay = executor.capture(list(map(Recorded, calls)))

    def step(kept: list = calls) -> None:  # the buffers are the calls'
        replay()

    note = f"a CUDA graph of {len(calls)} cuBLAS calls"
    return Contender(step, lambda: executor.to_host(last), lambda: note)


def products(network: Network, stored: Place, wide: Place) -> list[tuple[Array, Array, Array]]:
    """Return (left, right, out) for each product of a step: x W, then x.T dz and dz W.T.

    ``stored`` places activations and weights, ``wide`` the weights' gradients. All buffers hold
    normally distributed numbers of realistic size: a GPU is faster on zeros.
    """
    N, widths = network.batch_size, network.widths
    pairs = list(itertools.pairwise(widths))
    most = max(N, *widths) * max(widths)
    drawn = np.random.default_rng(SEED).standard_normal(most, np.float32)  # once: it is slow

    def normal(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return drawn[: rows * columns].reshape(rows, columns) * np.float32(scale)

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
