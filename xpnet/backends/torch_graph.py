"""A train step of PyTorch as one CUDA graph for each shape of a batch.

``torch.compile(mode="reduce-overhead")`` would freeze the numbers of a step, or record a graph for
each, and overwrite the state that it returned. Here the numbers lie in tensors of their own, and
the state stays where it is from step to step.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from xpnet.typing import Array

__all__ = ["GraphedStep", "cuda_graph"]

EAGER_STEPS = 3  # of a shape before its graph: they compile, load kernels and warm cuBLAS up
Call = Callable[[], None]


class _Slots(NamedTuple):
    """What one shape of batch needs."""

    batch: Any
    runs: list[None]  # one entry per eager step
    replay: list[Call]  # the graph, once there is one


class GraphedStep:
    """``step(state, batch, inputs)`` on tensors that stay in place, captured by ``capture``.

    The state handed in becomes the step's own. Where capture fails, the step stays eager and
    ``note`` says why.
    """

    def __init__(self, step: Callable, capture: Callable[[Call], Call]) -> None:
        self._step, self._capture = step, capture
        self._state: Any = None
        self._slots: dict[tuple, _Slots] = {}
        self._graph, self.note = True, "eager, no graph yet"

    def __call__(self, state: Any, batch: Any, inputs: Any) -> tuple[Any, Array]:
        if self._state is None:
            self._begin(state, inputs)
        elif state is not self._state:
            _copy(self._state, state)
        key = tuple(None if x is None else (tuple(x.shape), x.dtype) for x in batch)
        if key not in self._slots:
            made = type(batch)(*(None if x is None else x.clone() for x in batch))
            self._slots[key] = _Slots(made, [], [])
        slots = self._slots[key]
        _copy(slots.batch, batch)
        self._write(inputs)
        self._run(slots)
        return self._state, self._cost.clone()

    def _begin(self, state: Any, inputs: Any) -> None:
        import torch

        params = state.params
        self._state, self._cost = state, torch.empty((), dtype=params.dtype, device=params.device)
        count = len(inputs.coefficients)
        self._floats = torch.empty((count,), dtype=params.dtype, device=params.device)
        n_integers = 1 + sum(map(len, inputs.keys))
        self._integers = torch.empty((n_integers,), dtype=torch.int32, device=params.device)
        integers = iter(self._integers.unbind())
        coefficients = type(inputs.coefficients)(*self._floats.unbind())
        step, keys = next(integers), tuple((next(integers), next(integers)) for _ in inputs.keys)
        self._inputs = type(inputs)(step, coefficients, keys)

    def _write(self, inputs: Any) -> None:
        """Put the numbers of this step where the graph reads them, without waiting."""
        integers = [_wrapped(inputs.step), *(k for pair in inputs.keys for k in pair)]
        for target, values in ((self._floats, inputs.coefficients), (self._integers, integers)):
            target.copy_(_staged(values, target), non_blocking=True)

    def _run(self, slots: _Slots) -> None:
        def work() -> None:
            state, cost = self._step(self._state, slots.batch, self._inputs)
            _copy(self._state, state)
            self._cost.copy_(cost)

        if self._graph and not slots.replay and len(slots.runs) >= EAGER_STEPS:
            try:
                slots.replay.append(self._capture(work))
                self.note = "CUDA graph"
            except RuntimeError as error:
                self._graph = False
                self.note = f"eager: {str(error).partition(chr(10))[0]}"
        if slots.replay:
            slots.replay[0]()
        else:
            slots.runs.append(None)
            work()


def _leaves(tree: Any) -> Iterator[Array]:
    for part in tree:
        if isinstance(part, tuple):
            yield from _leaves(part)
        elif part is not None:
            yield part


def _copy(mine: Any, given: Any) -> None:
    for target, x in zip(_leaves(mine), _leaves(given), strict=True):
        if target is not x:
            target.copy_(x)


def _wrapped(step: int) -> int:
    """A step number as int32 arithmetic would have it."""
    return (step + 2**31) % 2**32 - 2**31


def _staged(values: Any, like: Array) -> Array:
    """Numbers in pinned memory, which PyTorch keeps until they have been copied."""
    import torch

    return torch.tensor(list(values), dtype=like.dtype, pin_memory=like.is_cuda)


def cuda_graph(work: Call, device: Any = None) -> Call:
    """Capture ``work`` on ``device`` without doing it; the graph has a memory pool of its own."""
    import torch

    with torch.cuda.device(device):
        before, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        # Its own stream would be of the device that was captured on first; and meanwhile a thread
        # places the next batches, which may allocate.
        given = {"stream": torch.cuda.Stream(), "capture_error_mode": "thread_local"}
        try:
            with torch.cuda.graph(graph, **given):
                work()
        finally:  # which it does not leave where the capture fails
            torch.cuda.set_stream(before)
    return graph.replay
