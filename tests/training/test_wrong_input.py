"""What people type by mistake, and what they mean: each is taken as meant, or refused in a line."""

import re

import numpy as np
import pytest

import xpnet
from xpnet import Adam, BatchNorm, Dense, EarlyStopping, Loader, Mixed, ReLU, Sequential, Trainer
from xpnet.errors import (
    BackendError,
    ConfigError,
    DataError,
    TrainingError,
    XpnetError,
    XpnetWarning,
)
from xpnet.nn.losses import SoftmaxCrossEntropy

rng = np.random.default_rng(5)
X = rng.normal(size=(24, 4)).astype(np.float32)
Y = np.arange(24) % 3
NAMED = np.array(["a", "b", "c"])[Y]


def made(**settings):
    settings = {"backend": "numpy", "threads": 1, **settings}
    return Trainer([Dense(5), ReLU(), Dense(3)], **settings)


def fitted(data=(X, Y), epochs=2, **settings):
    trainer = made(**settings)
    trainer.fit(data, epochs=epochs)
    return trainer


def same_weights(a, b):
    return all((a.params[name] == b.params[name]).all() for name in a.params)


def says(error, text, call):
    with pytest.raises(error, match=re.escape(text)) as caught:
        call()
    assert isinstance(caught.value, XpnetError)
    assert "\n" not in str(caught.value)


# -- settings -------------------------------------------------------------------------------------


def test_a_narrow_dtype_by_its_name_is_mixed_precision(tmp_path):
    trainer = fitted(mixed="float16")
    assert trainer.mixed == Mixed("float16")
    assert same_weights(trainer, fitted(mixed=Mixed("float16")))
    assert not same_weights(trainer, fitted())
    again = xpnet.load(trainer.save(tmp_path / "m.safetensors"))
    assert again.mixed == Mixed("float16")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"mixed": "bf16"}, "mixed.dtype must be one of 'float16', 'bfloat16'; got 'bf16'"),
        ({"mixed": True}, "mixed must be a table; got True: write Mixed(dtype=..."),
        ({"mixed": np.float16}, "mixed must be a table; got <class 'numpy.float16'>: write Mixed("),
        ({"clip": 1.0}, "clip must be a table; got 1.0: write Clip(norm=..., value=...)"),
        ({"clip": None}, "clip must be a table; got None: write Clip("),
        ({"batch_size": "32"}, "batch_size must be a whole number; got '32'; write 32"),
        ({"batch_size": 32.0}, "batch_size must be a whole number; got 32.0"),
        ({"batch_size": True}, "batch_size must be a whole number; got True"),
        ({"seed": None}, "seed must be a whole number; got None"),
        ({"seed": 1.0}, "seed must be a whole number; got 1.0"),
        ({"seed": 2**70}, "seed must be a whole number of at most 64 bits"),
        ({"accumulate": 2.5}, "accumulate must be a whole number; got 2.5"),
        ({"step": "fast"}, "step must be one of 'auto', 'portable', 'fused', 'jit'; got 'fast'"),
        ({"threads": "1"}, "threads must be a whole number or 'auto'; got '1'; write 1"),
        ({"loss": SoftmaxCrossEntropy}, "loss must be an object, and SoftmaxCrossEntropy is a"),
        ({"optimizer": Adam}, "optimizer must be an object, and Adam is a class: write Adam(...)"),
        ({"class_weights": 3}, "class_weights must be 'balanced', a sequence or a mapping; got 3"),
        ({"class_weights": True}, "a sequence or a mapping; got True"),
    ],
    ids=str,
)
def test_a_setting_of_another_type_is_refused(settings, text):
    says(ConfigError, text, lambda: made(**settings))


