"""Padded widths: which places have them, that pads are inert, and whole steps with them."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from conftest import AVAILABLE, make_backend, ran
from cublas_on_cpu import rounded
from cuda_on_cpu import CpuExecutor
from test_cuda_mixed import first_state as first_mixed_state
from test_cuda_mixed import fused as fused_mixed
from test_cuda_mixed import portable_steps
from test_cuda_step import class_batches, compare, first_state, inputs, placed

from xpnet.kernels import formulas
from xpnet.kernels.cuda import layer_operations, printed
from xpnet.kernels.cuda.buffers import arrays
from xpnet.kernels.cuda.executor import CupyExecutor
from xpnet.kernels.cuda.graphed_step import FusedStep
from xpnet.kernels.cuda.padding import is_inert, padding
from xpnet.kernels.plan import make_plan
from xpnet.nn import (
    ACTIVATIONS,
    ELU,
    GELU,
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    Flatten,
    Identity,
    LayerNorm,
    ReLU,
    Sequential,
    Sigmoid,
    Softmax,
    Softplus,
    Tanh,
)
from xpnet.nn.layout import layouts
from xpnet.nn.losses import Huber, SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import SGD, Adam
from xpnet.step.mixed_precision import Mixed

KINDS = [cls for cls in ACTIVATIONS.values() if getattr(cls, "elementwise", False)]


@dataclass(frozen=True)
class Own(Activation):
    """An activation of a user's own, of which a pad of 0 would not be inert."""

    kind: str

    def value(self, z):
        return {"infinite": 1 / z, "steep": (z * z) ** 0.5, "large": z + 1e5}[self.kind]

    def backward_value(self, da, kept):
        slopes = {"infinite": -1 / (kept * kept), "steep": kept / (kept * kept) ** 0.5, "large": 1}
        return da * slopes[self.kind]


def padded(layers, shape, pack=8, loss=SoftmaxCrossEntropy()):
    model = Sequential(layers).build(shape)
    plan = make_plan(model, loss, SGD(), Clip(), divided=True)
    return padding(plan, model, pack)


def shapes(padding):
    return {e.name: e.shape for e in padding.layout.entries}


def test_hidden_widths_and_inputs_are_padded_and_outputs_are_not():
    found = padded([Dense(9), Tanh(), Dense(17), ELU(), Dense(10)], (6,))
    assert found.places == {
        "x": 8, "z0": 16, "z2": 24, "a3": 24, "z4": 10, "da3": 24, "dz0": 16,
    }  # fmt: skip
    assert shapes(found) == {
        "0.dense.W": (8, 16), "0.dense.b": (16,), "2.dense.W": (16, 24), "2.dense.b": (24,),
        "4.dense.W": (24, 10), "4.dense.b": (10,),
    }  # fmt: skip
    assert found.buffers == [8, 24, 17, 16, 24, 24, 10]
    assert [e.start % 8 for e in found.layout.entries] == [0] * 6


@pytest.mark.parametrize(
    ("pack", "widths"), [(8, (832, 2560, 1024, 104, 10)), (4, (800, 2528, 1024, 104, 10))]
)
def test_widths_that_are_padded_are_whole_cache_lines_where_that_adds_little(pack, widths):
    """128 bytes, if they are no more than a sixteenth."""
    layers = [Dense(2499), ReLU(), Dense(1000), ReLU(), Dense(101), ReLU(), Dense(10)]
    found = shapes(padded(layers, (784,), pack))
    assert tuple(found[f"{i}.dense.W"] for i in (0, 2, 4, 6)) == tuple(pairwise(widths))
    assert padded([Dense(2400), ReLU(), Dense(1000), ReLU(), Dense(16)], (784,), pack) is None


@pytest.mark.parametrize(
    "between",
    [[Softmax()], [Own("steep")], [BatchNorm(), Own("infinite")], [Dropout(0.1), Softmax()]],
    ids=["softmax", "not inert", "batch norm", "dropout"],
)
def test_what_anything_else_touches_keeps_its_width(between):
    found = padded([Dense(9), ReLU(), Dense(12), *between, Dense(10)], (6,))
    last = f"{2 + len(between) + 1}.dense"
    assert shapes(found)["2.dense.W"] == (16, 12)
    assert shapes(found)[f"{last}.W"] == (12, 10)
    assert shapes(found)["2.dense.b"] == (12,)


def test_what_an_activation_joins_has_one_width():
    """Sigmoid could be padded, but the loss takes what comes after it in the same place."""
    found = padded([Dense(9), Tanh(), Dense(11), Sigmoid(), Identity()], (6,), loss=Huber())
    assert shapes(found)["2.dense.W"] == (16, 11)
    assert padded([Flatten(), Dense(9), ReLU(), Dense(8)], (2, 3)).buffers[0] == 8
    images = padded([Tanh(), BatchNorm(), Flatten(), Dense(9), ReLU(), Dense(8)], (2, 3))
    assert images.places["x"] == 6


