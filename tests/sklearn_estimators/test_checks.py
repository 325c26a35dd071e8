"""scikit-learn's check_estimator on both estimators, nothing of it expected to fail.

Those of the array API need SCIPY_ARRAY_API to be set before SciPy is imported, so they run in a
process of their own.
"""

import functools
import os
import subprocess
import sys

import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from xpnet.sklearn import XPNetClassifier, XPNetRegressor

ESTIMATORS = (XPNetClassifier, XPNetRegressor)
ARRAY_API = "check_array_api"
# Half of the time of all, and their subject is trained in other tests, too.
SLOW = {
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weight_equivalence_on_sparse_data",
    "check_classifiers_train",
    "check_regressors_train",
    "check_estimator_sparse_array",
    "check_estimator_sparse_matrix",
}


def name_of(check):
    while isinstance(check, functools.partial):
        check = check.func
    return check.__name__


def checks():
    for estimator in ESTIMATORS:
        for number, (made, check) in enumerate(estimator_checks_generator(estimator())):
            name = name_of(check)
            if not name.startswith(ARRAY_API):
                marks = [pytest.mark.long] if name in SLOW else []
                yield pytest.param(
                    made, check, id=f"{estimator.__name__}-{number}-{name}", marks=marks
                )


@pytest.mark.parametrize(("estimator", "check"), [*checks()])
@pytest.mark.filterwarnings("ignore")  # what a check means by a warning it asks for itself
def test_a_check_of_scikit_learn_passes(estimator, check):
    if "decision_function" in name_of(check):
        pytest.skip("the estimators have no decision_function, as MLPClassifier has none")
    check(estimator)


PROGRAM = """
import sys, unittest
from sklearn.utils.estimator_checks import check_estimator
import xpnet.sklearn as room
results = check_estimator(getattr(room, sys.argv[1])(), on_fail=None, on_skip=None)
mine = [r for r in results if r["check_name"].startswith("check_array_api")]
for r in mine:
    print(r["status"], r["check_name"], *str(r["exception"]).splitlines()[:1], sep="|")
"""


@pytest.mark.long
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_checks_of_the_array_api_pass_where_the_library_is(estimator):
    pytest.importorskip("array_api_strict")
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, estimator.__name__]
    env = {**os.environ, "SCIPY_ARRAY_API": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    lines = [line.split("|") for line in done.stdout.splitlines()]
    assert lines, done.stderr
    assert not [line for line in lines if line[0] == "failed"]
    # Skipped are libraries and devices that are not here.
    assert len([line for line in lines if line[0] == "passed"]) >= 2
