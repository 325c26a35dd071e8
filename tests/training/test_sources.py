"""Data in other forms than arrays trains as its rows do, and is refused where it could not."""

import pickle

import numpy as np
import pytest

from xpnet import Callback, Dense, ReLU, Trainer, get_backend
from xpnet.errors import ConfigError, DataError, TrainingError
from xpnet.training.loader import Loader

RNG = np.random.default_rng(3)
X = RNG.normal(size=(50, 4))
Y = np.argmax(X[:, :3], axis=1)
W = RNG.uniform(0.5, 2.0, 50)
COLUMNS = ("a", "b", "c", "d")


def made(**settings):
    settings = {"backend": "numpy", "dtype": "float64", "batch_size": 16} | settings
    return Trainer([Dense(6), ReLU(), Dense(3)], **settings)


def weights(trainer):
    return {name: value.tobytes() for name, value in trainer.params.items()}


def trained(data, **options):
    trainer = made()
    trainer.fit(data, epochs=3, **options)
    return weights(trainer)


def batches(*arrays, size=7):
    for start in range(0, len(X), size):
        yield tuple(a[start : start + size] for a in arrays)


class Rows:
    """A data set by row, as of PyTorch."""

    def __init__(self, *arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, i):
        return tuple(a[i] for a in self.arrays)


class Again:
    """Batches that can be read more than once."""

    def __iter__(self):
        return batches(X, Y)


def buffered():
    """Batches in one buffer that is filled again and again."""
    x, y = np.empty((5, 4)), np.empty(5, np.int64)
    for start in range(0, 50, 5):
        x[:], y[:] = X[start : start + 5], Y[start : start + 5]
        yield x, y


@pytest.mark.parametrize(
    "data",
    [
        lambda: batches(X, Y),
        lambda: list(batches(X, Y)),
        lambda: iter([(X[:25], Y[:25]), (X[25:], Y[25:])]),
        lambda: Rows(X, Y),
        Again,
        buffered,
        lambda: lambda: (X, Y),
        lambda: lambda: batches(X, Y),
        lambda: lambda epoch: Rows(X, Y),
        lambda: [X.tolist(), Y.tolist()],
    ],
    ids=["generator", "list", "two", "rows", "again", "buffer", "pair", "function", "epoch", "xy"],
)
def test_every_form_trains_as_its_rows_do(data):
    assert trained(data()) == trained((X, Y))


def test_weights_of_batches_weigh():
    assert trained(batches(X, Y, W)) == trained((X, Y, W)) != trained((X, Y))
    assert trained(Rows(X, Y, W)) == trained((X, Y, W))


def test_a_function_is_asked_for_the_rows_of_each_epoch_and_trains_as_they_do():
    asked, expected = [], made()
    for epoch in range(3):
        expected.fit((X + epoch, Y), epochs=epoch + 1)

    def rows(epoch):
        asked.append(epoch)
        return X + epoch, Y

    trainer = made()
    trainer.fit(rows, epochs=2)
    trainer = pickle.loads(pickle.dumps(trainer))
    trainer.fit(rows, epochs=3)  # begins with the third
    assert asked == [0, 1, 2]
    assert weights(trainer) == weights(expected)


class Interrupt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, trainer):
        if trainer.position.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("resident", ["numpy", "array-api-strict"])
def test_an_interrupted_epoch_of_a_function_goes_on_with_its_rows(resident):
    def rows(epoch):
        return batches(X * (1 + epoch), Y)

    expected, trainer = made(backend=resident), made(backend=resident)
    expected.fit(rows, epochs=3)
    for step in (2, 6):  # of 4 steps an epoch
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(rows, epochs=3, callbacks=[Interrupt(step)])
    trainer.fit(rows, epochs=3)
    assert weights(trainer) == weights(expected)


def test_a_failure_is_found_in_the_rows_of_its_epoch():
    def rows(epoch):
        return np.where(np.arange(50)[:, None] == 17, 1e200 * epoch, X), Y

    with pytest.raises(TrainingError, match="not finite from epoch 2, step"):
        made(optimizer="sgd").fit(rows, epochs=3)


def test_a_function_is_called_once_for_a_validation():
    calls = []

    def rows():
        calls.append(1)
        return batches(X, Y)

    found = made().fit((X, Y), epochs=2, validation=rows)
    expected = made().fit((X, Y), epochs=2, validation=(X, Y))
    assert [r["val_loss"] for r in found] == [r["val_loss"] for r in expected]
    assert len(calls) == 1


