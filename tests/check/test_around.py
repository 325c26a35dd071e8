"""What arrays lack that every formula asks first is gone around, and so is what stops a step."""

from types import SimpleNamespace

import numpy as np
import pytest
from toylib import library

from xpnet.check.conformance.summary import lines
from xpnet.check.parity import ModuleBackend, load_module, parity
from xpnet.check.parity.around import AroundBackend, around, recorder
from xpnet.check.parity.causes import reproduction
from xpnet.check.parity.operations import CHECKS
from xpnet.errors import BackendError
from xpnet.run.config_sources import load_config


def run(backend, *overrides):
    config = load_config("digits", ["model.hidden=[12]", "batch_size=8", *overrides])
    (result,) = parity(config, [backend], steps=3).results
    return result


def test_a_library_of_the_standard_is_tested_as_it_is():
    backend = ModuleBackend(library())
    assert around(backend) is backend


def test_arrays_without_a_device_are_gone_around_and_the_cause_is_named():
    lib = library()
    del lib.Array.device
    result = run(ModuleBackend(lib), "model.normalization=batch_norm", "model.dropout=0.2")
    assert result.faults == []
    assert [row.function for row in result.bad_operations] == ["x.device"]
    assert result.sentence().endswith("training agrees around them")
    assert len(result.growth) == 3


class NumPysArrays:
    """A namespace whose arrays are another's, and whose functions take no device."""

    def __init__(self, **faults):
        self.faults = faults

    def __getattr__(self, name):
        found = self.faults.get(name) or getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found

        def function(*args, **options):
            if "device" in options:
                msg = f"{name}() got an unexpected keyword argument 'device'"
                raise TypeError(msg)
            return found(*args, **options)

        return function


def test_an_array_that_names_no_namespace_is_told_in_its_own_words():
    class Array(np.lib.mixins.NDArrayOperatorsMixin):
        dtype, shape = np.dtype("float32"), (1,)

    (row,) = (
        check(ModuleBackend(SimpleNamespace(asarray=lambda x: Array())))
        for check in CHECKS
        if check.function == "__array_namespace__"
    )
    assert row.detail == "AttributeError: 'Array' object has no attribute '__array_namespace__'"


def test_a_namespace_is_tested_though_its_arrays_name_another():
    backend = around(ModuleBackend(NumPysArrays()))
    assert isinstance(backend, AroundBackend)
    assert len(backend.lacks) == 2
    result = run(ModuleBackend(NumPysArrays()))
    assert result.faults == []
    (cause,) = result.causes  # of all the functions that make arrays
    assert "arange" in cause.functions
    result = run(ModuleBackend(NumPysArrays(maximum=lambda x, y: np.maximum(x, y) * np.float32(2))))
    assert str(result.faults[0]).startswith("1.relu output: [")
    assert "maximum" in result.faults[0].uses


def test_an_array_without_a_dtype_is_told_and_ends_nothing():
    class Bare:
        def __init__(self, values):
            self.values = values

        def __array__(self, dtype=None, copy=None):
            return np.array(self.values, dtype=dtype)

    result = run(ModuleBackend(SimpleNamespace(asarray=Bare)))
    assert any("has no attribute 'dtype'" in row.detail for row in result.operations)
    assert result.faults[0][:2] == ("engine", "first state")


def raises(*args, **options):
    msg = "no kernel"
    raise RuntimeError(msg)


@pytest.mark.parametrize(
    ("faults", "without", "stood_in"),
    [
        ({"maximum": raises}, (), "maximum"),
        ({}, ("argmax",), "argmax"),
        ({"argmax": lambda x, axis=None: np.argmax(x, axis=0)}, (), "argmax"),
    ],
)
def test_training_goes_on_around_what_stops_it(faults, without, stood_in):
    result = run(ModuleBackend(library(without=without, **faults)))
    assert result.faults
    assert result.stood_in == [stood_in]
    assert result.first_difference is None
    assert f"; training went on with NumPy's {stood_in} in its stead to step 3" in result.sentence()


def test_a_step_that_is_taken_again_begins_with_the_state_of_the_first_try():
    calls = []

    def late(x, y):
        calls.append(x.shape)
        return raises() if calls.count((8, 12)) > 2 else np.maximum(x, y)  # twice in the first step

    result = run(ModuleBackend(library(maximum=late)))
    assert result.fault_step == 2
    assert len(result.growth) == 3
    assert result.first_difference is None


