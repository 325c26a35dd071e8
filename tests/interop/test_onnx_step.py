"""The training step in onnxruntime follows xpnet's own curve, and its state goes back."""

import numpy as np
import pytest
from click.testing import CliRunner

import xpnet
from xpnet import Trainer
from xpnet.cli.main import cli
from xpnet.data import Shuffle
from xpnet.errors import BackendError, ConfigError, DataError
from xpnet.nn import Dense, Dropout, LogSoftmax, ReLU, Sequential, Softmax, Tanh
from xpnet.nn.layer import LAYERS
from xpnet.nn.losses import LOSSES, CrossEntropy, SoftmaxCrossEntropy
from xpnet.optim import schedules as s
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import (
    OPTIMIZERS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Lion,
    NAdam,
    RAdam,
    RMSProp,
)
from xpnet.run.splits import load_splits
from xpnet.run.trained_run import make_trainer

pytest.importorskip("ndonnx", reason="no ndonnx: pip install '.[onnx]'")
pytest.importorskip("onnxruntime", reason="no onnxruntime: pip install '.[onnx]'")

from xpnet.interop.onnx.coefficients import tables
from xpnet.interop.onnx.simplify import simplify
from xpnet.interop.onnx.step import about, step_model
from xpnet.interop.onnx.step_session import StepSession, take_back
from xpnet.interop.onnx.symbols import symbol

ROWS, BATCH = 70, 16  # the last batch of an epoch is smaller
NET = (Dense(8), Tanh(), Dense(4))


def rows(K=4):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(ROWS, 6)).astype(np.float32)
    return x, rng.integers(0, K, size=ROWS), rng.uniform(0.2, 2.0, size=ROWS).astype(np.float32)


def curves(layers, loss="softmax_cross_entropy", rule="sgd", data=None, epochs=20, **settings):
    """Return the trainer after one epoch and ``epochs``, and the session that took those between.

    Each loss of the session is of one step; the trainer's history has the means of its epochs.
    """
    x, y, weight = data or rows()
    weighted = settings.pop("weighted", False)
    trainer = Trainer(layers, loss, rule, backend="numpy", batch_size=BATCH, seed=3, **settings)
    given = (x, y, weight) if weighted else (x, y)
    trainer.fit(given, epochs=1)
    targets = None if y.ndim == 1 else y.shape[1]
    model = step_model(trainer, epochs=epochs, targets=targets, weight=weighted)
    session = StepSession(model, trainer.snapshot()[0])
    for epoch in range(1, epochs):
        zero = {k: np.zeros_like(v) for k, v in session.state.items() if k.startswith("totals/")}
        session.state |= zero | {"totals/bad_step": np.array(-1, np.int32)}
        order = Shuffle(3, epoch).order(ROWS)
        for first in range(0, ROWS, BATCH):
            i = order[first : first + BATCH]
            last = session.train(x[i], y[i], *([weight[i]] if weighted else []))
            assert np.isfinite(last)
    trainer.fit(given, epochs=epochs)
    return trainer, session


def agree(trainer, session):
    totals = session.state
    mine = trainer.history[-1]["loss"]
    theirs = totals["totals/loss"] / totals["totals/denominator"]
    assert abs(mine - theirs) < 1e-4 * max(1.0, abs(mine))
    for name, value in trainer.engine.tensors().items():
        if name.startswith(("params/", "stats/")):
            np.testing.assert_allclose(session.state[name], value, rtol=1e-3, atol=1e-4)


def some(values, *short):
    """Parameters that are long, but for those at the positions ``short``."""
    marks = {i: () if i in short else (pytest.mark.long,) for i in range(len(values))}
    return [pytest.param(value, marks=marks[i]) for i, value in enumerate(values)]


RULES = [
    *sorted(OPTIMIZERS),
    SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    SGD(0.05, momentum=0.9, dampening=0.5),
    RMSProp(0.001, centered=True, momentum=0.5),
    Adam(0.01, amsgrad=True, weight_decay=0.01, decay="weights", lr_factors={"0.dense": 0.1}),
    AdamW(0.01, freeze=("0.dense",)),
]


@pytest.mark.parametrize("rule", some(RULES, len(RULES) - 2), ids=str)
def test_every_rule_follows_xpnets_own_curve_for_a_hundred_steps(rule):
    trainer, session = curves(NET, rule=rule, epochs=21, clip=Clip(norm=0.5))
    assert session.step == trainer.position.step == 105
    agree(trainer, session)


