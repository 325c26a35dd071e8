"""Groups of parameters against PyTorch's parameter groups, on every backend."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from xpnet.errors import ConfigError
from xpnet.nn import (
    GELU,
    SELU,
    BatchNorm,
    Dense,
    Dropout,
    Embedding,
    FeatureScale,
    LayerNorm,
    ReLU,
    Sequential,
)
from xpnet.nn.initializers import LeCunNormal, Normal, Zeros
from xpnet.nn.layout import layouts
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.groups import Grouped, frozen, grouped, parts
from xpnet.optim.optimizers import OPTIMIZERS, SGD, Adam, AdamW
from xpnet.step.mixed_precision import Mixed
from xpnet.training.trainer import Trainer

N, WIDTH, K = 48, 6, 3
LAYERS = [Dense(8), BatchNorm(), ReLU(), Dense(5), GELU(), Dense(K)]
HEAD = "5.dense"


@pytest.fixture
def data(rng):
    return rng.normal(size=(N, WIDTH)), rng.integers(0, K, N)


def trained(data, optimizer, backend="numpy", layers=LAYERS, epochs=3, **options):
    options = {"batch_size": 16, "dtype": "float64", **options}
    trainer = Trainer(Sequential(layers).build((WIDTH,)), SoftmaxCrossEntropy(), optimizer,
                      backend=backend, **options)  # fmt: skip
    trainer.fit(data, epochs=epochs)
    return trainer


def first_params(layers=LAYERS):
    model = Sequential(layers).build((WIDTH,))
    return Trainer(model, backend="numpy", dtype="float64").params


def trained_by_torch(data, make, group_of, clip=None, frozen=()):
    """PyTorch's own groups: ``group_of`` has the options of a tensor by its name here."""
    torch = pytest.importorskip("torch", reason="the oracle is PyTorch's parameter groups")
    nn, start = torch.nn, first_params()
    layers = [nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5), nn.GELU()]
    net = nn.Sequential(*layers, nn.Linear(5, K)).double()
    named = {}
    for name, value in start.items():
        i, _, variable = name.split(".")
        theirs = {"W": "weight", "b": "bias", "gamma": "weight", "beta": "bias",
                  "mean": "running_mean", "var": "running_var"}[variable]  # fmt: skip
        named[name] = getattr(net[int(i)], theirs)
        with torch.no_grad():
            named[name].copy_(torch.tensor(value.T if variable == "W" else value))
    for name in frozen:
        named[name].requires_grad_(False)
    ours = [n for n in named if not n.endswith(("mean", "var")) and n not in frozen]
    rule = make(torch.optim, [{"params": [named[name]], **group_of(name)} for name in ours])
    x, y = (torch.tensor(a) for a in data)
    # One step per epoch on all rows: their order does not matter.
    for _ in range(3):
        rule.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        rule.step()
    return {name: (t.T if name.endswith("W") else t).detach().numpy() for name, t in named.items()}


def assert_same(trainer, expected):
    assert trainer.params.keys() == expected.keys()
    for name, value in trainer.params.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-7, atol=1e-9, err_msg=name)


def is_weight(name):
    return name.endswith("W")


# -- against PyTorch -------------------------------------------------------------------------------


@pytest.mark.long_where(backend=["jax"])
def test_decay_of_weights_is_the_usual_recipe_of_pytorch(backend, data):
    rule = AdamW(0.01, weight_decay=0.3, decay="weights")
    ours = trained(data, rule, backend, batch_size=N)
    theirs = trained_by_torch(
        data,
        lambda optim, groups: optim.AdamW(groups, lr=0.01),
        lambda name: {"weight_decay": 0.3 if is_weight(name) else 0.0},
    )
    assert_same(ours, theirs)


@pytest.mark.long_where(backend=["jax"])
def test_factors_and_decay_and_frozen_layers_at_once(backend, data):
    rule = AdamW(0.01, weight_decay=0.3, decay="weights",
                 lr_factors={"0": 0.1, HEAD: 3.0}, freeze=("3.dense",))  # fmt: skip
    ours = trained(data, rule, backend, batch_size=N, clip=Clip(norm=0.2))
    factors = {"0": 0.1, "5": 3.0}
    theirs = trained_by_torch(
        data,
        lambda optim, groups: optim.AdamW(groups),
        lambda name: {
            "weight_decay": 0.3 if is_weight(name) else 0.0,
            "lr": 0.01 * factors.get(name[0], 1.0),
        },
        clip=0.2,
        frozen=("3.dense.W", "3.dense.b"),
    )
    assert_same(ours, theirs)


