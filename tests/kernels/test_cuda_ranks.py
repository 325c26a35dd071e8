"""The GPU's step of a batch that several ranks share, against the step of one process.

Each rank is a thread with an emulated GPU of its own; what carries the sums is a stand-in for MPI,
by the host or from the device, or for NCCL, whose sums are calls of the stream like any other.
"""

import numpy as np
import pytest
from cuda_on_cpu import CpuExecutor
from test_cuda_mixed import first_state as mixed_state
from test_cuda_step import class_batches, first_state, inputs
from test_cuda_training import FusedNumpy, table  # noqa: F401 - the fixture registers its step
from thread_ranks import on_ranks

from xpnet.kernels.cuda.buffers import arrays
from xpnet.kernels.cuda.graphed_step import FusedStep
from xpnet.nn import BatchNorm, Dense, Dropout, LayerNorm, ReLU, Sequential, Tanh
from xpnet.nn.losses import Huber, SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import SGD, Adam
from xpnet.parallel import Share
from xpnet.parallel.across import Across
from xpnet.parallel.settings import Parallel
from xpnet.step import Batch, StepInputs
from xpnet.step.mixed_precision import Mixed, candidates
from xpnet.training.trainer import Trainer

RULE = Adam(0.05)
DEEP = [Dense(9), Tanh(), Dropout(0.3), Dense(7), ReLU(), Dropout(0.2), Dense(5)]
CARRIERS = {"mpi": {}, "cuda_aware": {"takes_device": True},
            "nccl": {"takes_device": True, "on_stream": True}}  # fmt: skip
# On 3 ranks: even and uneven shares, ranks without rows, and each often enough for a graph.
ROWS = [13] * 4 + [2] * 4 + [12, 13, 2, 1]


class OneRank:
    """A process alone."""

    rank, size = 0, 1


def steps(comm, folder, carrier, batches, layers=DEEP, **options):
    """Take the steps of one rank; return its fused step, the last state and the losses."""
    given = {"loss": SoftmaxCrossEntropy(), "rule": RULE, "dtype": "float64", "clip": Clip(),
             "mixed": None, "accumulate": 1, "buckets": 1, "device": {}} | options  # fmt: skip
    mixed, rule, dtype = given["mixed"], given["rule"], given["dtype"]
    narrow = mixed and mixed.dtype
    executor = CpuExecutor(dtype, folder, narrow=narrow, **given["device"].get(comm.rank, {}))
    model = Sequential(layers).build((6,))
    share, across = Share(comm.rank, comm.size, None, given["accumulate"]), None
    if comm.size > 1:
        vars(comm).update(CARRIERS[carrier])
        across = Across(comm, share, np.copy, np.copy, settings=Parallel(buckets=given["buckets"]))
    fused = FusedStep(
        executor, model, given["loss"], rule, given["clip"], mixed, given["accumulate"], across,
        threads=64,
    )  # fmt: skip
    state = mixed_state(model, rule, mixed) if mixed else first_state(model, rule, dtype)
    costs, scales, gradients = [], [], []
    for i, batch in enumerate(batches):
        positions = share.positions(len(batch.x))
        own = Batch(*(None if x is None else x[positions] for x in batch))
        numbers = inputs(i, model, rule)
        if mixed and mixed.scales:
            c = candidates(rule, rule.lr, i + 1, int(state.skipped), 0)
            numbers = StepInputs(i, c, numbers.keys)
        rows = None if comm.size == 1 else len(batch.x)
        state, cost = fused(state, own, numbers._replace(rows=rows))
        costs.append(float(cost))
        scales.append(None if mixed is None else state.scale.tolist())
        gradients.append(fused.gradient().copy())
    executor.check_guards()
    assert fused.at_once(12) == 1 or comm.size == 1
    return fused, [np.array(x) for x in arrays(state)], costs, scales, gradients


def bits(state):
    return b"".join(x.tobytes() for x in state)


def compared(folder, size, carrier, batches, tolerance, **options):
    """Check that ranks do what one process does, and all the same; return their fused steps."""
    batches = list(batches)
    found = on_ranks(size, lambda comm: steps(comm, folder, carrier, batches, **options))
    alone = steps(OneRank(), folder, carrier, batches, **(options | {"device": {}}))
    for fused, state, costs, scales, gradients in found:
        assert bits(state) == bits(found[0][1])
        assert scales == alone[3]
        np.testing.assert_allclose(costs, alone[2], rtol=tolerance, atol=tolerance)
        for a, b in zip([*state, *gradients], [*alone[1], *alone[4]], strict=True):
            size = np.abs(b).max(where=np.isfinite(b), initial=1.0)
            if np.isfinite(b).all():  # else it is of a step that is left out
                np.testing.assert_allclose(a / size, b / size, rtol=0.0, atol=tolerance)
            else:
                assert not np.isfinite(a).all()
        assert fused.note.partition(";")[0] == found[0][0].note.partition(";")[0]
    return [fused for fused, *_ in found]