SHORT = ("batch_norm", "dropout")
NEEDS = {
    "dense": {"units": 5},
    "dropout": {"rate": 0.4},
    "embedding": {"sizes": (4,)},
    "group_norm": {"groups": 2},
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in SHORT else pytest.mark.long) for n in sorted(LAYERS)]
)
def test_every_layer_follows_it(name):
    layer, (x, y, weight) = LAYERS[name](**NEEDS.get(name, {})), rows()
    layers = (Dense(8), layer, Dense(4))
    if name == "embedding":  # the codes are in the last column
        x[:, 5] = np.arange(ROWS) % 4
        layers = (layer, Dense(4))
    if name == "flatten":
        x, layers = x.reshape(ROWS, 2, 3), (layer, Dense(4))
    agree(*curves(layers, rule=SGD(0.1, momentum=0.9), epochs=4, data=(x, y, weight)))


@pytest.mark.parametrize(
    "schedule",
    some(
        [
            s.Cosine(warmup=0.2),
            s.Step(every=2),
            s.Exponential(),
            s.Power(),
            s.CosLog(),
            s.OneCycle(),
        ],
        0,
    ),
    ids=lambda schedule: type(schedule).__name__,
)
def test_every_schedule_is_in_the_graph(schedule):
    agree(*curves(NET, rule="adamw", schedule=schedule, epochs=6))


