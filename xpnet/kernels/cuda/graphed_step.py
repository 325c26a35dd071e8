"""The whole train step on static buffers: fused kernels and products, replayed as one CUDA graph.

One launch gathers the batch into its slot and puts the numbers of the step into device memory; then
the same work runs on the same addresses every time. After two steps of a batch size it is also
captured as a graph, compared bit by bit with the eager step from the same state, and replayed from
then on. If that fails, the step stays eager and :attr:`FusedStep.note` says why. The host waits for
the device only for that one comparison. Several steps in a row may be one graph.

Where several ranks share each batch, the gradient and the sums of the loss are one vector, which is
summed over the ranks before the update: within the graph where that only joins the stream (NCCL),
else by the host, between two graphs. All ranks issue the same sums in the same order, whatever is
captured or fails on one of them: what is decided depends on numbers that all know, or is agreed on.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Never

from xpnet.errors import UnsupportedError
from xpnet.kernels.cuda.batch_program import Program, launches
from xpnet.kernels.cuda.begin import Beginning, Rounded, Steps, shapes
from xpnet.kernels.cuda.buffers import Buffers, arrays, blocks
from xpnet.kernels.cuda.executor import CaptureError, Executor
from xpnet.kernels.cuda.graph_check import Graphs, copies_of, fault_of_graph
from xpnet.kernels.cuda.sources import MOST_WORDS, WRITTEN, now
from xpnet.kernels.cuda.step_operations import kernels, recorded
from xpnet.kernels.cuda.task import make_task
from xpnet.nn import Sequential
from xpnet.nn.losses import Loss, quotient
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import Optimizer
from xpnet.parallel.across import Across
from xpnet.step import AnyBatch, StepInputs, TrainState, gathered
from xpnet.step.mixed_precision import CANDIDATES, Mixed
from xpnet.typing import Array

__all__ = ["FusedStep"]

EAGER_STEPS = 2  # of each batch size before its graph: they load the kernels and warm up cuBLAS
PROGRAMS = 4  # batch sizes whose buffers are kept
COSTS = 1024  # losses that share an allocation
NO_ROOM = "the device has no room to check a graph, for which the parameters and moments are copied"
MOST_AT_ONCE, LONGEST = 16, 600.0  # steps in a graph, and about how many microseconds they take


class FusedStep:
    """``(state, batch, inputs) -> (state, cost)``, as :func:`xpnet.step.make_train_step` returns.

    A batch may also be :class:`xpnet.step.Rows` of a data set, which the step gathers itself. With
    ``graph=False`` it stays eager; ``threads`` is the block size, a multiple of 32. Raises
    UnsupportedError if there is no kernel for something. ``mixed`` gives the step of
    :mod:`xpnet.step.mixed_precision`; the executor then stores its dtype. Unlike there, the
    gradient of the parameters is summed and kept in float32, never rounded. With ``accumulate``,
    the gradient is accumulated over that many micro-batches: :mod:`xpnet.step.microbatch`.
    ``across`` are the ranks that share each batch, as in :mod:`xpnet.step.data_parallel`.
    """

    gathers = True
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
        across: Across | None = None,
        *,
        graph: bool = True,
        threads: int = 256,
    ) -> None:
        self.executor, self.graph = executor, graph
        pack = executor.pack
        self.task = make_task(
            model, loss, optimizer, clip, mixed, accumulate, across, threads, pack
        )
        executor.prepare(kernels(self.task))
        self.note = "eager, no graph yet" if graph else "eager: graphs are switched off"
        self.buffers: Buffers | None = None
        self.programs: dict[tuple, _Repeated] = {}
        self._rounded = Rounded(executor, threads)
        self._costs: list[Array] = []
        self._taken = COSTS

    def __call__(
        self, state: TrainState, batch: AnyBatch, inputs: StepInputs
    ) -> tuple[TrainState, Array]:
        state, costs, i = self._take(state, [batch], [inputs])
        return state, costs[i, ...]

    def many(
        self, state: TrainState, batches: Sequence[AnyBatch], inputs: Sequence[StepInputs]
    ) -> tuple[TrainState, Array]:
        """Take steps of batches of one size, at most :meth:`at_once`; return their losses, too.

        The state and the losses (n,) are, to the bit, those of as many calls.
        """
        state, costs, i = self._take(state, batches, inputs)
        return state, costs[i : i + len(batches)]

    def at_once(self, rows: int) -> int:
        """Return how many steps of so many rows are best taken at once: 1, 2, 4, 8 or 16.

        One graph of many short steps costs the host one launch. It is the same number wherever a
        network is trained, for it is the callers' business what happens between steps.
        """
        task = self.task
        if task.comm is not None:
            return 1
        operations, P = len(list(task.plan.operations())), task.layout.size
        passes = 3 + 2 * len(task.optimizer.slots)  # of the update over the parameters
        time = 2.5 * operations + 6 * rows * P / 4e8 + 4 * P * passes / 3e6  # microseconds
        size = now(self.executor.dtype, task.sets * task.numbers, 2 * task.model.n_random).size
        most = min(MOST_AT_ONCE, LONGEST / time, MOST_WORDS * 8 // size)
        if task.sets > 1:  # the coefficients are candidates for as many steps
            most = min(most, CANDIDATES)
        return 2 ** max(0, math.floor(math.log2(most)))

    def _take(
        self, state: TrainState, batches: Sequence[AnyBatch], inputs: Sequence[StepInputs]
    ) -> tuple[TrainState, Array, int]:
        """Take steps; return the state, and an array with their losses and where they begin."""
        with self.executor.active():
            buffers, n = self._adopt(state), len(batches)
            repeated = self._repeated(buffers, batches[0], inputs[0].rows)
            costs, i = self._room(n)
            at, size = self.executor.address(costs), costs.itemsize
            kept: list[Array] = []
            put = repeated.beginning.put
            for k in range(n):
                put(k, at + (i + k) * size, batches[k], inputs[k], kept)
            self._run(repeated, n)
            return buffers.state, costs, i

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
        # Their graphs have others. Ranks begin again together, whichever has had others.
        if self.executor.prefer(algorithms) or self.task.comm is not None:
            self.programs.clear()

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

    def _repeated(self, buffers: Buffers, batch: AnyBatch, rows: int | None) -> "_Repeated":
        own = shapes(batch)
        whole = own[0][0] if rows is None else rows
        key = *own, whole
        if key not in self.programs:
            if len(self.programs) == PROGRAMS:
                self.programs.pop(next(iter(self.programs)))
            program = recorded(self.executor, self.task, buffers, gathered(batch), whole)
            self.programs[key] = _Repeated(program, self._rounded)
        return self.programs[key]

    def _room(self, n: int) -> tuple[Array, int]:
        """Return an array for the losses of n steps, and where they begin."""
        if self._taken + n > COSTS:  # callers may keep losses, so none is overwritten
            self._costs = [*self._costs[-1:], self.executor.empty((COSTS,), self.executor.dtype)]
            self._taken = 0
        self._taken += n
        return self._costs[-1], self._taken - n

    # -- the graph ----------------------------------------------------------------------------

    def _run(self, repeated: "_Repeated", n: int) -> None:
        steps = repeated.steps(n)
        if (graphs := repeated.graphs.get(n)) is not None:
            steps.begin()
            graphs.replay()
            self._launched()
        elif self.graph and repeated.graph and repeated.runs >= EAGER_STEPS:
            self._run_and_capture(repeated, n)
        else:
            repeated.runs += n
            steps.run()

    def _run_and_capture(self, repeated: "_Repeated", n: int) -> None:
        """Run the work both ways from the same state, and keep the graph if no bit differs."""
        steps, e = repeated.steps(n), self.executor
        assert self.buffers is not None
        state, why = arrays(self.buffers.state), ""
        try:
            graphs, kept = Graphs(e, steps.calls), copies_of(e, state)
        except CaptureError as error:
            why = str(error)
        except MemoryError:
            why = NO_ROOM
        if why := self._agreed(why):
            steps.run()
            self._stay_eager(repeated, why)
            return

        def try_out() -> str:
            steps.begin()
            failed = graphs.try_out()
            self._launched()
            return failed

        fault = fault_of_graph(e, state, kept, try_out, steps.run, self._renew, self.task.threads)
        if fault := self._agreed(fault):
            self._stay_eager(repeated, fault)
            return
        repeated.graphs[n] = graphs
        self.note = self._longest()

    def _launched(self) -> None:
        if self.task.comm is not None and self.task.comm.on_stream:
            self.task.comm.launched()

    def _agreed(self, why: str) -> str:
        """Return why one of the ranks cannot have a graph: then none has one."""
        comm = self.task.comm
        if comm is None:
            return why
        reasons = enumerate(comm.allgather(why))
        return next((f"on rank {r}, {reason}" for r, reason in reasons if reason), "")

    def _longest(self) -> str:
        """What the graph is that has the most steps."""
        found = [(n, repeated) for repeated in self.programs.values() for n in repeated.graphs]
        n, repeated = max(found, key=lambda graph: graph[0])
        steps, graphs, parts = repeated.steps(n), repeated.graphs[n], self.task.share.micro_batches
        calls, comm = steps.calls, self.task.comm
        note = "CUDA graph" if graphs.count == 1 else f"{graphs.count} CUDA graphs"
        note += f" of {f'{n} steps, ' * (n > 1)}{launches(calls)} launches"
        note += " on 2 streams" if any(call.lane for call in calls) else ""
        note += f" in {self.task.mixed.dtype}" if self.task.mixed else ""
        note += f" over {parts} micro-batches" if parts > 1 else ""
        padded = self.task.padding
        note += f" padded to multiples of {padded.pack}" if padded else ""
        if comm is not None:
            note += f" with {'the sums' if comm.on_stream else 'a sum'} over {comm.size} ranks "
            note += "in it" if comm.on_stream else "between them"
        return f"{note}, equal to the eager step{'s' * (n > 1)}; {self.executor.note}"

    def _stay_eager(self, repeated: "_Repeated", reason: str) -> None:
        """Take no graph from now on, or for lack of memory none of this batch size.

        There may have been room for the check of others.
        """
        if reason.endswith(NO_ROOM):
            repeated.graph = False
            if not any(other.graphs for other in self.programs.values()):
                self.note = f"eager: {reason}"
            return
        self.graph, self.note = False, f"eager: {reason}"
        logging.getLogger("xpnet").warning("the step on the GPU stays %s", self.note)
        for other in self.programs.values():
            other.graphs.clear()


class _Repeated:
    """A program, how its steps begin, and its graphs by the number of steps once there are any."""

    def __init__(self, program: Program, rounded: Rounded) -> None:
        self.program, self.beginning = program, Beginning(program, rounded)
        self.runs, self.graph = 0, True
        self.graphs: dict[int, Graphs] = {}
        self._steps: dict[int, Steps] = {}

    def steps(self, n: int) -> Steps:
        if n not in self._steps:
            self._steps[n] = self.beginning.steps(n)
        return self._steps[n]
