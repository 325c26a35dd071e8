"""The contenders: each takes the same step of the same network on the same batch.

To add one, write a function from a network and a setting to a :class:`Contender`, and a row in
``ON_CPU`` or ``ON_GPU``; for a prediction or a fit, from that and a setting, and a row in
``PREDICT`` or ``FIT``. The function raises BackendError with the reason if it cannot run.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpnet.bench.contender import Contender, Make, Workload
from xpnet.bench.fit_peers import (
    keras_fit,
    sklearn_fit,
    torch_fit,
    xpnet_fits,
    xpnet_sklearn_fit,
)
from xpnet.bench.fits import STANDARD_FITS, parse_fit
from xpnet.bench.limit import bytes_limit, gemm_limit
from xpnet.bench.networks import (
    BYTES_LIMIT,
    LIMIT,
    SEED,
    STANDARD,
    STANDARD_ON_GPU,
    Network,
    parse_network,
)
from xpnet.bench.peers import (
    jax_jit,
    sklearn_partial_fit,
    torch_compiled,
    torch_eager,
    torch_graphed,
)
from xpnet.bench.predict_peers import (
    onnx_predict,
    sklearn_predict,
    torch_predict,
    xpnet_predicts,
)
from xpnet.bench.predictions import parse_prediction, standard_predictions
from xpnet.bench.setting import Setting
from xpnet.errors import ConfigError
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.step import AnyBatch, Batch, Ordered, Rows, StepInputs, gathered
from xpnet.training.engine import Engine
from xpnet.training.step_choice import Step

__all__ = ["FIT", "ON_CPU", "ON_GPU", "PREDICT", "Comparison", "comparison", "contenders"]


InSetting = Callable[[Any, Setting], Contender]
UNTIL_CAPTURED = 2  # times that several steps are taken until they are a graph


def xpnet_on(name: str, step: Step = "auto", *, single: bool = False) -> InSetting:
    """Return the contender of xpnet's own step on a backend, as the trainer takes it.

    That is several at once, where the step is best given so many, and from rows of a data set that
    it gathers; with ``single`` one after another, from one batch, as the other libraries' steps.
    """

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
        N, count, left = network.batch_size, 0, 0
        batch: AnyBatch = Batch(*(backend.asarray(v) for v in x_y))
        best = 1 if single else engine.step.at_once(N)
        if engine.step.gathers and not single:
            order = backend.asarray(np.arange(N), dtype="int32")
            batch = Rows(Ordered(gathered(batch), order), 0, N)

        def taken(n: int) -> None:
            nonlocal count, left
            numbers = (rule.coefficients(rule.lr, count + i + 1) for i in range(n))
            inputs = [StepInputs(count + i, c) for i, c in enumerate(numbers)]
            engine.train_many([batch] * n, inputs)
            count, left = count + n, max(left - n, 0)

        def take() -> None:
            nonlocal left
            left += 1
            if left == best:
                taken(best)

        def wait() -> None:
            while left:
                taken(1)
            backend.synchronize(engine.state.params)

        def note() -> str:
            at_once = f"; {best} steps at once, as Trainer.fit takes them" if best > 1 else ""
            return f"{engine.step.note}{at_once}"

        for _ in range(UNTIL_CAPTURED if best > 1 else 0):
            taken(best)
        return Contender(take, wait, note)

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
    BYTES_LIMIT: bytes_limit,
    "xpnet cupy": xpnet_on("cupy"),
    "xpnet cupy, single steps": xpnet_on("cupy", single=True),
    "xpnet cupy, portable": xpnet_on("cupy", "portable"),
    "xpnet torch": xpnet_on("torch"),
    "xpnet torch, compiled": xpnet_on("torch", "jit"),
    "xpnet jax": xpnet_on("jax"),
    "PyTorch eager": peer(torch_eager),
    "torch.compile": peer(torch_compiled),
    "PyTorch CUDA graph": peer(torch_graphed),
    "JAX jit": peer(jax_jit),
}

PREDICT: dict[str, InSetting] = {
    "xpnet numpy": xpnet_predicts("numpy"),
    "xpnet torch": xpnet_predicts("torch"),
    "xpnet jax": xpnet_predicts("jax"),
    "PyTorch eager": torch_predict,
    "onnxruntime": onnx_predict,
    "scikit-learn": sklearn_predict,
}

FIT: dict[str, InSetting] = {
    "xpnet numpy": xpnet_fits("numpy"),
    "xpnet numpy, portable": xpnet_fits("numpy", "portable"),
    "PyTorch eager": torch_fit,
    "xpnet.sklearn": xpnet_sklearn_fit,
    "scikit-learn": sklearn_fit,
    "Keras": keras_fit,
}


class Comparison(NamedTuple):
    """The rows of a table, and the contenders in it."""

    base: str  # the contender that ratios are to
    contenders: dict[str, Make]
    rows: Sequence[Workload]


def contenders(setting: Setting, table: dict[str, InSetting] | None = None) -> dict[str, Make]:
    """Return the contenders by name, by default those of a training step on the device."""

    def with_setting(make: InSetting) -> Make:
        return lambda workload: make(workload, setting)

    table = table or (ON_GPU if setting.on_gpu else ON_CPU)
    return {name: with_setting(make) for name, make in table.items()}


def comparison(
    what: str, setting: Setting, rows: Sequence[str] = (), settings: Sequence[str] = ()
) -> Comparison:
    """Return the comparison of steps, predictions or fits ("step", "prediction" or "fit").

    ``rows`` are as ``str`` of the workload writes them, by default the standard ones; ``settings``
    are of the data of a fit. Raises ConfigError.
    """
    if what == "step":
        standard = STANDARD_ON_GPU if setting.on_gpu else STANDARD
        return Comparison(LIMIT, contenders(setting), [*map(parse_network, rows)] or standard)
    if setting.on_gpu or setting.narrow:
        msg = f"a {what} is timed on the CPU, in float32 or float64; got {setting}"
        raise ConfigError(msg)
    found: Sequence[Workload]
    if what == "prediction":
        table, found = PREDICT, [*map(parse_prediction, rows)] or standard_predictions()
    else:
        table, found = FIT, [parse_fit(row, settings) for row in rows or STANDARD_FITS]
    return Comparison(found[0].base, contenders(setting, table), found)
