"""The contenders: each takes the same step of the same network on the same batch.

To add one, write a function from a network and a setting to a :class:`Contender`, and a row in
``ON_CPU`` or ``ON_GPU``. The function raises BackendError with the reason if it cannot run.
"""

from collections.abc import Callable

from xpnet.bench.contender import Contender, Make
from xpnet.bench.limit import LIMIT, gemm_limit
from xpnet.bench.networks import SEED, Network
from xpnet.bench.peers import (
    jax_jit,
    sklearn_partial_fit,
    torch_compiled,
    torch_eager,
    torch_graphed,
)
from xpnet.bench.setting import Setting
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.step import Batch, StepInputs
from xpnet.training.engine import Engine
from xpnet.training.step_choice import Step

__all__ = ["ON_CPU", "ON_GPU", "contenders"]


InSetting = Callable[[Network, Setting], Contender]


def xpnet_on(name: str, step: Step = "auto") -> InSetting:
    """Return the contender of xpnet's own step on a backend, as the trainer takes it."""

    def make(network: Network, setting: Setting) -> Contender:
        backend = setting.backend(name)
        rule, x_y = network.rule(), network.batch(setting.dtype)
        engine = Engine(
            backend,
            network.model(),
            SoftmaxCrossEntropy(),
            rule,
            seed=SEED,
            step=step,
            mixed=setting.mixed,
        )
        batch = Batch(*(backend.asarray(v) for v in x_y))
        count = 0

        def take() -> None:
            nonlocal count
            engine.train(batch, StepInputs(count, rule.coefficients(rule.lr, count + 1)))
            count += 1

        def wait() -> None:
            backend.synchronize(engine.state.params)

        return Contender(take, wait, lambda: engine.step.note)

    return make


def peer(make: Callable) -> InSetting:
    """Return the contender of another library's step, from a function of ``peers``."""

    def build_peer(network: Network, setting: Setting) -> Contender:
        x, y = network.batch(setting.dtype)
        lr = network.rule().lr
        step, wait, note = make(network.widths, network.optimizer, lr, x, y, setting)
        return Contender(step, wait, lambda: note)

    return build_peer


ON_CPU: dict[str, InSetting] = {
    LIMIT: gemm_limit,
    "xpnet numpy": xpnet_on("numpy"),
    "xpnet numpy, portable": xpnet_on("numpy", "portable"),
    "xpnet torch": xpnet_on("torch"),
    "xpnet jax": xpnet_on("jax"),
    "PyTorch eager": peer(torch_eager),
    "torch.compile": peer(torch_compiled),
    "JAX jit": peer(jax_jit),
    "scikit-learn": peer(sklearn_partial_fit),
}

ON_GPU: dict[str, InSetting] = {
    LIMIT: gemm_limit,
    "xpnet cupy": xpnet_on("cupy"),
    "xpnet cupy, portable": xpnet_on("cupy", "portable"),
    "xpnet torch": xpnet_on("torch"),
    "xpnet torch, compiled": xpnet_on("torch", "jit"),
    "xpnet jax": xpnet_on("jax"),
    "PyTorch eager": peer(torch_eager),
    "torch.compile": peer(torch_compiled),
    "PyTorch CUDA graph": peer(torch_graphed),
    "JAX jit": peer(jax_jit),
}


def contenders(setting: Setting) -> dict[str, Make]:
    """Return the contenders of a setting's device, by name."""

    def with_setting(make: InSetting) -> Make:
        return lambda network: make(network, setting)

    table = ON_GPU if setting.on_gpu else ON_CPU
    return {name: with_setting(make) for name, make in table.items()}
