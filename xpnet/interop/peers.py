"""The same train step as other libraries' users would write it: what `xpnet bench` runs beside.

Each function takes widths, the optimizer's name and learning rate and a batch, and returns a step,
a function that waits for it, and a note. All compute in the batch's dtype with the library's own
number of threads, and take the mean softmax cross-entropy.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from xpnet.errors import BackendError, require

__all__ = ["jax_jit", "sklearn_partial_fit", "torch_compiled", "torch_eager"]

Peer = tuple[Callable[[], Any], Callable[[], None], str]


def torch_eager(
    widths: tuple[int, ...], optimizer: str, lr: float, x: np.ndarray, y: np.ndarray
) -> Peer:
    """torch.nn.Sequential and torch.optim with their defaults."""
    step, version = _torch_step(widths, optimizer, lr, x, y, compiled=False)
    return step, lambda: None, version


def torch_compiled(
    widths: tuple[int, ...], optimizer: str, lr: float, x: np.ndarray, y: np.ndarray
) -> Peer:
    """The same, its forward and loss through torch.compile, and with them the backward pass."""
    step, version = _torch_step(widths, optimizer, lr, x, y, compiled=True)
    return step, lambda: None, version


def _torch_step(
    widths: tuple[int, ...],
    optimizer: str,
    lr: float,
    x: np.ndarray,
    y: np.ndarray,
    *,
    compiled: bool,
) -> tuple[Callable[[], Any], str]:
    torch = require("torch", "torch", "the PyTorch row")
    rules = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if optimizer not in rules:
        msg = f"the PyTorch row has sgd, adam and adamw; got {optimizer}"
        raise BackendError(msg)
    layers: list[Any] = []
    for i, j in itertools.pairwise(widths):
        layers += [torch.nn.Linear(i, j), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1]).to(torch.from_numpy(x).dtype)
    rule = rules[optimizer](model.parameters(), lr=lr)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y).long()

    def cost() -> Any:
        return torch.nn.functional.cross_entropy(model(inputs), labels)

    taken = torch.compile(cost) if compiled else cost

    def step() -> None:
        rule.zero_grad(set_to_none=True)
        taken().backward()
        rule.step()

    return step, f"torch {torch.__version__}, {torch.get_num_threads()} threads"


def jax_jit(
    widths: tuple[int, ...], optimizer: str, lr: float, x: np.ndarray, y: np.ndarray
) -> Peer:
    """jax.value_and_grad and optax in one jitted function with donated state."""
    jax = require("jax", "jax", "the JAX row")
    optax = require("optax", "test", "the JAX row")
    jnp = jax.numpy
    rule = getattr(optax, optimizer)(lr)
    rng = np.random.default_rng(0)
    params = [
        (jnp.asarray(rng.normal(size=(i, j)) / np.sqrt(i), x.dtype), jnp.zeros(j, x.dtype))
        for i, j in itertools.pairwise(widths)
    ]
    inputs, labels = jnp.asarray(x), jnp.asarray(y)

    def cost(params: Any, inputs: Any, labels: Any) -> Any:
        a = inputs
        for n, (W, b) in enumerate(params):
            a = a @ W + b
            a = jax.nn.relu(a) if n + 1 < len(params) else a
        return optax.softmax_cross_entropy_with_integer_labels(a, labels).mean()

    def update(state: Any, inputs: Any, labels: Any) -> Any:
        params, moments = state
        grads = jax.grad(cost)(params, inputs, labels)
        changes, moments = rule.update(grads, moments, params)
        return optax.apply_updates(params, changes), moments

    jitted = jax.jit(update, donate_argnums=0)
    state = (params, rule.init(params))

    def step() -> None:
        nonlocal state
        state = jitted(state, inputs, labels)

    return step, lambda: jax.block_until_ready(state), f"jax {jax.__version__}"


def sklearn_partial_fit(
    widths: tuple[int, ...], optimizer: str, lr: float, x: np.ndarray, y: np.ndarray
) -> Peer:
    """MLPClassifier.partial_fit on one batch: a step of its own solver."""
    sklearn = require("sklearn.neural_network", "bench", "the scikit-learn row")
    if optimizer not in ("sgd", "adam"):
        msg = f"the scikit-learn row has sgd and adam; got {optimizer}"
        raise BackendError(msg)
    settings = {"momentum": 0.0, "nesterovs_momentum": False} if optimizer == "sgd" else {}
    model = sklearn.MLPClassifier(
        hidden_layer_sizes=widths[1:-1],
        solver=optimizer,
        learning_rate_init=lr,
        alpha=0.0,
        batch_size=len(x),
        **settings,
    )
    model.partial_fit(x, y, classes=np.arange(widths[-1]))
    return lambda: model.partial_fit(x, y), lambda: None, "partial_fit"
