"""What a fused step does, decided once: the plan, and the table that shows it."""

import pytest

from xpnet.kernels.operations import (
    Affine,
    AffineBackward,
    AllReduce,
    LossStep,
    Map,
    MapBackward,
    Place,
)
from xpnet.kernels.plan import make_plan
from xpnet.kernels.plan_table import plan_lines
from xpnet.nn import GELU, BatchNorm, Dense, Dropout, Flatten, LayerNorm, ReLU, Sequential, Softmax
from xpnet.nn.layout import layouts
from xpnet.nn.losses import CrossEntropy, Huber, SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.groups import frozen, grouped
from xpnet.optim.optimizers import SGD, Adam


def plan_of(layers, loss=None, rule=None, shape=(6,), clip=Clip(), **options):
    loss, rule = loss or SoftmaxCrossEntropy(), rule or SGD()
    model = Sequential(layers).build(shape)
    plan = make_plan(model, loss, rule, clip, **{"by_rows": True, **options})
    return plan, plan_lines(plan, model, 8)


def formulas(*given, **options):
    return [line.formula for line in plan_of(*given, **options)[1]]


def test_a_step_line_by_line():
    plan, lines = plan_of([Dense(4), ReLU(), Dense(3)])
    assert [(line.phase, line.formula, line.shapes) for line in lines] == [
        ("forward", "z0 = x W0", "(8, 4)"),
        ("forward", "z0 = max((z0 + b0), 0)", "(8, 4)"),
        ("forward", "z2 = z0 W2", "(8, 3)"),
        ("loss", "C and z2 = dC/d(z2 + b2)", "(8, 3)"),
        ("backward", "db2 = Σ z2", "(3,)"),
        ("backward", "dW2 = z0ᵀ z2; dz0 = z2 W2ᵀ", "(4, 3) (8, 4)"),
        ("backward", "dz0 = where((z0 > 0), dz0, 0); db0 = Σ dz0", "(8, 4) (4,)"),
        ("backward", "dW0 = xᵀ dz0", "(6, 4)"),
        ("update", "p = (p - (step_size * g))", "(43,)"),
    ]
    assert plan.portable == []
    assert all(line.fused for line in lines)
    assert lines[0].bytes == 4 * (8 * 6 + 6 * 4 + 8 * 4)
    assert lines[-1].bytes == 4 * 3 * 43


def test_what_backward_needs_is_kept_and_nothing_else():
    plan, _ = plan_of([Dense(4), GELU(), Dense(3)])
    forward = plan.forward[1]
    assert isinstance(forward, Map)
    assert forward.z == forward.x  # z + b is kept: the derivative needs it
    assert forward.a.buffer != forward.z.buffer
    plan, _ = plan_of([Dense(4, bias=False), GELU(), Dense(3)])
    assert plan.forward[1].z is None  # it is there already


def test_backward_ends_at_the_first_trained_layer():
    lines = formulas([ReLU(), Dropout(0.1), Dense(4), ReLU(), Dense(3)])
    backward = lines[lines.index("C and z4 = dC/d(z4 + b4)") + 1 : -1]
    assert backward[-1] == "dW2 = y1ᵀ dz2"
    assert not any("m1" in line for line in backward)


def test_places_that_are_needed_at_once_share_no_buffer():
    layers = [Dense(5), LayerNorm(), ReLU(), Dropout(0.1), Dense(5), BatchNorm(), GELU(), Dense(3)]
    plan, _ = plan_of(layers)
    for operation in plan.backward:
        if isinstance(operation, MapBackward) and operation.f is not None:
            assert operation.da.buffer != operation.kept.buffer
        if isinstance(operation, AffineBackward) and operation.dx is not None:
            assert operation.dx.buffer != operation.dz.buffer  # a product does not work in place
    forward = [v for o in plan.forward for v in vars(o).values() if isinstance(v, Place)]
    scratch = {o.dx.buffer for o in plan.backward if getattr(o, "dx", None)}
    assert scratch
    assert not scratch & {place.buffer for place in forward}


def test_images_keep_their_rows_on_the_way_back():
    plan, _ = plan_of([BatchNorm(), LayerNorm(), Flatten(), Dense(3)], shape=(2, 4))
    (norm,) = [o for o in plan.backward if type(o).__name__ == "RowBackward"]
    assert norm.dy.shape == (2, 4)


def test_a_loss_that_is_portable_leaves_the_bias_to_a_map():
    plan, lines = plan_of([Dense(4), ReLU(), Dense(3), Softmax()], CrossEntropy())
    assert plan.portable == [("CrossEntropy", "it depends on the number of rows or columns")]
    assert not next(line for line in lines if line.phase == "loss").fused
    assert "z2 = (z2 + b2)" in [line.formula for line in lines]


@pytest.mark.parametrize("weight", [lambda z: 0.5, lambda z: z * z], ids=["number", "formula"])
def test_a_loss_that_weighs_its_elements_is_portable(weight):
    class Weighing(Huber):
        def terms(self, output, target, weights=None):
            terms = super().terms(output, target, weights)
            return terms._replace(weights=terms.weights * weight(output))

    plan, _ = plan_of([Dense(3)], Weighing())
    ((name, why),) = plan.portable
    assert name == "Weighing"
    assert why


