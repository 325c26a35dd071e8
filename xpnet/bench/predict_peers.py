"""The same predictions by xpnet and by other libraries, from host rows to host probabilities.

Each function takes a prediction and a setting, and returns a contender whose step returns the
probabilities (N, K). All have the same weights; all but xpnet, which does so by itself, are given
1,024 rows at a time, as otherwise the hidden layers of a million rows would not fit the memory.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from xpnet.backends.threads import cores
from xpnet.bench.contender import Contender
from xpnet.bench.networks import SEED
from xpnet.bench.predictions import Prediction
from xpnet.bench.setting import Setting
from xpnet.errors import BackendError, require
from xpnet.training.predicting import EVALUATION_BATCH
from xpnet.training.trainer import Trainer

__all__ = ["onnx_predict", "sklearn_predict", "torch_predict", "xpnet_predicts"]

OPSET = 17  # of ONNX, the first with all that the graph uses in its present form


def xpnet_predicts(name: str) -> Callable[[Prediction, Setting], Contender]:
    """Return the contender of Trainer.predict on a backend."""

    def make(prediction: Prediction, setting: Setting) -> Contender:
        backend = setting.backend(name)
        trainer = Trainer(prediction.model(), backend=backend, seed=SEED)
        trainer.params = trainer.params  # its first weights count as given, like the peers' own
        x = prediction.x(setting.dtype)
        return Contender(lambda: trainer.predict(x), note=lambda: "Trainer.predict")

    return make


def torch_predict(prediction: Prediction, setting: Setting) -> Contender:
    """Use torch.nn.Sequential in inference mode; the rows are shared with NumPy, not copied."""
    torch = require("torch", "torch", "the PyTorch row")
    layers: list[Any] = []
    for W, b in prediction.weights(setting.dtype):
        linear = torch.nn.Linear(*W.shape, dtype=getattr(torch, setting.dtype))
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(W.T.copy()))
            linear.bias.copy_(torch.from_numpy(b))
        layers += [linear, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1], torch.nn.Softmax(dim=1)).eval()

    @torch.inference_mode()
    def probabilities(x: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(x)).numpy()

    note = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    return _in_batches(probabilities, prediction.x(setting.dtype), note)


def onnx_predict(prediction: Prediction, setting: Setting) -> Contender:
    """Use an InferenceSession of onnxruntime on the CPU, with its default optimizations."""
    runtime = require("onnxruntime", "bench", "the onnxruntime row")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = cores()
    graph = _onnx_graph(prediction.weights(setting.dtype))
    session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def probabilities(x: np.ndarray) -> np.ndarray:
        return session.run(None, {"x": x})[0]

    note = f"onnxruntime {runtime.__version__}, {cores()} threads"
    return _in_batches(probabilities, prediction.x(setting.dtype), note)


def _onnx_graph(weights: list[tuple[np.ndarray, np.ndarray]]) -> bytes:
    """Return a serialized ONNX model: Gemm and Relu for each layer, and Softmax at the end."""
    onnx = require("onnx", "bench", "the onnxruntime row")
    node, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes, initializers, last = [], [], "x"
    for n, (W, b) in enumerate(weights):
        initializers += [array(W, f"W{n}"), array(b, f"b{n}")]
        nodes += [node("Gemm", [last, f"W{n}", f"b{n}"], [f"z{n}"])]
        nodes += [node("Relu", [f"z{n}"], [last := f"a{n}"])]
    nodes[-1] = node("Softmax", [f"z{n}"], ["p"], axis=1)
    kind = onnx.helper.np_dtype_to_tensor_dtype(weights[0][0].dtype)
    ends = [
        onnx.helper.make_tensor_value_info(name, kind, ["N", size])
        for name, size in (("x", weights[0][0].shape[0]), ("p", weights[-1][0].shape[1]))
    ]
    graph = onnx.helper.make_graph(nodes, "bench", ends[:1], ends[1:], initializers)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    return model.SerializeToString()


def sklearn_predict(prediction: Prediction, setting: Setting) -> Contender:
    """Use MLPClassifier.predict_proba."""
    sklearn = require("sklearn.neural_network", "bench", "the scikit-learn row")
    columns, *hidden, K = prediction.widths
    if K < 3:
        msg = f"the scikit-learn row needs three classes, as it has one output for two; got {K}"
        raise BackendError(msg)
    model = sklearn.MLPClassifier(hidden_layer_sizes=hidden, random_state=SEED)
    model.partial_fit(np.zeros((K, columns), setting.dtype), np.arange(K), classes=np.arange(K))
    weights = prediction.weights(setting.dtype)
    model.coefs_, model.intercepts_ = ([*kind] for kind in zip(*weights, strict=True))
    return _in_batches(model.predict_proba, prediction.x(setting.dtype), "predict_proba")


def _in_batches(
    probabilities: Callable[[np.ndarray], np.ndarray], x: np.ndarray, note: str
) -> Contender:
    """Return the contender of ``probabilities``, given the batches of ``x`` one after another."""
    batches = [x[n : n + EVALUATION_BATCH] for n in range(0, len(x), EVALUATION_BATCH)]

    def step() -> np.ndarray:
        if len(batches) == 1:
            return probabilities(x)
        return np.concatenate([probabilities(batch) for batch in batches])

    return Contender(step, note=lambda: note)
