"""The model of a step on a GPU: its launches and bytes are those of the real step."""

import numpy as np
import pytest
from cuda_on_cpu import WHY_NOT, CpuExecutor

from xpnet.bench import STANDARD_ON_GPU, Network, Setting
from xpnet.bench.launches import Labelling
from xpnet.bench.model import MACHINES, launched, machine_named, modelled
from xpnet.bench.traffic import Access, accesses
from xpnet.errors import ConfigError
from xpnet.kernels.cuda.graphed_step import FusedStep
from xpnet.nn import GELU, BatchNorm, Dense, Dropout, LayerNorm, ReLU, Sequential, Softmax, Tanh
from xpnet.nn.layout import initialize
from xpnet.nn.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import Adam
from xpnet.step import Batch, StepInputs, TrainState, zero_totals
from xpnet.step.mixed_precision import Mixed, first_scale

# Launches of the products, of the activations' derivatives and of the sums of their columns, beside
# one each of what begins the step, the loss and the update; and the bytes of all but the products
# in float32 (as in tf32) and in bfloat16.
EXPECTED = {
    "64-32-10:32:sgd": ((5, 1, 0), 64_528, 57_816),
    "784-512-256-10:128:adam": ((8, 2, 0), 17_004_920, 17_280_896),
    "784-2500-2000-1500-1000-500-10:1024:adam": ((17, 5, 5), 434_847_992, 417_347_300),
    "8192-8192-8192-8192:4096:sgd": ((8, 3, 3), 3_893_595_792, 3_625_979_544),
}


@pytest.mark.long_where(precision=["float32"])
@pytest.mark.parametrize("network", STANDARD_ON_GPU, ids=str)
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_step_of_a_benchmark_has_no_more_launches_and_bytes(network, precision):
    (products, derivatives, sums), *moved = EXPECTED[str(network)]
    model = modelled(network, Setting("cuda", precision), MACHINES["H200"])
    found = {part.name: part.launches for part in model.parts}
    assert found.pop("column_sums", 0) == sums
    assert found == {
        "begin_step": 1, "matrix products": products, "softmax_cross_entropy": 1,
        "activation_backward": derivatives, network.optimizer: 1,
    }  # fmt: skip
    assert model.moved == moved[precision == "bfloat16"]
    flops = sum(part.flops for part in model.parts)
    assert network.flops() <= flops <= 1.06 * network.flops()  # padded widths


def test_the_bytes_of_a_large_network_are_those_that_were_counted_by_hand():
    """8192 wide, of 3 layers, a batch of 4096, in bfloat16: N J numbers, and P = 3 J (J + 1)."""
    NJ, P = 4096 * 8192, 3 * 8192 * 8193
    model = modelled(STANDARD_ON_GPU[-1], Setting("cuda", "bfloat16"), MACHINES["H200"])
    moved = {part.name: part.bytes for part in model.parts}
    assert moved["sgd"] == pytest.approx(P * (4 + 4 + 4 + 2), rel=1e-6)
    assert moved["activation_backward"] == pytest.approx(NJ * (2 * 3 * 2 + 2), rel=1e-2)
    assert moved["softmax_cross_entropy"] == pytest.approx(NJ * (2 + 2), rel=1e-3)
    assert moved["begin_step"] == pytest.approx(NJ * (4 + 2), rel=1e-2)


def test_modelled_times_are_near_those_that_a_gpu_took():
    """scripts/reports/gpu.md, the last profile in tf32: what a kernel took beside its model."""
    took = {
        "matrix products": 13_656,
        "sgd": 587,
        "activation_backward": 237,
        "bias_activation": 137,
    }
    model = modelled(STANDARD_ON_GPU[-1], Setting("cuda", "tf32"), MACHINES["H200"])
    for part in model.parts:
        if part.name in took:
            assert 0.85 < part.microseconds / took[part.name] <= 1.0, part
    assert 1.0 <= model.microseconds / model.limit < 1.01


def test_a_gpu_or_a_precision_that_was_not_measured_is_an_error():
    with pytest.raises(ConfigError, match="unknown GPU 'H10'; did you mean 'H100'"):
        machine_named("H10")
    with pytest.raises(ConfigError, match="no rate of products was measured in float64"):
        modelled(STANDARD_ON_GPU[0], Setting("cuda", "float64"), MACHINES["H100"])


