"""The whole train step on static buffers: fused kernels and products, replayed as one CUDA graph.

One launch copies the batch into its slot and the numbers of the step to device memory; then the
same work runs on the same addresses every time. The third step of a batch size is also captured as
a graph, compared bit by bit with the eager step from the same state, and replayed from then on.
If that fails, the step stays eager and :attr:`FusedStep.note` says why. The host waits for the
device only for that one comparison.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Never

import numpy as np

from xpnet.errors import UnsupportedError
from xpnet.kernels.cuda.batch_program import LIMIT, Program
from xpnet.kernels.cuda.buffers import Buffers, Task, arrays, blocks
from xpnet.kernels.cuda.executor import CaptureError, Executor
from xpnet.kernels.cuda.graph_check import fault_of_graph
from xpnet.kernels.cuda.lanes import Call
from xpnet.kernels.cuda.padding import padding
from xpnet.kernels.cuda.sources import MOST_NUMBERS, MOST_RANDOM, WRITTEN
from xpnet.kernels.cuda.step_operations import REDUCTIONS, kernels, recorded
from xpnet.kernels.plan import make_plan
from xpnet.nn import Sequential
from xpnet.nn.layout import layouts
from xpnet.nn.losses import Loss, quotient
from xpnet.optim.clipping import Clip
from xpnet.optim.groups import Grouped
from xpnet.optim.optimizers import Optimizer
from xpnet.step import Batch, StepInputs, TrainState
from xpnet.step.mixed_precision import CANDIDATES, Mixed
from xpnet.typing import Array

__all__ = ["FusedStep"]

EAGER_STEPS = 2  # of each batch size before its graph: they load the kernels and warm up cuBLAS
PROGRAMS = 4  # batch sizes whose buffers are kept
COSTS = 1024  # losses that share an allocation


class FusedStep:
    """``(state, batch, inputs) -> (state, cost)``, as :func:`xpnet.step.make_train_step` returns.

    With ``graph=False`` it stays eager; ``threads`` is the block size, a multiple of 32. Raises
    UnsupportedError if there is no kernel for something. ``mixed`` gives the step of
    :mod:`xpnet.step.mixed_precision`; the executor then stores its dtype. Unlike there, the
    gradient of the parameters is summed and kept in float32, never rounded. With ``accumulate``,
    the gradient is accumulated over that many micro-batches: :mod:`xpnet.step.microbatch`.
    """

    until_steady = EAGER_STEPS + 1  # steps of a batch size that may take more memory than before

    def __init__(
        self,
        executor: Executor,
        model: Sequential,
        loss: Loss,
        optimizer: Optimizer,
        clip: Clip = Clip(),
        mixed: Mixed | None = None,
        accumulate: int = 1,
        *,
        graph: bool = True,
        threads: int = 256,
    ) -> None:
        self.executor, self.graph = executor, graph
        self.task = _task(model, loss, optimizer, clip, mixed, accumulate, threads, executor.pack)
        executor.prepare(kernels(self.task))
        self.note = "eager, no graph yet" if graph else "eager: graphs are switched off"
        self.buffers: Buffers | None = None
        self.programs: dict[tuple, _Repeated] = {}
        self._costs: list[Array] = []
        self._taken = COSTS

    def __call__(
        self, state: TrainState, batch: Batch, inputs: StepInputs
    ) -> tuple[TrainState, Array]:
        with self.executor.active():
            buffers = self._adopt(state)
            repeated = self._repeated(buffers, batch)
            cost = self._set(buffers, inputs)
            repeated.program.begin(batch)
            self._run(repeated)
            return buffers.state, cost

    def __reduce__(self) -> Never:
        msg = "a fused step is bound to its buffers: copy the Trainer or the Engine, which makes "
        msg += "another"
        raise UnsupportedError(msg)

    @property
    def algorithms(self) -> Mapping[str, str]:
        """The algorithms of the products, by what they are for."""
        return self.executor.algorithms

    def prefer(self, algorithms: Mapping[str, str]) -> None:
        """Take the algorithms of another step, where they are those of this GPU and library."""
        if self.executor.prefer(algorithms):
            self.programs.clear()  # their graphs have others

    def gradient(self) -> Array | None:
        """Return the gradient (P,) of the last step, unscaled; None before the first one."""
        if self.buffers is None:
            return None
        with self.executor.active():
            return quotient(self._flat_gradient(self.buffers), self.buffers.denominator)

    def _flat_gradient(self, buffers: Buffers) -> Array:
        """The gradient (P,) of the sum of the losses, without pads."""
        padding, layout = self.task.padding, self.task.layout
        if padding is None:
            return buffers.grad
        flat = self.executor.empty((layout.size,), self.executor.dtype)
        pairs = zip(layout.tensors(flat), padding.layout.tensors(buffers.grad), strict=True)
        for to, x in pairs:
            self.executor.copy(to, x[tuple(map(slice, to.shape))])
        return flat

    def _adopt(self, state: TrainState) -> Buffers:
        """The static buffers, holding ``state``; the first state becomes part of them."""
        if self.buffers is None:
            self.buffers = Buffers.around(self.executor, self.task, state)
            self._renew()
        elif state is not self.buffers.state:
            for mine, x in zip(arrays(self.buffers.state), arrays(state), strict=True):
                if x is not mine:
                    self.executor.copy(mine, x)
            self._renew()
        return self.buffers

    def _renew(self) -> None:
        """Make the layers' working copy of the parameters; from then on, each update does it."""
        b = self.buffers
        if b is not None and b.working is not None:
            size, threads = b.state.params.shape[0], self.task.threads
            kernel = "narrowed" if b.tensors is None else "narrowed_apart"
            given = (x for x in (b.state.params, b.working, b.tensors) if x is not None)
            grid = (blocks(size, threads), 1)
            self.executor.launch(WRITTEN[kernel], grid, threads, *given, size)()

    def _repeated(self, buffers: Buffers, batch: Batch) -> "_Repeated":
        key = (batch.x.shape, batch.y.shape, batch.weight is None)
        if key not in self.programs:
            if len(self.programs) == PROGRAMS:
                self.programs.pop(next(iter(self.programs)))
            program = recorded(self.executor, self.task, buffers, batch)
            self.programs[key] = _Repeated(program)
        return self.programs[key]

    def _set(self, buffers: Buffers, inputs: StepInputs) -> Array:
        """Set the numbers of this step; return the array of its loss."""
        if self._taken == COSTS:  # callers may keep losses, so none is overwritten
            self._costs = [*self._costs[-1:], self.executor.empty((COSTS,), self.executor.dtype)]
            self._taken = 0
        costs, i, now = self._costs[-1], self._taken, buffers.now
        self._taken += 1
        numbers = inputs.coefficients
        if buffers.state.skipped is None:
            now["numbers"][0, : len(numbers)] = numbers
        else:
            _take_candidates(now, numbers)
        now["step"] = (inputs.step + 2**31) % 2**32 - 2**31  # wraps around, as int32 does
        now["cost"] = self.executor.address(costs) + i * costs.itemsize
        for k, pair in enumerate(inputs.keys):
            now["keys"][2 * k : 2 * k + 2] = pair
        return costs[i, ...]

    # -- the graph ----------------------------------------------------------------------------

    def _run(self, repeated: "_Repeated") -> None:
        if repeated.replay is not None:
            repeated.replay()
        elif self.graph and repeated.graph and repeated.runs >= EAGER_STEPS:
            self._run_and_capture(repeated)
        else:
            repeated.runs += 1
            repeated.program.run()

    def _run_and_capture(self, repeated: "_Repeated") -> None:
        """Run the work both ways from the same state, and keep the graph if no bit differs."""
        program = repeated.program
        assert self.buffers is not None
        try:
            replay = self.executor.capture(program.calls)
            fault = fault_of_graph(
                self.executor,
                arrays(self.buffers.state),
                replay,
                program.run,
                self._renew,
                self.task.threads,
            )
        except CaptureError as error:
            program.run()
            self._fall_back(str(error))
            return
        except MemoryError:  # of this batch size: there may have been room for the check of others
            program.run()
            repeated.graph = False
            if not any(other.replay for other in self.programs.values()):
                self.note = "eager: the device has no room to check a graph, for which the "
                self.note += "parameters and moments are copied"
            return
        if fault:
            self._fall_back(fault)
            return
        repeated.replay = replay
        n = self.task.micro_batches
        precision = f" in {self.task.mixed.dtype}" if self.task.mixed else ""
        parts = f" over {n} micro-batches" if n > 1 else ""
        streams = " on 2 streams" if any(call.lane for call in program.calls) else ""
        pads = self.task.padding
        widths = f" padded to multiples of {pads.pack}" if pads else ""
        how = f"{streams}{precision}{parts}{widths}"
        self.note = f"CUDA graph of {program.launches} launches{how}, "
        self.note += f"equal to the eager step; {self.executor.note}"

    def _fall_back(self, reason: str) -> None:
        """Stay eager from now on."""
        self.graph, self.note = False, f"eager: {reason}"
        logging.getLogger("xpnet").warning("the step on the GPU stays %s", self.note)
        for repeated in self.programs.values():
            repeated.replay = None


