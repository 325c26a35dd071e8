"""Whether each layer takes a row of a batch by itself, as ranks that share the batch take it."""

from collections.abc import Sequence

import numpy as np

from xpnet.errors import ConfigError
from xpnet.nn import Layer, Params, Sequential, layer_name
from xpnet.random import generator

__all__ = ["check_rows_apart"]

ROWS, SOME = 6, slice(1, None, 2)  # rows that are tried, and which of them by themselves
KEYS = (1, 2, 0, 1), (1, 2, 1, 2)  # of a random layer, for these


def check_rows_apart(model: Sequential, params: Sequence[Params]) -> None:
    """Try each layer of a built model on a few rows, and on some of them by themselves.

    ``params`` are those of each layer, of NumPy. Layers that say how they are shared
    (:meth:`xpnet.nn.Layer.shared`) are not tried. Raises ConfigError where the rows come out
    differently: a rank that has only them would be silently wrong.
    """
    shapes = [model.input_shape or (), *model.shapes()]
    for i, (layer, shape) in enumerate(zip(model.layers, shapes, strict=False)):
        if _is_shared(layer):
            continue
        x = generator(0, "init", i).standard_normal((ROWS, *shape))
        x = np.floor(np.abs(x)) % 2.0 if layer.exact else x  # codes of categories
        with np.errstate(all="ignore"):
            whole, some = (
                layer.forward(params[i], rows, train=True, keys=keys if layer.random else None)[0]
                for rows, keys in zip((x, x[SOME]), KEYS, strict=True)
            )
        if not np.allclose(whole[SOME], some, rtol=1e-6, atol=1e-9, equal_nan=True):
            msg = f"layer {i} ({layer_name(layer)}) computes with all rows of a batch, of which a "
            msg += "rank has only some: train in one process"
            raise ConfigError(msg)


def _is_shared(layer: Layer) -> bool:
    return layer.shared(lambda x: x) is not layer