@pytest.mark.parametrize(
    ("loss", "weighted"),
    [
        (SoftmaxCrossEntropy(class_weights=(1.0, 2.0, 0.5, 1.0), label_smoothing=0.1), True),
        pytest.param(SoftmaxCrossEntropy(class_weights="balanced"), False, marks=pytest.mark.long),
        pytest.param(SoftmaxCrossEntropy(ignore_label=2), True, marks=pytest.mark.long),
        pytest.param(SoftmaxCrossEntropy(ignore_label=2), False, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_class_and_sample_weights(loss, weighted):
    agree(*curves(NET, loss, weighted=weighted, epochs=4))


@pytest.mark.parametrize("loss", some(sorted(LOSSES), sorted(LOSSES).index("binary_cross_entropy")))
def test_every_loss_follows_it(loss):
    x, y, weight = rows()
    last = {"cross_entropy": [Softmax()], "negative_log_likelihood": [LogSoftmax()]}.get(loss, [])
    if LOSSES[loss]().predicts != "class":
        y = (x[:, :4] > 0).astype(np.float32)
    agree(*curves((Dense(8), Tanh(), Dense(4), *last), loss, data=(x, y, weight), epochs=4))


@pytest.mark.long
def test_a_softmax_layer_and_probabilities_as_targets():
    x, y, weight = rows()
    agree(*curves((Dense(4), Softmax()), CrossEntropy(), data=(x, np.eye(4)[y], weight), epochs=4))


@pytest.mark.parametrize("label", some(["kind", "price"], 0))
def test_a_table_of_all_kinds_with_sample_weights(tmp_path, label):
    """Embeddings, the trained scale, NTK, label smoothing: the recipe for tables, in full."""
    rng = np.random.default_rng(0)
    lines = ["a,b,city,kind,price,w"]
    for a, b, w in rng.normal(size=(120, 3)):
        city, kind = rng.integers(0, 40), rng.integers(0, 3)
        lines.append(
            f"{a:.3f},{b:.3f},city{city},{'xyz'[kind]},{a + city / 9:.3f},{abs(w) + 0.1:.2f}"
        )
    (tmp_path / "t.csv").write_text("\n".join(lines))
    settings = {"epochs": 3, "data.label": label, "data.columns.weight": "w", "backend": "numpy",
                "data.validation_fraction": 0.0, "data.columns.one_hot": 8}  # fmt: skip
    file = str(tmp_path / "t.csv")
    run = xpnet.train(file, tmp_path / "run", settings=settings, report=lambda line: None)
    assert type(run.trainer.model.layers[0]).__name__ == "Embedding"
    train = load_splits(run.config).train
    x = run.preprocessing.encoder.apply(train.x, "float32")
    y = run.preprocessing.scaled_targets(train.y)
    trainer = make_trainer(run.config, run.preprocessing, "numpy")
    targets = 0 if label == "price" else None
    model = step_model(trainer, epochs=3, rows=len(x), targets=targets, weight=True)
    session = StepSession(model, trainer.snapshot()[0])
    for epoch in range(3):
        order = Shuffle(trainer.seed, epoch).order(len(x))
        session.state |= {f"totals/{k}": np.zeros((), np.float32) for k in ("loss", "denominator")}
        for first in range(0, len(x), trainer.batch_size):
            i = order[first : first + trainer.batch_size]
            session.train(x[i], y[i], train.weight[i])
    agree(run.trainer, session)


def test_the_state_goes_back_and_training_goes_on_from_it():
    """Half of the epochs in onnxruntime, the rest in xpnet, is the curve of xpnet alone."""
    x, y, _ = rows()
    trainer, session = curves(NET, rule="adam", epochs=4)
    other = Trainer(NET, optimizer="adam", backend="numpy", batch_size=BATCH, seed=3)
    other.fit((x, y), epochs=1)
    take_back(other, session.state, session.step)
    assert other.position == trainer.position
    for t in (trainer, other):
        t.fit((x, y), epochs=6)
    assert abs(trainer.history[-1]["loss"] - other.history[-1]["loss"]) < 1e-5


def test_the_model_says_what_it_is_and_is_valid():
    import onnx

    trainer = Trainer((Dense(8), Dropout(0.5), Dense(4)), backend="numpy", batch_size=BATCH)
    x, y, _ = rows()
    trainer.fit((x, y), epochs=1)
    model = step_model(trainer)
    onnx.checker.check_model(model, full_check=True)
    found = about(model)
    assert found["state"] == list(trainer.engine.tensors())
    assert (found["step"], found["random_layers"]) == (5, 1)
    outputs = [o.name for o in model.graph.output]
    assert outputs == ["loss", *(f"new/{name}" for name in found["state"])]


def test_the_step_has_onnxs_operators_too():
    x, y, _ = rows()
    trainer = Trainer((Dense(8), ReLU(), Dense(4)), optimizer="adam", backend="numpy")
    trainer.fit((x, y), epochs=1)
    found = [node.op_type for node in step_model(trainer).graph.node]
    operators = {"Gemm": 5, "Relu": 1, "LogSoftmax": 1}
    assert {op: found.count(op) for op in operators} == operators
    assert not {"MatMul", "Transpose", "Squeeze", "Reshape", "Max", "Log"} & {*found}


def test_a_learning_rate_of_ones_own():
    x, y, _ = rows()
    trainer = Trainer(NET, optimizer="adamw", schedule="plateau", backend="numpy", batch_size=ROWS)
    trainer.fit((x, y), epochs=1)
    with pytest.raises(ConfigError, match="follows the metrics"):
        step_model(trainer)
    session = StepSession(step_model(trainer, learning_rate="input"), trainer.snapshot()[0])
    before = session.state["params/0.dense.W"]
    session.train(x, y, lr=0.0)
    np.testing.assert_array_equal(session.state["params/0.dense.W"], before)
    session.train(x, y, lr=0.1)
    assert np.abs(session.state["params/0.dense.W"] - before).max() > 1e-3
    with pytest.raises(DataError, match="needs lr"):
        session.train(x, y)


def test_a_schedule_that_has_ended_is_an_error_and_not_a_guess():
    x, y, _ = rows()
    trainer = Trainer(NET, schedule="cosine", backend="numpy", batch_size=ROWS)
    trainer.fit((x, y), epochs=2)
    session = StepSession(step_model(trainer), trainer.snapshot()[0])
    with pytest.raises(Exception, match="out of data bounds"):
        session.train(x, y)


def test_what_is_refused_says_why():
    x, y, _ = rows()
    trainer = Trainer(NET, backend="numpy", batch_size=BATCH, accumulate=2)
    trainer.fit((x, y), epochs=1)
    with pytest.raises(ConfigError, match="micro-batches"):
        step_model(trainer)
    never = Trainer(Sequential(NET).build((6,)), schedule="cosine", backend="numpy")
    with pytest.raises(ConfigError, match="how long the schedule is"):
        step_model(never)


def test_the_command_writes_a_step_that_goes_on_from_the_runs_checkpoint(tmp_path):
    """What a user does without xpnet: the model, the checkpoint's tensors, onnxruntime."""
    import onnx
    import onnxruntime
    from safetensors.numpy import load_file

    settings = {"epochs": 2, "model.hidden": [8], "model.dropout": 0.0, "backend": "numpy"}
    run = xpnet.train("digits", tmp_path / "run", settings=settings, report=lambda line: None)
    made = CliRunner().invoke(
        cli, ["export", str(run.folder.path), str(tmp_path / "step.onnx"), "--train", "--epochs=3"]
    )
    assert made.exit_code == 0
    assert "nodes, step " in made.output
    model = onnx.load(tmp_path / "step.onnx")
    assert not {"If", "Identity", "Constant"} & {node.op_type for node in model.graph.node}
    session = onnxruntime.InferenceSession(tmp_path / "step.onnx")
    names = {i.name for i in session.get_inputs()}
    tensors = load_file(run.checkpoint.path)
    state = {name: tensors[name] for name in names - {"x", "y", "step"}}
    rng, losses = np.random.default_rng(1), []
    x, y = rng.normal(size=(32, 64)).astype(np.float32), rng.integers(0, 10, size=32)
    for step in range(about(model)["step"], about(model)["step"] + 20):
        loss, *new = session.run(None, {**state, "x": x, "y": y, "step": np.array(step)})
        found = [o.name.removeprefix("new/") for o in session.get_outputs()[1:]]
        state = {k: np.asarray(v) for k, v in zip(found, new, strict=True) if k in names}
        losses.append(float(loss))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["step.onnx", "--train", "--rows=5"], "rows is not for the form onnx: leave --rows out"),
        (["page.html", "--train", "--lr-input"], "lr_input is not for the form html: leave --lr-"),
    ],
    ids=["rows", "lr"],
)
def test_the_commands_errors_say_what_to_do(options, said):
    made = CliRunner().invoke(cli, ["export", "nowhere", *options])
    assert isinstance(made.exception, ConfigError)
    assert said in made.exception.at_command_line


