"""Groups of parameters: one rule, with other settings for some layers of a model.

    Adam(weight_decay=0.01, decay="weights")      no decay of biases and normalisations
    Adam(lr_factors={"0.dense": 0.1})             a tenth of the learning rate, schedule included
    Adam(lr_factors={"b": 0.1})                   the same for the b of every layer
    Adam(freeze=["0.dense", "1.batch_norm"])      layers that stay as they are
    Adam(ntk=True)                                the learning rate of each W (I, J) divided by √I

A layer is named as in a checkpoint, ``0.dense``, and a tensor of it ``0.dense.W``; ``0`` and, where
only one layer is meant, ``dense`` and ``dense.W`` are short for them. ``b`` or ``W`` alone are
those of all layers. Weights are the tensors with two or more dimensions: biases, γ and β have one.

``ntk`` trains z = x W + b as z = x V / √I + b would be trained, with W = V / √I: the NTK
parametrisation of Jacot, Gabriel and Hongler, "Neural tangent kernel", NeurIPS 2018, section 3,
with which one learning rate serves layers of any width. The steps of Adam and of the other rules
that divide a gradient by its size are those of V but for their eps, which is added to gradients
that are √I times as large. SGD's are not: they would be divided by I.

As of a parameter of PyTorch that requires no gradient, the gradient of a frozen one counts as zero
where the norm is clipped, backward ends at the first layer that is not frozen, and the running
statistics of a frozen batch normalisation still follow the batches.

:func:`grouped` turns such a rule into a :class:`Grouped` one, which is made of plain ones: each
updates its part of the flat vectors. State, checkpoints and steps are those of any rule. A rule of
your own that takes a norm takes it over the group.
"""

import functools
import itertools
from collections import namedtuple
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from array_api_compat import array_namespace

from xpnet.errors import ConfigError
from xpnet.optim.optimizers import Optimizer, Slots, State
from xpnet.split_vector import SplitVector
from xpnet.typing import Array

if TYPE_CHECKING:  # the rooms nn and optim do not import each other
    from xpnet.nn.layout import Entry, Layout

__all__ = ["Group", "Grouped", "Part", "Segment", "frozen", "grouped", "parts"]


class Group(NamedTuple):
    """What parameters have in common: a plain rule, and the factor of its learning rate."""

    rule: Optimizer
    lr_factor: float = 1.0


class Segment(NamedTuple):
    """A tensor's place in the flat vectors, and the number of its group, None if it is frozen."""

    start: int
    stop: int
    group: int | None


class Part(NamedTuple):
    """A group with the ranges of the vectors that it updates, and its first coefficient."""

    group: Group
    ranges: tuple[tuple[int, int], ...]
    first: int