def test_rows_of_a_later_epoch_that_do_not_fit_are_refused_with_it():
    def fewer(epoch):
        return X[: 50 - epoch], Y[: 50 - epoch]

    def wrong(epoch):
        return X, np.where(np.arange(50) < epoch, 7, Y)

    with pytest.raises(DataError, match=r"epoch 2: the shapes are .*49.* before are .*50"):
        made().fit(fewer, epochs=3)
    with pytest.raises(DataError, match=r"epoch 2: the label of row 0"):
        made().fit(wrong, epochs=3)
    with pytest.raises(DataError, match=r"takes nothing, or the number of the epoch; .*\(a, b\)"):
        made().fit(lambda a, b: (X, Y), epochs=3)
    loader = Loader(get_backend("numpy", dtype="float64"), X, Y)
    with pytest.raises(DataError, match="the rows of an epoch; got Loader"):
        made().fit(lambda: loader, epochs=1)


def test_a_generator_that_is_used_up_does_not_train_on_nothing():
    data, trainer = batches(X, Y), made()
    trainer.fit(data, epochs=2)
    assert trainer.position.epoch == 2  # both epochs have its rows
    with pytest.raises(DataError, match="there is no batch: a generator gives its batches once"):
        trainer.fit(data, epochs=3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: iter([(X, Y), (X, Y, W)]), "batch 1 has 3 parts; those before have 2"),
        (lambda: iter([(X, Y), (X[:, :2], Y)]), r"batch 1: rows of x have the shape \(2,\)"),
        (lambda: iter([(X, Y[:9])]), r"batch 0: all parts .* \(50, 4\), \(9,\)"),
        (lambda: iter([X]), r"batch 0 must be \(x, y\) or .*; got a ndarray"),
        (lambda: iter([{"x": X}]), r"batch 0 must be .*; got a dict"),
        (lambda: iter([(X,)]), r"batch 0 must be .*; got a tuple of 1"),
        (lambda: iter([(X, Y), (X, Y.astype(str))]), "batch 1: y holds <U"),
        (lambda: iter([([[1, 2], [3]], [0, 1])]), "batch 0: x is no array"),
        (lambda: [(X, Y), (X, Y)], r"a list of 2 tuples may be \(x, y\) or batches"),
        (lambda: Rows([X[0], X[1, :2]], Y[:2]), r"row 1 of the data set has the shapes \(2,\)"),
        (lambda: {"x": X}, "data must be .*; got dict"),
        (lambda: "file.csv", "data must be .*; got str"),
        (lambda: X, "data must be .*; got ndarray"),
        (lambda: None, "data must be .*; got NoneType"),
        (lambda: 3, "data must be .*; got int"),
        (list, "the list has no rows"),
    ],
)
def test_what_is_no_rows_is_refused_with_its_place(data, message):
    with pytest.raises(DataError, match=message):
        made().fit(data(), epochs=1)


def test_batches_without_end_are_refused_before_the_memory_is_full(monkeypatch):
    from xpnet.training import sources

    monkeypatch.setattr(sources, "LOOK_EVERY", 2**12)
    monkeypatch.setattr(sources, "host_memory", lambda: 2**14)

    def endless():
        while True:
            yield X, Y

    with pytest.raises(DataError, match=r"batch \d+: the rows so far take .* are free"):
        made().fit(endless(), epochs=1)


def test_a_data_set_that_draws_its_values_is_refused_rather_than_frozen():
    rng = np.random.default_rng(0)

    class Noisy(Rows):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return x + rng.normal(size=4), y

    noisy = Noisy(X, Y)
    with pytest.raises(DataError, match="row 0 of the Noisy is another each time"):
        made().fit(noisy, epochs=1)
    made().fit(lambda: batches(X + rng.normal(size=X.shape), Y), epochs=2)


@pytest.mark.parametrize(
    "data",
    [
        lambda: Rows(X, Y),
        lambda: Rows(X),
        lambda: batches(X, Y),
        lambda: (x for x, _ in batches(X, Y)),
        lambda: lambda: batches(X),
        lambda: X.tolist(),
    ],
    ids=["rows", "x", "batches", "x-batches", "function", "lists"],
)
def test_predictions_are_those_of_the_rows_in_their_order(data):
    trainer = made()
    trainer.fit((X, Y), epochs=1)
    np.testing.assert_array_equal(trainer.predict(data()), trainer.predict(X))
    with pytest.raises(DataError, match=r"batch 0 must be .* got a dict"):
        trainer.predict(iter([{"x": X}]))


