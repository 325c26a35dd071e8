"""The same training step in other libraries, as their users would write it.

Each function takes the widths, the optimizer's name and learning rate, a batch and a setting, and
returns a step, a function that waits for it, and a note. All of them minimize the mean softmax
cross-entropy, use the library's default number of threads, and keep the batch on the device.
"""

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from xpnet.bench.networks import drawn
from xpnet.bench.setting import Setting
from xpnet.errors import BackendError, require

__all__ = ["jax_jit", "sklearn_partial_fit", "torch_compiled", "torch_eager", "torch_graphed"]

Call = Callable[[], Any]
Peer = tuple[Call, Call, str]

SIDE_STEPS = 3  # on a side stream before a capture, as PyTorch's documentation recommends


def torch_eager(
    widths: tuple[int, ...],
    optimizer: str,
    lr: float,
    x: np.ndarray,
    y: np.ndarray,
    setting: Setting,
) -> Peer:
    """Use torch.nn.Sequential and torch.optim with their defaults; fused updates on a GPU."""
    return _torch_step(widths, optimizer, lr, x, y, setting)


def torch_compiled(
    widths: tuple[int, ...],
    optimizer: str,
    lr: float,
    x: np.ndarray,
    y: np.ndarray,
    setting: Setting,
) -> Peer:
    """Compile the model and the loss with torch.compile, and with them the backward pass.

    On a GPU ``mode="reduce-overhead"`` replays CUDA graphs of both.
    """
    mode = "reduce-overhead" if setting.on_gpu else "default"
    step, wait, note = _torch_step(widths, optimizer, lr, x, y, setting, mode=mode)
    return step, wait, f"{note}, mode {mode}"


def torch_graphed(
    widths: tuple[int, ...],
    optimizer: str,
    lr: float,
    x: np.ndarray,
    y: np.ndarray,
    setting: Setting,
) -> Peer:
    """Replay the whole eager step, including the update, as one CUDA graph: PyTorch's fastest."""
    torch = require("torch", "torch", "the PyTorch row")
    if not setting.on_gpu:
        msg = f"a CUDA graph needs a GPU: use --device cuda; got {setting.device!r}"
        raise BackendError(msg)
    step, wait, note = _torch_step(widths, optimizer, lr, x, y, setting, capturable=True)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "capturable" steps outside a capture
        for _ in range(SIDE_STEPS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(
        graph, capture_error_mode="thread_local"
    ):  # other libraries' threads use CUDA, too
        step()

    def replay(kept: Call = step) -> None:  # keeps the graph's tensors alive
        graph.replay()

    return replay, wait, note


def _torch_step(
    widths: tuple[int, ...],
    optimizer: str,
    lr: float,
    x: np.ndarray,
    y: np.ndarray,
    setting: Setting,
    *,
    mode: str | None = None,
    capturable: bool = False,
) -> Peer:
    torch = require("torch", "torch", "the PyTorch row")
    rules = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if optimizer not in rules:
        msg = f"the PyTorch row supports sgd, adam and adamw; got {optimizer}"
        raise BackendError(msg)
    device = setting.backend("torch").device
    inputs = torch.from_numpy(x).to(device)
    labels = torch.from_numpy(y).long().to(device)
    layers: list[Any] = []
    for i, j in itertools.pairwise(widths):
        layers += [torch.nn.Linear(i, j, device=device, dtype=inputs.dtype), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    options: dict[str, Any] = {"fused": True} if setting.on_gpu else {}
    if capturable and optimizer != "sgd":  # otherwise the step number is on the host
        options["capturable"] = True
    rule = rules[optimizer](model.parameters(), lr=lr, **options)
    kind = device.type
    narrow = getattr(torch, setting.narrow) if setting.narrow else None
    scaler = torch.amp.GradScaler(kind, enabled=setting.narrow == "float16")

    def cost() -> Any:
        with torch.autocast(kind, dtype=narrow, enabled=narrow is not None):
            return torch.nn.functional.cross_entropy(model(inputs), labels)

    taken = cost if mode is None else torch.compile(cost, mode=mode)

    def step() -> None:
        rule.zero_grad(set_to_none=True)
        scaler.scale(taken()).backward()
        scaler.step(rule)
        scaler.update()

    def wait() -> None:
        if setting.on_gpu:
            torch.cuda.synchronize(device)

    threads = "" if setting.on_gpu else f", {torch.get_num_threads()} threads"
    return step, wait, f"torch {torch.__version__}{threads}"


def jax_jit(
    widths: tuple[int, ...],
    optimizer: str,
    lr: float,
    x: np.ndarray,
    y: np.ndarray,
    setting: Setting,
) -> Peer:
    """Use jax.grad and optax in one jitted function with donated state.

    In bfloat16 the layers' weights and inputs are cast to it, and the logits back; the master
    weights stay in float32.
    """
    jax = require("jax", "jax", "the JAX row")
    optax = require("optax", "optax", "the JAX row")
    if setting.precision == "float16":
        msg = "the JAX row supports float32, float64, tf32 and bfloat16; got float16, which needs "
        raise BackendError(msg + "a loss scale that neither JAX nor optax has")
    jnp, place = jax.numpy, setting.backend("jax").place
    rule = getattr(optax, optimizer)(lr)
    numbers = drawn(max(len(x), *widths) * max(widths))
    params = [
        (
            place((numbers[: i * j].reshape(i, j) / np.float32(np.sqrt(i))).astype(x.dtype)),
            place(np.zeros(j, x.dtype)),
        )
        for i, j in itertools.pairwise(widths)
    ]
    inputs, labels = place(x), place(y)
    narrow = getattr(jnp, setting.narrow or setting.dtype)

    def cost(params: Any, inputs: Any, labels: Any) -> Any:
        a = inputs.astype(narrow)
        for n, (W, b) in enumerate(params):
            a = a @ W.astype(narrow) + b.astype(narrow)
            a = jax.nn.relu(a) if n + 1 < len(params) else a
        logits = a.astype(x.dtype)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

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
    widths: tuple[int, ...],
    optimizer: str,
    lr: float,
    x: np.ndarray,
    y: np.ndarray,
    setting: Setting,
) -> Peer:
    """Call MLPClassifier.partial_fit on one batch: one step of its own solver."""
    sklearn = require("sklearn.neural_network", "bench", "the scikit-learn row")
    if optimizer not in ("sgd", "adam") or setting.on_gpu or setting.narrow:
        msg = "the scikit-learn row supports sgd and adam on a CPU, in float32 and float64; "
        raise BackendError(msg + f"got {optimizer} in {setting}")
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
