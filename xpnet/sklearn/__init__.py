"""Estimators with scikit-learn's interface, trained by xpnet.

    from xpnet.sklearn import XPNetClassifier, XPNetRegressor

    clf = make_pipeline(StandardScaler(), XPNetClassifier(random_state=0)).fit(X, y)

They take the place of MLPClassifier and MLPRegressor, whose parameters and attributes they have,
and are what Pipeline, GridSearchCV, cross_val_score, CalibratedClassifierCV and the like expect:
scikit-learn's own check_estimator passes in full. Beside what those two do there are class_weight,
dropout, more activations and update rules, and GPUs: either of ``backend="cupy"``, or of an X that
is there already, with scikit-learn's ``array_api_dispatch=True``.

Like the kernels for Numba, this room imports its library at once, and is imported by nothing else
of xpnet. Parameters mean what scikit-learn's mean, to the number: first weights are drawn as
there (``network.py``), the penalty is divided as there, epochs are counted and stopped as there
(``epochs.py``), and losses are means over rows (``losses.py``).
"""

from xpnet.errors import require

require("sklearn", "sklearn", "xpnet.sklearn")

from xpnet.sklearn.classifier import XPNetClassifier  # noqa: E402
from xpnet.sklearn.regressor import XPNetRegressor  # noqa: E402

__all__ = ["XPNetClassifier", "XPNetRegressor"]
