"""``xpnet import``: a network of another library is a saved model, as any other."""

import numpy as np
import pytest
from click.testing import CliRunner

import xpnet
from xpnet import Trainer
from xpnet.cli.main import cli
from xpnet.nn import BatchNorm, Dense, ReLU

onnx = pytest.importorskip("onnx", reason="no onnx: pip install 'xpnet[onnx]'")


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
    pytest.importorskip("ndonnx", reason="no ndonnx: pip install 'xpnet[onnx]'")
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