@pytest.mark.long_where(backend=["jax"])
def test_the_statistics_of_a_frozen_batch_norm_move_as_in_pytorch(backend, data):
    frozen = tuple(n for n in first_params() if n[0] in "01" and not n.endswith(("mean", "var")))
    rule = SGD(0.1, momentum=0.9, freeze=("0.dense", "batch_norm"))
    ours = trained(data, rule, backend, batch_size=N, clip=Clip(norm=0.1))
    theirs = trained_by_torch(
        data, lambda optim, groups: optim.SGD(groups, lr=0.1, momentum=0.9), lambda name: {},
        clip=0.1, frozen=frozen,
    )  # fmt: skip
    assert_same(ours, theirs)
    assert np.abs(ours.params["1.batch_norm.mean"]).max() > 0


@pytest.mark.long_where(backend=["jax"])
def test_the_groups_of_realmlp_are_those_of_its_ntk_parametrisation(backend, data):
    """z = x V / √I + b, in PyTorch, with V of variance 1 and three learning rates."""
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    layers = [FeatureScale(), Dense(8, initializer=LeCunNormal(), bias_initializer=Normal()),
              SELU(), Dense(K, initializer=Zeros())]  # fmt: skip
    rule = Adam(0.04, beta2=0.95, eps=1e-15, ntk=True, lr_factors={"feature_scale": 6.0, "b": 0.1})
    ours = trained(data, rule, backend, layers, epochs=5, batch_size=N)
    t = {k: torch.tensor(v) for k, v in first_params(layers).items()}
    for name in t:
        t[name] *= t[name].shape[0] ** 0.5 if is_weight(name) else 1.0
        t[name].requires_grad_()
    factors = {"s": 6.0, "W": 1.0, "b": 0.1}
    groups = [{"params": [v], "lr": 0.04 * factors[k[-1]]} for k, v in t.items()]
    adam, (x, y) = torch.optim.Adam(groups, betas=(0.9, 0.95), eps=1e-15), map(torch.tensor, data)
    for _ in range(5):
        adam.zero_grad()
        h = (x * t["0.feature_scale.s"]) @ t["1.dense.W"] / WIDTH**0.5 + t["1.dense.b"]
        z = torch.selu(h) @ t["3.dense.W"] / 8**0.5 + t["3.dense.b"]
        torch.nn.functional.cross_entropy(z, y).backward()
        adam.step()
    for name, value in ours.params.items():
        scale = t[name].shape[0] ** 0.5 if is_weight(name) else 1.0
        theirs = t[name].detach().numpy() / scale
        np.testing.assert_allclose(value, theirs, rtol=1e-5, atol=1e-6, err_msg=name)


# -- frozen layers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["portable", "fused"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_what_is_frozen_keeps_every_bit(data, optimizer, step):
    rule = optimizer(weight_decay=0.1, freeze=("0", "3.dense.b"))
    trainer = trained(data, rule, step=step, clip=Clip(norm=0.1))
    start, tensors = first_params(), trainer.engine.tensors()
    for name in ("0.dense.W", "0.dense.b", "3.dense.b"):
        assert np.array_equal(trainer.params[name], start[name])
        for slot in rule.slots:
            first = getattr(rule, "initial_accumulator", 0.0)
            assert np.all(tensors[f"slots/{slot}/{name}"] == first)
    assert not np.array_equal(trainer.params["3.dense.W"], start["3.dense.W"])


@pytest.mark.parametrize("step", ["portable", "fused"])
def test_backward_ends_at_the_first_layer_that_is_not_frozen(data, step, monkeypatch):
    calls = []
    original = Dropout.backward

    def watched(self, *args, **kwargs):
        calls.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Dropout, "backward", watched)
    layers = [Dense(8), Dropout(0.1), Dense(K)]
    trainer = trained(data, SGD(freeze=("0",)), layers=layers, step=step)
    assert trainer.engine.model.first_trained == 2
    assert trainer.model.first_trained == 0  # the trainer's own model is as it was given
    assert calls == []


@pytest.mark.parametrize("step", ["portable", "fused"])
def test_all_may_be_frozen(data, step):
    trainer = trained(data, Adam(freeze=tuple("0135")), step=step, clip=Clip(norm=1.0))
    start = first_params()
    moved = {k for k, v in trainer.params.items() if not np.array_equal(v, start[k])}
    assert moved == {"1.batch_norm.mean", "1.batch_norm.var"}


# -- fused, and with everything else ---------------------------------------------------------------

GROUPS = {
    "decay": {"decay": "weights"},
    "factors": {"lr_factors": {"0.dense": 0.25, "3.dense.W": 4.0}},
    "freeze": {"freeze": ("0.dense", "3.dense.W")},
    "all of them": {"decay": "weights", "lr_factors": {"5": 0.5}, "freeze": ("1",)},
}