@pytest.mark.parametrize("weights", ["balanced", {"a": 2.0}])
def test_class_weights_that_are_not_counted_yet_are_refused(weights):
    model = Sequential([Dense(2)]).build((3,))
    trainer = Trainer(model, backend="numpy", class_weights=weights)
    with pytest.raises(ConfigError, match="are those of the loss from the first fit on: fit first"):
        step_model(trainer, epochs=1, rows=20)
    trainer.fit((np.ones((20, 3)), np.array(["a"] * 15 + ["b"] * 5)), epochs=1)
    session = StepSession(step_model(trainer, epochs=2), trainer.snapshot()[0])
    x, y = np.ones((8, 3), np.float32), np.array([0, 0, 0, 0, 0, 0, 0, 1])
    names = np.array(["a", "b"])
    expected = trainer.evaluate((x, names[y])).loss
    assert abs(session.train(x, y) - expected) < 1e-6


def test_a_shift_of_int32_is_numpys():
    import ndonnx
    import onnxruntime

    x, shifts = symbol(("N",), "int32"), (0, 1, 8, 15, 16, 31)
    model = ndonnx.build({"x": x.array}, {f"by{n}": (x >> n).array for n in shifts})
    values = np.array([0, 1, -1, -(2**31), 2**31 - 1, 12345, -12345], np.int32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for n, found in zip(shifts, session.run(None, {"x": values}), strict=True):
        np.testing.assert_array_equal(found, values >> n)


def test_a_length_that_is_not_known_is_no_batch():
    with pytest.raises(BackendError, match="only the first length may depend on the batch"):
        symbol(("N", "M"), "float32").shape  # noqa: B018


@pytest.mark.parametrize("rule", [Adam(), NAdam(), RAdam(), AdamW(), Lion(), Adagrad(lr_decay=0.1)])
def test_the_tables_are_the_rules_coefficients_of_any_rate_and_update(rule):
    table = tables(rule, "float64", 40)
    for t in (1, 2, 17, 40, 100_000):
        if t > 40 and table.ends:
            assert isinstance(rule, Adagrad)  # they never settle: no table goes on for ever
            continue
        for lr in (1e-4, 0.3):
            at = [np.take([*c.fixed], min(t, len(c.fixed)) - 1)
                  + lr * np.take([*c.per_lr], min(t, len(c.per_lr)) - 1)
                  for c in table.columns]  # fmt: skip
            np.testing.assert_allclose(at, rule.coefficients(lr, t), rtol=1e-12, atol=1e-18)


def test_simplify_keeps_what_a_model_computes():
    """A copy of an input, a constant output, a branch that stays and equal nodes."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        f (float[N] x, bool c) => (float[N] same, float[N] y, float[2] fixed)
        {
            same = Identity (x)
            one = Constant <value = float[1] {1}> ()
            two = Add (one, one)
            a = Mul (x, two)
            b = Mul (x, two)
            s = Add (a, b)
            t = Identity (s)
            y = If (c) <
                then_branch = yes () => (float[N] p) { p = Neg (t) },
                else_branch = no () => (float[N] q) { q = Identity (t) }
            >
            half = Constant <value = float[2] {0.5, 0.25}> ()
            fixed = Identity (half)
        }
    """
    model = onnx.parser.parse_model(text)
    made = simplify(model)
    onnx.checker.check_model(made)
    kept = sorted(n.op_type for n in made.graph.node)
    assert kept == ["Add", "Identity", "Identity", "If", "Mul"]
    for c in (True, False):
        given = {"x": np.array([1.0, 2.0], np.float32), "c": np.array(c)}
        for a, b in zip(
            *(ReferenceEvaluator(m).run(None, given) for m in (model, made)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