def test_outputs_are_padded_only_for_a_cross_entropy_of_many_classes():
    outputs = {
        "few": [Dense(31)],
        "many": [Dense(33)],
        "another loss": [Dense(33)],
        "an activation": [Dense(33), Tanh()],
    }
    for name, layers in outputs.items():
        loss = Huber() if name == "another loss" else SoftmaxCrossEntropy()
        found = padded([Dense(9), ReLU(), *layers], (6,), loss=loss)
        assert shapes(found)["2.dense.b"] == ((40,) if name == "many" else (layers[0].units,))


def test_nothing_is_padded_where_nothing_is_gained():
    friendly = [Dense(16), ReLU(), Dense(24), GELU(), Dense(10)]
    assert padded(friendly, (8,)) is None
    assert padded([Dense(9), ReLU(), Dense(5)], (6,), pack=1) is None
    assert padded([Dense(12), ReLU(), Dense(5)], (4,), pack=4) is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_activation_of_the_library_leaves_pads_inert(kind):
    assert is_inert(formulas.activation(kind()))


@pytest.mark.parametrize("kind", ["infinite", "steep", "large"])
def test_an_activation_that_would_not_is_noticed(kind):
    assert not is_inert(formulas.activation(Own(kind)))


# -- steps ----------------------------------------------------------------------------------------

MODELS = {
    **{cls.__name__: [Dense(9), cls(), Dense(5)] for cls in KINDS},
    "no biases": [Dense(9, bias=False), Sigmoid(), Dense(11, bias=False), Tanh(), Dense(5)],
    "dense after dense": [Dense(9), Dense(7, bias=False), Dense(5)],
    "activations in a row, and first": [Tanh(), Dense(9), Softplus(), ELU(), Dense(5)],
    "an activation at the end": [Dense(9), Sigmoid(), Dense(5), Tanh()],
    "dropout": [Dropout(0.1), Dense(9), Sigmoid(), Dropout(0.2), Dense(7), Tanh(), Dense(5)],
    "batch norm": [Dense(9, bias=False), BatchNorm(), Sigmoid(), Dense(7), Tanh(), Dense(5)],
    "batch norm and dropout": [
        Dense(9), Tanh(), BatchNorm(), Dropout(0.3), Dense(35, bias=False), BatchNorm(), Dense(5),
    ],
    "layer norm": [LayerNorm(), Dense(9), LayerNorm(), GELU(), Dense(35), LayerNorm(), Dense(5)],
    "softmax between": [Dense(9), Sigmoid(), Dense(7), Softmax(), Dense(6), ReLU(), Dense(5)],
    "one that is not inert": [Dense(9), Own("steep"), Dense(7), Sigmoid(), Dense(5)],
    "wide": [Dense(301), Sigmoid(), Dense(33), Tanh(), Dense(5)],
}  # fmt: skip


@pytest.fixture(params=["emulator", *(["cupy"] if "cupy" in AVAILABLE else [])])
def padding_to(request):
    """Make what runs the kernels, the emulator or a GPU, with padded widths in any precision."""

    def make(pack, dtype="float64"):
        if request.param == "emulator":
            return CpuExecutor(dtype, request.getfixturevalue("folder"), pack=pack)
        executor = CupyExecutor(make_backend("cupy", dtype).device, dtype)
        executor.pack = pack
        return executor

    yield make
    ran["cupy"] += request.param == "cupy"


@pytest.mark.long_but(name=["Sigmoid", "ELU", "GELU", *list(MODELS)[len(KINDS) :]])
@pytest.mark.parametrize("name", MODELS)
def test_a_padded_step_is_the_portable_step(name, padding_to, rng):
    executor = padding_to(4, "float32")
    batches = list(class_batches(rng, "float32", [13, 13, 13, 13, 7], weights=True))
    clip = Clip(norm=0.5)
    fused, _ = compare(
        executor, MODELS[name], (6,), batches, SoftmaxCrossEntropy(), Adam(0.01), clip
    )
    assert " padded to multiples of 4, equal to the eager step" in fused.note
    assert fused.note.count("padded") == 1


@pytest.mark.parametrize("width", range(1, 18))
def test_every_width(width, padding_to, rng):
    executor = padding_to(8)
    layers = [Dense(width), Sigmoid(), Dense(18 - width), Softplus(), Dense(5)]
    batches = list(class_batches(rng, "float64", [5, 5, 5, 5], n=width))
    optimizer, clip = SGD(0.1, momentum=0.5), Clip(norm=0.1, value=0.05)
    compare(executor, layers, (width,), batches, SoftmaxCrossEntropy(), optimizer, clip)


