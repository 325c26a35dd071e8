"""An exported model gives in onnxruntime what ``predict`` gives, from raw rows on."""

import json
import os
from threading import Thread

import numpy as np
import pytest
from click.testing import CliRunner

import xpnet
from xpnet import Trainer
from xpnet.cli.main import cli
from xpnet.errors import ConfigError, TrainingError
from xpnet.nn import (
    GELU,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Softmax,
)
from xpnet.nn.layer import LAYERS
from xpnet.nn.losses import LOSSES

pytest.importorskip("ndonnx", reason="no ndonnx: pip install '.[onnx]'")
onnx = pytest.importorskip("onnx", reason="no onnx: pip install '.[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="no onnxruntime: pip install '.[onnx]'")

from xpnet.interop.onnx.model import forward_model  # noqa: E402
from xpnet.interop.onnx.step import step_model  # noqa: E402
from xpnet.interop.onnx.step_session import StepSession  # noqa: E402

ROWS = 40
NEEDS = {
    "dense": {"units": 5},
    "dropout": {"rate": 0.4},
    "embedding": {"sizes": (4,)},
    "group_norm": {"groups": 2},
}


def answers(model, **given):
    """What onnxruntime makes of a model that onnx finds valid, by name."""
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, given), strict=True))


def trained(layers, loss="softmax_cross_entropy", y=None, x=None, backend="numpy", **settings):
    rng = np.random.default_rng(7)
    drawn = rng.normal(size=(ROWS, 6))
    x = drawn if x is None else x
    y = rng.integers(0, 4, ROWS) if y is None else y
    trainer = Trainer(layers, loss, backend=backend, batch_size=16, **settings)
    x = x.astype(settings.get("dtype") or "float32")
    trainer.fit((x, y), epochs=1)
    return trainer, x


def net_with(name):
    layer, x = LAYERS[name](**NEEDS.get(name, {})), None
    layers = (Dense(8), layer, Dense(4))
    if name == "embedding":  # the codes are in the last column
        x = np.random.default_rng(1).normal(size=(ROWS, 6))
        x[:, 5] = np.arange(ROWS) % 4
        layers = (layer, Dense(4))
    if name == "flatten":
        x, layers = np.random.default_rng(1).normal(size=(ROWS, 2, 3)), (layer, Dense(4))
    return layers, x


SHORT = ("batch_norm", "embedding", "flatten", "gelu", "layer_norm", "leaky_relu")


@pytest.mark.long_but(backend32=["numpy"], name=SHORT)
@pytest.mark.parametrize("name", sorted(LAYERS))
def test_every_layer_on_every_backend(name, backend32):
    layers, x = net_with(name)
    trainer, rows = trained(layers, x=x, backend=backend32)
    found, expected = answers(forward_model(trainer), x=rows), trainer.predict(rows)
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-5, atol=1e-6)
    assert (found["label"] == expected.argmax(axis=1)).all()


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_what_each_loss_gives(loss):
    rule = LOSSES[loss]()
    last = {"cross_entropy": [Softmax()], "negative_log_likelihood": [LogSoftmax()]}.get(loss, [])
    y = None
    if rule.predicts != "class":
        y = (np.random.default_rng(7).normal(size=(ROWS, 4)) > 0).astype(np.float32)
    trainer, x = trained((Dense(8), ReLU(), Dense(4), *last), loss, y=y)
    found, expected = answers(forward_model(trainer), x=x), trainer.predict(x)
    name = {"value": "prediction"}.get(rule.predicts, "probabilities")
    if rule.takes == "margins":  # which are no probabilities: the prediction is the label
        assert set(found) == {"label", "output"}
        np.testing.assert_array_equal(found["label"], expected)
        return
    np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)
    if rule.predicts == "binary":
        np.testing.assert_array_equal(found["label"], expected > 0.5)
        np.testing.assert_allclose(
            1 / (1 + np.exp(-found["logits"])), expected, rtol=1e-5, atol=1e-6
        )
    raw = rule.takes == "logits" and rule.predicts != "value"
    assert ("logits" in found) == raw


