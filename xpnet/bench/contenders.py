"""Who is timed. Each contender takes the same step of the same network on the same batch.

To add one, write a function from a network and a dtype to a :class:`Contender`, and a row in
``CONTENDERS``. It raises BackendError, saying why, where it cannot take part.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xpnet.backends import get_backend
from xpnet.bench.networks import SEED, Network
from xpnet.engine import Engine
from xpnet.errors import BackendError
from xpnet.interop.peers import jax_jit, sklearn_partial_fit, torch_compiled, torch_eager
from xpnet.losses import SoftmaxCrossEntropy
from xpnet.step import Batch, StepInputs

__all__ = ["CONTENDERS", "LIMIT", "Contender", "build"]

LIMIT = "GEMM limit"


class Contender(NamedTuple):
    """A step to time."""

    step: Callable[[], Any]
    wait: Callable[[], None]  # for the device, once after many steps
    note: str = ""


def gemm_limit(network: Network, dtype: str) -> Contender:
    """The step's matrix products alone, into buffers made beforehand: NumPy's floor."""
    x, _ = network.batch(dtype)
    rng = np.random.default_rng(SEED)
    pairs = list(zip(network.widths, network.widths[1:], strict=False))
    N = network.batch_size
    W = [rng.normal(size=pair).astype(dtype) for pair in pairs]
    a = [x, *(np.zeros((N, j), dtype) for _, j in pairs)]
    dW, da = [np.zeros_like(w) for w in W], [np.zeros_like(v) for v in a]
    forward = [(a[n], W[n], a[n + 1]) for n in range(len(W))]
    backward = []
    for n in reversed(range(len(W))):
        backward.append((a[n].T, da[n + 1], dW[n]))
        if n:
            backward.append((da[n + 1], W[n].T, da[n]))

    def step() -> None:
        for left, right, out in forward + backward:
            np.matmul(left, right, out=out)

    return Contender(step, lambda: None)


def xpnet_on(name: str, *, portable: bool = False, device: str = "auto") -> Callable:
    """xpnet's own step on a backend, as the trainer takes it."""

    def make(network: Network, dtype: str) -> Contender:
        backend = get_backend(name, device, dtype)
        rule, x_y = network.rule(), network.batch(dtype)
        engine = Engine(
            backend,
            network.model(),
            SoftmaxCrossEntropy(),
            rule,
            seed=SEED,
            compile=False if portable else None,
        )
        batch = Batch(*(backend.asarray(v) for v in x_y))
        count = 0

        def step() -> None:
            nonlocal count
            engine.train(batch, StepInputs(count, rule.coefficients(rule.lr, count + 1)))
            count += 1

        return Contender(step, lambda: backend.synchronize(engine.state.params), engine.step_note)

    return make


def peer(make: Callable) -> Callable:
    """Another library's way to take the step."""

    def build_peer(network: Network, dtype: str) -> Contender:
        x, y = network.batch(dtype)
        return Contender(*make(network.widths, network.optimizer, network.rule().lr, x, y))

    return build_peer


CONTENDERS: dict[str, Callable[[Network, str], Contender]] = {
    LIMIT: gemm_limit,
    "xpnet numpy": xpnet_on("numpy"),
    "xpnet numpy, portable": xpnet_on("numpy", portable=True),
    "xpnet torch": xpnet_on("torch"),
    "xpnet jax": xpnet_on("jax"),
    "xpnet cupy": xpnet_on("cupy"),
    "PyTorch eager": peer(torch_eager),
    "torch.compile": peer(torch_compiled),
    "JAX jit": peer(jax_jit),
    "scikit-learn": peer(sklearn_partial_fit),
}


def build(
    names: list[str], network: Network, dtype: str
) -> tuple[dict[str, Contender], dict[str, str]]:
    """Return the contenders that can take part, and why the others cannot."""
    ready, absent = {}, {}
    for name in names:
        try:
            ready[name] = CONTENDERS[name](network, dtype)
        except BackendError as error:
            absent[name] = str(error)
    return ready, absent