def test_a_backend_is_named():
    says(BackendError, "backend must be a name", lambda: Trainer([Dense(3)], backend=np))
    says(BackendError, "write 'numpy'", lambda: Trainer([Dense(3)], backend=np))
    says(BackendError, "did you mean 'numpy'", lambda: Trainer([Dense(3)], backend="NumPy"))
    trainer = Trainer([Dense(3)], device=0)
    says(BackendError, "unknown device 0", lambda: trainer.fit((X, Y), epochs=1))


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (None, "model must be a Sequential or a list of layers, such as [Dense(10)"),
        ("dense", "a list of layers, such as [Dense(10), ReLU(), Dense(3)]; got 'dense'"),
        (Dense(3), "got Dense(3): put it in a list, [Dense(3)]"),
        (Sequential, "got <class 'xpnet.nn.sequential.Sequential'>"),
        ([], "the model has no layers"),
        ([Dense], "Dense is a class: write Dense(...)"),
        ([Sequential([Dense(4)]), Dense(3)], "layers[0] is a Sequential, and layers come in one"),
        ([Dense(4), [ReLU(), Dense(3)]], "layers[1] is a list, and layers come in one list"),
    ],
    ids=str,
)
def test_a_model_is_a_list_of_layers(model, text):
    says(ConfigError, text, lambda: Trainer(model, backend="numpy"))


def test_a_module_of_pytorch_is_not_a_model():
    torch = pytest.importorskip("torch")
    says(ConfigError, "xpnet.from_torch(module)", lambda: Trainer(torch.nn.Linear(4, 3)))
    several = torch.nn.Sequential(torch.nn.Linear(4, 3))
    says(ConfigError, "got Sequential of PyTorch", lambda: Trainer(several))


def test_threads_are_checked_where_they_are_assigned():
    trainer = made()
    says(ConfigError, "got '2'; write 2", lambda: setattr(trainer, "threads", "2"))
    assert trainer.threads == 1


def test_class_weights_of_another_library_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    weight = torch.tensor([1.0, 2.0, 0.5])
    trainer = fitted(class_weights=weight, dtype="float64")
    logits = torch.log(torch.tensor(trainer.predict(X)))
    expected = torch.nn.CrossEntropyLoss(weight.double())(logits, torch.tensor(Y))
    np.testing.assert_allclose(trainer.evaluate((X, Y)).loss, expected, rtol=1e-9, atol=0)


# -- arguments of fit -----------------------------------------------------------------------------


