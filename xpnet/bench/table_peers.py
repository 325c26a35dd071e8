"""The peers of `scripts/bench-tables`: from the file of the training rows to a model, each one.

A peer is a function of :class:`Job` that returns :class:`Fitted`. Reading the file, encoding and
fitting is timed; predicting the test rows is not. Each has its library's default settings.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpnet.bench.tables import Task, installed

__all__ = ["BASE", "PEERS", "REAL_MLP", "SKLEARN_MLP", "Fitted", "Job", "Peer"]

BASE, SKLEARN_MLP, REAL_MLP = "xpnet", "scikit-learn MLP", "RealMLP-TD-S"
HIDDEN = (128, 128)  # of the PyTorch network


class Job(NamedTuple):
    """A fit: the files, which columns are asked for, and what it may use."""

    train: Path
    test: Path
    labels: tuple[str, ...]
    task: Task
    seed: int
    threads: int
    folder: Path  # an empty one, for what a peer writes

    @property
    def classifies(self) -> bool:
        """Whether the label is a class."""
        return self.task == "classification"


class Fitted(NamedTuple):
    """A model: ``predict()`` returns probabilities (N, K) or values (N, J) for the test rows."""

    predict: Callable[[], np.ndarray]
    classes: tuple[str, ...] | None  # in the order of the probabilities


Peer = Callable[[Job], Fitted]


def xpnet(job: Job) -> Fitted:
    """``xpnet.train`` on the file; it is told the label and whether that is a class."""
    from xpnet.run import train

    label = job.labels[0] if len(job.labels) == 1 else list(job.labels)
    settings = {
        "data.label": label,
        "data.task": job.task,
        "data.test_fraction": 0,
        "seed": job.seed,
        "threads": job.threads,
        "report": False,
    }
    quiet: Callable[[str], None] = lambda line: None  # noqa: E731
    run = train(str(job.train), job.folder / "run", settings=settings, report=quiet)

    def predict() -> np.ndarray:
        rows = run.read(job.test, labelled=False)
        return np.concatenate(list(run.predictions(rows)))

    classes = run.preprocessing.classes
    return Fitted(predict, None if classes is None else tuple(map(str, classes)))


def sklearn_mlp(job: Job) -> Fitted:
    """MLPClassifier or MLPRegressor."""
    network = installed("sklearn.neural_network")
    kind = network.MLPClassifier if job.classifies else network.MLPRegressor
    return _fitted(job, kind(random_state=job.seed))


def boosting(job: Job) -> Fitted:
    """HistGradientBoosting, one model for each target."""
    ensemble = installed("sklearn.ensemble")
    if job.classifies:
        return _fitted(job, ensemble.HistGradientBoostingClassifier(random_state=job.seed))
    model = ensemble.HistGradientBoostingRegressor(random_state=job.seed)
    if len(job.labels) > 1:
        several = installed("sklearn.multioutput")
        model = several.MultiOutputRegressor(model)
    return _fitted(job, model)


def linear(job: Job) -> Fitted:
    """LogisticRegression or Ridge."""
    models = installed("sklearn.linear_model")
    return _fitted(job, models.LogisticRegression() if job.classifies else models.Ridge())


def torch_mlp(job: Job) -> Fitted:
    """Two hidden layers of 128 with ReLU, Adam at 0.001, 100 epochs of batches of 32, by skorch."""
    skorch = installed("skorch")
    torch = installed("torch")
    torch.manual_seed(job.seed)
    torch.set_num_threads(job.threads)
    x, y, test, classes = _encoded(job)
    mean, deviation = (0.0, 1.0) if job.classifies else (y.mean(0), y.std(0))
    layers, width = [], x.shape[1]
    for units in HIDDEN:
        layers += [torch.nn.Linear(width, units), torch.nn.ReLU()]
        width = units
    layers.append(torch.nn.Linear(width, len(classes) if classes else y.shape[1]))
    kind = skorch.NeuralNetClassifier if job.classifies else skorch.NeuralNetRegressor
    model = kind(
        torch.nn.Sequential(*layers),
        criterion=torch.nn.CrossEntropyLoss if job.classifies else torch.nn.MSELoss,
        optimizer=torch.optim.Adam,
        lr=0.001,
        max_epochs=100,
        batch_size=32,
        train_split=None,
        verbose=0,
    )
    model.fit(x, y if job.classifies else ((y - mean) / deviation).astype("f4"))

    def predict() -> np.ndarray:
        return (
            model.predict_proba(test) if job.classifies else model.predict(test) * deviation + mean
        )

    return Fitted(predict, classes)


def real_mlp(job: Job) -> Fitted:
    """RealMLP_TD_S_Classifier or RealMLP_TD_S_Regressor on the columns as pandas reads them."""
    models = installed("pytabkit")
    kind = models.RealMLP_TD_S_Classifier if job.classifies else models.RealMLP_TD_S_Regressor
    model = kind(random_state=job.seed, device="cpu", n_threads=job.threads, verbosity=0)
    x, y, test = _frames(job)
    categories = [c for c in x if not _is_number(x[c])]
    medians = x.drop(columns=categories).median()  # it takes no missing numbers
    parts = [part.fillna(medians) for part in (x, test)]
    for part in parts:
        part[categories] = part[categories].astype(str)
    model.fit(parts[0], y, cat_col_names=categories)
    return _of_sklearn(job, model, lambda: parts[1])


def _fitted(job: Job, model: Any) -> Fitted:
    """Fit a model of scikit-learn behind its standard encoders."""
    x, y, test = _frames(job)
    pipeline = installed("sklearn.pipeline")
    model = pipeline.make_pipeline(_encoder(x), model).fit(x, y)
    return _of_sklearn(job, model, lambda: test)


def _of_sklearn(job: Job, model: Any, rows: Callable[[], Any]) -> Fitted:
    if job.classifies:
        return Fitted(lambda: model.predict_proba(rows()), tuple(map(str, model.classes_)))
    return Fitted(lambda: np.reshape(model.predict(rows()), (-1, len(job.labels))), None)


def _frames(job: Job) -> tuple[Any, np.ndarray, Any]:
    """Return features and labels to train on, and features to test on."""
    pandas = installed("pandas")
    frame, test = pandas.read_csv(job.train), pandas.read_csv(job.test)
    labels = list(job.labels)
    y = frame[labels].to_numpy()
    if job.classifies:
        y = pandas.read_csv(job.train, usecols=labels, dtype=str)[labels[0]].to_numpy(str)
    elif len(labels) == 1:
        y = y[:, 0]
    return frame.drop(columns=labels), y, test


def _is_number(column: Any) -> bool:
    return column.dtype.kind in "iuf"


def _encoder(x: Any) -> Any:
    """Medians for missing numbers, then standardised; categories, missing as one, one-hot."""
    compose = installed("sklearn.compose")
    impute = installed("sklearn.impute")
    scale = installed("sklearn.preprocessing")
    pipeline = installed("sklearn.pipeline")
    numbers = pipeline.make_pipeline(
        impute.SimpleImputer(strategy="median"), scale.StandardScaler()
    )
    categories = scale.OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    named = [c for c in x if _is_number(x[c])]
    return compose.make_column_transformer((numbers, named), remainder=categories)


def _encoded(job: Job) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...] | None]:
    """Return what :func:`_encoder` makes of both files, and labels as numbers."""
    frame, y, test = _frames(job)
    encoder = _encoder(frame)
    x = encoder.fit_transform(frame).astype("f4")
    classes = None
    if job.classifies:
        found, y = np.unique(y, return_inverse=True)
        classes = tuple(map(str, found))
    else:
        y = np.reshape(y, (len(x), -1)).astype(float)
    return x, y, encoder.transform(test).astype("f4"), classes


PEERS: dict[str, Peer] = {
    BASE: xpnet,
    SKLEARN_MLP: sklearn_mlp,
    "boosting": boosting,
    "linear": linear,
    "PyTorch MLP": torch_mlp,
    REAL_MLP: real_mlp,
}
