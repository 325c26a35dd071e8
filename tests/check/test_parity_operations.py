"""The list of operations is complete, and a wrong operation is reported with what is wrong."""

import numpy as np
import pytest
from toylib import library

from xpnet import Trainer
from xpnet.backends import backend_class, get_backend
from xpnet.check.conformance.subjects import LOSSES, RULES
from xpnet.check.parity import OPERATIONS, ModuleBackend, check_operations, load_module
from xpnet.check.parity.operations import DTYPES
from xpnet.nn import LAYERS, Dense, Embedding, Sequential
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.optim.optimizers import Adam

KNOWN = {operation.function for operation in OPERATIONS} | {*DTYPES}


def used(layers, loss=SoftmaxCrossEntropy(), optimizer=Adam(), **settings):
    """What training, evaluation and prediction use of the library."""
    lib = library()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 2, 2)).astype(np.float32)
    y = rng.integers(3, size=7).astype(np.int32)
    if loss.predicts != "class":
        y = rng.integers(2, size=(7, 3)).astype(np.float32)
    model = Sequential((LAYERS["flatten"](), *layers))
    trainer = Trainer(model, loss, optimizer, backend=ModuleBackend(lib), batch_size=4, **settings)
    trainer.fit((x, y, np.ones(7, np.float32)), epochs=2, validation=(x, y))
    trainer.predict(x)
    return lib.calls


def test_the_recorder_records():
    calls = used([Dense(3)])
    assert {"exp", "max", "argmax", "concat", "take", "@", "+=", "x.T", "x[i:j]"} <= calls


@pytest.mark.parametrize("layer", [n for n in LAYERS if n not in ("dense", "embedding")])
def test_every_function_that_a_layer_uses_is_in_the_list(layer):
    assert used([Dense(5), LAYERS[layer](), Dense(3)]) <= KNOWN


def test_every_function_that_an_embedding_uses_is_in_the_list():
    assert used([Embedding((3, 4)), Dense(3)]) <= KNOWN


@pytest.mark.parametrize("loss", LOSSES)
def test_every_function_that_a_loss_uses_is_in_the_list(loss):
    last = [LAYERS[LOSSES[loss].output_layer]()]
    assert used([Dense(3), *last], LOSSES[loss]) <= KNOWN


@pytest.mark.parametrize("optimizer", RULES)
def test_every_function_that_an_optimizer_uses_is_in_the_list(optimizer):
    assert used([Dense(3)], optimizer=RULES[optimizer]) <= KNOWN


def test_every_function_that_clipping_uses_is_in_the_list():
    from xpnet.optim.clipping import Clip

    calls = used([Dense(3)], clip=Clip(norm=0.1, value=0.05))
    assert {"maximum", "minimum", "linalg.vector_norm"} <= calls <= KNOWN


def test_clipping_needs_no_extension_of_the_standard():
    from xpnet.optim.clipping import Clip

    clip, grad = Clip(norm=0.5), np.array([3.0, -4.0, 0.0])
    without = library(without=("linalg",))
    clipped = clip.apply(without.asarray(grad.copy()))
    np.testing.assert_allclose(np.asarray(clipped), clip.apply(grad), rtol=1e-15)
    assert "linalg.vector_norm" not in without.calls


def test_every_function_that_accumulation_uses_is_in_the_list():
    assert used([Dense(3)], accumulate=2) <= KNOWN


@pytest.mark.long_where(name=["jax"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float32") for name in ("numpy", "torch", "jax", "array-api-strict", "cupy")),
        *((name, "float64") for name in ("numpy", "torch", "array-api-strict", "cupy")),
    ],
)
def test_the_libraries_that_xpnet_names_do_every_operation(name, dtype):
    probe = backend_class(name).probe()
    if not probe.devices:
        pytest.skip(probe.note)
    rows = check_operations(get_backend(name, dtype=dtype))
    assert [row for row in rows if row.bad] == []


def statuses(lib, function):
    rows = check_operations(ModuleBackend(lib))
    assert len(rows) == len(OPERATIONS) + len(DTYPES) + 1  # none is skipped, whatever fails
    return {row.case: row.status for row in rows if row.function == function}


def test_an_argmax_that_ignores_the_axis_has_the_wrong_shape():
    lib = library(argmax=lambda x, axis=None: np.argmax(x))
    assert {*statuses(lib, "argmax").values()} == {"wrong shape"}


def test_a_where_that_widens_a_python_float_has_the_wrong_dtype():
    lib = library(where=lambda c, x, y: np.where(c, np.asarray(x), np.asarray(y)))
    assert statuses(lib, "where")["array, Python float"] == "wrong dtype"
    assert statuses(lib, "where")["of two arrays"] == "ok"


def test_a_max_that_fails_at_infinities_has_the_wrong_value_there_alone():
    def finite_max(x, **kwargs):
        return np.max(np.clip(x, -1e30, 1e30), **kwargs).astype(x.dtype)

    found = statuses(library(max=finite_max), "max")
    assert found.pop("with infinities") == "wrong value"
    assert {*found.values()} == {"ok"}


def test_a_function_that_writes_to_its_operand_is_reported():
    def relu_in_place(x, y):
        return np.maximum(x, y, out=x) if x.shape else np.maximum(x, y)

    assert statuses(library(maximum=relu_in_place), "maximum") == {
        "with a Python float": "writes to an operand"
    }


def test_a_function_that_is_missing_or_raises_is_reported():
    def refuses(*args, **kwargs):
        msg = "two\nlines"
        raise RuntimeError(msg)

    lib = library(without=("log1p", "linalg.vector_norm"), take=refuses)
    assert {*statuses(lib, "log1p").values()} == {"missing"}
    assert {*statuses(lib, "linalg.vector_norm").values()} == {"note"}  # an optional extension
    (row,) = [r for r in check_operations(ModuleBackend(lib)) if r.function == "take"]
    assert (row.status, row.detail) == ("raises", "RuntimeError: two lines")


def test_a_module_is_found_by_its_path():
    backend = load_module("array_api_compat.numpy", "float64")
    assert (backend.name, backend.dtype_name) == ("array_api_compat.numpy", "float64")
    assert backend.describe()["version"] != "unknown"