def test_what_stops_several_steps_and_layers_is_told_once():
    result = run(ModuleBackend(library(maximum=raises)), "model.hidden=[12,8]")
    assert result.told == [
        "1.relu output, 4.relu output, update train step: RuntimeError: no kernel"
    ]


def test_a_library_whose_first_state_fails_is_trained_around_it():
    result = run(ModuleBackend(library(without=("zeros",))))
    assert result.faults[0][:2] == ("engine", "first state")
    assert len(result.growth) == 3
    assert result.first_difference is None


def test_a_library_that_has_the_name_of_a_backend_takes_its_own_steps():
    result = run(load_module("numpy"))
    assert result.described["compiled"] == "no"
    assert result.faults == []


def test_a_lazy_library_computes_after_each_operation_and_step():
    lib = library()
    lib.Array.compute = lambda self: self.values
    backend = ModuleBackend(lib)
    assert backend.lazy
    assert not ModuleBackend(library()).lazy
    x = backend.place(np.ones(2))
    assert backend.computed(x) is not x
    (row,) = (check(backend) for check in CHECKS if str(check) == "exp")
    program = reproduction(row, "mylib", "float32", backend.computes)
    assert program.endswith("result = xp.exp(x)\nprint(result.compute())")
    assert run(backend).verdict == "agrees"


def test_a_library_whose_results_alone_are_lazy_is_lazy():
    class Result:
        def compute(self):
            return np.zeros(1)

    class Array:
        __array_ufunc__ = None
        __add__ = __radd__ = lambda self, other: Result()

    backend = ModuleBackend(SimpleNamespace(asarray=lambda x: Array()))
    assert backend.lazy
    assert backend.computes == ""


def test_what_a_lazy_library_says_when_it_computes_is_what_is_told():
    class Lazy:
        def __init__(self, value):
            self.value = value

        def compute(self):
            if self.value is None:
                msg = "clip() missing an argument"
                raise TypeError(msg)
            return self.value

    backend = ModuleBackend(SimpleNamespace(asarray=Lazy))
    assert backend.to_host(Lazy(np.ones(1))).tolist() == [1.0]
    with pytest.raises(TypeError, match="missing an argument"):
        backend.to_host(Lazy(None))


def test_a_library_whose_arrays_cannot_be_copied_is_refused_at_once(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "opaque", SimpleNamespace(asarray=lambda x: object()))
    with pytest.raises(BackendError, match="cannot be copied to NumPy"):
        load_module("opaque")


def test_what_a_formula_asks_for_is_recorded():
    asked = recorder()
    x = asked.place(np.array([3.0, 4.0]))
    y = 1.0 + -asked.xp.linalg.vector_norm(x) / asked.xp.sum(x[:1])
    assert asked.called == {"+", "-", "/", "linalg.vector_norm", "sum", "x[i:j]"}
    assert float(y) == 1.0 - 5.0 / 3.0
    assert np.asarray(x).tolist() == [3.0, 4.0]


def failed(test, text, **kept):
    return SimpleNamespace(
        nodeid=f"f.py::{test}", longreprtext=text, user_properties=[*kept.items()]
    )


def test_the_summary_tells_each_cause_once_with_what_it_stops():
    exp = ("exp", "near 0", "wrong value", "[0] is 1, not 2")
    take = ("take", "", "raises", "IndexError: only integers")
    reports = [
        failed("test_operation[exp-near 0]", "", operation=exp),
        failed("test_operation[take]", "", operation=take),
        failed("test_layer[elu-forward]", "1.elu output: [0] is 1", uses=["exp", "where"]),
        failed("test_layer[embedding-forward]", "0: IndexError: only integers", uses=["exp"]),
        failed("test_rule[adam]", "[0] is 0.25, not 0.5", uses=["sqrt"]),
        failed("test_rule[lion]", "[1] is 2e-9, not 1.0", uses=["sqrt"]),
    ]
    assert lines(reports, "mylib")[:-1] == [
        "2 distinct causes",
        "1. exp: wrong value: [0] is 1, not 2",
        "   stops exp (near 0), test_layer[elu-forward]",
        "2. take: raises: IndexError: only integers",
        "   stops take, test_layer[embedding-forward]",
        "beside what single operations show",
        "- [0] is 0.25, not 0.5",
        "   stops test_rule[adam], test_rule[lion]",
    ]
    assert lines([], "mylib") == []