@pytest.mark.parametrize("opset", [15, pytest.param(17, marks=pytest.mark.long), 18, 20])
@pytest.mark.parametrize("layer", ["gelu", "mish", "layer_norm", "batch_norm", "embedding"])
def test_an_earlier_opset_gives_the_same(layer, opset, tmp_path):
    """With names, lengths and metadata, in the format of its time; Gelu is of opset 20."""
    layers, x = net_with(layer)
    trainer, rows = trained(layers, x=x)
    xpnet.export(trainer, tmp_path / "m.onnx", opset=opset)
    model = onnx.load(tmp_path / "m.onnx")
    assert [o.version for o in model.opset_import if not o.domain] == [opset]
    assert model.ir_version <= onnx.helper.find_min_ir_version_for(model.opset_import)
    latest = forward_model(trainer)
    assert model.graph.input == latest.graph.input
    assert model.graph.output == latest.graph.output
    assert model.metadata_props == latest.metadata_props
    if len(model.graph.node) == len(latest.graph.node):  # and has no other operators
        assert [i.name for i in model.graph.initializer] == [
            i.name for i in latest.graph.initializer
        ]
    found = answers(model, x=rows)["probabilities"]
    np.testing.assert_allclose(found, trainer.predict(rows), rtol=1e-5, atol=1e-6)
    assert answers(model, x=rows[:0])["probabilities"].shape == (0, 4)


def test_a_table_in_an_earlier_opset(table, tmp_path):
    frame = table.drop(columns="price")
    run = run_on(frame, "label", tmp_path / "run")
    xpnet.export(run, tmp_path / "m.onnx", opset=15)
    model = onnx.load(tmp_path / "m.onnx")
    assert {o.domain: o.version for o in model.opset_import} == {"": 15, "ai.onnx.ml": 2}
    found = answers(model, **feed(model, frame))["probabilities"]
    np.testing.assert_allclose(
        found, run.predict(frame.drop(columns="label")), rtol=1e-5, atol=1e-5
    )


