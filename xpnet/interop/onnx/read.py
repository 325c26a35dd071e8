"""A dense ONNX network as an xpnet model: the nodes from its input on, each made a layer.

What is not a chain of known nodes is refused, and the first node that is not is named.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xpnet.errors import ConfigError
from xpnet.interop.imported import Imported, assemble
from xpnet.interop.onnx.chain import Chain
from xpnet.interop.onnx.graph import COMPARISONS, Graph, loaded
from xpnet.interop.onnx.metadata import described
from xpnet.nn import Dense, LogSoftmax
from xpnet.nn.losses import LOSSES, Loss, NegativeLogLikelihood, Poisson
from xpnet.registry import name_of
from xpnet.settings import build_named

__all__ = ["from_onnx"]


def from_onnx(
    source: Any | str | Path,
    *,
    loss: Loss | str | None = None,
    input_shape: Sequence[int] | None = None,
    **settings: Any,
) -> Imported:
    """Return a trainer with the network of an ONNX file or ``onnx.ModelProto``, which predicts.

    The graph must be one chain: Gemm, MatMul and Add, activations (also spelt out in nodes),
    normalisations, Dropout, Flatten and scalings by constants, with a Softmax or Sigmoid or not.
    ArgMax, ZipMap and what follows them are cut, which ``notes`` of the result says, as it says all
    else that is read differently; the names of the classes in it are kept as ``classes``.
    ``input_shape`` is needed where the file does not fix it; ``loss`` None is that of xpnet's own
    export, or follows the end of the graph; ``settings`` are those of :class:`~xpnet.Trainer`,
    whose backend is NumPy and whose dtype is that of the weights unless they say otherwise.

    Raises ConfigError, naming the first node that cannot be taken and why; DataError for a file
    that is not an ONNX model, or weights that are not finite.
    """
    model = loaded(source)
    about = described(model)
    if about.get("kind") == "training step":
        msg = "the ONNX model is a training step of xpnet's, not a network"
        remedy = "xpnet adopt RUN FILE --out DIR takes back the state that it has trained"
        raise ConfigError(msg, python=remedy, command=remedy)
    try:
        graph = Graph(model)
        chain = Chain(graph, None if input_shape is None else tuple(input_shape))
        chain.walk()
    except ConfigError as error:
        if "columns" not in about:
            raise
        msg = f"{error.message}. The model was exported from a run, and encodes its rows first"
        command = "give the folder of the run itself, which needs no import"
        raise ConfigError(msg, python="load the run with xpnet.load", command=command) from error
    if not chain.parts:
        msg = "the ONNX model has no layers"
        raise ConfigError(msg)
    loss = loss or _recorded_loss(about)
    if chain.exponential:
        loss = _of_exponential(chain, loss)
    elif loss is None and isinstance(chain.parts[-1].layer, Dense):
        loss = _of_labels(graph, chain)
    classes = graph.class_names()
    return assemble(chain.parts, chain.input_shape, loss, chain.notes, settings, classes)


def _recorded_loss(about: Mapping[str, Any]) -> Loss | None:
    """The loss that xpnet has written into its export; None for one that is not registered here."""
    try:
        return build_named(LOSSES, about.get("loss"), "loss")
    except ConfigError:
        return None


def _of_exponential(chain: Chain, loss: Loss | str | None) -> Loss:
    """The loss whose predictions are e to the power of the outputs, the given one or another."""
    logarithms = isinstance(chain.parts[-1].layer, LogSoftmax)
    usual = NegativeLogLikelihood() if logarithms else Poisson()
    found = build_named(LOSSES, loss, "loss") if isinstance(loss, str) else loss or usual
    if type(found) is not type(usual):
        msg = f"the last node is an exponential, which {name_of(found)} does not contain"
        command = f"give --loss {name_of(usual)}"
        raise ConfigError(msg, python=f"give loss='{name_of(usual)}'", command=command)
    part = f"part of the loss, {name_of(usual)}, and of predict"
    chain.notes.append(f"the last exponential is {part}")
    return found


def _of_labels(graph: Graph, chain: Chain) -> str | None:
    """The loss for a last layer whose outputs are logits, since labels are made of them."""
    op = graph.cut[0].op_type if graph.cut else ""
    loss = "softmax_cross_entropy" if op in ("ArgMax", "TopK") else "binary_cross_entropy"
    if not op or (loss == "binary_cross_entropy" and op not in COMPARISONS):
        return None
    chain.notes.append(f"the loss is {loss}, for labels are made of the outputs")
    return loss
