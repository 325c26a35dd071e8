"""The parts of a graph that are functions of one array, each of which may be one operator."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from xpnet.errors import ConfigError
from xpnet.interop.onnx.functions import (
    ALONG_ROWS,
    COMPUTED,
    Operator,
    points,
    rows,
    same_along_rows,
    same_operator,
    values,
)
from xpnet.interop.onnx.nodes import ACTIVATIONS, UnlikeError, written

__all__ = ["Parts"]

REACH = 40  # nodes of a part, at most
AXES = 2  # what other axes than the last are shortened to, and the last at least has


class Parts:
    """Who makes and reads each value of a graph, and what its parts compute.

    ``constants`` are the values that are known, of which those ``apart`` are no numbers of a
    formula. In an ``exact`` graph, what a formula makes of NaN and infinity counts, too; else only
    that of a formula which asks for them.
    """

    def __init__(
        self,
        nodes: Sequence[Any],
        constants: Mapping[str, np.ndarray],
        outputs: Collection[str],
        apart: Collection[str] = (),
        *,
        exact: bool = False,
    ) -> None:
        self.constants, self.outputs, self.apart = constants, outputs, apart
        self.exact = exact
        self._known: dict[Any, Operator | None] = {}
        self.wire(nodes)

    def wire(self, nodes: Sequence[Any]) -> None:
        """Take these nodes, in order, for those of the graph."""
        self.makers = {name: node for node in nodes for name in node.output}
        self.place = {id(node): i for i, node in enumerate(nodes)}
        self.readers = dict.fromkeys(self.outputs, 2)
        for name in (name for node in nodes for name in node.input):
            self.readers[name] = self.readers.get(name, 0) + 1

    def ending(self, node: Any) -> Iterator[tuple[str, list[Any]]]:
        """The parts that end with a node, from short to long, and the one value that each takes.

        Nothing beyond a part reads what is within it. One node that is an activation is no part.
        """
        part: list[Any] = []
        frontier = {node.output[0]}
        while len(part) < REACH:
            makers = [n for name in frontier if (n := self.makers.get(name)) is not None]
            if len(makers) < len(frontier):
                return
            last = max(makers, key=lambda n: self.place[id(n)])
            if last.op_type not in COMPUTED or not self._inner(last, part):
                return
            part.append(last)
            frontier.discard(last.output[0])
            for i, name in enumerate(last.input):
                value = self.constants.get(name)
                if value is None:
                    frontier |= {name} - {""}
                elif name in self.apart or not (_is_number(value) or _is_axes(last, i)):
                    return
            known = len(part) == 1 and last.op_type in ACTIVATIONS
            if len(frontier) == 1 and not known:
                yield next(iter(frontier)), part[::-1]

    def _inner(self, node: Any, part: list[Any]) -> bool:
        """Whether nothing beyond a part, of which a node is to be the first, reads the node."""
        if not part:
            return True
        name = node.output[0]
        read = sum(n == name for other in part for n in other.input)
        return self.readers.get(name) == read

    def operator(
        self, root: str, part: list[Any], shape: Sequence[Any] | None, eps: float
    ) -> Operator | None:
        """The operator that computes what a part does, to rounding by eps, if there is one.

        ``shape`` is that of the one value that the part takes.
        """
        names = {root: "x", "": ""}
        numbers: list[float] = []
        form: list[Any] = []
        for node in part:
            for name in node.input:
                if (value := self.constants.get(name)) is not None:
                    names[name] = f"{value.dtype} {value.tolist()}"
                    if value.dtype.kind == "f":
                        numbers.append(written(value))
            names[node.output[0]] = f"v{len(names)}"
            attributes = sorted(a.SerializeToString() for a in node.attribute)
            form.append((node.op_type, *map(names.get, (*node.input, *node.output)), *attributes))
        lengths = None
        if any(node.op_type in ALONG_ROWS for node in part):
            lengths = tuple(shape or ())[1:]
            if not lengths or not all(isinstance(n, int) for n in lengths):
                return None
        key = eps, lengths, *form
        if key not in self._known:
            self._known[key] = self._compared(root, part, lengths, numbers, eps)
        return self._known[key]

    def _compared(
        self,
        root: str,
        part: list[Any],
        lengths: tuple[int, ...] | None,
        numbers: list[float],
        eps: float,
    ) -> Operator | None:
        if lengths is None:
            asks = any(node.op_type in ("IsInf", "IsNaN") for node in part)
            at = points(numbers, extremes=self.exact or asks)
        else:
            at = rows((*(min(n, AXES) for n in lengths[:-1]), max(lengths[-1], AXES)))
        try:
            y = np.asarray(values(part, self.constants, root, at)[part[-1].output[0]])
        except (UnlikeError, ConfigError, ValueError, TypeError):
            return None  # the last two where a node is not valid: of no such axis, or of a bool
        if lengths is None:
            return same_operator(at, y, eps)
        return same_along_rows(at, y, numbers, eps)


def _is_number(value: np.ndarray) -> bool:
    return value.size == 1 and value.dtype.kind in "fiub"


def _is_axes(node: Any, i: int) -> bool:
    return node.op_type in ALONG_ROWS and i == 1
