"""``xpnet import``: a network of another library is a saved model, as any other."""

import numpy as np
import pytest
from click.testing import CliRunner

import xpnet
from xpnet import Trainer
from xpnet.cli.main import cli
from xpnet.errors import ConfigError, DataError
from xpnet.nn import BatchNorm, Dense, LogSoftmax, ReLU, Softmax
from xpnet.nn.losses import LOSSES, SoftmaxCrossEntropy

onnx = pytest.importorskip("onnx", reason="no onnx: pip install '.[onnx]'")


def xpnet_command(*words):
    return CliRunner().invoke(cli, [*map(str, words)], catch_exceptions=False)


@pytest.fixture
def net(tmp_path):
    """A dense network as a file of somebody else's, and what it gives."""
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    V = rng.normal(size=(4, 3)).astype(np.float32)
    helper, F = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "W", "b"], ["h"]),
            helper.make_node("Relu", ["h"], ["a"]),
            helper.make_node("MatMul", ["a", "V"], ["z"]),
            helper.make_node("Softmax", ["z"], ["p"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", F, ["N", 6])],
        [helper.make_tensor_value_info("p", F, ["N", 3])],
        [onnx.numpy_helper.from_array(v, k) for k, v in (("W", W), ("b", b), ("V", V))],
    )
    onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
    x = rng.normal(size=(20, 6)).astype(np.float32)
    z = np.maximum(x @ W + b, 0) @ V
    return tmp_path / "net.onnx", x, np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def test_an_imported_file_predicts_trains_on_and_goes_out_again(net, tmp_path):
    file, x, expected = net
    out = tmp_path / "net.safetensors"
    said = xpnet_command("import", file, out)
    assert said.exit_code == 0, said.output
    assert "Dense(4, inputs=6), ReLU()" in said.output
    trainer = xpnet.load(out)
    np.testing.assert_allclose(trainer.predict(x), expected, rtol=1e-5, atol=1e-6)
    trainer.fit((x, expected.argmax(axis=1)), epochs=3)
    assert trainer.history[-1]["loss"] < trainer.history[0]["loss"]
    np.save(tmp_path / "rows.npy", x)
    made = xpnet_command("predict", out, tmp_path / "rows.npy")
    assert made.exit_code == 0, made.output


def test_an_exported_model_comes_back(tmp_path):
    pytest.importorskip("ndonnx", reason="no ndonnx: pip install '.[onnx]'")
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 6)).astype(np.float32), rng.integers(0, 3, 40)
    trainer = Trainer([Dense(8), ReLU(), Dense(3)], backend="numpy", batch_size=10)
    trainer.fit((x, y), epochs=2)
    trainer.save(tmp_path / "a.safetensors")
    assert xpnet_command("export", tmp_path / "a.safetensors", tmp_path / "a.onnx").exit_code == 0
    back = xpnet_command("import", tmp_path / "a.onnx", tmp_path / "b.safetensors")
    assert back.exit_code == 0, back.output
    again = xpnet.load(tmp_path / "b.safetensors")
    np.testing.assert_allclose(again.predict(x), trainer.predict(x), rtol=1e-5, atol=1e-6)