# Before a batch norm a bias has no gradient but rounding, which a sign would make a whole step of.
LAYER_NORM = [LayerNorm() if type(layer) is BatchNorm else layer for layer in LAYERS]


@pytest.mark.long_but(optimizer=[AdamW])
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_fused_is_portable_for_every_rule(data, optimizer, groups):
    rule = optimizer(0.01, weight_decay=0.1, **groups)
    options = {"layers": LAYER_NORM, "clip": Clip(norm=0.3)}
    one, other = (trained(data, rule, step=step, **options) for step in ("portable", "fused"))
    assert other.engine.step.note == "fused step compiled by Numba"
    for name, value in one.engine.tensors().items():
        np.testing.assert_allclose(other.engine.tensors()[name], value, rtol=1e-6, atol=1e-8)


class NotElementwise(SGD):
    """A rule that has no kernel."""

    def update(self, params, grad, slots, c):
        return params - c.step_size * np.where(grad > 0, grad, 0.5 * grad), slots


def test_a_rule_without_a_kernel_is_portable_inside_the_step_once(data):
    rule = NotElementwise(0.1, lr_factors={"0": 0.5}, freeze=("3",))
    one, other = (trained(data, rule, step=step) for step in ("portable", "fused"))
    assert other.engine.step.note.count("NotElementwise") == 1
    assert_same(other, one.params)


@pytest.mark.parametrize("options", [
    {"accumulate": 3},
    {"mixed": Mixed("float16"), "dtype": "float32"},
], ids=["accumulate", "mixed"])  # fmt: skip
def test_micro_batches_and_mixed_precision_take_them(data, options):
    layers = [Dense(8), LayerNorm(), ReLU(), Dense(K)]
    rule = Adam(0.01, weight_decay=0.1, decay="weights", freeze=("0",), lr_factors={"3": 0.5})
    plain = trained(data, rule, layers=layers, dtype=options.get("dtype", "float64"))
    other = trained(data, rule, layers=layers, **options)
    for name, value in plain.params.items():
        np.testing.assert_allclose(other.params[name], value, rtol=1e-2, atol=1e-3)
    assert np.array_equal(other.params["0.dense.W"], plain.params["0.dense.W"])


@pytest.mark.long_where(backend=["jax"])
def test_a_training_resumes_bit_for_bit(backend, data):
    rule = Adam(0.01, weight_decay=0.1, freeze=("3.dense",), **GROUPS["factors"] | {
        "decay": "weights", "lr_factors": {"0": 0.5}})  # fmt: skip
    whole = trained(data, rule, backend, epochs=4)
    half = trained(data, rule, backend, epochs=2)
    again = Trainer(half.model, SoftmaxCrossEntropy(), rule, backend=backend, batch_size=16)
    again.restore(*half.snapshot())
    again.fit(data, epochs=4)
    for name, value in whole.engine.tensors().items():
        assert np.array_equal(again.engine.tensors()[name], value), name


def test_a_gpu_has_no_kernels_for_them_yet():
    from xpnet.errors import UnsupportedError
    from xpnet.kernels.cuda.graphed_step import FusedStep as StepOnGpu

    model = Sequential(LAYERS).build((WIDTH,))
    rule = grouped(SGD(lr_factors={"0": 2.0}), layouts(model)[0])
    with pytest.raises(UnsupportedError, match="groups of parameters have no kernels on a GPU"):
        StepOnGpu(SimpleNamespace(pack=1), model, SoftmaxCrossEntropy(), rule)


# -- the groups themselves -------------------------------------------------------------------------


def rule_for(optimizer, layers=LAYERS):
    return grouped(optimizer, layouts(Sequential(layers).build((WIDTH,)))[0])


def test_without_groups_a_rule_is_the_plain_one():
    assert rule_for(Adam(0.3)) == Adam(0.3)
    assert rule_for(Adam(0.3, decay="weights")) == Adam(0.3)  # there is no decay to spare
    assert rule_for(Adam(weight_decay=0.1, decay="weights"), [Dense(3, bias=False)]) == Adam(
        weight_decay=0.1
    )


def test_neighbours_of_one_group_are_updated_at_once():
    rule = rule_for(SGD(lr_factors={"3": 0.5}))
    assert isinstance(rule, Grouped)
    size = layouts(Sequential(LAYERS).build((WIDTH,)))[0].size
    slow, fast = (part.ranges for part in parts(rule, size)[::-1])
    assert slow == ((72, 117),)
    assert fast == ((0, 72), (117, size))