@pytest.mark.long_but(size=[3])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_ranks_take_the_step_of_one_process_from_graphs(carrier, size, folder, rng):
    batches = class_batches(rng, "float64", ROWS, weights=True)
    found = compared(folder, size, carrier, batches, 1e-13, clip=Clip(norm=0.1))
    for fused in found:
        counts, programs = fused.executor.counts, len(fused.programs)
        between = "" if carrier == "nccl" else "s"
        assert fused.note.startswith("CUDA graph of " if carrier == "nccl" else "2 CUDA graphs of ")
        sums = "with the sums" if carrier == "nccl" else "with a sum"
        where = "in it" if carrier == "nccl" else "between them"
        assert f" {sums} over {size} ranks {where}, equal to the eager step; " in fused.note
        assert programs == 4
        assert counts["capture"] == 2 * (1 + bool(between))
        # One in each step and, twice, one more for the comparison; those of replays are in graphs.
        assert counts["sum"] == (len(ROWS) + 2 if carrier != "nccl" else 3 + 3 + 1 + 1)


@pytest.mark.long_but(name=["micro-batches", "bfloat16, padded, in buckets"])
@pytest.mark.parametrize(
    ("name", "carrier", "options"),
    [
        ("micro-batches", "mpi", {"accumulate": 3}),
        ("micro-batches in buckets", "nccl", {"accumulate": 3, "buckets": 3}),
        ("sum", "nccl", {"loss": SoftmaxCrossEntropy(reduction="sum"), "rule": SGD(0.01)}),
        ("count", "mpi", {"loss": SoftmaxCrossEntropy(reduction="mean_count", ignore_label=2)}),
        ("classes", "mpi", {"loss": SoftmaxCrossEntropy(class_weights=(1, 2, 3, 4, 5))}),
        ("rows", "nccl", {"layers": [Dense(9), LayerNorm(), Dense(7), Dense(5)], "buckets": 2}),
        ("bfloat16, padded, in buckets", "nccl", {"mixed": Mixed("bfloat16"), "buckets": 3}),
    ],
)
def test_every_way_of_training_is_that_of_one_process(name, carrier, options, folder, rng):
    mixed = options.get("mixed")
    dtype = "float32" if mixed else "float64"
    batches = class_batches(rng, dtype, ROWS[:6], weights="rows" in name)
    found = compared(folder, 3, carrier, batches, 2e-2 if mixed else 1e-12, dtype=dtype, **options)
    buckets = options.get("buckets", 1)
    for fused in found:
        assert len(fused.task.plan.sums) == buckets
        calls = next(iter(fused.programs.values())).program.calls
        beside = sum(call.lane for call in calls)
        assert beside == buckets if buckets > 1 else beside >= 2
        assert fused.note.startswith("CUDA graph" if carrier == "nccl" else "2 CUDA graphs")


NORMS = [Dense(9, bias=False), BatchNorm(), Tanh(), Dropout(0.2), Dense(7), ReLU(), BatchNorm(),
         Dense(5)]  # fmt: skip


@pytest.mark.long_but(name=["whole"])
@pytest.mark.parametrize(
    ("name", "carrier", "options"),
    [
        ("whole", "mpi", {}),
        ("buckets", "nccl", {"buckets": 3}),
        ("micro-batches", "mpi", {"accumulate": 3}),
        ("micro-batches in buckets", "nccl", {"accumulate": 4, "buckets": 2}),
        ("bfloat16", "nccl", {"mixed": Mixed("bfloat16"), "dtype": "float32"}),
    ],
)
def test_batch_normalisation_is_over_the_rows_of_all_ranks(name, carrier, options, folder, rng):
    dtype = options.get("dtype", "float64")
    rows = [13, 12, 13, 3, 2] if "float16" in name else [*ROWS, 300]  # patches of rows, too
    batches = class_batches(rng, dtype, rows)
    tolerance = 1e-11 if dtype == "float64" else 0.05
    found = compared(folder, 3, carrier, batches, tolerance, layers=NORMS, rule=SGD(0.1), **options)
    parts, norms = options.get("accumulate", 1), 2
    if name == "whole":
        assert found[0].note.startswith(f"{3 * norms * parts + 2} CUDA graphs of ")
    if name == "buckets":
        assert found[0].note.startswith("CUDA graph of ")


