"""With array_api_dispatch the estimators compute, and answer, where X is; else on the host."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_iris

from xpnet.backends import backend_class
from xpnet.sklearn import XPNetClassifier

PROGRAM = Path(__file__).with_name("followed_arrays.py")
PLACES = [
    ("torch", "cpu"),
    ("array-api-strict", "cpu"),
    ("array-api-strict", "device1"),
    ("cupy", "cuda:0"),
    ("torch", "cuda:0"),
]


@pytest.mark.parametrize("place", PLACES, ids="-".join)
@pytest.mark.long  # a shorter one is in test_ecosystem.py
def test_what_comes_out_is_where_x_is_and_is_what_numpy_gives(place):
    name, device = place
    probe = backend_class(name).probe()
    if device not in probe.devices:
        pytest.skip(probe.note or f"{name} has no {device}")
    command = [sys.executable, str(PROGRAM), name, device]
    env = {**os.environ, "SCIPY_ARRAY_API": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    expected = {"adam", "sgd", "lbfgs", "early", "regression of one", "regression of two", "texts"}
    expected |= {"two classes", "labels", "partial_fit", "pipeline", "float32", "elsewhere"}
    assert set(found) == expected
    for case, checks in found.items():
        for check, value in checks.items():
            # On a GPU sums are in another order, and L-BFGS carries the difference on. An accuracy
            # is computed in float32 by scikit-learn.
            limit = 1e-3 if "cuda" in device else 1e-6 if check == "score" else 1e-9
            good = value if isinstance(value, bool) else value < limit
            assert good, (case, check, value)


def test_without_the_dispatch_a_tensor_is_host_data():
    torch = pytest.importorskip("torch", reason="no torch: pip install '.[torch]'")
    X, y = load_iris(return_X_y=True)
    options = {"hidden_layer_sizes": 4, "random_state": 0, "solver": "lbfgs", "max_iter": 15000}
    model = XPNetClassifier(**options).fit(torch.asarray(X), torch.asarray(y))
    assert isinstance(model.coefs_[0], np.ndarray)
    predicted = model.predict(torch.asarray(X))
    assert isinstance(predicted, np.ndarray)
    assert (predicted == XPNetClassifier(**options).fit(X, y).predict(X)).all()
