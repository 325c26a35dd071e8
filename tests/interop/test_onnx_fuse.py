"""What ONNX has an operator for becomes that operator, and nothing else does."""

import warnings

import numpy as np
import pytest

from xpnet import Trainer, nn
from xpnet.nn import GELU, BatchNorm, Dense, ReLU
from xpnet.nn.layer import LAYERS

pytest.importorskip("ndonnx", reason="no ndonnx: pip install '.[onnx]'")
onnx = pytest.importorskip("onnx", reason="no onnx: pip install '.[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="no onnxruntime: pip install '.[onnx]'")

from xpnet.interop.onnx.functions import points, rows, same_along_rows, same_operator  # noqa: E402
from xpnet.interop.onnx.fuse import fused  # noqa: E402
from xpnet.interop.onnx.model import forward_model  # noqa: E402
from xpnet.interop.onnx.read import from_onnx  # noqa: E402

EPS = 2.0**-23
# PyTorch's module for a layer after Linear(6, 8).
MODULES = {
    "relu": "ReLU()", "leaky_relu": "LeakyReLU()", "prelu": "PReLU()", "sigmoid": "Sigmoid()",
    "tanh": "Tanh()", "gelu": "GELU()", "gelu_tanh": "GELU('tanh')", "silu": "SiLU()",
    "softplus": "Softplus()", "elu": "ELU()", "selu": "SELU()", "celu": "CELU()",
    "mish": "Mish()", "hard_sigmoid": "Hardsigmoid()", "hard_swish": "Hardswish()",
    "softsign": "Softsign()", "batch_norm": "BatchNorm1d(8)", "layer_norm": "LayerNorm(8)",
    "group_norm": "GroupNorm(2, 8)", "softmax": "Softmax(-1)", "log_softmax": "LogSoftmax(-1)",
    "dropout": "Dropout()", "identity": "Identity()",
}  # fmt: skip
NEEDS = {"dropout": {"rate": 0.4}, "group_norm": {"groups": 2}}


def trained(layers, dtype="float32"):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(40, 6)).astype(dtype), rng.integers(0, 4, 40)
    trainer = Trainer(layers, backend="numpy", batch_size=16, threads=1, dtype=dtype,
                      step="portable")  # fmt: skip
    trainer.fit((x, y), epochs=1)
    return trainer, x


def operators(model):
    """Beside the label and the probabilities, which are the last two."""
    *nodes, label, probabilities = (node.op_type for node in model.graph.node)
    assert (label, probabilities) == ("ArgMax", "Softmax")
    return nodes


def check_predictions(model, trainer, x, tolerances=(1e-5, 1e-6)):
    """Check that onnxruntime makes of rows what the trainer predicts; return that."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found, expected = session.run(["probabilities"], {"x": x})[0], trainer.predict(x)
    rtol, atol = tolerances
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)
    return expected


def pytorchs(modules, path, **options):
    """How many nodes PyTorch's exporter writes for a net."""
    torch = pytest.importorskip("torch", reason="no torch: pip install torch==2.13.0")
    module = eval(f"torch.nn.Sequential({modules})", {"torch": torch, **vars(torch.nn)}).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(2, 6),), str(path), **options)
    return len(onnx.load(path).graph.node)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_more_nodes_than_pytorchs_exporter_which_has_a_row_for_each(name, tmp_path):
    trainer, _ = trained((Dense(8), LAYERS[name](**NEEDS.get(name, {})), Dense(4)))
    ours = operators(forward_model(trainer))
    net = f"Linear(6, 8), {MODULES[name]}, Linear(8, 4)"
    assert len(ours) <= pytorchs(net, tmp_path / "t.onnx", dynamo=False, opset_version=20), ours


@pytest.mark.long
def test_no_more_nodes_than_pytorchs_newer_exporter(tmp_path):
    pytest.importorskip("onnxscript", reason="no onnxscript: pip install onnxscript")
    trainer, _ = trained((Dense(8), BatchNorm(), GELU()) * 3 + (Dense(4),))
    ours = operators(forward_model(trainer))
    assert ours == ["Gemm", "Gelu"] * 3 + ["Gemm"]
    block = "BatchNorm1d(8), GELU(), Linear(8, "
    net = f"Linear(6, 8), {block}8), {block}8), {block}4)"
    assert len(ours) <= pytorchs(net, tmp_path / "t.onnx", dynamo=True, verbose=False)