@pytest.mark.long
def test_a_loss_of_values_is_shared_too(folder, rng):
    batches = [
        batch._replace(y=rng.normal(size=(len(batch.x), 5)))
        for batch in class_batches(rng, "float64", ROWS)
    ]
    compared(folder, 3, "mpi", batches, 1e-12, loss=Huber())


def test_an_overflow_on_one_rank_alone_is_one_on_all(folder, rng):
    batches = list(class_batches(rng, "float32", [6] * 6, weights=True))
    batches[1].weight[4] = 1e6  # of rank 1
    scales = []
    for carrier in ("mpi", "nccl"):
        options = {"mixed": Mixed("float16", 2.0**12), "dtype": "float32"}
        layers = [Dense(8), ReLU(), Dense(5)]
        found = compared(folder, 3, carrier, batches, 1e-2, layers=layers, **options)
        scales.append([fused.buffers.state.skipped.item() for fused in found])
        assert found[0].note.startswith("2 CUDA graphs" if carrier == "mpi" else "CUDA graph of")
    assert scales == [[1, 1, 1], [1, 1, 1]]


FAULTS = {
    "capture": ({"can_capture": False}, "rank 1, this executor was told not to"),
    "bits": ({"corrupt_replay": True}, ", the replayed graph and the eager step"),
}


@pytest.mark.parametrize("carrier", ["mpi", "nccl"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_fails_on_one_rank_leaves_all_eager_and_in_step(fault, carrier, folder, rng):
    device, note = FAULTS[fault]
    batches = class_batches(rng, "float64", [7] * 5)
    found = compared(
        folder, 2, carrier, batches, 1e-12, layers=[Dense(9), Tanh(), Dense(5)], device={1: device}
    )
    for fused in found:
        assert fused.note.startswith("eager: on rank ")  # what is wrong on one gets to the other
        assert note in fused.note
        assert not fused.graph
        assert not any(program.graphs for program in fused.programs.values())


@pytest.mark.parametrize("what", ["room", "launch"])
def test_no_room_for_a_graph_on_one_rank_leaves_all_eager_and_in_step(
    what, folder, rng, monkeypatch
):
    capture, empty = CpuExecutor.capture, CpuExecutor.empty

    def captured(self, calls):
        replay = capture(self, calls)
        self.full = self.can_capture == "then full" and what == "room"

        def failing():
            msg = "cudaErrorMemoryAllocation"
            raise RuntimeError(msg)

        return failing if self.can_capture == "then full" and what == "launch" else replay

    def allocated(self, shape, dtype):
        if getattr(self, "full", False):
            raise MemoryError
        return empty(self, shape, dtype)

    monkeypatch.setattr(CpuExecutor, "capture", captured)
    monkeypatch.setattr(CpuExecutor, "empty", allocated)
    batches = class_batches(rng, "float64", [7] * 5)
    found = compared(
        folder, 2, "mpi", batches, 1e-12, layers=[Dense(9), Tanh(), Dense(5)],
        device={1: {"can_capture": "then full"}},
    )  # fmt: skip
    reason = "the device has no room" if what == "room" else "the graph could not be launched"
    for fused in found:
        assert fused.note.startswith(f"eager: on rank 1, {reason}")


@pytest.mark.parametrize("ranks", [2])
def test_a_trainer_of_several_ranks_gathers_its_rows_and_has_the_curve_of_one(ranks, folder, rng):
    y = rng.integers(0, 3, size=69)  # the last batch of 16 is of 5
    x = rng.normal(size=(69, 5)) + y[:, None]

    def train(comm=None):
        trainer = Trainer(
            [Dense(8), Tanh(), Dropout(0.2), Dense(3)], optimizer=RULE, batch_size=16, comm=comm,
            backend=FusedNumpy(folder),
        )  # fmt: skip
        history = trainer.fit((x, y), epochs=3)
        return [r["loss"] for r in history], trainer.engine

    wanted, alone = train()
    found = on_ranks(ranks, train)
    for losses, engine in found:
        np.testing.assert_allclose(losses, wanted, rtol=1e-10, atol=0.0)
        state = zip(arrays(engine.state), arrays(alone.state), strict=True)
        for a, b in state:
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
        assert engine.step.note.startswith("2 CUDA graphs of ")
        assert bits(arrays(engine.state)) == bits(arrays(found[0][1].state))