def test_labels_of_every_form_are_classes_and_a_fraction_of_its_rows_is_held_out():
    names = np.array(["ant", "bee", "cat"])[Y]

    def told(data, **options):
        trainer = made()
        history = trainer.fit(data, epochs=2, validation_fraction=0.2, **options)
        assert trainer.classes == ("ant", "bee", "cat")
        return weights(trainer), history[-1]["val_loss"]

    expected = told((X, names))
    assert told(batches(X, names)) == expected
    assert told(Rows(X, names)) == expected
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=COLUMNS)
    assert told(frame.assign(kind=names), label="kind") == expected
    category = pd.Categorical(names)
    assert told(frame.assign(kind=category), label="kind") == expected


def test_labels_of_a_function_are_those_of_its_first_epoch():
    names = np.array(["ant", "bee", "cat"])[Y]
    trainer = made()
    trainer.fit(lambda epoch: (X, names), epochs=3)
    assert weights(trainer) == trained((X, Y))
    with pytest.raises(DataError, match=r"epoch 2: .*'dog' is not among the 3 classes"):
        made().fit(lambda n: (X, np.where(np.arange(50) < n, "dog", names)), epochs=3)
    with pytest.raises(DataError, match="not out of those of a function"):
        made().fit(lambda: (X, names), epochs=1, validation_fraction=0.5)


def test_the_labels_of_a_fit_that_was_refused_are_forgotten():
    trainer = made()
    with pytest.raises(DataError, match="all arrays must have the same number of rows"):
        trainer.fit((X[:9], np.array(["ant", "bee", "cat"])[Y]), epochs=1)
    trainer.fit((X, np.array(["x", "y", "z"])[Y]), epochs=3)
    assert trainer.classes == ("x", "y", "z")
    assert weights(trainer) == trained((X, Y))


def test_labels_are_learnt_from_given_weights_too_and_not_after_indices():
    names = np.array(["ant", "bee", "cat"])[Y]
    trainer = Trainer([Dense(6), ReLU(), Dense(3)], backend="numpy", dtype="float64")
    trainer.fit((X, Y), epochs=1)
    with pytest.raises(DataError, match="trained on class indices; got labels 'ant', 'bee'"):
        trainer.fit((X, names), epochs=2)
    begun = Trainer(trainer.model, backend="numpy", dtype="float64")
    begun.params = trainer.params
    begun.fit((X, names), epochs=1)
    assert begun.classes == ("ant", "bee", "cat")


# -------------------------------------------------------------------------------------- PyTorch


def torch_loader(torch, dataset=None, **options):
    dataset = dataset or torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    return torch.utils.data.DataLoader(dataset, **{"batch_size": 8, **options})


def test_a_dataloader_trains_as_its_rows_whatever_its_order_and_leaves_pytorchs_random_state():
    torch = pytest.importorskip("torch")
    before, expected = torch.get_rng_state(), trained((X, Y))
    assert trained(torch_loader(torch)) == expected
    assert trained(torch_loader(torch, shuffle=True, drop_last=True)) == expected
    assert trained(torch_loader(torch, batch_size=1)) == expected
    assert trained(torch_loader(torch).dataset) == expected
    trainer = made()
    trainer.fit((X, Y), epochs=1)
    shuffled = torch_loader(torch, shuffle=True)
    np.testing.assert_array_equal(trainer.predict(shuffled), trainer.predict(X))
    assert trainer.evaluate(shuffled).loss == trainer.evaluate((X, Y)).loss
    assert torch.equal(torch.get_rng_state(), before)


def test_the_rows_of_a_sampler_and_of_an_iterable_data_set_are_taken_as_they_come():
    torch = pytest.importorskip("torch")
    data = torch.utils.data

    class Stream(data.IterableDataset):
        def __iter__(self):
            return iter(zip(torch.tensor(X), Y.tolist(), strict=True))

    assert trained(Stream()) == trained((X, Y))
    assert trained(torch_loader(torch, Stream())) == trained((X, Y))
    some = [4, 8, 15, 16, 23, 42]
    subset = data.Subset(torch_loader(torch).dataset, some)
    assert trained(subset) == trained((X[some], Y[some]))
    sampler = torch_loader(torch, sampler=some)
    assert trained(sampler) == trained((X[some], Y[some]))


def test_a_collate_function_is_used_and_its_batches_are_checked():
    torch = pytest.importorskip("torch")

    def collate(rows):
        return torch.stack([x * 2 for x, _ in rows]), torch.tensor([int(y) for _, y in rows])

    assert trained(torch_loader(torch, collate_fn=collate)) == trained((X * 2, Y))
    half = torch.utils.data.TensorDataset(torch.tensor(X).bfloat16(), torch.tensor(Y))
    with pytest.raises(DataError, match=r"x of dtype torch\.bfloat16"):
        made().fit(torch_loader(torch, half), epochs=1)


