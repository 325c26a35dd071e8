"""A program for test_followed_arrays.py: fit and predict where X is, and print what came out.

SciPy reads SCIPY_ARRAY_API when it is imported, so it is a process of its own. Its argument is a
library and a device; it prints a JSON object, check by check.
"""

import json
import pickle
import sys
import warnings

import numpy as np
import sklearn
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from xpnet.backends import get_backend
from xpnet.sklearn import XPNetClassifier, XPNetRegressor

HOST, CODES = load_iris(return_X_y=True)
HOST = (HOST - HOST.mean(axis=0)) / HOST.std(axis=0)
COMMON = {"hidden_layer_sizes": (6,), "random_state": 0, "max_iter": 12}


def main(name, device):
    backend = get_backend(name, device, "float64")
    found = {}

    def placed(array):
        return backend.place(np.array(array))

    def there(array):
        return backend.owns(array) and getattr(array, "device", None) == backend.device

    def difference(array, expected):
        return float(abs(backend.to_host(array) - expected).max())

    X, y = placed(HOST), placed(CODES.astype(np.int64))
    for case, more in {
        "adam": {},
        "sgd": {"solver": "sgd", "batch_size": 50},
        "lbfgs": {"solver": "lbfgs"},
        "early": {"early_stopping": True},
    }.items():
        host = XPNetClassifier(**COMMON | more).fit(HOST, CODES)
        model = XPNetClassifier(**COMMON | more).fit(X, y)
        proba, log_proba = model.predict_proba(X), model.predict_log_proba(X)
        labels = model.predict(X)
        found[case] = {
            "weights": all(map(there, [*model.coefs_, *model.intercepts_])),
            "outputs": all(map(there, [proba, log_proba, labels])),
            "proba": difference(proba, host.predict_proba(HOST)),
            "log_proba": difference(log_proba, host.predict_log_proba(HOST)),
            "labels": difference(labels, host.predict(HOST)),
            "score": abs(model.score(X, y) - host.score(HOST, CODES)),
            "losses": abs(model.loss_ - host.loss_),
        }
    weight = np.linspace(0.0, 2.0, len(CODES))
    for targets, kind in {"one": XPNetRegressor, "two": XPNetRegressor}.items():
        t = HOST[:, 0] if targets == "one" else HOST[:, :2] ** 2
        host = kind(**COMMON).fit(HOST, t, sample_weight=weight)
        model = kind(**COMMON).fit(X, placed(t), sample_weight=placed(weight))
        predicted = model.predict(X)
        found[f"regression of {targets}"] = {
            "outputs": there(predicted),
            "values": difference(predicted, host.predict(HOST)),
            "shape": list(predicted.shape) == list(t.shape),
        }
    # y and the weights of the host, and labels that only the host can hold
    host = XPNetClassifier(**COMMON).fit(HOST, CODES.astype(str), sample_weight=weight)
    model = XPNetClassifier(**COMMON).fit(X, CODES.astype(str), sample_weight=weight)
    found["texts"] = {
        "labels": bool((model.predict(X) == host.predict(HOST)).all()),
        "outputs": there(model.predict_proba(X)),
    }
    binary = XPNetClassifier(**COMMON).fit(X, placed(CODES == 1))
    shape = list(binary.predict_proba(X).shape)
    found["two classes"] = {"outputs": there(binary.predict(X)), "proba": shape == [150, 2]}
    several = placed(np.stack([CODES == 0, CODES > 0], axis=1).astype(np.int64))
    marked = XPNetClassifier(**COMMON | {"solver": "lbfgs"}).fit(X, several)
    found["labels"] = {"same": difference(marked.predict(X), backend.to_host(several)) == 0.0}
    # going on, and a copy that goes on
    model = XPNetClassifier(**COMMON).partial_fit(X, y, classes=[0, 1, 2])
    twin = pickle.loads(pickle.dumps(model)) if name != "array-api-strict" else model
    host = XPNetClassifier(**COMMON).partial_fit(HOST, CODES, classes=[0, 1, 2])
    for _ in range(2):
        host.partial_fit(HOST, CODES)
        twin.partial_fit(X, y)
    found["partial_fit"] = {"proba": difference(twin.predict_proba(X), host.predict_proba(HOST))}
    scaled = make_pipeline(MaxAbsScaler(), XPNetClassifier(**COMMON)).fit(X, y)
    found["pipeline"] = {"outputs": there(scaled.predict_proba(X))}
    single = XPNetClassifier(**COMMON).fit(backend.xp.astype(X, backend.xp.float32), y)
    dtype = str(single.predict_proba(backend.xp.astype(X, backend.xp.float32)).dtype)
    found["float32"] = {"dtype": dtype.rpartition(".")[2] == "float32"}
    try:
        model.predict(HOST)
    except ValueError as error:
        found["elsewhere"] = {"said": "must use the same namespace" in str(error)}
    return found


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", ConvergenceWarning)
    with sklearn.config_context(array_api_dispatch=True):
        print(json.dumps(main(*sys.argv[1:])))