def _take_candidates(now: np.ndarray, numbers: Sequence[float]) -> None:
    """Set the coefficients for each number of skipped steps; for one that is given, the same."""
    now["skipped"], rows = 0, 1
    if len(numbers) > MOST_NUMBERS:
        now["skipped"], numbers, rows = numbers[0], numbers[1:], CANDIDATES
    now["numbers"][:, : len(numbers) // rows] = np.reshape(numbers, (rows, -1))


class _Repeated:
    """A program, and its graph once there is one."""

    def __init__(self, program: Program) -> None:
        self.program, self.runs, self.graph = program, 0, True
        self.replay: Call | None = None


def _task(
    model: Sequential,
    loss: Loss,
    optimizer: Optimizer,
    clip: Clip,
    mixed: Mixed | None,
    micro_batches: int,
    threads: int,
    pack: int,
) -> Task:
    layout, stats_layout = layouts(model)
    if len(model.output_shape) != 1 or not 0 < layout.size < LIMIT:
        msg = f"{layout.size} parameters and an output of shape {model.output_shape} have no kernel"
        raise UnsupportedError(msg)
    if model.n_random > MOST_RANDOM:
        msg = f"{model.n_random} layers that draw random numbers are too many for the kernels: "
        msg += f"at most {MOST_RANDOM}"
        raise UnsupportedError(msg)
    if isinstance(optimizer, Grouped):  # its updates are of parts of the vectors
        msg = "groups of parameters have no kernels on a GPU"
        raise UnsupportedError(msg)
    if loss.reduction not in REDUCTIONS:
        msg = f"the reduction {loss.reduction!r} has no kernel"
        raise UnsupportedError(msg)
    plan = make_plan(model, loss, optimizer, clip, divided=True)
    if plan.portable:
        msg = "; ".join(f"{name} has no kernel: {why}" for name, why in plan.portable)
        raise UnsupportedError(msg)
    padded = padding(plan, layout, pack)
    if padded is not None and padded.layout.size >= LIMIT:
        padded = None
    return Task(
        model, plan, layout, stats_layout, loss, optimizer, clip, threads, mixed, micro_batches,
        padded,
    )  # fmt: skip