@dataclass(frozen=True)
class Grouped(Optimizer):
    """The rule of a model whose parameters are in ``groups``; ``rule`` has what they share.

    The slots are those of ``rule``, of full length. The coefficients are those of all groups, one
    after the other.
    """

    _: KW_ONLY
    rule: Optimizer
    groups: tuple[Group, ...]
    segments: tuple[Segment, ...]  # of all tensors, in the order of the vector

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the slots of ``rule``."""
        return self.rule.slots

    def init(self, params: Array) -> Slots:
        """Return the slots before the first update."""
        return self.rule.init(params)

    def coefficients(self, lr: float, t: int) -> Any:
        """Return the coefficients of every group; that of a frozen model has none."""
        of_groups = [rule.coefficients(lr * factor, t) for rule, factor in self.groups]
        kind = _named_tuple(self._kind._fields, len(self.groups))
        return kind(*itertools.chain(*of_groups))

    def update(self, params: Array, grad: Array, slots: Slots, c: Any) -> State:
        vectors, made = (params, grad, *slots), []
        for number, part in enumerate(self.parts):
            p, g, *own = (self._taken(v, number) for v in vectors)
            of_group = self._kind(*c[part.first :][: len(self._kind._fields)])
            new, moved = part.group.rule.update(p, g, tuple(own), of_group)
            made.append((new, *moved))
        whole = [self._whole(v, [m[i] for m in made]) for i, v in enumerate((params, *slots))]
        return whole[0], tuple(whole[1:])

    @functools.cached_property
    def parts(self) -> tuple[Part, ...]:
        """The groups in order, each with its ranges."""
        size = len(self._kind._fields)
        ranges = [tuple((a, b) for a, b, of in self._merged if of == i)
                  for i in range(len(self.groups))]  # fmt: skip
        return tuple(Part(g, ranges[i], i * size) for i, g in enumerate(self.groups))

    @functools.cached_property
    def _kind(self) -> Any:
        """The named tuple of the coefficients of one group."""
        return type(self.rule.coefficients(self.rule.lr, 1))

    @functools.cached_property
    def _merged(self) -> tuple[Segment, ...]:
        """The segments, neighbours of the same group as one."""
        by_group = itertools.groupby(self.segments, lambda segment: segment.group)
        runs = [list(run) for _, run in by_group]
        return tuple(Segment(run[0].start, run[-1].stop, run[0].group) for run in runs)

    def _taken(self, vector: Array, group: int) -> Array:
        """What a vector has of a group, as a vector of its own."""
        if isinstance(vector, SplitVector):
            pairs = zip(vector.tensors, self.segments, strict=True)
            return SplitVector(tuple(t for t, segment in pairs if segment.group == group))
        return _joined([vector[a:b] for a, b in self.parts[group].ranges])

    def _whole(self, vector: Array, of_groups: list[Array]) -> Array:
        """The vector with the new values of each group; what is frozen is that of ``vector``."""
        if isinstance(vector, SplitVector):
            new = [iter(v.tensors) for v in of_groups]
            pairs = zip(vector.tensors, self.segments, strict=True)
            return SplitVector(
                tuple(t if s.group is None else next(new[s.group]) for t, s in pairs)
            )
        taken, pieces = [0] * len(of_groups), []
        for start, stop, group in self._merged:
            if group is None:
                pieces.append(vector[start:stop])
            else:
                first = taken[group]
                taken[group] += stop - start
                pieces.append(of_groups[group][first : taken[group]])
        return _joined(pieces)


def _joined(pieces: list[Array]) -> Array:
    return pieces[0] if len(pieces) == 1 else array_namespace(*pieces).concat(pieces)


@functools.cache
def _named_tuple(fields: tuple[str, ...], count: int) -> Any:
    """The class of the coefficients of several groups: one class, for a compiler of steps."""
    names = [f"{name}_{i}" for i in range(count) for name in fields]
    return namedtuple("GroupedCoefficients", names)  # as many as there are groups


def parts(optimizer: Optimizer, size: int) -> tuple[Part, ...]:
    """Return what updates which part of the vectors (size,): of a plain rule, all of them."""
    if isinstance(optimizer, Grouped):
        return optimizer.parts
    return (Part(Group(optimizer), ((0, size),), 0),)


def grouped(optimizer: Optimizer, layout: "Layout") -> Optimizer:
    """Return the rule for the parameters of a built model, plain if all are in one group.

    Raises ConfigError if a layer is named that is not there.
    """
    plain = replace(optimizer, decay="all", freeze=(), lr_factors={}, ntk=False)
    without_decay = replace(plain, weight_decay=0.0)
    factors = _factors(optimizer, layout.entries)
    left_out = frozen(optimizer, layout)
    of_tensors: list[Group | None] = []
    for e in layout.entries:
        decays = optimizer.decay == "all" or len(e.shape) >= 2
        group = Group(plain if decays else without_decay, factors.get(e.name, 1.0))
        of_tensors.append(None if e.name in left_out else group)
    groups = list(dict.fromkeys(group for group in of_tensors if group is not None))
    if not layout.entries or (len(groups) == 1 and groups[0].lr_factor == 1.0 and not left_out):
        return groups[0].rule if groups else plain
    segments = [
        Segment(e.start, e.stop, None if group is None else groups.index(group))
        for e, group in zip(layout.entries, of_tensors, strict=True)
    ]
    return Grouped(optimizer.lr, rule=plain, groups=tuple(groups), segments=tuple(segments))


def frozen(optimizer: Optimizer, layout: "Layout") -> tuple[str, ...]:
    """Return the names of the tensors that the rule freezes, in the order of the layout.

    Raises ConfigError if a layer is named that is not there.
    """
    named = {e.name for word in optimizer.freeze for e in _meant(word, layout.entries, "freeze")}
    return tuple(e.name for e in layout.entries if e.name in named)


def _factors(optimizer: Optimizer, tensors: "Sequence[Entry]") -> dict[str, float]:
    """The factor of each tensor that has one."""
    factors: dict[str, float] = {}
    scales = {e.name: e.shape[0] ** -0.5 for e in tensors if optimizer.ntk and e.variable == "W"}
    for word, factor in optimizer.lr_factors.items():
        for e in _meant(word, tensors, "lr_factors"):
            if e.name in factors:
                msg = f"optimizer.lr_factors has two factors for {e.name}, "
                msg += f"{factors[e.name]:g} and {factor:g}: leave one"
                raise ConfigError(msg)
            factors[e.name] = factor
    return factors | {name: factors.get(name, 1.0) * scale for name, scale in scales.items()}


def _meant(word: str, tensors: "Sequence[Entry]", setting: str) -> "list[Entry]":
    """The tensors that a name means."""
    found = [e for e in tensors if _begins(e.name, word)]
    if not found:
        found = [e for e in tensors if _begins(e.name.partition(".")[2], word)]
    if not found and (everywhere := [e for e in tensors if e.variable == word]):
        return everywhere
    layers = _layers(found)
    if len(layers) == 1:
        return found
    if layers:
        msg = f"optimizer.{setting}: {word!r} may be {' or '.join(layers)}: write which"
        raise ConfigError(msg)
    known = ", ".join(_layers(tensors)) or "none"
    msg = f"optimizer.{setting}: no layer with parameters is called {word!r}; there are: {known}"
    raise ConfigError(msg)


def _begins(name: str, word: str) -> bool:
    return f"{name}.".startswith(f"{word}.")


def _layers(tensors: "Iterable[Entry]") -> list[str]:
    return list(dict.fromkeys(e.name.rpartition(".")[0] for e in tensors))
