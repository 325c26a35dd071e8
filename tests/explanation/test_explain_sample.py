"""Which row of a run is explained and why, as people know it, and rows of one's own."""

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner

import xpnet
from xpnet import Dense, Tanh, Trainer
from xpnet.cli.commands.explain import explain as command
from xpnet.data import Columns, Dataset
from xpnet.data.shown import picture, written
from xpnet.errors import ConfigError, DataError
from xpnet.explanation import data_subject, explain, of_config
from xpnet.explanation.chosen import Answered, choose

QUIET = {"report": lambda line: None}


def trained(source, folder, *settings):
    from xpnet.run import train
    from xpnet.run.config_sources import load_config

    kept = ["epochs=3", "model.hidden=[8]", "backend=numpy", *settings]
    train(load_config(source, kept), folder, **QUIET)
    return xpnet.load(folder, backend="numpy", device="cpu")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return trained("digits", tmp_path_factory.mktemp("digits") / "run")


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """A run on a table with columns of several kinds, and its file."""
    folder = tmp_path_factory.mktemp("flowers")
    rng = np.random.default_rng(0)
    lines = ["when,colour,size,wet,kind"]
    for i in range(200):
        colour, size = ("red", "blue")[i % 2], rng.normal()
        shown = "" if i % 10 == 3 else f"{size:.3f}"
        kind = "rose" if (colour == "red") ^ (size > 1) else "iris"
        lines.append(f"2020-0{1 + i % 9}-0{1 + i % 7},{colour},{shown},{bool(i % 3)},{kind}")
    (folder / "flowers.csv").write_text("\n".join(lines) + "\n")
    run = trained(str(folder / "flowers.csv"), folder / "run", "data.label=kind")
    return run, folder / "flowers.csv"


@pytest.fixture(scope="module")
def prices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prices")
    x = np.random.default_rng(1).normal(size=(120, 2))
    rows = [f"{a},{b},{100 + 30 * a - 10 * b * b}" for a, b in x]
    (folder / "prices.csv").write_text("\n".join(["a,b,price", *rows]) + "\n")
    return trained(str(folder / "prices.csv"), folder / "run", "data.label=price")


def losses(run):
    """Cross-entropy and margin of each test row, by what the run predicts."""
    part = run.test_part()
    p = run.predict(part.x).astype(float)
    two = np.sort(p, axis=1)[:, -2:]
    return -np.log(p[np.arange(len(p)), part.y]), two[:, 1] - two[:, 0], p, part


def test_the_worst_is_the_row_with_the_largest_loss_and_it_is_said(digits):
    loss, _, p, part = losses(digits)
    row = int(loss.argmax())
    found = explain(digits, sample="worst")
    assert p[row].argmax() != part.y[row]  # the test is of a run that makes mistakes
    assert found.example.text == (
        f"sample {row} of {len(part)}, the one with the largest loss: labelled {part.y[row]}, "
        f"predicted {p[row].argmax()} with {p[row].max():.2f}"
    )
    assert dict(found.setting)["sample"] == found.example.text.removeprefix("sample ")
    np.testing.assert_allclose(found.ways.a[0], p[row], rtol=0, atol=1e-6)
    assert explain(digits).example.text == found.example.text  # the default, where one is wrong
    assert str(explain(digits, sample="worst")) == str(found)


def test_the_least_sure_has_the_smallest_margin(digits):
    _, margin, p, part = losses(digits)
    row = int(margin.argmin())
    found = explain(digits, sample="unsure").example
    assert found.text.startswith(
        f"sample {row} of {len(part)}, the one that the model is least sure of: labelled "
    )
    best = np.argsort(-p[row])[:2]
    assert [name for name, _ in found.answers[:2]] == [str(k) for k in best]
    np.testing.assert_allclose([v for _, v in found.answers[:2]], p[row][best], rtol=1e-5)


def test_several_rows_are_the_worst_in_their_order(digits):
    loss, *_ = losses(digits)
    worst = np.argsort(-loss)[:3]
    found = explain(digits, sample="worst", batch=3)
    assert f"samples {', '.join(map(str, worst))} of the test data" in found.title
    assert "the 3 with the largest loss; the first is labelled" in found.example.text