def test_a_step_in_an_earlier_opset_goes_the_same_way(tmp_path):
    """Without Gelu, which is of opset 20, and which the newest step has."""
    trainer, x = trained(net_with("gelu_tanh")[0])
    y = np.arange(ROWS) % 4
    xpnet.export(trainer, tmp_path / "step.onnx", train=True, epochs=2, rows=ROWS, opset=16)
    models = onnx.load(tmp_path / "step.onnx"), step_model(trainer, epochs=2, rows=ROWS)
    known = [{node.op_type for node in model.graph.node} for model in models]
    assert "Gelu" in known[1] - known[0]
    old, new = (StepSession(model, trainer.snapshot()[0]) for model in models)
    for _ in range(2):
        np.testing.assert_allclose(old.train(x, y), new.train(x, y), rtol=1e-5)
    for name, value in old.state.items():
        np.testing.assert_allclose(value, new.state[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_an_opset_that_cannot_be_had_is_refused(tmp_path, monkeypatch):
    trainer, _ = trained((Dense(4), Dropout(0.5), Dense(4)))
    place = tmp_path / "m.onnx"
    for opset in (14, 22):
        with pytest.raises(ConfigError, match=f"opset must be from 15 to 21; got {opset}"):
            xpnet.export(trainer, place, opset=opset)
    with pytest.raises(
        ConfigError, match="written in opset 17: it has no BitwiseXor: pass a later"
    ):
        xpnet.export(trainer, place, train=True, epochs=1, rows=40, opset=17)  # of dropout's keys
    with pytest.raises(ConfigError, match="opset is for the form onnx, not torch: omit opset"):
        xpnet.export(trainer, tmp_path / "m.safetensors", opset=17)

    def wrong(model, opset):  # a fault of the converter
        made = onnx.ModelProto.FromString(model.SerializeToString())
        made.graph.node[-1].op_type = "LogSoftmax"
        made.opset_import[0].version = opset
        return made

    monkeypatch.setattr("onnx.version_converter.convert_version", wrong)
    with pytest.raises(ConfigError, match="opset 18: probabilities would be another"):
        xpnet.export(trainer, place, opset=18)
    assert not place.exists()


def test_batches_of_any_size_in_float64():
    trainer, x = trained((Dense(8), BatchNorm(), GELU(), Dense(4)), dtype="float64")
    model = forward_model(trainer)
    for rows in (x, x[:1], x[:0]):
        found = answers(model, x=rows)["probabilities"]
        assert found.shape == (len(rows), 4)
        assert found.dtype == np.float64
        if len(rows):
            np.testing.assert_allclose(found, trainer.predict(rows), rtol=1e-7, atol=1e-7)


NETS = {
    "plain": ((Dense(32), ReLU(), Dense(10)), "Linear(6, 32), ReLU(), Linear(32, 10)"),
    "leaky": ((Dense(32), LeakyReLU(), Dense(10)), "Linear(6, 32), LeakyReLU(), Linear(32, 10)"),
    "gelu": ((Dense(32), GELU(), Dense(10)), "Linear(6, 32), GELU(), Linear(32, 10)"),
    "layer norm": (
        (Dense(32), LayerNorm(), ReLU(), Dense(10)),
        "Linear(6, 32), LayerNorm(32), ReLU(), Linear(32, 10)",
    ),
}


@pytest.mark.parametrize("net", sorted(NETS))
def test_as_few_nodes_as_pytorchs_own_export(net, tmp_path):
    """Of the same net: its exporter has a row for each module, this one has none."""
    torch = pytest.importorskip("torch", reason="no torch: pip install torch==2.13.0")
    import warnings

    layers, theirs = NETS[net]
    trainer, _ = trained(layers)
    ours = forward_model(trainer).graph.node
    module = eval(f"torch.nn.Sequential({theirs})", {"torch": torch, **vars(torch.nn)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.zeros(2, 6),), str(tmp_path / "t.onnx"), dynamo=False
        )
    # Beside the logits, ours gives probabilities (Softmax) and the label (ArgMax).
    count = len(onnx.load(tmp_path / "t.onnx").graph.node)
    assert len(ours) - 2 <= count, [node.op_type for node in ours]


def test_the_tensors_have_the_names_that_they_have_in_a_checkpoint():
    trainer, _ = trained((Dense(8), ReLU(), Dense(4)))
    model = forward_model(trainer)
    found = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    assert set(found) == set(trainer.params)
    for name, value in trainer.params.items():
        np.testing.assert_array_equal(found[name], value)
    assert model.producer_name == "xpnet"


@pytest.fixture(scope="module")
def table():
    pd = pytest.importorskip("pandas", reason="no pandas: pip install pandas")
    rng = np.random.default_rng(3)
    n = 200
    days = np.datetime64("2019-11-03T05:00:00") + rng.integers(0, 900 * 86400, n)
    frame = pd.DataFrame({
        "age": rng.normal(40, 10, n).round(1),
        "year": rng.integers(1950, 2020, n),
        "city": rng.choice(["Aachen", "Bonn", "Köln am Rhein", "x"], n),
        "street": [f"s{i}" for i in rng.integers(0, 50, n)],
        "grade": rng.choice(["1", "2", "unknown"], n),
        "member": rng.choice([True, False], n),
        "when": days,
        "label": rng.choice(["yes", "no"], n),
    })  # fmt: skip
    frame.loc[::9, "age"] = np.nan
    frame.loc[::7, "city"] = None
    frame["price"] = frame.year * 2.0 + rng.normal(size=n)
    return frame


def feed(model, frame):
    """The inputs of an exported model, as its documentation says."""
    given = {}
    for value in model.graph.input:
        column = frame[value.name]
        if value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            cells = ["" if c is None or c != c else str(c) for c in column]
            given[value.name] = np.array(cells, dtype=object)[:, None]
        elif column.dtype.kind == "M":
            seconds = column.to_numpy().astype("datetime64[us]").astype(np.int64) / 1e6
            given[value.name] = seconds[:, None]
        else:
            given[value.name] = column.to_numpy(np.float64)[:, None]
    return given


def run_on(frame, label, folder, **settings):
    settings = {"data.label": label, "epochs": 2, "threads": 1, "backend": "numpy"} | settings
    return xpnet.train(frame, folder, settings=settings, report=lambda line: None)


@pytest.mark.parametrize(
    ("label", "settings"),
    [
        ("label", {}),
        ("price", {}),
        pytest.param("label", {"data.scaling": "standard"}, marks=pytest.mark.long),
        pytest.param("label", {"loss.name": "binary_cross_entropy"}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_a_table_of_all_kinds_from_its_raw_columns(table, label, settings, tmp_path):
    frame = table.drop(columns="price" if label == "label" else "label")
    run = run_on(frame, label, tmp_path / "run", **settings)
    model = forward_model(run)
    frame.loc[5, "city"] = "a city that training did not have"
    found = answers(model, **feed(model, frame))
    expected = run.predict(frame.drop(columns=label))
    name = "probabilities" if label == "label" else "prediction"
    np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5)
    if label == "label":
        names = np.array(run.preprocessing.classes)
        assert (found["label"] == names[expected.argmax(axis=1)]).all()


def test_a_table_of_all_kinds_has_few_nodes(table, tmp_path):
    """A column has no more of its own than it needs; missing values are found once for all."""
    run = run_on(table.drop(columns="price"), "label", tmp_path / "run")
    ops = [node.op_type for node in forward_model(run).graph.node]
    assert len(ops) <= 115, ops
    assert ops.count("IsNaN") == 2  # of the numbers, and of the date's cycles
    categories = 4
    assert ops.count("LabelEncoder") == categories
    assert ops.count("Squeeze") == categories + 1  # and of the codes of the embedding
    assert ops.count("Cast") == 4


def test_a_category_is_found_by_what_it_is_spelled(table, tmp_path):
    """Levels 1 and 2 are 1.0 and 2.0, too; True is true; an empty text is a missing value."""
    frame = table.drop(columns="price")
    run = run_on(frame, "label", tmp_path / "run")
    model = forward_model(run)
    given = feed(model, frame.iloc[:3])
    given["grade"] = np.array([["1"], ["1.0"], ["01"]], dtype=object)
    given["member"] = np.array([["True"], ["TRUE"], ["maybe"]], dtype=object)
    for name, value in given.items():
        if name not in ("grade", "member"):
            given[name] = np.repeat(value[:1], 3, axis=0)
    found = answers(model, **given)["probabilities"]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 0


def test_a_table_of_numbers_has_one_input(tmp_path):
    pd = pytest.importorskip("pandas", reason="no pandas: pip install pandas")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(90, 3)), columns=["a", "b", "c"])
    frame["label"] = rng.choice(["p", "q", "r"], 90)
    frame.loc[::5, "b"] = np.nan
    run = run_on(frame, "label", tmp_path / "run")
    x = frame[["a", "b", "c"]].to_numpy()
    found = answers(forward_model(run), x=x)
    np.testing.assert_allclose(
        found["probabilities"], run.predict(frame.drop(columns="label")), rtol=1e-5, atol=1e-6
    )


def test_a_feature_that_is_called_as_an_output_is_keeps_another_name(table, tmp_path):
    renamed = {"city": "logits", "age": "0.embedding.E0"}
    frame = table.drop(columns=["price"]).rename(columns=renamed)
    run = run_on(frame, "label", tmp_path / "run")
    assert "0.embedding.E0" in run.trainer.params
    names = [value.name for value in forward_model(run).graph.input]
    assert names[0] == "0.embedding.E0 (column 0)"
    assert "logits (column 2)" in names


def test_dates_and_targets_keep_the_digits_of_float64(table, tmp_path):
    frame = table[["when", "price"]].assign(price=table.price * 1e6 + 1.6e9)
    run = run_on(frame, "price", tmp_path / "run", dtype="float64")
    model = forward_model(run)
    found = answers(model, **feed(model, frame))["prediction"]
    np.testing.assert_allclose(found, run.predict(frame[["when"]]), rtol=1e-13)


def test_what_an_onnx_file_cannot_hold_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr("xpnet.interop.onnx.model.LARGEST", 100)
    trainer, _ = trained((Dense(8), ReLU(), Dense(4)))
    with pytest.raises(ConfigError, match="the weights have 368 bytes; an ONNX file has less than"):
        forward_model(trainer)


class Squared(xpnet.Activation):
    """a = z², in Array API code: not one of the library's."""

    def value(self, z):
        return z * z

    def backward_value(self, da, z):
        return 2.0 * z * da


class Sorted(Squared):
    """What NumPy alone can compute."""

    def value(self, z):
        return np.sort(np.asarray(z), axis=-1)

    def backward_value(self, da, z):
        return da


def test_a_layer_of_ones_own():
    trainer, x = trained((Dense(8), Squared(), Dense(4)), step="portable")
    found = answers(forward_model(trainer), x=x)["probabilities"]
    np.testing.assert_allclose(found, trainer.predict(x), rtol=1e-5, atol=1e-6)
    trainer, _ = trained((Dense(8), Sorted(), Dense(4)), step="portable")
    with pytest.raises(ConfigError, match=r"layer 1 \(Sorted\) cannot be exported"):
        forward_model(trainer)


LABELS = {
    "texts": (["up", "down", "left"], 3, "softmax_cross_entropy"),
    "numbers": ([10, 20, 30], 3, "softmax_cross_entropy"),
    "booleans": ([True, False], 2, "softmax_cross_entropy"),
    "one output": (["yes", "no"], 1, "binary_cross_entropy"),
    "one output of 0 and 1": ([0, 1], 1, "binary_cross_entropy"),
}


@pytest.mark.parametrize("name", LABELS)
def test_the_labels_are_those_that_training_had(name):
    labels, outputs, loss = LABELS[name]
    y = np.random.default_rng(2).choice(labels, ROWS)
    trainer, x = trained((Dense(8), ReLU(), Dense(outputs)), loss, y=y)
    model = forward_model(trainer)
    found, expected = answers(model, x=x)["label"], trainer.predict_classes(x)
    assert len(set(expected.tolist())) > 1
    assert found.tolist() == expected.tolist()
    about = json.loads(model.metadata_props[0].value)
    assert about["classes"] == (None if 0 in labels[:1] else sorted(labels))


def test_a_model_that_has_learnt_nothing_is_refused():
    trainer = Trainer(xpnet.Sequential([Dense(2)]).build((3,)), backend="numpy")
    with pytest.raises(TrainingError, match="the weights are random"):
        forward_model(trainer)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"path": 5}, "path must name a file, as text or a Path; got 5"),
        ({"form": "keras"}, "form must be one of 'onnx', 'html', 'torch'; got 'keras'"),
        ({"epochs": 0, "train": True}, "epochs must be >= 1; got 0"),
        ({"rows": 1.5, "train": True}, "rows must be a whole number; got 1.5"),
        ({"opset": "17"}, "opset must be a whole number; got '17'"),
    ],
)
def test_what_is_no_setting_of_an_export_is_refused(given, says, tmp_path):
    trainer, _ = trained((Dense(4),))
    with pytest.raises(ConfigError) as refused:
        xpnet.export(trainer, given.pop("path", tmp_path / "m.onnx"), **given)
    assert str(refused.value).startswith(says)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["m.onnx", "m.safetensors", "m.html"])