@pytest.mark.long_but(K=[33])
@pytest.mark.parametrize(
    ("K", "form"), [(33, "labels"), (33, "rows"), (101, "labels"), (1030, "labels"), (1030, "rows")]
)
def test_many_classes(K, form, padding_to, rng):
    executor, rule = padding_to(8), Adam(1e-3)
    layers = [Dense(9), Sigmoid(), Dense(K)]
    batches = list(class_batches(rng, "float64", [6, 6, 6, 6], K=K, weights=True))
    if form == "rows":
        batches = [b._replace(y=rng.uniform(size=(len(b.y), K)) / K) for b in batches]
    fused, _ = compare(executor, layers, (6,), batches, SoftmaxCrossEntropy(), rule)
    assert shapes(fused.task.padding)["2.dense.W"] == (16, {33: 40, 101: 104, 1030: 1088}[K])


@pytest.mark.long
@pytest.mark.parametrize("norm", [BatchNorm, LayerNorm])
def test_a_norm_of_several_patches_of_rows(norm, padding_to, rng):
    executor = padding_to(8)
    layers = [Dense(9, bias=False), norm(), Sigmoid(), Dropout(0.2), Dense(35), Tanh(), Dense(5)]
    batches = list(class_batches(rng, "float64", [600, 600, 2]))
    compare(executor, layers, (6,), batches, SoftmaxCrossEntropy(), SGD(0.1), accumulate=2)


@pytest.mark.parametrize("parts", [2, 3])
def test_micro_batches_add_up_in_padded_gradients(parts, padding_to, rng, monkeypatch):
    monkeypatch.setattr(layer_operations, "ROWS", 2)  # so that sums take two launches
    executor = padding_to(8)
    layers = [Dense(9), Sigmoid(), Dense(11), Tanh(), Dense(5)]
    batches = list(class_batches(rng, "float64", [12, 12, 12, 12, 11]))
    loss = SoftmaxCrossEntropy()
    compare(executor, layers, (6,), batches, loss, SGD(0.1), accumulate=parts)


def test_pads_of_the_working_copy_stay_zero(folder, rng):
    """Also after a state from outside, as a restore brings; the rest is the rounded parameters."""
    executor, rule = CpuExecutor("float32", folder, narrow="bfloat16"), Adam(0.1)
    layers, mixed = [Dense(9), Sigmoid(), Dense(11), Tanh(), Dense(5)], Mixed("bfloat16")
    model, step, state = fused_mixed(executor, layers, (6,), SoftmaxCrossEntropy(), rule, mixed)
    batches = [placed(executor, b) for b in class_batches(rng, "float32", [12] * 6)]
    layout, padded_layout = layouts(model)[0], step.task.padding.layout
    for i, batch in enumerate(batches):
        if i == 4:
            other = first_mixed_state(model, rule, mixed)
            state = placed(executor, other._replace(params=other.params + 1))
        state, _ = step(state, batch, inputs(i, model, rule))
        wanted = np.zeros(padded_layout.size, np.uint16)
        for to, x in zip(padded_layout.tensors(wanted), layout.tensors(state.params), strict=True):
            to[tuple(map(slice, x.shape))] = rounded(x, np.dtype("uint16"))
        np.testing.assert_array_equal(step.buffers.working, wanted)
    executor.check_guards()


def test_a_state_from_outside_is_adopted(folder, rng):
    executor, rule, layers = (
        CpuExecutor("float64", folder, pack=4),
        SGD(0.1),
        [Dense(7), Tanh(), Dense(5)],
    )
    batches = list(class_batches(rng, "float64", [8] * 5))
    model = Sequential(layers).build((6,))
    moved = first_state(model, rule, "float64")
    moved = moved._replace(params=moved.params + 0.5)
    fresh, used = (FusedStep(executor, model, SoftmaxCrossEntropy(), rule) for _ in range(2))
    state = first_state(model, rule, "float64")
    for i, batch in enumerate(batches):
        state, _ = used(state, batch, inputs(i, model, rule))
    results = []
    for step in (fresh, used):
        given = moved._replace(
            params=moved.params.copy(), totals=first_state(model, rule, "float64").totals
        )
        state, _ = step(given, batches[0], inputs(9, model, rule))
        results.append([x.tobytes() for x in arrays(state)])
    assert results[0] == results[1]