@pytest.mark.parametrize("name", sorted({*LAYERS} - {"dense", "embedding", "flatten"}))
def test_onnxruntime_has_the_operators_in_either_dtype(name):
    """In float64 it lacks many: there the formula stays."""
    for dtype, tolerance in (("float32", 2e-6), ("float64", 1e-12)):
        layers = (Dense(8), LAYERS[name](**NEEDS.get(name, {})), Dense(4))
        trainer, x = trained(layers, dtype)
        check_predictions(forward_model(trainer), trainer, x, (tolerance, tolerance))


@pytest.mark.long_but(name=["group_norm", "batch_norm", "elu"])
@pytest.mark.parametrize("name", sorted({*LAYERS} - {"dense", "embedding", "flatten"}))
def test_xpnet_reads_what_it_has_written(name):
    trainer, x = trained((Dense(8), LAYERS[name](**NEEDS.get(name, {})), Dense(4)))
    read = from_onnx(forward_model(trainer))
    np.testing.assert_allclose(read.predict(x), trainer.predict(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (lambda z: (z + np.abs(z)) / 2, "Relu"),
        (lambda z: z * (z > 0), "Relu"),
        (lambda z: (1 + np.tanh(z / 2)) / 2, "Sigmoid"),
        (lambda z: np.logaddexp(z, 0.0), "Softplus"),
        (lambda z: np.log(1 + np.exp(z)), "Softplus"),
        (lambda z: z / (1 + np.exp(-z)), "Swish"),
        (lambda z: np.clip(z + 0.5, 0.0, 1.0), "HardSigmoid"),
        (lambda z: np.where(z < 0, 0.3 * z, z), "LeakyRelu"),
        (lambda z: np.minimum(np.maximum(z, 0.0), 6.0), None),
        (lambda z: np.minimum(np.maximum(z, 0.0), 1e6), None),
        (lambda z: np.where(np.abs(z) < 1e-3, 0.0, np.maximum(z, 0.0)), None),
        (lambda z: np.where(z > 0.0, z, 0.01 * z + 1e-5), None),
        (lambda z: 1.00001 * np.tanh(z), None),
        (lambda z: np.where(z < -30.0, 0.0, np.where(z > 0, z, 0.3 * z)), None),
        (lambda z: z * z, None),
        (lambda z: z, None),
        (lambda z: 0 * z + 0.5, None),
        (lambda z: np.where(z > 50.0, np.nan, np.maximum(z, 0.0)), None),
        (lambda z: z > 0.0, None),
    ],
)
def test_a_function_is_known_by_all_of_its_values(function, op):
    at = points([30.0])
    with np.errstate(all="ignore"):
        found = same_operator(at, function(at), EPS)
    assert (found and found.op_type) == op


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer_norm(z, eps=1e-3, ddof=0):
    return (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True, ddof=ddof) + eps)


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (softmax, "Softmax"),
        (lambda z: np.log(softmax(z)), "LogSoftmax"),
        (layer_norm, "LayerNormalization"),
        (lambda z: z / np.sqrt((z * z).mean(-1, keepdims=True) + 1e-3), "RMSNormalization"),
        (lambda z: softmax(1.0001 * z), None),
        (lambda z: np.clip(softmax(z), 1e-7, 1.0), None),
        (lambda z: np.log(softmax(z) + 1e-7), None),
        (lambda z: softmax(z.T).T, None),
        (lambda z: layer_norm(z, 1.01e-3), None),
        (lambda z: layer_norm(z, ddof=1), None),
        (lambda z: np.minimum(layer_norm(z), 6.0), None),
        (lambda z: layer_norm(layer_norm(z)), None),
        (lambda z: z / np.sqrt((z * z).sum(-1, keepdims=True) + 1e-3), None),
        (lambda z: z - z.mean(-1, keepdims=True), None),
    ],
)
def test_a_function_of_rows_is_known_by_all_of_its_values(function, op):
    at = rows((40,))
    with np.errstate(all="ignore"):
        found = same_along_rows(at, function(at), [1e-3, 1.0], EPS)
    assert (found and found.op_type) == op


class Leaky6(nn.Activation):
    """max(z, 0.1 z), at most 6: a function without an operator, of a part that is one."""

    def value(self, z):
        xp = z.__array_namespace__()
        return xp.minimum(xp.maximum(z, 0.1 * z), 6.0)

    def backward_value(self, da, z):
        xp = z.__array_namespace__()
        return da * xp.where(z > 0.0, xp.where(z < 60.0, 1.0, 0.0), 0.1)