def test_a_link_is_kept_and_a_pipe_written_to(name, tmp_path):
    """A device, too: as root, an export to /dev/null would else put a file there."""
    settings = {"epochs": 1, "model.hidden": [8], "threads": 1, "backend": "numpy"}
    run = xpnet.train("digits", tmp_path / "run", settings=settings, report=lambda line: None)
    train = name == "m.html"
    xpnet.export(run, tmp_path / name, train=train)
    (tmp_path / f"link-{name}").symlink_to(name)
    (tmp_path / name).write_bytes(b"old")
    xpnet.export(run, tmp_path / f"link-{name}", train=train)
    assert (tmp_path / f"link-{name}").is_symlink()
    expected = (tmp_path / name).read_bytes()
    assert len(expected) > 1000
    pipe = tmp_path / f"pipe-{name}"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    xpnet.export(run, pipe, train=train)
    assert pipe.is_fifo()
    reader.join(20)
    assert read == [expected]


def test_what_is_exported_is_not_replaced(tmp_path):
    trainer, _ = trained((Dense(4),))
    saved = trainer.save(tmp_path / "net.safetensors")
    before = saved.read_bytes()
    made = invoke("export", saved, tmp_path / "." / "net.safetensors")
    assert isinstance(made.exception, ConfigError)
    assert "net.safetensors is what would be exported" in str(made.exception)
    assert saved.read_bytes() == before
    with pytest.raises(ConfigError, match="a Trainer, a Run or the path of one; got list"):
        xpnet.export([Dense(4)], tmp_path / "m.onnx")