def test_a_sampler_that_draws_with_replacement_is_refused_with_the_remedy():
    torch = pytest.importorskip("torch")
    data = torch.utils.data
    for sampler in (
        data.WeightedRandomSampler(W.tolist(), 50),
        data.RandomSampler(X, replacement=True),
    ):
        loader = torch_loader(torch, sampler=sampler)
        with pytest.raises(DataError, match=r"draws its rows anew .*: pass lambda: loader"):
            made().fit(loader, epochs=1)


# --------------------------------------------------------------------------------------- tables


def tables():
    plain = {**dict(zip(COLUMNS, X.T, strict=True)), "kind": Y}
    yield "pandas", lambda: pytest.importorskip("pandas").DataFrame(plain)
    yield "polars", lambda: pytest.importorskip("polars").DataFrame(plain)
    yield "pyarrow", lambda: pytest.importorskip("pyarrow").table(plain)


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in tables()])
def test_a_table_trains_as_its_columns_and_predicts_by_their_names(make):
    table, trainer = make(), made()
    history = trainer.fit(table, label="kind", epochs=3, validation=table)
    assert weights(trainer) == trained((X, Y))
    assert history[-1]["val_loss"] == trainer.evaluate(table, label="kind").loss
    names = ["kind", "d", "b", "a", "c"]
    other = table.select(names) if hasattr(table, "select") else table[names]
    np.testing.assert_array_equal(trainer.predict(other), trainer.predict(X))
    again = made()
    again.restore(*trainer.snapshot())
    np.testing.assert_array_equal(again.predict(other), trainer.predict(X))
    again = pickle.loads(pickle.dumps(trainer))
    np.testing.assert_array_equal(again.predict(other), trainer.predict(X))


def test_the_tables_of_a_function_keep_the_columns_of_the_first():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=COLUMNS).assign(kind=Y)
    names = [*frame.columns]

    def table(epoch):
        return frame[names[epoch:] + names[:epoch]]

    trainer = made()
    trainer.fit(table, label="kind", epochs=3, validation=lambda: frame[names[::-1]])
    assert weights(trainer) == trained((X, Y))
    np.testing.assert_array_equal(trainer.predict(frame[names[::-1]]), trainer.predict(X))
    assert trainer.evaluate(lambda: (X, Y), label="kind") is not None
    with pytest.raises(ConfigError, match="label='kind' names a column of a table"):
        made().fit(lambda: (X, Y), label="kind", epochs=1)


def test_a_fit_that_was_refused_leaves_no_columns_behind():
    pd = pytest.importorskip("pandas")
    trainer, frame = made(), pd.DataFrame(X, columns=COLUMNS).assign(kind=Y + 7.5)
    with pytest.raises(DataError):
        trainer.fit(frame, label="kind", epochs=1)
    other = pd.DataFrame(X, columns=["p", "q", "r", "s"]).assign(kind=Y)
    trainer.fit(other, label="kind", epochs=3)
    assert weights(trainer) == trained((X, Y))
    with pytest.raises(DataError, match="has no column 'p'"):
        trainer.fit(frame, label="kind", epochs=4)


def test_a_series_is_a_target_and_an_index_no_feature():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=COLUMNS, index=np.arange(50) * 2)
    series = pd.Series(Y, index=frame.index)
    assert trained((frame, series)) == trained((X, Y))
    assert trained(frame.assign(kind=series), label="kind") == trained((X, Y))


def test_tables_that_are_not_numbers_alone_are_refused():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=COLUMNS).assign(kind=Y)
    for label, message in (
        (None, "the name of the column to learn: label=..., of 'a', 'b', 'c', 'd', 'kind'"),
        ("kinds", "data has no column 'kinds'; did you mean 'kind'?"),
    ):
        with pytest.raises(DataError, match=message):
            made().fit(frame, label=label, epochs=1)
    texts, gaps = frame.assign(b="x"), frame.copy()
    gaps.loc[7, "c"] = None
    with pytest.raises(DataError, match=r"column 'b' does not hold numbers alone: xpnet.train"):
        made().fit(texts, label="kind", epochs=1)
    with pytest.raises(DataError, match=r"row 7, column 2 \('c'\): the value is missing"):
        made().fit(gaps, label="kind", epochs=1)
    with pytest.raises(ConfigError, match="label='kind' names a column of a table; got tuple"):
        made().fit((X, Y), label="kind", epochs=1)
    trainer = made()
    trainer.fit(frame, label="kind", epochs=1)
    with pytest.raises(DataError, match="has no column 'c'"):
        trainer.predict(frame[["a", "b", "d"]])
