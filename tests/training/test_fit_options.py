"""validation_fraction, early_stopping, class_weights and metrics of a fit."""

import math
import pickle

import numpy as np
import pytest

from xpnet import Dense, EarlyStopping, Loader, Tanh, Trainer, schedules
from xpnet.data import split
from xpnet.errors import ConfigError, DataError, TrainingError, XpnetWarning
from xpnet.nn.losses import BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy
from xpnet.optim.optimizers import SGD, Adam
from xpnet.storage import CheckpointFolder
from xpnet.training.callbacks import Callback
from xpnet.training.checkpointing import Checkpointing
from xpnet.training.class_weights import by_class

N = 120


def made(loss="softmax_cross_entropy", outputs=3, **settings):
    settings = {"backend": "numpy", "dtype": "float64", "threads": 1, **settings}
    settings = {"optimizer": Adam(0.05), "batch_size": 16, **settings}
    return Trainer([Dense(8), Tanh(), Dense(outputs)], loss, **settings)


def rows(n=N, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    scores = x[:, :3] + rng.normal(size=(n, 3))
    return x, (scores + np.array([1.0, 0.0, -0.8])).argmax(axis=1)


def exact(history):
    return [{k: v for k, v in r.items() if k not in ("seconds", "rows_per_second")}
            for r in history]  # fmt: skip


# ------------------------------------------------------------------------------- held-out rows


def test_the_held_out_rows_are_those_of_the_split_of_a_run():
    (x, y), ours, given = rows(), made(seed=3), made(seed=3)
    kept, held = split(y, (0.75, 0.25), seed=3)
    ours.fit((x, y), epochs=3, validation_fraction=0.25)
    given.fit((x[kept], y[kept]), epochs=3, validation=(x[held], y[held]))
    assert exact(ours.history) == exact(given.history)
    assert ours.rows == len(kept) == 90


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_sizes_and_classes_are_scikit_learns(fraction):
    selection = pytest.importorskip("sklearn.model_selection")
    x, y = rows()
    held = []
    count = {"n": lambda y_true, y_pred: held.append(y_true) or len(y_true)}
    made().fit((x, y), epochs=1, validation_fraction=fraction, metrics=count)
    theirs = selection.train_test_split(y, test_size=fraction, stratify=y, random_state=0)[1]
    assert len(held[0]) == len(theirs)
    assert np.abs(np.bincount(held[0]) - np.bincount(theirs)).max() <= 1


@pytest.mark.long_where(backend=["jax"])
def test_they_are_the_same_on_every_backend_and_where_arrays_are_placed(backend):
    x, y = rows()
    seen = {}

    def kept(name):
        return {"n": lambda y_true, y_pred: float(seen.setdefault(name, y_true).sum())}

    made().fit((x, y), epochs=1, validation_fraction=0.2, metrics=kept("expected"))
    trainer = Trainer([Dense(3)], backend=backend)
    data = Loader(trainer.backend, x, y, resident=True)
    trainer.fit(data, epochs=1, validation_fraction=0.2, metrics=kept("ours"))
    np.testing.assert_array_equal(seen["ours"], seen["expected"])


def test_a_fit_in_two_halves_holds_out_the_same_rows():
    data, whole, halves = rows(), made(), made()
    whole.fit(data, epochs=4, validation_fraction=0.2)
    halves.fit(data, epochs=2, validation_fraction=0.2)
    resumed = made()
    resumed.restore(*pickle.loads(pickle.dumps(halves)).snapshot())
    resumed.fit(data, epochs=4, validation_fraction=0.2)
    assert exact(resumed.history) == exact(whole.history)


def test_sample_weights_and_targets_of_a_regression_are_split_along():
    x, y = rows()
    weight = np.arange(1.0, N + 1)
    targets = (x[:, 0], x[:, :2], y)  # whole numbers are no classes of a regression
    for target in targets:
        outputs = 1 if target.ndim == 1 else 2
        kept, held = split(target.astype(float), (0.8, 0.2), seed=0)
        ours, given = (made(MeanSquaredError(), outputs) for _ in range(2))
        ours.fit((x, target, weight), epochs=2, validation_fraction=0.2)
        given.fit((x[kept], target[kept], weight[kept]), epochs=2,
                  validation=(x[held], target[held], weight[held]))  # fmt: skip
        assert exact(ours.history) == exact(given.history)


def test_a_class_of_one_row_stays_in_the_training_and_is_named():
    x, _ = rows(21)
    y = np.array(["common", "other"] * 10 + ["rare"])
    with pytest.warns(XpnetWarning, match=r"validation_fraction: too few rows.*'rare' \(1\)"):
        made().fit((x, y), epochs=1, validation_fraction=0.2)


@pytest.mark.parametrize("fraction", [0, 1, 1.5, -0.1, "0.1", True, float("nan")])
def test_a_fraction_that_is_none_is_refused(fraction):
    with pytest.raises(ConfigError, match="validation_fraction must be between 0 and 1"):
        made().fit(rows(), epochs=1, validation_fraction=fraction)


def test_two_validations_are_refused():
    with pytest.raises(ConfigError, match="validation is given, and validation_fraction would"):
        made().fit(rows(), epochs=1, validation=rows(), validation_fraction=0.1)


def test_too_few_rows_are_refused():
    x, y = rows(1)
    with pytest.raises(DataError, match="1 rows cannot be split into 2 parts"):
        made().fit((x, y), epochs=1, validation_fraction=0.5)


# ------------------------------------------------------------------------------- early stopping


@pytest.mark.parametrize("asked", [3, True])
def test_a_patience_puts_the_best_weights_back(asked):
    data, validation = rows(), rows(40, 1)
    ours, given = made(optimizer=SGD(2.0)), made(optimizer=SGD(2.0))
    ours.fit(data, epochs=30, validation=validation, early_stopping=asked)
    patience = 10 if asked is True else asked
    stopping = EarlyStopping(patience, restore_best=True)
    given.fit(data, epochs=30, validation=validation, callbacks=[stopping])
    assert ours.stopped == given.stopped == f"no better loss for {patience} epochs"
    best = min(record["val_loss"] for record in ours.history)
    assert ours.evaluate(validation).loss == pytest.approx(best, rel=1e-12)
    assert ours.history[-1]["val_loss"] > best


def test_a_stopping_of_its_own_is_taken_as_it_is():
    trainer = made(optimizer=SGD(1e-9))
    trainer.fit(rows(), epochs=9, early_stopping=EarlyStopping(2, min_delta=0.1))
    assert trainer.stopped == "no better loss for 2 epochs"


@pytest.mark.parametrize(("asked", "says"), [
    (True, r"and there is none: pass validation_fraction=0.1 .*EarlyStopping\(10\) for"),
    (5, r"watches the loss of a validation, and there is none"),
    ("yes", "early_stopping must be True, a number of epochs or an EarlyStopping; got 'yes'"),
])  # fmt: skip
def test_a_patience_without_anything_to_watch_is_refused(asked, says):
    with pytest.raises(ConfigError, match=says):
        made().fit(rows(), epochs=1, early_stopping=asked)


def test_false_and_zero():
    trainer = made()
    trainer.fit(rows(), epochs=1, early_stopping=False)
    with pytest.raises(ConfigError, match="patience must be >= 1"):
        trainer.fit(rows(), epochs=2, validation_fraction=0.1, early_stopping=0)


# ------------------------------------------------------------------------------- class weights


def test_weights_of_the_trainer_are_those_of_the_loss():
    x, y = rows()
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    balanced = sklearn.compute_class_weight("balanced", classes=np.unique(y), y=y)
    expected = made(SoftmaxCrossEntropy(class_weights=tuple(balanced)))
    expected.fit((x, y), epochs=2)
    names = np.array(["a", "b", "c"])
    for weights, labels in [
        ("balanced", y),
        ("balanced", names[y]),
        (balanced, y),
        (balanced.tolist(), names[y]),
        (dict(enumerate(balanced)), y),
        (dict(zip(names, balanced, strict=True)), names[y]),
        (dict(zip([5, 7, 9], balanced, strict=True)), 2 * y + 5),
    ]:
        trainer = made(class_weights=weights)
        trainer.fit((x, labels), epochs=2)
        np.testing.assert_array_equal(trainer.predict(x), expected.predict(x))


def test_balanced_weights_are_counted_in_the_rows_that_are_trained_on():
    (x, y), trainer = rows(), made(class_weights="balanced", seed=1)
    trainer.fit((x, y), epochs=1, validation_fraction=0.5)
    counts = np.bincount(y[split(y, (0.5, 0.5), seed=1)[0]])
    assert trainer.engine.loss.class_weights == pytest.approx(60 / (3 * counts), rel=1e-12)


def test_named_weights_are_resumed():
    x, y = rows()
    data, weights = (x, np.array(["a", "b", "c"])[y]), {"b": 4.0}
    whole, half, resumed = (made(class_weights=weights) for _ in range(3))
    whole.fit(data, epochs=4)
    half.fit(data, epochs=2)
    resumed.restore(*half.snapshot())
    assert resumed.loss.class_weights == (1.0, 4.0, 1.0)
    resumed.fit(data, epochs=4)
    np.testing.assert_array_equal(resumed.predict(x), whole.predict(x))
    assert by_class({2: 3}, range(3)) == (1.0, 1.0, 3.0)


@pytest.mark.parametrize(("loss", "weights", "says"), [
    (MeanSquaredError(), "balanced", r"no class weights: pass sample weights: fit\(\(x, y, weig"),
    (BinaryCrossEntropy(), (1, 2), r"BinaryCrossEntropy\(positive_weight=...\)"),
    (SoftmaxCrossEntropy(class_weights=(1, 2, 3)), "balanced", "class_weights are given twice"),
    (SoftmaxCrossEntropy(), "even", "must be 'balanced', a sequence or a mapping; got 'even'"),
    (SoftmaxCrossEntropy(), (1, -2, 3), "finite numbers >= 0, one for each class"),
    (SoftmaxCrossEntropy(), {0: math.inf}, "finite numbers >= 0, one for each label"),
    (SoftmaxCrossEntropy(), {}, "one for each label; got {}"),
])  # fmt: skip
def test_weights_that_mean_nothing_are_refused(loss, weights, says):
    with pytest.raises(ConfigError, match=says):
        made(loss, class_weights=weights)


@pytest.mark.parametrize(("weights", "says"), [
    ({"z": 2.0}, r"class_weights names 'z', which is not among the 3 classes"),
    ((1.0, 2.0), "class_weights has 2 entries for 3 classes"),
])  # fmt: skip
def test_weights_of_other_classes_are_refused(weights, says):
    with pytest.raises((ConfigError, DataError), match=says):
        made(class_weights=weights).fit(rows(), epochs=1)


# ------------------------------------------------------------------------------- metrics


def test_metrics_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    x, y = rows()
    names = np.array(["a", "b", "c"])
    validation = (x[:40], names[y[:40]])
    trainer = made()
    trainer.fit(
        (x, names[y]),
        epochs=2,
        validation=validation,
        metrics={
            "f1": lambda y_true, y_pred: metrics.f1_score(y_true, y_pred, average="macro"),
            "auc": lambda y_true, y_score: metrics.roc_auc_score(
                y_true, y_score, multi_class="ovr"
            ),
            "kappa": metrics.cohen_kappa_score,
        },
    )
    predicted, p = trainer.predict_classes(x[:40]), trainer.predict(x[:40])
    record = trainer.history[-1]
    assert record["val_f1"] == metrics.f1_score(validation[1], predicted, average="macro")
    assert record["val_auc"] == metrics.roc_auc_score(validation[1], p, multi_class="ovr")
    assert record["val_kappa"] == metrics.cohen_kappa_score(validation[1], predicted)


def test_metrics_of_two_labels_take_columns_without_a_second_axis():
    metrics = pytest.importorskip("sklearn.metrics")
    x, y = rows()
    y, weight = (y > 0).astype(float), np.linspace(0.5, 2.0, N)
    trainer = made(BinaryCrossEntropy(), 1)
    own = {"auc": metrics.roc_auc_score, "f1": metrics.f1_score}
    trainer.fit((x, y), epochs=2, validation=(x, y[:, None], weight), metrics=own)
    record, p = trainer.history[-1], trainer.predict(x)[:, 0]
    assert record["val_auc"] == metrics.roc_auc_score(y, p, sample_weight=weight)
    assert record["val_f1"] == metrics.f1_score(y, p > 0.5, sample_weight=weight)


def test_metrics_of_numbers_and_of_ignored_rows():
    x, y = rows()

    def r2(y_true, y_pred):
        assert y_true.shape == y_pred.shape == (N,)
        return 1.0 - np.sum((y_true - y_pred) ** 2) / np.sum((y_true - y_true.mean()) ** 2)

    trainer = made(MeanSquaredError(), 1)
    trainer.fit((x, x[:, 0]), epochs=2, validation=(x, x[:, 0]), metrics={"r2": r2})
    assert trainer.history[-1]["val_r2"] == pytest.approx(r2(x[:, 0], trainer.predict(x)[:, 0]))
    y[:9] = -1
    trainer = made(SoftmaxCrossEntropy(ignore_label=-1))
    right = {"right": lambda y_true, y_pred: np.mean(y_true == y_pred)}
    trainer.fit((x, y), epochs=1, validation=(x, y), metrics=right)
    record = trainer.history[-1]
    assert record["val_right"] == pytest.approx(record["val_accuracy"], rel=1e-12)


class Script:
    """A metric that takes the values of a list, one after the other."""

    def __init__(self, *values):
        self.values = list(values)

    def __call__(self, y_true, y_pred):
        return self.values.pop(0)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_callbacks_and_plateau_monitor_them(tmp_path, mode):
    values = [0.1, 0.5, 0.3, 0.2, 0.4] if mode == "max" else [0.9, 0.2, 0.3, 0.8, 0.7]
    plateau = schedules.Plateau(monitor="own", mode=mode, patience=0, factor=0.5)
    trainer, saving = made(schedule=plateau), None
    saving = Checkpointing(CheckpointFolder(tmp_path), monitor="own", mode=mode)
    stopping = EarlyStopping(3, "own", mode=mode, restore_best=True)
    kept = []

    class Keep(Callback):
        def on_epoch_end(self, trainer, record):
            kept.append(trainer.params)

    trainer.fit(rows(), epochs=9, validation_fraction=0.2, metrics={"own": Script(*values)},
                early_stopping=stopping, callbacks=[saving, Keep()])  # fmt: skip
    assert trainer.stopped == "no better own for 3 epochs"
    assert len(trainer.history) == 5
    assert saving.best_step == trainer.history[1]["step"]
    assert [record["lr"] for record in trainer.history] == [0.05, 0.05, 0.05, 0.025, 0.0125]
    for name, value in kept[1].items():
        np.testing.assert_array_equal(trainer.params[name], value)


def test_epochs_from_before_the_metric_are_passed_over():
    trainer = made()
    trainer.fit(rows(), epochs=3, validation_fraction=0.2)
    stopping = EarlyStopping(2, "own", mode="max")
    trainer.fit(rows(), epochs=9, validation_fraction=0.2, early_stopping=stopping,
                metrics={"own": Script(0.5, 0.4, 0.3)})  # fmt: skip
    assert len(trainer.history) == 6
    assert stopping.best == -0.5


@pytest.mark.parametrize(("metrics", "says"), [
    ([len], "metrics must be a mapping of names to functions"),
    ({"f1": 3}, r"metrics: 'f1' must be a function \(y_true, y_pred\) -> number; got int"),
    ({"loss": max}, "a metric cannot have the name 'loss'"),
    ({"val_f1": max}, "cannot have the name 'val_f1'"),
    ({"f 1": max}, "cannot have the name 'f 1'"),
    ({1: max}, "cannot have the name 1"),
])  # fmt: skip
def test_metrics_that_are_none_are_refused(metrics, says):
    with pytest.raises(ConfigError, match=says):
        made().fit(rows(), epochs=1, validation_fraction=0.2, metrics=metrics)


def test_metrics_without_a_validation_are_refused():
    with pytest.raises(ConfigError, match="metrics are of a validation, and there is none: pass"):
        made().fit(rows(), epochs=1, metrics={"f1": max})


@pytest.mark.parametrize(("function", "says"), [
    (lambda y_true, y_pred: 1 / 0, "the metric 'own' failed: ZeroDivisionError: division by zero"),
    (lambda y_true, y_pred: "good", "the metric 'own' failed: TypeError: a metric is a"),
    (lambda y_true, y_pred: y_pred, "the metric 'own' failed: TypeError"),
    (lambda y_true: 1.0, "the metric 'own' failed: TypeError"),
])  # fmt: skip
def test_a_metric_that_fails_is_named_and_the_epoch_is_not_lost(function, says):
    data, trainer, whole = rows(), made(), made()
    with pytest.raises(TrainingError, match=says):
        trainer.fit(data, epochs=1, validation_fraction=0.2, metrics={"own": function})
    assert trainer.history == []
    for each in (trainer, whole):
        each.fit(data, epochs=2, validation_fraction=0.2)
    assert exact(trainer.history) == exact(whole.history)


def test_a_metric_that_is_not_finite_is_never_the_best():
    stopping = EarlyStopping(2, "own", mode="max", restore_best=True)
    trainer = made()
    trainer.fit(rows(), epochs=9, validation_fraction=0.2, early_stopping=stopping,
                metrics={"own": Script(math.nan, 0.1, math.nan, math.nan)})  # fmt: skip
    assert stopping.best == -0.1
    assert len(trainer.history) == 4


@pytest.mark.parametrize("by", ["callback", "schedule"])
def test_what_the_epochs_do_not_have_is_refused_before_the_first_step(by):
    stopping = EarlyStopping(1, "f1", mode="max") if by == "callback" else None
    schedule = "constant" if stopping else schedules.Plateau(monitor="f1", mode="max")
    trainer = made(schedule=schedule)
    with pytest.raises(ConfigError, match="there is no 'f1' to monitor"):
        trainer.fit(rows(), epochs=1, validation_fraction=0.2, early_stopping=stopping)
    assert trainer.position.step == 0


@pytest.mark.parametrize(("make", "says"), [
    (lambda: EarlyStopping(1, "loss", mode="max"), "loss needs mode 'min'; got 'max'"),
    (lambda: EarlyStopping(1, "f1", mode="up"), "mode must be 'min' or 'max'; got 'up'"),
    (lambda: Checkpointing(CheckpointFolder("c"), monitor="f1"), "got 'f1', which needs a mode"),
    (lambda: schedules.Plateau(monitor="f1"), "got 'f1', which needs a mode"),
])  # fmt: skip
def test_modes_are_checked(make, says):
    with pytest.raises(ConfigError, match=says):
        make()