def test_a_loss_of_elements_is_written_out():
    plan, lines = plan_of([Dense(1)], Huber(), Adam(), clip=Clip(value=0.5))
    assert isinstance(plan.loss, LossStep)
    (loss,) = [line.formula for line in lines if line.phase == "loss"]
    assert loss.startswith("C = Σ (min(abs(((z0 + b0) - y)), 1) * ")
    assert "min(max(g, -0.5), 0.5)" in lines[-1].formula


def test_a_group_of_parameters_is_a_line():
    layers = [Dense(4), ReLU(), Dense(3)]
    layout = layouts(Sequential(layers).build((6,)))[0]
    rule = SGD(
        weight_decay=0.5, decay="weights", lr_factors={"2.dense.W": 0.1}, freeze=("0.dense",)
    )
    plan, lines = plan_of(layers, rule=grouped(rule, layout))
    assert [(line.formula, line.shapes) for line in lines if line.phase == "update"] == [
        ("p = (p - (step_size * (g + (0.5 * p)))) for 2.dense.W, at 0.1 of the learning rate",
         "(12,)"),
        ("p = (p - (step_size * g)) for 2.dense.b", "(3,)"),
    ]  # fmt: skip
    assert [o.part.ranges for o in plan.updates] == [((28, 40),), ((40, 43),)]
    assert [o.part.first for o in plan.updates] == [0, 3]


@pytest.mark.parametrize("by_rows", [False, True])
def test_every_operation_has_a_line(by_rows):
    layers = [LayerNorm(), Dense(5), BatchNorm(), ReLU(), Softmax(), Dropout(0.1), Softmax(axis=0)]
    plan, lines = plan_of([*layers, Dense(3)], by_rows=by_rows)
    assert len(lines) == len([*plan.operations()])
    assert sum(isinstance(o, Affine) for o in plan.forward) == 2
    assert [name for name, _ in plan.portable] == ["softmax"]


LAYERS = [Dense(6), ReLU(), Dense(6), ReLU(), Dense(3)]  # 42, 42 and 21 numbers


def sums_over_ranks(**options):
    plan, lines = plan_of(LAYERS, divided=True, **options)
    return plan, [(line.phase, line.formula) for line in lines]


def test_ranks_that_share_a_batch_have_a_barrier_before_the_update():
    plan, lines = sums_over_ranks(ranks=4)
    at = lines.index(("ranks", "wait for the sums over 4 ranks; C = Σℓ / D"))
    assert lines[at - 1] == (
        "ranks", "begin the sum over 4 ranks of 109 numbers: g; Σℓ, D, correct, counted"
    )  # fmt: skip
    assert lines[at - 2][0] == "backward"
    assert lines[at + 1] == ("update", "p = (p - (step_size * (g / D)))")
    assert ("loss", "Σℓ and z4 = dΣℓ/d(z4 + b4)") in lines
    alone = plan_of(LAYERS)[0]
    assert [type(o) for o in plan.operations() if o not in plan.backward[-1:] + plan.barrier] == [
        type(o) for o in alone.operations()
    ]


def test_a_bucket_is_summed_as_soon_as_the_backward_of_its_layers_is_done():
    plan, lines = sums_over_ranks(ranks=2, buckets=3)
    sums = [o for o in plan.backward if isinstance(o, AllReduce)]
    assert [(o.begin, o.end, o.sums) for o in sums] == [
        (84, 105, True), (42, 84, False), (0, 42, False)
    ]  # fmt: skip
    assert [(o.first, o.last) for o in sums] == [(4, 5), (2, 4), (0, 2)]
    text = [formula for _, formula in lines]
    begun = [i for i, formula in enumerate(text) if formula.startswith("begin")]
    assert text[begun[0]].endswith(
        "25 numbers: g for 4.dense.W, 4.dense.b; Σℓ, D, correct, counted"
    )
    assert text[begun[0] - 1].startswith("dW4")
    assert text[begun[1] - 1].startswith("dW2")
    assert text[begun[2] - 1].startswith("dW0")


@pytest.mark.parametrize(
    ("buckets", "begins"), [(1, [0]), (2, [42, 0]), (3, [84, 42, 0]), (10**12, [84, 42, 0])]
)
def test_a_bucket_is_of_whole_layers(buckets, begins):
    plan, _ = sums_over_ranks(ranks=2, buckets=buckets)
    assert [o.begin for o in plan.backward if isinstance(o, AllReduce)] == begins


def test_norms_are_over_the_rows_of_all_ranks():
    layers = [Dense(4), BatchNorm(), Dense(3)]
    text = [line.formula for line in plan_of(layers, ranks=4)[1]]
    assert "y1 = γ x̂ + β over the rows of z0 on 4 ranks, which sum up x and (x - μ)²" in text
    assert "dγ1, dβ1, and their sums over 4 ranks; dy1 = dx" in text
    assert "y1 = γ x̂ + β over the rows of z0" in formulas(layers)


def test_what_is_before_the_first_trained_layer_is_not_summed():
    layout = layouts(Sequential(LAYERS).build((6,)))[0]
    rule = SGD(freeze=("0.dense",))
    model = Sequential(LAYERS, frozen=frozen(rule, layout)).build((6,))
    plan = make_plan(model, SoftmaxCrossEntropy(), grouped(rule, layout), Clip(), ranks=2)
    assert [(o.begin, o.end) for o in plan.backward if isinstance(o, AllReduce)] == [(42, 105)]
