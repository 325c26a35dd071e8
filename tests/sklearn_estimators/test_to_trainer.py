"""A fitted estimator as a trainer: it is saved, exported and explained as any other."""

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

import xpnet
from xpnet.sklearn import XPNetClassifier, XPNetRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, Y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
NAMES = np.array(["setosa", "versicolor", "virginica"])
TARGETS = {
    "texts": NAMES[Y],
    "indices": Y,
    "numbers": Y * 10 + 5,
    "floats": (Y * 10 + 5).astype(float),
    "booleans": Y == 2,
    "two texts": np.where(Y == 2, "no", "yes"),
    "several labels": np.stack([Y == 0, Y > 1], axis=1).astype(int),
}


def fitted(kind, y, **parameters):
    common = {"hidden_layer_sizes": (6,), "random_state": 0, "max_iter": 20}
    return kind(**common | parameters).fit(X, y)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_classifiers_probabilities_and_labels(target, solver, tmp_path):
    estimator = fitted(XPNetClassifier, TARGETS[target], solver=solver)
    trainer, expected = estimator.to_trainer(), estimator.predict_proba(X)
    found = trainer.predict(X)
    expected = expected[:, 1:] if found.shape[1] == 1 else expected
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert trainer.predict_classes(X).tolist() == estimator.predict(X).tolist()
    trainer.save(tmp_path / "net.safetensors")
    again = xpnet.load(tmp_path / "net.safetensors")
    assert again.predict_classes(X).tolist() == estimator.predict(X).tolist()


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_regressors_values(loss, outputs):
    y = np.abs(X[:, 0]) if outputs == 1 else np.abs(X[:, :2])
    estimator = fitted(XPNetRegressor, y, loss=loss, dropout=0.1)
    found = estimator.to_trainer().predict(X)
    expected = estimator.predict(X).reshape(len(X), -1)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_it_is_exported_with_its_names(tmp_path):
    pytest.importorskip("ndonnx", reason="no ndonnx: pip install '.[onnx]'")
    runtime = pytest.importorskip("onnxruntime", reason="no onnxruntime: pip install '.[onnx]'")
    estimator = fitted(XPNetClassifier, NAMES[Y])
    xpnet.export(estimator, tmp_path / "m.onnx")
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    label, probabilities = session.run(["label", "probabilities"], {"x": X})
    assert (label == estimator.predict(X)).all()
    np.testing.assert_allclose(probabilities, estimator.predict_proba(X), rtol=1e-7, atol=1e-9)


def test_one_that_is_not_fitted_is_refused(tmp_path):
    with pytest.raises(NotFittedError):
        xpnet.export(XPNetClassifier(), tmp_path / "m.onnx")