def test_the_model_has_the_launches_of_the_step_that_trains():
    names = [launch.name for launch in launched(Network((6, 5, 4), 3, "adam"), Setting("cuda"))]
    product, derivative = "matrix products", "activation_backward"
    forward, backward = [product] * 2, [product] * 2 + [derivative, product]
    assert names == ["begin_step", *forward, "softmax_cross_entropy", *backward, "adam"]


class Probing:
    """An executor that runs each launch twice, with other numbers in what it should not read."""

    def __init__(self, executor):
        self.executor, self.found, self.probed = executor, [], set()

    def __getattr__(self, name):
        return getattr(self.executor, name)

    def launch(self, kernel, grid, block, *given):
        call = self.executor.launch(kernel, grid, block, *given)
        touched = {}
        for name, (x, read, written) in accesses(kernel, given).items():
            at = x.ctypes.data  # in place, it has two names
            other = touched.get(at, (name, Access(x, False, False)))
            touched[at] = other[0], Access(x, read or other[1].read, written or other[1].written)
        touched = dict(touched.values())

        def run():
            self.probed.add(kernel.label)
            before = {name: x.array.copy() for name, x in touched.items()}
            after = []
            for poison in (3, 5):
                for name, x in touched.items():
                    x.array[...] = before[name] if x.read or not x.written else poison
                call()
                after.append({name: x.array.copy() for name, x in touched.items()})
            for name, x in touched.items():
                a, b = (found[name] for found in after)
                if not x.written and not np.array_equal(a, before[name], equal_nan=True):
                    self.found.append(f"{kernel.label} writes {name}")
                same = (a == b) | ((a != a) & (b != b))
                left = np.zeros(a.shape, bool) if x.read else (a == 3) & (b == 5)
                if x.written and not np.all(same | left):
                    self.found.append(
                        f"{kernel.label} reads {name}, or depends on what it should not"
                    )

        return run


LAYERS = [Dense(8), BatchNorm(), ReLU(), Dropout(0.3), Dense(8), LayerNorm(), Tanh(), Dense(8),
          GELU(), Dense(8), Softmax()]  # fmt: skip
PROBED = {
    "layers": ([*LAYERS, Dense(5)], SoftmaxCrossEntropy(), Adam(), {}),
    "long rows": ([Dense(40)], SoftmaxCrossEntropy(), Adam(), {"clip": Clip(norm=0.1)}),
    "elements": (
        [Dense(5), BatchNorm()],
        BinaryCrossEntropy(),
        Adam(),
        {"mixed": Mixed("float16")},
    ),
}


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
@pytest.mark.parametrize("name", PROBED)
def test_kernels_read_and_write_what_the_model_counts(name, folder):
    layers, loss, rule, options = PROBED[name]
    model = Sequential(layers).build((6,))
    mixed = options.get("mixed")
    executor = Probing(CpuExecutor("float32", folder, narrow=mixed.dtype if mixed else None))
    step = FusedStep(executor, model, loss, rule, graph=False, **options)
    rng = np.random.default_rng(0)
    params, stats = (x.astype("float32") for x in initialize(model, 0))
    scale = first_scale(mixed, params) if mixed else None
    state = TrainState(params, stats, rule.init(params), zero_totals(params), scale)
    y = rng.integers(0, 5, 9).astype("int32")
    if isinstance(loss, BinaryCrossEntropy):
        y = rng.integers(0, 2, (9, 5)).astype("float32")
    batch = Batch(rng.normal(size=(9, 6)).astype("float32"), y)
    keys = [(1, 2)] * model.n_random
    for _ in range(2):
        state, _ = step(state, batch, StepInputs(0, rule.coefficients(1e-3, 1), keys))
    assert executor.found == []
    assert len(executor.probed) > 3


def test_a_launch_is_labelled_each_time_it_is_called():
    network = Network((6, 5, 4), 3, "sgd")
    names = [launch.name for launch in launched(network, Setting("cuda", "float16"))]
    assert names.count("matrix products") == 5
    assert names[-1] == "next_scale"
    assert Labelling(None).called == []
