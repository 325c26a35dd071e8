"""A dense ONNX network as an xpnet model: the nodes from its input on, each made a layer.

What is not a chain of known nodes is refused, and the first node that is not is named.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xpnet.errors import ConfigError
from xpnet.interop.imported import Imported, assemble
from xpnet.interop.onnx.chain import Chain
from xpnet.interop.onnx.graph import Graph
from xpnet.nn.losses import Loss

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
    else that is read differently. ``input_shape`` is needed where the file does not fix it;
    ``loss`` None follows the last layer; ``settings`` are those of :class:`~xpnet.Trainer`, whose
    backend is NumPy and whose dtype is that of the weights unless they say otherwise.

    Raises ConfigError, naming the first node that cannot be taken and why; DataError for a file
    that is not an ONNX model, or weights that are not finite.
    """
    graph = Graph(source)
    chain = Chain(graph, None if input_shape is None else tuple(input_shape))
    chain.walk()
    if not chain.parts:
        msg = "the ONNX model has no layers"
        raise ConfigError(msg)
    return assemble(chain.parts, chain.input_shape, loss, chain.notes, settings)
