"""ONNX networks of others as ours: the oracle is onnxruntime."""

import io
import warnings

import numpy as np
import pytest

import xpnet
from xpnet.errors import ConfigError, DataError

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RNG = np.random.default_rng(5)
X = RNG.standard_normal((9, 4)).astype(np.float32)
W = RNG.standard_normal((4, 6)).astype(np.float32)
V = RNG.standard_normal((6, 3)).astype(np.float32)
B = RNG.standard_normal(6).astype(np.float32)
G = (RNG.random(6) + 0.5).astype(np.float32)


def n(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), [output], name=output, **attributes)


def a_model(nodes, opset=20, width=4, outputs=("out",), **constants):
    """A model from x (N, width) through the nodes to out."""
    tensors = {"W": W, "V": V, "B": B, "G": G, **constants}
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(t), k) for k, t in tensors.items() if k in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def around(*nodes, opset=20, **constants):
    """A model with dense layers before and after the nodes, from h to a."""
    ends = n("Gemm", "x W B", "h"), n("MatMul", "a V", "out")
    return a_model([ends[0], *nodes, ends[1]], opset, **constants)


def runtime(model, x=X):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {model.graph.input[0].name: x})[0]


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6 * np.abs(b).max())


def f(*numbers):
    return np.array(numbers if len(numbers) > 1 else numbers[0], np.float32)