def test_a_state_dict_takes_the_layers_of_another_model(tmp_path):
    torch = pytest.importorskip("torch", reason="no torch: pip install torch==2.13.0")
    module = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    ).eval()
    torch.save(module.state_dict(), tmp_path / "net.pt")
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 6)).astype(np.float32), rng.integers(0, 3, 40)
    trainer = Trainer([Dense(8), BatchNorm(), ReLU(), Dense(3)], backend="numpy", batch_size=10)
    trainer.fit((x, y), epochs=1)
    trainer.save(tmp_path / "like.safetensors")
    out = tmp_path / "net.safetensors"
    said = xpnet_command(
        "import", tmp_path / "net.pt", out, "--like", tmp_path / "like.safetensors"
    )
    assert said.exit_code == 0, said.output
    expected = torch.softmax(module(torch.asarray(x)), dim=1).detach().numpy()
    np.testing.assert_allclose(xpnet.load(out).predict(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_an_exported_model_comes_back_with_its_loss_and_its_classes(loss, tmp_path):
    pytest.importorskip("ndonnx", reason="no ndonnx: pip install '.[onnx]'")
    rng, rule = np.random.default_rng(1), LOSSES[loss]()
    x = rng.normal(size=(40, 6)).astype(np.float32)
    y = rng.choice(["up", "down", "left"], 40)
    last = {"cross_entropy": [Softmax()], "negative_log_likelihood": [LogSoftmax()]}.get(loss, [])
    if rule.predicts != "class":
        y = (rng.normal(size=(40, 3)) > 0).astype(np.float32)
    trainer = Trainer([Dense(8), ReLU(), Dense(3), *last], rule, backend="numpy", batch_size=10)
    trainer.fit((x, y), epochs=1)
    xpnet.export(trainer, tmp_path / "a.onnx")
    again = xpnet.from_onnx(tmp_path / "a.onnx")
    assert again.loss == rule
    assert again.classes == trainer.classes
    np.testing.assert_allclose(again.predict(x), trainer.predict(x), rtol=1e-5, atol=1e-6)
    if loss in ("poisson", "negative_log_likelihood"):  # whose predictions are exponentials
        with pytest.raises(ConfigError, match="is an exponential, which huber does not contain"):
            xpnet.from_onnx(tmp_path / "a.onnx", loss="huber")
    if rule.predicts == "class":
        assert (again.predict_classes(x) == trainer.predict_classes(x)).all()
        again.fit((x, y), epochs=1)  # by the same names
        with pytest.raises(DataError, match="label 'right' is not among the 3 classes"):
            again.fit((x, np.full(40, "right")), epochs=1)


@pytest.mark.parametrize("outputs", [1, 3])
def test_names_of_classes_that_are_in_no_order_stay_with_their_outputs(outputs, tmp_path):
    """As scikit-learn's converter writes them, by hand; a later fit does not sort them."""
    rng, names = np.random.default_rng(0), ["b", "c", "a"][: max(outputs, 2)]
    W = rng.normal(size=(6, outputs)).astype(np.float32)
    made, F = onnx.helper.make_node, onnx.TensorProto.FLOAT
    nodes = [made("MatMul", ["x", "W"], ["z"]), made("Sigmoid", ["z"], ["p"])]
    if outputs == 1:
        nodes += [made("Sub", ["one", "p"], ["q"]), made("Concat", ["q", "p"], ["both"], axis=1)]
    else:
        nodes[1] = made("Softmax", ["z"], ["both"], axis=1)
    nodes += [
        made("ArgMax", ["both"], ["at"], axis=1, keepdims=0),
        made("ArrayFeatureExtractor", ["names", "at"], ["label"], domain="ai.onnx.ml"),
    ]
    constants = {"W": W, "names": np.array(names, object), "one": np.ones(1, np.float32)}
    graph = onnx.helper.make_graph(
        nodes,
        "net",
        [onnx.helper.make_tensor_value_info("x", F, ["N", 6])],
        [onnx.helper.make_tensor_value_info("label", onnx.TensorProto.STRING, None)],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    domains = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    model = onnx.helper.make_model(graph, opset_imports=domains, ir_version=9)
    x = rng.normal(size=(30, 6)).astype(np.float32)
    runtime = pytest.importorskip("onnxruntime", reason="no onnxruntime: pip install '.[onnx]'")
    (expected,) = runtime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    expected = np.ravel(expected)
    assert len(set(expected)) == len(names)
    trainer = xpnet.from_onnx(model)
    assert trainer.classes == tuple(names)
    assert (trainer.predict_classes(x) == expected).all()
    trainer.save(tmp_path / "a.safetensors")
    again = xpnet.load(tmp_path / "a.safetensors")
    again.fit((x, expected), epochs=1)
    assert again.classes == tuple(names)


def test_outputs_that_labels_are_made_of_are_logits():
    made, F = onnx.helper.make_node, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [made("MatMul", ["x", "W"], ["z"]), made("ArgMax", ["z"], ["label"], axis=1)],
        "net",
        [onnx.helper.make_tensor_value_info("x", F, ["N", 6])],
        [onnx.helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["N", 1])],
        [onnx.numpy_helper.from_array(np.eye(6, 3, dtype=np.float32), "W")],
    )
    trainer = xpnet.from_onnx(onnx.helper.make_model(graph))
    assert trainer.loss == SoftmaxCrossEntropy()
    np.testing.assert_array_equal(trainer.predict_classes(np.eye(3, 6)), [0, 1, 2])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run of a small table, and its exports."""
    pytest.importorskip("ndonnx", reason="no ndonnx: pip install '.[onnx]'")
    folder, rng = tmp_path_factory.mktemp("exported"), np.random.default_rng(0)
    rows = [f"{a:.3f},{'uv'[int(a > 0)]},{'pq'[int(a > 0.1)]}" for a in rng.normal(size=90)]
    (folder / "table.csv").write_text("\n".join(["a,b,c", *rows]))
    settings = {"data.label": "c", "epochs": 1, "threads": 1, "backend": "numpy"}
    run = xpnet.train(folder / "table.csv", folder / "run", settings=settings, report=lambda s: 0)
    xpnet.export(run, folder / "model.onnx")
    xpnet.export(run, folder / "step.onnx", train=True)
    xpnet.export(run, folder / "torch.safetensors")
    run.save(folder / "run.safetensors")
    return folder


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["import", "model.onnx", "a"],
            "exported from a run, and encodes its rows first: give",
        ),
        (["import", "step.onnx", "a"], "a training step of xpnet's, not a network: xpnet adopt"),
        (["import", "run", "a"], "'run' is a folder, not a file"),
        (["import", "run.safetensors", "a", "--like=run"], "of xpnet's, not a state dict"),
        (
            ["import", "torch.safetensors", "a.onnx", "--like=run"],
            "'a.onnx' is no name for",
        ),
        (["import", "torch.safetensors", "torch.safetensors", "--like=run"], "would be replaced"),
        (["predict", "model.onnx", "table.csv"], "xpnet import "),
        (["train", "table.csv", "--from", "model.onnx"], "xpnet import "),
        (["show", "model.onnx"], "model.onnx is a model, not a table: xpnet import "),
        (["explain", "model.onnx"], "model.onnx is a model, not a table: xpnet import "),
        (["show", "torch.safetensors"], "xpnet import torch.safetensors OUT --like RUN"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_of_another_kind_is_said_in_a_line(words, says, exported, capsys, monkeypatch):
    from xpnet.cli.main import main

    monkeypatch.chdir(exported)
    before = sorted(exported.iterdir())
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert sorted(exported.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere.onnx", "no file"),
        ("net.h5", "'net.h5' is neither an ONNX model (*.onnx) nor a state dict"),
        ("net.pt", "does not say what is between its layers: add --like RUN"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(name, says, tmp_path, capsys, monkeypatch):
    from xpnet.cli.main import main

    monkeypatch.chdir(tmp_path)
    for file in ("net.h5", "net.pt"):
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(SystemExit) as ended:
        main(["import", name, "out.safetensors"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()