def test_a_schedule_moves_every_group():
    rule = rule_for(AdamW(weight_decay=0.1, lr_factors={"0": 0.5}))
    c = rule.coefficients(0.2, 3)
    plain = AdamW(weight_decay=0.1)
    assert tuple(c) == (*plain.coefficients(0.1, 3), *plain.coefficients(0.2, 3))
    assert type(c) is type(rule.coefficients(0.1, 4))  # or a compiler would start anew


def test_a_tensor_of_all_layers_is_named_alone():
    layout = layouts(Sequential(LAYERS).build((WIDTH,)))[0]
    assert frozen(SGD(freeze=("b",)), layout) == ("0.dense.b", "3.dense.b", "5.dense.b")
    assert frozen(SGD(freeze=("gamma",)), layout) == ("1.batch_norm.gamma",)
    factors = {group.lr_factor for group in rule_for(SGD(lr_factors={"b": 0.1, "W": 3})).groups}
    assert factors == {0.1, 3.0, 1.0}
    with pytest.raises(ConfigError, match=r"two factors for 0\.dense\.b, 2 and 0\.1"):
        rule_for(SGD(lr_factors={"0": 2, "b": 0.1}))


def test_ntk_divides_the_rate_of_a_weight_by_the_root_of_its_inputs():
    rule = rule_for(Adam(ntk=True, lr_factors={"5.dense.W": 3.0}), [FeatureScale(), *LAYERS[1:]])
    factors = [None if s.group is None else rule.groups[s.group].lr_factor for s in rule.segments]
    s, gamma, beta, w, b, last, bias = factors
    assert (s, gamma, beta, b, bias) == (1.0,) * 5
    assert w == pytest.approx(WIDTH**-0.5)
    assert last == pytest.approx(3.0 * 5**-0.5)
    embedded = rule_for(Adam(ntk=True), [Embedding((4,)), Dense(K)])
    assert {group.lr_factor for group in embedded.groups} == {1.0, 13**-0.5}


@pytest.mark.parametrize("word", ["0", "0.dense", "0.dense.W", "batch_norm", "batch_norm.beta"])
def test_a_layer_has_several_names(word):
    frozen = rule_for(SGD(freeze=(word,))).segments
    names = ["0.dense.W", "0.dense.b", "1.batch_norm.gamma", "1.batch_norm.beta"]
    meant = [n for n, s in zip(names, frozen, strict=False) if s.group is None]
    assert meant == [n for n in names if f"{word}." in f"{n}." and (word[0] in n[0] or "_" in word)]


def test_a_number_is_a_layer_and_not_the_beginning_of_others():
    layout = layouts(Sequential([Dense(2)] * 11).build((2,)))[0]
    assert frozen(SGD(freeze=("1",)), layout) == ("1.dense.W", "1.dense.b")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"freeze": ["7.dense"]}, "no layer with parameters is called '7.dense'; there are: "
         "0.dense, 1.batch_norm, 3.dense, 5.dense"),
        ({"freeze": ["2.relu"]}, "no layer with parameters is called '2.relu'"),
        ({"freeze": ["dens"]}, "no layer with parameters is called 'dens'"),
        ({"freeze": ["dense"]}, "'dense' may be 0.dense or 3.dense or 5.dense: write which"),
        ({"lr_factors": {"dense.W": 2}}, "'dense.W' may be 0.dense or 3.dense or 5.dense"),
        ({"lr_factors": {"0": 2, "0.dense.W": 3}}, "two factors for 0.dense.W, 2 and 3: leave one"),
    ],
)  # fmt: skip
def test_a_name_that_means_nothing_or_too_much_is_refused(settings, says):
    with pytest.raises(ConfigError) as caught:
        rule_for(SGD(**settings))
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"optimizer.{next(iter(settings))}")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"decay": "biases"}, "SGD.decay must be one of 'all', 'weights'; got 'biases'"),
        ({"freeze": "0.dense"}, "SGD.freeze must be a list; got '0.dense'"),
        ({"lr_factors": ["0"]}, "SGD.lr_factors must be a table; got ['0']"),
        ({"lr_factors": {"0.dense": 0}}, "SGD.lr_factors.0.dense must be > 0; got 0"),
    ],
)
def test_settings_of_groups_are_checked(settings, says):
    with pytest.raises(ConfigError) as caught:
        SGD(**settings)
    assert says in str(caught.value)


def test_a_rule_shows_its_groups_and_compares_them():
    rule = Adam(lr_factors={"0": {"dense": 2}})
    assert repr(rule) == "Adam(lr_factors={'0.dense': 2.0})"
    assert rule == Adam(lr_factors={"0.dense": 2.0}) != replace(rule, lr_factors={})
    assert hash(rule) == hash(Adam())  # a table has no hash, and equal rules have equal ones