ops = [
    *("Relu", "Sigmoid", "Tanh", "Selu", "Softplus", "Softsign", "HardSwish", "Mish", "Identity"),
    *("LeakyRelu", "Elu", "Celu", "Gelu", "Softmax", "LogSoftmax"),
]
MODELS = {
    **{op: lambda op=op: around(n(op, "h", "a")) for op in ops},
    "LeakyRelu 0.3": lambda: around(n("LeakyRelu", "h", "a", alpha=0.3)),
    "Elu 0.6": lambda: around(n("Elu", "h", "a", alpha=0.6)),
    "Celu 0.6": lambda: around(n("Celu", "h", "a", alpha=0.6)),
    "Gelu tanh": lambda: around(n("Gelu", "h", "a", approximate="tanh")),
    "Gelu and copy": lambda: around(
        n("Gelu", "h", "g", approximate="tanh"), n("Cast", "g", "a", to=1)
    ),
    "Selu and a copy": lambda: around(
        n("Selu", "h", "s", alpha=1.6732632), n("Identity", "s", "a")
    ),
    "HardSigmoid": lambda: around(n("HardSigmoid", "h", "a", alpha=1 / 6)),
    "PRelu": lambda: around(n("PRelu", "h G", "a")),
    "PRelu one": lambda: around(n("PRelu", "h s", "a"), s=f(0.3)[None]),
    "Clip at 0": lambda: around(n("Clip", "h zero", "a"), zero=f(0.0)),
    "BatchNormalization": lambda: around(n("BatchNormalization", "h G B B G", "a", epsilon=1e-3)),
    "LayerNormalization": lambda: around(n("LayerNormalization", "h G B", "a", epsilon=1e-3)),
    "Dropout": lambda: around(n("Dropout", "h r", "a"), r=f(0.3)),
    "Cast": lambda: around(n("Cast", "h", "a", to=1)),
    "Gemm": lambda: a_model(
        [n("Gemm", "x U c", "out", transB=1, alpha=0.5, beta=2.0)], U=W.T.copy(), c=B[None]
    ),
    "Add and Sub": lambda: around(n("Add", "B h", "b"), n("Sub", "b G", "a")),
    "scaled inputs": lambda: a_model(
        [n("Sub", "x m", "c"), n("Div", "c s", "z"), n("Gemm", "z W B", "out")],
        m=f(1, 2, 3, 4),
        s=f(2, 1, 4, 3),
    ),
    "one minus": lambda: a_model([n("Sub", "one x", "z"), n("MatMul", "z W", "out")], one=f(1.0)),
    "scaled features": lambda: around(n("Mul", "h G", "a")),
    "swish": lambda: around(n("Sigmoid", "h", "s"), n("Mul", "s h", "a")),
    "mish": lambda: around(n("Softplus", "h", "s"), n("Tanh", "s", "t"), n("Mul", "h t", "a")),
    "erf gelu": lambda: around(
        n("Div", "h r", "d"),
        n("Erf", "d", "e"),
        n("Add", "e one", "p"),
        n("Mul", "h p", "m"),
        n("Mul", "m half", "a"),
        r=f(2.0) ** 0.5,
        one=f(1.0),
        half=f(0.5),
    ),
    "sigmoid of an exponential": lambda: around(
        n("Neg", "h", "m"),
        n("Exp", "m", "e"),
        n("Add", "one e", "d"),
        n("Reciprocal", "d", "a"),
        one=f(1.0),
    ),
    "softplus that overflows": lambda: around(
        n("Exp", "h", "e"), n("Add", "e one", "p"), n("Log", "p", "a"), one=f(1.0)
    ),
    "tanh gelu of six digits": lambda: around(
        n("Pow", "h three", "q"),
        n("Mul", "q c", "r"),
        n("Add", "h r", "s"),
        n("Mul", "s k", "u"),
        n("Tanh", "u", "t"),
        n("Add", "t one", "p"),
        n("Mul", "h half", "m"),
        n("Mul", "m p", "a"),
        three=f(3.0),
        c=f(0.044715),
        k=f(0.797885),
        one=f(1.0),
        half=f(0.5),
    ),
    "hard swish of a clip": lambda: around(
        n("Add", "h three", "s"),
        n("Clip", "s zero six", "c"),
        n("Mul", "h c", "m"),
        n("Div", "m six", "a"),
        three=f(3.0),
        zero=f(0.0),
        six=f(6.0),
    ),
    "celu of elu": lambda: around(
        n("Div", "h k", "d"), n("Elu", "d", "e"), n("Mul", "e k", "a"), k=f(0.7)
    ),
    "relu by where": lambda: around(
        n("LessOrEqual", "h zero", "l"), n("Where", "l zero h", "a"), zero=f(0.0)
    ),
    "softmax in nodes": lambda: around(
        n("Exp", "h", "e"),
        n("ReduceSum", "e axes", "s"),
        n("Div", "e s", "a"),
        axes=np.array([1]),
    ),
    "leaky by max": lambda: around(n("Mul", "s h", "m"), n("Max", "h m", "a"), s=f(0.2)),
    "layer norm in nodes": lambda: around(
        n("ReduceMean", "h axes", "m"),
        n("Sub", "h m", "d"),
        n("Pow", "d two", "q"),
        n("ReduceMean", "q axes", "v"),
        n("Add", "v eps", "w"),
        n("Sqrt", "w", "s"),
        n("Div", "d s", "y"),
        n("Mul", "y G", "z"),
        n("Add", "z B", "a"),
        axes=np.array([-1]),
        two=f(2.0),
        eps=f(1e-3),
    ),
    "rms norm in nodes": lambda: around(
        n("Mul", "h h", "q"),
        n("ReduceMean", "q axes", "v"),
        n("Add", "v eps", "w"),
        n("Sqrt", "w", "s"),
        n("Reciprocal", "s", "i"),
        n("Mul", "h i", "y"),
        n("Mul", "G y", "a"),
        axes=np.array([-1]),
        eps=f(1e-3),
    ),
    "layer norm of sums": lambda: around(
        n("ReduceSum", "h axes", "s"),
        n("Div", "s J", "m"),
        n("Mul", "h h", "q"),
        n("ReduceMean", "q axes", "w"),
        n("Mul", "m m", "n"),
        n("Sub", "w n", "v"),
        n("Add", "v eps", "e"),
        n("Sqrt", "e", "r"),
        n("Sub", "h m", "c"),
        n("Div", "c r", "a"),
        axes=np.array([1]),
        J=f(6.0),
        eps=f(1e-3),
    ),
    "weights transposed by a node": lambda: a_model(
        [n("Transpose", "U", "T", perm=[1, 0]), n("MatMul", "x T", "out")], U=W.T.copy()
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_network_predicts_as_in_onnxruntime(name):
    model = MODELS[name]()
    trainer = xpnet.from_onnx(model, step="portable")
    close(trainer.predict(X), runtime(model))


def test_a_last_softmax_or_sigmoid_is_part_of_the_loss():
    ends = {"Softmax": xpnet.SoftmaxCrossEntropy(), "Sigmoid": xpnet.BinaryCrossEntropy()}
    for op, loss in ends.items():
        model = a_model([n("Gemm", "x W B", "h"), n(op, "h", "out")])
        trainer = xpnet.from_onnx(model)
        assert trainer.loss == loss
        assert len(trainer.model.layers) == 1
        close(trainer.predict(X), runtime(model))
        assert f"the last {op.lower()} is part of the loss" in trainer.summary()


def test_it_trains_on_from_the_weights():
    model = a_model([n("Gemm", "x W B", "h"), n("Softmax", "h", "out")])
    trainer = xpnet.from_onnx(model, step="portable")
    y = np.arange(9) % 6
    before = trainer.evaluate((X, y)).loss
    assert trainer.fit((X, y), epochs=20)[-1]["loss"] < before


def test_factors_of_the_inputs_stay_as_they_are():
    trainer = xpnet.from_onnx(MODELS["scaled inputs"](), step="portable")
    before = trainer.params["0.feature_scale.s"]
    trainer.fit((X, RNG.standard_normal((9, 6))), epochs=3)
    np.testing.assert_array_equal(trainer.params["0.feature_scale.s"], before)
    assert "the factors of the inputs are a feature_scale" in trainer.summary()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_number_of_a_formula_is_the_decimal_that_was_written(dtype):
    model = MODELS["layer norm in nodes"]()
    for tensor in model.graph.initializer:
        if tensor.name == "eps":
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(1e-3, dtype), "eps"))
    assert xpnet.from_onnx(model).model.layers[1].eps == 1e-3