class Leaky(Leaky6):
    def value(self, z):
        xp = z.__array_namespace__()
        return xp.maximum(z, 0.1 * z)


def test_a_layer_of_ones_own_is_the_operator_that_it_computes():
    for layer, expected in ((Leaky(), ["LeakyRelu"]), (Leaky6(), ["LeakyRelu", "Min"])):
        trainer, x = trained((Dense(8), layer, Dense(4)))
        model = forward_model(trainer)
        assert operators(model)[1:-1] == expected
        check_predictions(model, trainer, x)


class OfWholeNumbers(Leaky6):
    """max(round z, 0), where the maximum is of int64, for which onnxruntime has no Relu."""

    def value(self, z):
        xp = z.__array_namespace__()
        whole = xp.astype(xp.round(z), xp.int64)
        return xp.astype(xp.where(whole > 0, whole, 0 * whole), z.dtype)


def test_only_numbers_of_floating_types_are_taken():
    trainer, x = trained((Dense(8), OfWholeNumbers(), Dense(4)))
    model = forward_model(trainer)
    assert "Relu" not in operators(model)
    check_predictions(model, trainer, x)


class WithoutNaN(Leaky6):
    """max(z, 0), where NaN is 0."""

    def value(self, z):
        xp = z.__array_namespace__()
        return xp.where(xp.isnan(z), 0.0, xp.maximum(z, 0.0))


class Chosen(Leaky6):
    """The same: NaN > 0 is false."""

    def value(self, z):
        return z.__array_namespace__().where(z > 0.0, z, 0.0)


@pytest.mark.parametrize("layer", [WithoutNaN(), Chosen()], ids=lambda layer: type(layer).__name__)
def test_what_a_function_makes_of_nan_stays(layer):
    trainer, x = trained((Dense(8), layer, Dense(4)))
    x[3, 2] = np.nan
    expected = check_predictions(forward_model(trainer), trainer, x)
    assert np.isfinite(expected).all()


def test_batch_norm_goes_into_the_dense_layer_before_it_and_says_so():
    trainer, _ = trained((Dense(8), BatchNorm(), ReLU(), Dense(4)))
    names = [i.name for i in forward_model(trainer).graph.initializer]
    assert {"0.dense.W.scaled", "0.dense.b.moved", "3.dense.W", "3.dense.b"} == set(names)


def test_a_product_of_matrices_takes_up_transposes_and_a_bias():
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        f (float[N,3] x, float[N,4] z, float[4] b, float[2,N,4] many, float[4,4] W)
            => (float[3,4] dW, float[N,4] y, float[2,4,4] batched, float[4,3] both, float[N,4] same)
        {
            turned = Transpose <perm = [1, 0]> (x)
            product = MatMul (turned, z)
            dW = Add (b, product)
            zt = Transpose (z)
            both = MatMul (zt, x)
            zW = Transpose (W)
            zz = MatMul (z, zW)
            y = Add (zz, z)
            each = Transpose <perm = [0, 2, 1]> (many)
            batched = MatMul (each, z)
            kept = Transpose <perm = [0, 1]> (W)
            same = MatMul (z, kept)
        }
    """)
    made = fused(model)
    onnx.checker.check_model(made, full_check=True)
    kinds = ["Gemm", "Gemm", "Gemm", "Add", "Transpose", "MatMul", "Transpose", "MatMul"]
    assert [node.op_type for node in made.graph.node] == kinds
    rng = np.random.default_rng(2)
    shapes = {"x": (5, 3), "z": (5, 4), "b": (4,), "many": (2, 5, 4), "W": (4, 4)}
    given = {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}
    runs = (onnxruntime.InferenceSession(m.SerializeToString()) for m in (model, made))
    for a, b in zip(*(session.run(None, given) for session in runs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_value_that_something_else_reads_stays():
    class Both(nn.Activation):
        def value(self, z):
            xp = z.__array_namespace__()
            e = xp.exp(-xp.abs(z))
            return xp.where(z >= 0.0, 1.0, e) / (1.0 + e) + xp.sqrt(e)

        def backward_value(self, da, z):
            return da

    trainer, x = trained((Dense(8), Both(), Dense(4)))
    model = forward_model(trainer)
    assert "Sigmoid" not in operators(model)
    check_predictions(model, trainer, x)