def test_without_a_mistake_the_default_is_the_least_sure():
    answers = Answered(np.array([0.1, 0.2, 0.3]), np.array([0.9, 0.2, 0.5]), np.zeros(3, bool))
    choice = choose(answers, None, 1, "the loss")
    assert choice.rows.tolist() == [1]
    assert choice.why == "the one that the model is least sure of, which is right for all 3"
    wrong = answers._replace(wrong=np.array([True, False, False]))
    assert choose(wrong, None, 1, "the loss").rows.tolist() == [2]


def test_a_loss_that_is_no_number_is_the_worst():
    answers = Answered(np.array([1.0, np.nan, np.inf]), np.full(3, np.nan), np.zeros(3, bool))
    assert choose(answers, "worst", 2, "the loss").rows.tolist() == [1, 2]


def test_of_many_rows_the_first_are_looked_at_and_how_many_is_said(digits, monkeypatch):
    monkeypatch.setattr(data_subject, "LOOKED_AT", 20)
    loss, *_, part = losses(digits)
    row = int(loss[:20].argmax())
    text = explain(digits).example.text
    assert text.startswith(f"sample {row} of the first 20 of {len(part)}, the one with the largest")


def test_a_regression_has_a_worst_row_and_none_to_be_unsure_of(prices):
    part = prices.test_part()
    row = int(np.square(prices.predict(part.x)[:, 0] - part.y.reshape(-1)).argmax())
    found = explain(prices).example
    assert found.text.startswith(f"sample {row} of {len(part)}, the one with the largest loss: ")
    assert float(found.label) == pytest.approx(float(part.y.reshape(-1)[row]), rel=1e-3)
    with pytest.raises(ConfigError, match="has no two classes to be unsure between") as caught:
        explain(prices, sample="unsure")
    assert caught.value.at_command_line.endswith("--sample worst or the number of a row")


def test_the_rows_of_a_recipe_are_chosen_too():
    found = of_config("digits", sample="worst").example
    assert "of the first 1,000, the one with the largest loss: labelled" in found.text


@pytest.mark.parametrize("sample", ["wurst", "", "-1", "1.5", True, 2.0])
def test_what_is_no_sample_is_refused(digits, sample):
    with pytest.raises(ConfigError, match="sample must be worst, unsure or the number of a row"):
        explain(digits, sample=sample)


def test_a_label_that_is_asked_for_is_told_from_the_one_in_the_data(digits):
    label = int(digits.test_part().y[5])
    found = explain(digits, sample=5, label=(label + 1) % 10).example
    assert f"labelled {(label + 1) % 10} as asked ({label} in the data)" in found.text
    assert found.label == str((label + 1) % 10)


def test_a_label_of_two_classes_and_one_output_may_be_asked_for(tmp_path):
    lines = ["a,b,kind"] + [f"{i % 7},{i % 5},{'yes' if i % 7 > 3 else 'no'}" for i in range(60)]
    (tmp_path / "two.csv").write_text("\n".join(lines) + "\n")
    run = trained(str(tmp_path / "two.csv"), tmp_path / "run", "loss.name=binary_cross_entropy")
    for label in (0, 1):
        found = explain(run, sample=2, label=label)
        target = next(t for s in found.steps for t in s.operands if t.name == "y")
        assert target.values[0, 0] == label
        assert f"labelled {('no', 'yes')[label]} as asked" in found.example.text
    with pytest.raises(ConfigError, match="the run's loss predicts 0 or 1, not a class"):
        explain(run, label=2)


def test_an_image_is_there_as_people_see_it(digits):
    part = digits.test_part()
    found = explain(digits, sample=5).example
    np.testing.assert_array_equal(found.picture, part.x[5].reshape(8, 8) / 16)
    assert found.columns == ()


def test_a_row_of_a_table_is_there_as_it_was_written(flowers):
    run, file = flowers
    part = run.test_part()
    names, *rows = (line.split(",") for line in file.read_text().splitlines())
    for sample in range(0, len(part), 5):
        found = explain(run, sample=sample).example
        assert found.picture is None
        assert [name for name, _ in found.columns] == names[:-1]
        row = [value for _, value in found.columns] + [found.label]
        assert any(same(row, other) for other in rows), row