def test_data_is_one_argument():
    says(ConfigError, "fit((x, y), epochs=...)", lambda: made().fit(X, Y, epochs=1))
    says(ConfigError, "evaluate((x, y))", lambda: fitted().evaluate(X, Y))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"batch_size": 3},
            "fit has no argument 'batch_size': it is a setting, Trainer(..., batch",
        ),
        ({"validation_data": (X, Y)}, "pass validation=(x, y)"),
        ({"validation_split": 0.1}, "pass validation_fraction=0.1"),
        ({"sample_weight": np.ones(24)}, "fit((x, y, sample_weight))"),
        ({"callback": []}, "did you mean 'callbacks'?"),
        ({"epochs": 1.5}, "epochs must be a whole number; got 1.5"),
        ({"epochs": "2"}, "epochs must be a whole number; got '2'; write 2"),
        ({"epochs": None}, "epochs must be a whole number; got None"),
        ({"callbacks": None}, "callbacks must be a list of Callback objects; got None"),
        ({"callbacks": EarlyStopping(3)}, "put it in a list"),
        ({"callbacks": [EarlyStopping]}, "got <class 'xpnet.training.early_stop"),
        ({"callbacks": [print]}, "got <built-in function print>"),
        ({"callbacks": "early"}, "got 'early'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_an_argument_of_fit_is_checked(arguments, text):
    trainer = made()
    says(ConfigError, text, lambda: trainer.fit((X, Y), **{"epochs": 1, **arguments}))
    assert trainer.position.step == 0


def test_numbers_of_numpy_are_numbers():
    trainer = made(batch_size=np.int64(8))
    fraction, patience = np.float32(0.25), np.int64(3)
    trainer.fit((X, Y), epochs=np.int32(2), validation_fraction=fraction, early_stopping=patience)
    assert (trainer.position.epoch, trainer.rows) == (2, 18)
    says(ConfigError, "patience must be a whole number; got '3'", lambda: EarlyStopping("3"))
    says(ConfigError, "min_delta must be a number", lambda: EarlyStopping(3, min_delta="x"))


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy", "val_f1"])
def test_what_is_monitored_is_named_without_val(monitor):
    text = f"monitor {monitor!r} is written {monitor[4:]!r}"
    says(ConfigError, text, lambda: EarlyStopping(3, monitor))
    says(ConfigError, text, lambda: EarlyStopping(3, monitor, mode="min"))


def test_a_metric_is_a_number():
    metrics = {"m": lambda y_true, y_pred: "0.5"}
    trainer = made()
    says(
        TrainingError,
        "the metric 'm' failed: TypeError: a metric is a number; got '0.5'",
        lambda: trainer.fit((X, Y), epochs=1, validation=(X, Y), metrics=metrics),
    )


# -- rows -----------------------------------------------------------------------------------------

NUMBERS = "must be an array of real numbers"
WRONG = {
    "texts": (np.full((24, 4), "a"), f"x {NUMBERS}; got <U1"),
    "texts of numbers": (X.astype(str), f"x {NUMBERS}; got <U"),
    "objects": (np.full((24, 4), "a", object), f"x {NUMBERS}; got object"),
    "complex": (X + 1j, f"x {NUMBERS}; got complex64"),
    "dates": (np.full((24, 4), "2026-01-01", "M8[D]"), f"x {NUMBERS}; got datetime64[D]"),
    "durations": (np.ones((24, 4), "m8[s]"), f"x {NUMBERS}; got timedelta64[s]"),
    "masked": (np.ma.masked_greater(X, 0), "x has masked values"),
    "uneven": ([[1.0, 2.0], [1.0]] * 12, f"x {NUMBERS}: its parts have different shapes"),
    "none": (None, f"x {NUMBERS}; got None"),
}


@pytest.mark.parametrize(("x", "text"), WRONG.values(), ids=WRONG)
def test_rows_that_are_no_numbers_are_refused(x, text):
    trainer = fitted()
    for call in (
        lambda: made().fit((x, Y), epochs=1),
        lambda: made().fit((x, NAMED), epochs=1),
        lambda: trainer.predict(x),
        lambda: trainer.predict_classes(x),
        lambda: trainer.evaluate((x, Y)),
        lambda: trainer.gradients(x, Y),
    ):
        says(DataError, text, call)


def test_a_mask_of_nothing_and_objects_of_numbers_are_rows():
    plain = fitted()
    same_rows = X.astype(object), X.tolist(), X.astype(">f4"), np.asfortranarray(X)
    for x in (np.ma.masked_greater(X, 1e9), *same_rows):
        assert same_weights(fitted((x, Y)), plain)
    assert (plain.predict(X.astype(object)) == plain.predict(X)).all()


def test_complex_numbers_are_refused_where_they_are():
    torch = pytest.importorskip("torch")
    trainer = Trainer([Dense(3)])
    x, y = torch.tensor(X, dtype=torch.complex64), torch.tensor(Y)
    says(
        DataError, "real numbers; got dtype torch.complex64", lambda: trainer.fit((x, y), epochs=1)
    )


def test_one_row_without_its_axis_is_refused_with_the_remedy():
    trainer = fitted()
    says(DataError, "give it as one row, x[None]", lambda: trainer.predict(X[0]))
    says(
        ConfigError,
        "give rows of features, (N, features)",
        lambda: made().fit((X[:, 0], Y), epochs=1),
    )
    says(DataError, "pass x alone, and not (x, y)", lambda: trainer.predict((X, Y)))


def test_rows_one_by_one_are_no_batches():
    rows = zip(X, Y, strict=True)
    says(DataError, "an iterable gives batches", lambda: made().fit(rows, epochs=1))


class Rows:
    """A data set of rows, as of PyTorch."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return X[i], Y[i]


def test_a_data_set_has_rows_and_is_an_object():
    assert same_weights(fitted(Rows(24)), fitted())
    says(DataError, "Rows is a class, and no data: pass an object", lambda: fitted(Rows))
    for data in (Rows(0), []):
        says(DataError, "has no rows", lambda data=data: fitted(data))
    numbered = enumerate([(X, Y)])
    says(DataError, "y is no array: its parts have different shapes", lambda: fitted(numbered))


def test_a_row_that_is_not_finite_is_named():
    x = X.copy()
    x[17, 2] = np.nan
    says(TrainingError, "row 17 of x is not finite: fill such values", lambda: fitted((x, Y)))


# -- labels ---------------------------------------------------------------------------------------


def test_a_column_of_labels_is_one_label_for_each_row():
    plain, named = fitted(), fitted((X, NAMED))
    assert same_weights(fitted((X, Y[:, None])), plain)
    assert same_weights(fitted((X, NAMED[:, None])), named)
    assert plain.evaluate((X, Y[:, None])).loss == plain.evaluate((X, Y)).loss
    gradients = plain.gradients(X, Y[:, None]), plain.gradients(X, Y)
    assert all((gradients[0][name] == gradients[1][name]).all() for name in gradients[0])


def test_labels_of_another_order_of_bytes_are_labels():
    assert same_weights(fitted((X, Y.astype(">i8"))), fitted())
    targets = X[:, :3].astype(">f8")
    a, b = (fitted((X, y), loss="mean_squared_error") for y in (targets, targets.astype("f8")))
    assert same_weights(a, b)


def test_labels_may_be_a_table_of_one_column_or_an_array_of_arrow():
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    for labels in (NAMED, Y):
        plain = fitted((X, labels))
        frame = pandas.DataFrame({"label": labels})
        for y in (frame, pyarrow.table(frame), pyarrow.array(labels)):
            again = fitted((X, y))
            assert same_weights(again, plain)
            assert again.classes == plain.classes


def test_the_column_of_a_label_may_be_a_number():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({**{i: X[:, i] for i in range(4)}, 4: Y})
    trainer = made()
    trainer.fit(frame, label=4, epochs=2)
    assert same_weights(trainer, fitted((X.astype(np.float64), Y)))
    says(DataError, "has no column '9'", lambda: made().fit(frame, label=9, epochs=1))


@pytest.mark.parametrize("form", ["(x, y)", "[x, y, weight]", "function"])
def test_the_columns_of_a_table_are_found_by_name(form, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.astype(np.float64), columns=list("abcd"))
    other = frame[list("dbca")].assign(more=0.0)
    data = {
        "(x, y)": (frame, Y),
        "[x, y, weight]": [frame, Y, np.ones(24)],
        "function": lambda epoch: (frame if epoch == 0 else other, Y),
    }[form]
    trainer = made()
    trainer.fit(data, epochs=2, validation=(other, Y))
    assert same_weights(trainer, fitted((frame.to_numpy(), Y)))
    loaded = xpnet.load(trainer.save(tmp_path / "m.safetensors"))
    for model in (trainer, loaded):
        assert (model.predict(other) == model.predict(X)).all()
        assert model.evaluate((other, Y))[:2] == model.evaluate((X, Y))[:2]
        gradients = model.gradients(other, Y), model.gradients(X, Y)
        assert all((gradients[0][name] == gradients[1][name]).all() for name in gradients[0])
        says(DataError, "x has no column 'b'", lambda model=model: model.predict(frame[["a"]]))


def test_columns_that_are_only_numbered_go_by_position():
    pandas = pytest.importorskip("pandas")
    numbered, named = pandas.DataFrame(X), pandas.DataFrame(X, columns=list("abcd"))
    plain = fitted()
    for frame in (numbered, named):
        trainer = fitted((frame, Y))
        assert (trainer.predict(numbered) == plain.predict(X)).all()
        assert (trainer.predict(X) == plain.predict(X)).all()
    assert (fitted((numbered, Y)).predict(named) == plain.predict(X)).all()
    whole = pandas.DataFrame(np.c_[X, Y]).astype({4: int})
    trainer = made()
    trainer.fit(whole[[4, 0, 1, 2, 3]], label=4, epochs=2)
    assert (trainer.predict(whole) == trainer.predict(numbered)).all()


def test_labels_of_two_types_and_masked_ones_are_refused():
    mixed = [1 if label == "a" else label for label in NAMED.tolist()]
    says(DataError, "got int and str", lambda: made().fit((X, mixed), epochs=1))
    masked = np.ma.masked_equal(Y, 1)
    says(DataError, "y has masked values", lambda: made().fit((X, masked), epochs=1))
    says(DataError, "y.astype(int)", lambda: made().fit((X, Y * 1.0), epochs=1))


def test_labels_that_are_all_ignored_are_no_labels():
    loss = SoftmaxCrossEntropy(ignore_label=-1)
    text = "all 24 labels are -1, the ignored one, so no row counts"
    says(DataError, text, lambda: fitted((X, np.full(24, -1)), loss=loss))
    trainer = fitted((X, np.where(Y == 0, -1, Y)), loss=loss)
    says(DataError, text, lambda: trainer.evaluate((X, np.full(24, -1))))


def test_a_label_that_is_not_finite_is_named():
    y = np.where(np.arange(24) == 7, np.nan, Y)
    says(DataError, "the target of row 7 is not finite: nan", lambda: fitted((X, y)))


def test_a_row_without_a_prediction_has_no_class():
    trainer, x = fitted((X, NAMED)), X.copy()
    x[5, 0] = np.nan
    assert np.isnan(trainer.predict(x)[5]).all()
    says(DataError, "row 5 has no class", lambda: trainer.predict_classes(x))


@pytest.mark.parametrize("threshold", [0.3, "a", True, [0.2, 0.3, 0.4]])
def test_a_threshold_is_not_passed_over(threshold):
    text = "SoftmaxCrossEntropy takes the most probable class, without a threshold"
    says(ConfigError, text, lambda: fitted().predict_classes(X, threshold))


@pytest.mark.parametrize("threshold", ["a", True, 1.5, [0.1, 0.2]])
def test_a_threshold_is_a_probability(threshold):
    two = Trainer([Dense(1)], "binary_cross_entropy", backend="numpy")
    two.fit((X, (Y > 0) * 1.0), epochs=1)
    says(ConfigError, "must be from 0 to 1", lambda: two.predict_classes(X, threshold))


# -- what is frozen -------------------------------------------------------------------------------


def test_a_training_that_changes_nothing_is_warned_of():
    trainer = made(optimizer=Adam(freeze=["0", "2"]))
    with pytest.warns(XpnetWarning, match="training changes nothing") as caught:
        trainer.fit((X, Y), epochs=1)
    assert caught[0].filename == __file__
    normalised = [Dense(4), BatchNorm(), Dense(3)]  # whose statistics follow the rows
    rule = Adam(freeze=["0", "1", "2"])
    Trainer(normalised, optimizer=rule, backend="numpy", threads=1).fit((X, Y), epochs=1)


def test_a_layer_that_begins_anew_is_not_frozen():
    source = fitted()
    frozen = made(optimizer=Adam(freeze=["2.dense"]))
    says(
        ConfigError,
        "2.dense begins anew and is frozen",
        lambda: frozen.start_from(source, new_head=True),
    )
    assert frozen.start_from(source, report=None).anew == ()
    bias = made(optimizer=Adam(freeze=["2.dense.b"]))
    assert bias.start_from(source, new_head=True, report=None).anew == ("2.dense",)


# -- parameters and state -------------------------------------------------------------------------


@pytest.mark.parametrize("some", [None, [1, 2], "x", 3])
def test_parameters_are_assigned_by_name(some):
    trainer = fitted()
    says(DataError, "a mapping of names to arrays", lambda: setattr(trainer, "params", some))


@pytest.mark.parametrize("backend", ["numpy", None, X])
def test_a_loader_is_for_a_backend(backend):
    says(BackendError, "a Loader is for a Backend; got", lambda: Loader(backend, X, Y))


def test_what_is_no_snapshot_is_not_restored():
    says(XpnetError, "pass what snapshot returned", lambda: made().restore({}, None))