REFUSED = {
    "conv": (lambda: around(n("Conv", "h K", "a"), K=W), r"node 'a' \(Conv\) has no layer in xp"),
    "branches": (
        lambda: around(n("Relu", "h", "r"), n("Tanh", "h", "t"), n("Add", "r t", "a")),
        r"node 'r' \(Relu\) has no layer in xpnet: two branches are not a chain",
    ),
    "hard": (
        lambda: around(n("HardSigmoid", "h", "a")),
        r"its alpha is 0\.2, and xpnet's is 0\.16",
    ),
    "clip": (lambda: around(n("Clip", "h o", "a"), o=f(1.0)), r"it clips to 1\.0 and None"),
    "dropout": (
        lambda: around(n("Dropout", "h r t", "a"), r=f(0.3), t=np.array(True)),
        r"it is in training mode",
    ),
    "axis": (lambda: around(n("Softmax", "h", "a", axis=0)), r"its axis is 0, not the last"),
    "almost gelu": (
        lambda: around(n("Erf", "h", "e"), n("Mul", "h e", "a")),
        r"two branches are not a chain",
    ),
    "no number": (lambda: around(n("Sub", "h t", "a"), t=np.array(True)), "are true or false"),
    "norm of the batch": (
        lambda: around(n("ReduceMean", "h axes", "m"), n("Sub", "h m", "a"), axes=np.array([0])),
        r"two branches are not a chain",
    ),
    "norm of a deviation": (
        lambda: around(
            n("ReduceMean", "h axes", "m"),
            n("Sub", "h m", "c"),
            n("Mul", "c c", "q"),
            n("ReduceMean", "q axes", "v"),
            n("Sqrt", "v", "s"),
            n("Add", "s eps", "d"),
            n("Div", "c d", "a"),
            axes=np.array([-1]),
            eps=f(1e-3),
        ),
        r"two branches are not a chain",
    ),
    "reshape": (lambda: around(n("Reshape", "h s", "a"), s=np.array([-1, 3])), r"it makes shape"),
    "end": (
        lambda: a_model([n("Relu", "x", "r"), n("Add", "r c", "out")], c=f(1.0)),
        "end with Ge",
    ),
    "nan": (lambda: a_model([n("MatMul", "x W", "out")], W=W * np.nan), "not finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_first_node_that_cannot_be_taken_is_named(case):
    make, message = REFUSED[case]
    with pytest.raises((ConfigError, DataError), match=message):
        xpnet.from_onnx(make())


def test_a_file_is_read_and_another_one_refused(tmp_path):
    model = MODELS["Relu"]()
    onnx.save(model, tmp_path / "net.onnx")
    close(xpnet.from_onnx(tmp_path / "net.onnx").predict(X), runtime(model))
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(DataError, match="is not an ONNX model"):
        xpnet.from_onnx(tmp_path / "text.onnx")
    with pytest.raises(DataError, match="No such file"):
        xpnet.from_onnx(tmp_path / "none.onnx")


def test_weights_in_another_file(tmp_path):
    model, place = MODELS["Relu"](), tmp_path / "net.onnx"
    expected = runtime(model)
    onnx.save(model, place, save_as_external_data=True, location="net.data", size_threshold=0)
    close(xpnet.from_onnx(place).predict(X), expected)
    (tmp_path / "net.data").write_bytes(b"torn")
    with pytest.raises(DataError, match="its weights in another file, which cannot be read"):
        xpnet.from_onnx(place)
    (tmp_path / "net.data").unlink()
    with pytest.raises(DataError, match=r"which cannot be read: .*net\.data"):
        xpnet.from_onnx(place)


@pytest.mark.parametrize("labels", ["layers", "tails"])
def test_labels_made_of_the_outputs_are_cut_and_said(labels):
    nodes = [n("Gemm", "x W B", "h"), n("Softmax", "h", "out")]
    if labels == "tails":
        nodes.append(n("ArgMax", "out", "label", axis=1))
    notes = xpnet.from_onnx(a_model(nodes)).notes
    assert any("node 'label' (ArgMax) makes labels" in s for s in notes) == (labels == "tails")


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ["GELU", "SiLU", "GroupNorm", "LayerNorm", "Softplus", "Mish"])
def test_what_pytorch_exports(name, dynamo):
    torch = pytest.importorskip("torch")
    sizes = {"GroupNorm": (2, 6), "LayerNorm": (6,)}
    torch.manual_seed(0)
    layer = getattr(torch.nn, name)(*sizes.get(name, ()))
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), layer, torch.nn.Linear(6, 3)).eval()
    x, file = torch.from_numpy(X), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            pytest.importorskip("onnxscript", reason="no onnxscript: pip install onnxscript")
            shapes = ({0: torch.export.Dim("N")},)
            model = torch.onnx.export(
                net, (x,), dynamo=True, verbose=False, dynamic_shapes=shapes
            ).model_proto
        else:
            torch.onnx.export(
                net, (x,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "N"}}
            )
            model = onnx.load_from_string(file.getvalue())
    close(xpnet.from_onnx(model, step="portable").predict(X), net(x).detach().numpy())


def test_its_own_weights_are_checked_and_explained():
    model = a_model([n("Gemm", "x W B", "h"), n("Tanh", "h", "t"), n("MatMul", "t V", "out")])
    trainer = xpnet.from_onnx(model, loss="softmax_cross_entropy")
    assert xpnet.gradcheck(trainer, x=X, y=np.arange(9) % 3).ok
    text = xpnet.explain(trainer).render("markdown")
    assert f"{W[0, 0]:.3g}" in text
    with pytest.raises(ConfigError, match="a trainer has its own loss"):
        xpnet.explain(trainer, loss="hinge")
