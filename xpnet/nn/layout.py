"""One flat vector per role, and the named tensors within it.

Parameters, their gradient and each optimizer moment are vectors of the same layout, so an update,
clipping, a checkpoint or an all-reduce is one operation on one array. A layer sees reshaped
slices, which NumPy, CuPy and PyTorch make without a copy. A backend whose compiler copies them
keeps each vector as a :class:`~xpnet.split_vector.SplitVector` of its tensors.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from array_api_compat import array_namespace, device

from xpnet.errors import ConfigError
from xpnet.nn import Params, Sequential, Shape
from xpnet.nn.sequential import variable_name
from xpnet.random import generator
from xpnet.split_vector import SplitVector
from xpnet.typing import Array

__all__ = ["Entry", "Layout", "initialize", "layouts", "merge"]

MAX_PARAMETERS = 2**48  # far beyond any memory, and far below what NumPy can count


class Entry(NamedTuple):
    """A tensor's place: elements start to stop of the vector."""

    layer: int  # index in the model
    variable: str  # name within the layer
    name: str  # name within the model, such as "0.dense.W"
    shape: Shape
    start: int
    stop: int
    frozen: bool = False  # whether its gradient is taken to be zero


class Layout(NamedTuple):
    """Where each tensor of a model is in a flat vector."""

    entries: tuple[Entry, ...]
    n_layers: int

    @property
    def size(self) -> int:
        """The length of the vector."""
        return self.entries[-1].stop if self.entries else 0

    def split(self, flat: Array) -> list[dict[str, Array]]:
        """Return the tensors in ``flat`` (size,), one mapping per layer; views where possible."""
        layers: list[dict[str, Array]] = [{} for _ in range(self.n_layers)]
        for e, tensor in zip(self.entries, self.tensors(flat), strict=True):
            layers[e.layer][e.variable] = tensor
        return layers

    def join(self, layers: Sequence[Params], like: Array) -> Array:
        """Return the vector of the tensors in ``layers``, as ``like`` is kept.

        Those that are frozen are zero, and may be missing in ``layers``. Without any tensor it is
        ``like``.
        """
        xp = array_namespace(like)
        tensors = [
            xp.zeros(e.shape, dtype=like.dtype, device=device(like))
            if e.frozen
            else layers[e.layer][e.variable]
            for e in self.entries
        ]
        return self._vector(tensors, like)

    def named(self, flat: Array) -> dict[str, Array]:
        """Return the tensors in ``flat`` by their names within the model."""
        return {e.name: t for e, t in zip(self.entries, self.tensors(flat), strict=True)}

    def join_named(self, tensors: Mapping[str, Array], like: Array) -> Array:
        """Return the vector of named tensors: the inverse of :meth:`named`."""
        return self._vector([tensors[e.name] for e in self.entries], like)

    def tensors(self, flat: Array) -> Sequence[Array]:
        """Return the tensors in ``flat`` in order; views where possible."""
        if isinstance(flat, SplitVector):
            return flat.tensors
        xp, parts = array_namespace(flat), ((flat[e.start : e.stop], e.shape) for e in self.entries)
        return [part if len(shape) == 1 else xp.reshape(part, shape) for part, shape in parts]

    def _vector(self, tensors: Sequence[Array], like: Array) -> Array:
        if isinstance(like, SplitVector):
            return SplitVector(tuple(tensors))
        xp = array_namespace(like)
        return xp.concat([xp.reshape(t, (-1,)) for t in tensors]) if tensors else like


def layouts(model: Sequential) -> tuple[Layout, Layout]:
    """Return the layouts of a built model's trained parameters and of its statistics.

    They are derived once: a model does not change, and keeps them.
    """
    if "layouts" not in vars(model):
        vars(model)["layouts"] = _layout(model, trained=True), _layout(model, trained=False)
    return vars(model)["layouts"]


def _layout(model: Sequential, *, trained: bool) -> Layout:
    entries, start = [], 0
    for i, (layer, variables) in enumerate(zip(model.layers, model.variables(), strict=True)):
        for name, variable in variables.items():
            if variable.trained == trained:
                stop = start + math.prod(variable.shape)
                full_name = variable_name(i, layer, name)
                frozen = full_name in model.frozen
                entries.append(Entry(i, name, full_name, variable.shape, start, stop, frozen))
                start = stop
    return Layout(tuple(entries), len(model.layers))


def merge(params: Sequence[Params], stats: Sequence[Params]) -> list[Params]:
    """Return what a layer's forward takes: its parameters and its statistics in one mapping."""
    return [{**p, **s} for p, s in zip(params, stats, strict=True)]


def initialize(model: Sequential, seed: int) -> tuple[Array, Array]:
    """Return the initial flat parameters and statistics of a built model, float64 on the host.

    Every tensor has its own random position, so that changing one layer leaves the others' initial
    weights as they were.
    """
    variables = model.variables()
    if (count := sum(layout.size for layout in layouts(model))) > MAX_PARAMETERS:
        msg = f"the model would have {count:,} parameters: make its layers smaller"
        raise ConfigError(msg)
    flats = []
    for layout in layouts(model):
        tensors = {}
        for e in layout.entries:
            position = list(variables[e.layer]).index(e.variable)
            rng = generator(seed, "init", e.layer, position)
            tensors[e.name] = variables[e.layer][e.variable].initializer.init(rng, e.shape)
        flats.append(layout.join_named(tensors, generator(seed, "init").random(0)))
    return flats[0], flats[1]