def invoke(*words):
    return CliRunner().invoke(cli, [*map(str, words)])


def test_the_command_says_what_the_model_takes_and_gives(tmp_path):
    settings = {"epochs": 1, "model.hidden": [8], "threads": 1, "backend": "numpy"}
    run = xpnet.train("digits", tmp_path / "run", settings=settings, report=lambda line: None)
    made = invoke("export", tmp_path / "run", tmp_path / "m.onnx")
    assert made.exit_code == 0, made.output
    assert made.output.splitlines()[1:] == [
        "input  x  float32 (N, 64)",
        "output label  text (N,)",
        "output probabilities  float32 (N, 10)",
        "output logits  float32 (N, 10)",
    ]
    digits, _ = xpnet.data.load_named("digits")
    found = answers(onnx.load(tmp_path / "m.onnx"), x=digits.x.astype(np.float32))
    np.testing.assert_allclose(found["probabilities"], run.predict(digits.x), rtol=1e-5, atol=1e-6)
    xpnet.export(run.trainer, tmp_path / "m.onnx")  # replaces it


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["m.bin"], "the name 'm.bin' does not tell the form of the file: end it in .onnx"),
        (["m.onnx", "--epochs=3"], "epochs is for the training step: add --train"),
        (["m.html"], "a page trains: add --train"),
        (["m.onnx", "--format=torch", "--train"], "the form torch has weights alone: omit --train"),
        (["m.safetensors", "--train"], "the form torch has weights alone: omit --train"),
        (["m.onnx"], "no run folder"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(words, says, capsys):
    from xpnet.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main(["export", "nowhere", *words])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