def test_the_row_or_the_image_is_shown_in_text(flowers, digits):
    run, _ = flowers
    found = explain(run, sample=1)
    for form in ("terminal", "markdown", "latex"):
        shown = " ".join(found.render(form).split())
        for name, value in found.example.columns:
            assert f"{name} {value or 'missing'}" in shown
    found = explain(digits, sample=5)
    light = found.example.picture > found.example.picture.max() / 2
    halves = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}
    start = next(i for i, line in enumerate(found.render().splitlines()) if line[:3] == "   ")
    lines = found.render().splitlines()[start : start + 4]
    drawn = [[halves[c] for c in line[3:11].ljust(8)] for line in lines]
    np.testing.assert_array_equal(np.array(drawn).transpose(0, 2, 1).reshape(8, 8), light)
    for line, (name, _) in zip(lines, found.example.answers, strict=False):
        assert line[11:].split()[0] == name
        assert "█" in line[11:] or "▏" in line[11:]


def same(row, other):
    number = row[2] == other[2] == "" or (row[2] and other[2] and float(row[2]) == float(other[2]))
    return bool(number) and [*row[:2], *row[3:]] == [*other[:2], *other[3:]]


def test_images_are_known_by_their_shape_or_their_name():
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(picture(Dataset(colour, None, None, "a"), 1), colour[1] / 255)
    first = rng.random((2, 3, 9, 8))
    shown = picture(Dataset(first, None, None, "a"), 0)
    np.testing.assert_allclose(shown, np.moveaxis(first[0], 0, -1), rtol=1e-15)
    grey = rng.integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    np.testing.assert_array_equal(
        picture(Dataset(grey, None, None, "a"), 1), grey[1, :, :, 0] / 255
    )
    negative = np.linspace(-2, 2, 64).reshape(1, 8, 8)
    shown = picture(Dataset(negative, None, None, "a"), 0)
    assert (shown.min(), shown.max()) == (0, 1)
    pixels = Columns(tuple(range(64)), names=tuple(f"pixel{j}" for j in range(64)))
    flat = rng.integers(0, 256, (2, 64))
    np.testing.assert_array_equal(
        picture(Dataset(flat, None, None, "a", pixels), 0), flat[0].reshape(8, 8) / 255
    )
    other = dataclasses.replace(pixels, names=tuple(f"gene{j}" for j in range(64)))
    assert picture(Dataset(flat, None, None, "digits", other), 0) is None
    assert picture(Dataset(rng.random((2, 5, 3)), None, None, "series"), 0) is None
    assert picture(Dataset(np.full((1, 8, 8), np.nan), None, None, "a"), 0) is None


def test_values_of_each_kind_are_written_as_in_a_file():
    kinds = ("number", "category", "boolean", "date", "date", "category", "number")
    levels = ((), ("x", "y"), ("False", "True"), (), (), ("u",), ())
    columns = Columns(tuple(range(7)), names=tuple("abcdefg"), kinds=kinds, levels=levels)
    day = 86_400.0
    x = np.array([[0.1, 1, 0, 365 * day, 365.5 * day, -1, np.nan]])
    values = [value for _, value in written(Dataset(x, None, None, "t", columns), 0)]
    assert values == ["0.1", "y", "False", "1971-01-01", "1971-01-01T12:00:00", "?", ""]


def test_a_run_takes_rows_of_ones_own(digits, flowers):
    run, file = flowers
    found = explain(run, x=str(file), sample="worst")
    assert found.example.text.startswith("sample ")
    assert "of 200, the one with the largest loss" in found.example.text
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    table = pd.read_csv(file).head(3)
    assert len(explain(run, x=table).ways.a) == 3
    part = digits.test_part()
    found = explain(digits, x=part.x[:4], y=part.y[:4])
    np.testing.assert_allclose(found.ways.a, digits.predict(part.x[:4]), rtol=0, atol=1e-6)
    assert (
        np.argmax(next(s for s in found.steps if s.result.name == "v").result.values[3])
        == part.y[3]
    )