@pytest.mark.long_but(narrow=["bfloat16"])
@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_pads_change_a_step_in_16_bits_by_no_more_than_the_order_of_sums(narrow, folder, rng):
    mixed, rule, clip = Mixed(narrow, initial_scale=2.0**8), SGD(0.1, momentum=0.9), Clip(norm=0.4)
    layers = [Dense(9), Sigmoid(), Dense(11), GELU(), Dense(5)]
    batches = list(class_batches(rng, "float32", [33] * 5, weights=True))
    results = []
    for pack in (1, 8):
        executor = CpuExecutor("float32", folder, narrow=narrow, pack=pack)
        model, step, state = fused_mixed(
            executor, layers, (6,), SoftmaxCrossEntropy(), rule, mixed, clip, 2
        )
        begun = state.params.copy()
        for i, batch in enumerate(batches):
            state, _ = step(state, batch, inputs(i, model, rule))
        results.append(state)
    wanted = portable_steps(narrow, model, SoftmaxCrossEntropy(), rule, clip, mixed, batches, 2)
    moved = np.abs(wanted[0] - begun).max()
    assert np.abs(results[1].params - results[0].params).max() < 1e-3 * moved
    assert np.abs(results[1].params - wanted[0]).max() < 0.1 * moved


def test_an_overflowing_step_is_skipped(folder, rng):
    """Infinite gradients make NaN of pads, which stay out of the parameters and the norm."""
    mixed, rule, clip, scales = Mixed("float16", 2.0**30), Adam(0.01), Clip(norm=0.5), []
    batches = list(class_batches(rng, "float32", [12] * 30))
    for pack in (1, 8):
        executor = CpuExecutor("float32", folder, narrow="float16", pack=pack)
        layers = [Dense(9), Sigmoid(), Dense(11), Tanh(), Dense(5)]
        model, step, state = fused_mixed(
            executor, layers, (6,), SoftmaxCrossEntropy(), rule, mixed, clip
        )
        for i, batch in enumerate(batches):
            before = [x.copy() for x in (state.params, *state.slots)]
            state, _ = step(state, batch, inputs(i, model, rule))
            scales.append((pack, *state.scale.tolist()))
            if state.scale[1] == 0:
                for now, then in zip((state.params, *state.slots), before, strict=True):
                    assert now.tobytes() == then.tobytes()
        assert np.isfinite(state.params).all()
        executor.check_guards()
    assert [s[1:] for s in scales[:30]] == [s[1:] for s in scales[30:]]
    assert 5 < sum(s[2] == 0 for s in scales[30:]) < 25


def test_a_friendly_network_launches_what_it_did(folder, rng):
    launched = []
    for pack in (1, 4):
        executor = CpuExecutor("float32", folder, pack=pack)
        layers = [Dense(16), Sigmoid(), Dense(12), Tanh(), Dense(5)]
        batches = class_batches(rng, "float32", [8], n=4)
        fused, _ = compare(
            executor, layers, (4,), batches, SoftmaxCrossEntropy(), Adam(), Clip(norm=1.0)
        )
        assert fused.buffers.working is None
        launched.append((executor.launched, executor.counts))
    assert launched[0] == launched[1]


@pytest.mark.parametrize(("grid", "block"), [(1, 32), (3, 64), (50, 256)])
@pytest.mark.parametrize("widths", [(8, 12, 4), (7, 12, 3), (1, 2, 5), (16, 1, 9)])
def test_the_update_finds_every_number_on_any_grid(widths, grid, block, folder, rng):
    """In packs, beside them and across the ends of rows and tensors."""
    executor, rule = CpuExecutor("float32", folder), SGD(0.5)
    n, hidden, K = widths
    model = Sequential([Dense(hidden), Tanh(), Dense(K)]).build((n,))
    plan = make_plan(model, SoftmaxCrossEntropy(), rule, Clip(), divided=True)
    layout, found = layouts(model)[0], padding(plan, model, 16)
    p = executor.place(rng.normal(size=layout.size).astype("float32"))
    g = executor.place(np.full(found.layout.size, np.nan, "float32"))
    working, tensors = executor.empty(g.shape, "float32"), executor.place(found.tensors)
    wanted = p.copy()
    pairs = zip(layout.tensors(wanted), found.layout.tensors(g), strict=True)
    for to, x in pairs:
        part = x[tuple(map(slice, to.shape))]
        part[...] = rng.normal(size=to.shape)
        to -= np.float32(0.5) * part
    kernel = printed.update(formulas.update(rule, divided=True), "SGD", apart=True)
    one, c = executor.place(np.ones(1, "float32")), executor.place(np.float32([0.5, *[0] * 7]))
    given = (p, g, tensors, one, None, None, working, c, p.size)
    executor.launch(kernel, (grid, 1), block, *given)()
    np.testing.assert_array_equal(p, wanted)
    count = 0
    for x, to in zip(layout.tensors(p), found.layout.tensors(working), strict=True):
        np.testing.assert_array_equal(to[tuple(map(slice, x.shape))], x)
        count += x.size
    assert np.isfinite(working).sum() == count  # pads are not written
    executor.check_guards()