@pytest.mark.parametrize("labels", [False, True])
def test_a_trainer_takes_rows_of_ones_own(labels):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)), rng.integers(0, 3, 40)
    y = np.array(["fir", "oak", "yew"])[y] if labels else y
    trainer = Trainer([Dense(5), Tanh(), Dense(3)], backend="numpy")
    trainer.fit((x, y), epochs=2)
    found = explain(trainer, x=x[:6], y=y[:6])
    np.testing.assert_allclose(found.ways.a, trainer.predict(x[:6]), rtol=0, atol=1e-6)
    assert f"samples 0..5 of 6; the first is labelled {y[0]}, predicted" in found.example.text
    codes = y if not labels else np.searchsorted(["fir", "oak", "yew"], y)
    p = trainer.predict(x)
    row = int(p[np.arange(40), codes].argmin())
    text = explain(trainer, x=x, y=y, sample="worst").example.text
    assert text.startswith(f"sample {row} of 40, the one with the largest loss: labelled {y[row]}")


def test_the_gradients_of_rows_of_ones_own_are_the_trainers():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 4)), rng.integers(0, 3, 6)
    trainer = Trainer([Dense(5), Tanh(), Dense(3)], backend="numpy", dtype="float64")
    trainer.fit((x, y), epochs=1)
    expected = trainer.gradients(x, y)
    found = explain(trainer, x=x, y=y)
    of_last = next(s for s in found.steps if s.result.name == "dW").result.values
    np.testing.assert_allclose(of_last, expected["2.dense.W"], rtol=0, atol=1e-15)


def test_a_table_in_memory_is_not_kept_and_the_error_says_what_to_pass(tmp_path):
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    x = np.random.default_rng(0).normal(size=(60, 3))
    table = pd.DataFrame(x, columns=list("abc")).assign(kind=np.where(x[:, 0] > 0, "up", "down"))
    settings = {"epochs": 1, "backend": "numpy", "data.label": "kind"}
    run = xpnet.train(table, tmp_path / "run", settings=settings)
    with pytest.raises(
        DataError, match=r"does not keep: pass labelled rows, explain\(run, x="
    ) as e:
        explain(run)
    assert e.value.at_command_line.endswith("give a FILE of labelled rows after it")
    assert len(explain(run, x=table.head(2)).ways.a) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda run: explain(run, y=[1]), "y is the labels of rows x, which are missing"),
        (lambda run: explain(run, x=np.zeros((2, 64))), "a ndarray need their labels: pass y"),
        (lambda run: explain(run, x=np.zeros((2, 9)), y=[1, 1]), "the run was trained on"),
        (lambda run: explain(run, x=np.zeros((1, 64)), y=["a"]), "'a' is not among the 10 classes"),
        (lambda run: explain([3, 2], x=np.zeros((1, 3))), "are for a trained run or a Trainer"),
        (lambda run: explain(object()), "a run folder, a Run, a Trainer or a Subject; got object"),
        (lambda run: explain(run, loss="huber"), "a run has its own loss, activation and seed"),
    ],
)
def test_what_does_not_go_together_is_refused(digits, make, message):
    with pytest.raises((ConfigError, DataError), match=message):
        make(digits)


def test_the_command_takes_a_rule_a_number_and_a_file(flowers, tmp_path):
    run, file = flowers
    folder = str(run.folder.path)

    def shown(*arguments):
        done = CliRunner().invoke(command, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return " ".join(done.output.split())

    assert f"of {len(run.test_part())}, the one" in shown(folder)
    assert "the one that the model is least sure of" in shown(folder, "--sample", "unsure")
    assert "sample 3 of the test data" in shown(folder, "--sample", "3")
    assert "of 200, the one with the largest loss" in shown(folder, str(file), "--sample=worst")
    for arguments, message in (
        ((folder, "--sample", "best"), "sample must be worst, unsure or the number of a row"),
        ((folder, str(file), "more"), "and for a run a file of rows; got"),
        (("digits", "x.csv"), "give sizes such as"),
    ):
        with pytest.raises(ConfigError, match=message):
            CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_a_label_that_a_trainer_does_not_have_is_refused():
    x, y = np.eye(4), np.array(["a", "b", "a", "b"])
    trainer = Trainer([Dense(2)], backend="numpy")
    trainer.fit((x, y), epochs=1)
    assert "labelled b as asked (a in the data)" in explain(trainer, x=x, y=y, label=1).example.text
    with pytest.raises(ConfigError, match="label must be a class from 0 to 1; got 2"):
        explain(trainer, x=x, y=y, label=2)
