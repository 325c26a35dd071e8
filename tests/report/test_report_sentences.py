"""What the page says in words is true of the numbers it is said of."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from xpnet.data.metrics import class_scores
from xpnet.report.classes import classes, most_missed
from xpnet.report.columns import Feature, columns
from xpnet.report.evidence import ClassTally, ValueTally
from xpnet.report.importance import Importance
from xpnet.report.layout import Table
from xpnet.report.learning import converged, fit_gap, learning
from xpnet.report.page import Report, headline, page
from xpnet.report.regression import regression, typical


def history(val=None, train=None, **more):
    count = len(val if val is not None else train)
    return [
        {
            "epoch": n + 1,
            "step": 10 * (n + 1),
            "loss": (train if train is not None else val)[n],
            **({"val_loss": val[n]} if val is not None else {}),
            **{name: values[n] for name, values in more.items()},
        }
        for n in range(count)
    ]


FALLING = [1 / n for n in range(1, 21)]


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (
            FALLING,
            "still falling: it got 20.0 % lower in the last 4 epochs, so training longer",
        ),
        ([1, 0.5, 0.3] + [0.3001] * 17, "lowest at epoch 3 (0.3), and has not got lower since"),
        ([1.0, 0.5] + [0.3 - 1e-5 * n for n in range(18)], "has levelled off: it got only"),
        ([1, 0.5, 0.2, *np.linspace(0.2, 0.9, 17)], "lowest at epoch 3 (0.2) and ends at 0.9: "),
        (
            [1, 0.5, np.inf, np.nan],
            "lowest at epoch 2 (0.5), and is not a finite number at",
        ),
        ([np.nan] * 6, "is not a finite number in any epoch"),
        ([3, 2], "lowest at epoch 2 (2); 2 epochs are too few to see it level off"),
        ([3], "1 epoch is too few"),
    ],
)
def test_whether_the_loss_has_stopped_falling(losses, said):
    text = converged(history(val=losses)).replace("\u202f", " ")
    assert text.startswith("The validation loss")
    assert said in text
    assert "training loss" not in text
    alone = converged(history(train=losses))
    assert alone.startswith("The training loss")


def test_without_a_validation_it_says_that_new_rows_are_not_in_it():
    assert "No rows were held out for validation" in converged(history(train=FALLING))


def test_the_losses_of_the_best_epoch_are_compared():
    val, train = [3.0, 1.0, 2.0], [2.5, 0.2, 0.1]
    assert fit_gap(history(val, train)) == (
        "At its best epoch the loss is 1 on the validation rows and 0.2 on the training rows: "
        "it fits what it was trained on better."
    )
    assert fit_gap(history(train=train)) == ""
    assert "better" not in fit_gap(history([1.0], [0.9]))


def test_old_and_odd_histories_are_drawn():
    assert learning([], None) is None
    learning([{"epoch": 1, "loss": float("nan")}], 1)
    learning([{"loss": 1.0}, {"epoch": 2}], None)
    norms = [{"0.dense": {"weights": 1.0, "gradient": 0.1 / n, "update": 0.01}} for n in (1, 2)]
    records = history([2.0, 1.0], lr=[0.1, 0.1], norms=[norms[0], {}], rows_per_second=[5.0, 6.0])
    titles = [card.title for card in learning(records, 2).cards]
    assert titles == [
        *("Loss", "Learning rate", "Gradient norm by layer"),
        *("Update relative to the weights", "Speed"),
    ]
    early = learning(history([2.0, 1.0], norms=[norms[0], {}]), None).cards[1]
    assert early.note == "At epoch 1 it is 0.1 in 0.dense."  # the last that was measured
    later = history([2.0, 1.0], norms=norms)
    notes = {card.title: card.note for card in learning(later, None).cards}
    assert notes["Gradient norm by layer"] == "At epoch 2 it is 0.05 in 0.dense."
    assert notes["Update relative to the weights"] == "At epoch 2 it is 0.01 in 0.dense."


def test_of_many_layers_some_are_drawn_and_that_is_said():
    norms = {f"{n}.dense": {"weights": 1.0, "gradient": 1.0 + n, "update": 0.1} for n in range(64)}
    section = learning(history([2.0, 1.0], norms=[norms, norms]), None)
    note = next(card.note for card in section.cards if card.title.startswith("Gradient"))
    assert note == ("At epoch 2 it is 64 in 63.dense and 1 in 0.dense. Shown are 8 of 64 layers.")


def test_the_class_that_is_missed_most_is_that_of_the_largest_share():
    names = ("ant", "bee", "cat")
    counts = np.array([[90, 10, 0], [3, 5, 2], [0, 0, 7]])
    assert most_missed(names, counts) == (
        "No class is missed more often than bee: 5 of its 10 rows are taken for another class, "
        "3 of them for ant. 1 class is never missed."
    )
    assert most_missed(names, np.diag([1, 2, 3])) == "Every one of the 6 rows is right."
    one = np.array([[1, 1, 0], [0, 9, 0], [0, 0, 0]])
    assert "than ant: 1 of its 2 rows is taken for bee." in most_missed(names, one)
    assert "than class 0: " in most_missed("012", one)


def scores_of(y, predicted, names):
    matrix = confusion_matrix(y, predicted, labels=range(len(names)))
    found = class_scores(matrix)
    return {"rows": len(y), "loss": 0.5, **found, "confusion": matrix.tolist(), "classes": names}


def test_the_table_of_confusion_has_the_counts_and_says_them():
    rng = np.random.default_rng(0)
    y, predicted = rng.integers(0, 3, (2, 60))
    section = classes(scores_of(y, predicted, ["a", "b", "c"]), None)
    table = section.cards[0].parts[0]
    expected = confusion_matrix(y, predicted)
    for i, row in enumerate(table.rows):
        assert [0 if cell.text == "·" else int(cell.text) for cell in row[1:]] == list(expected[i])
        assert [cell.share for cell in row[1:]] == pytest.approx(expected[i] / expected[i].sum())
    assert (
        table.rows[0][2].title == f"{expected[0, 1]} of {expected[0].sum()} rows of a taken for b"
    )
    assert table.rows[0][2].tone == "neg"


def test_of_many_classes_the_worst_are_listed_and_all_are_in_the_map():
    names = [str(k) for k in range(500)]
    y = np.repeat(np.arange(500), 2)
    predicted = np.where(np.arange(1000) < 10, 499, y)
    section = classes(scores_of(y, predicted, names), None)
    confusion, by_class = section.cards[0], section.cards[-1]
    assert "data:image/png" in confusion.parts[0].svg
    assert isinstance(by_class.parts[0], Table)
    assert {row[0] for row in by_class.parts[0].rows[:5]} == set("01234")
    assert by_class.parts[0].more == "The 40 of 500 classes with the lowest F1."


def test_of_two_classes_the_area_is_said_to_be_of_the_class_that_it_is_of():
    tally = ClassTally(("no", "yes"))
    p1 = np.array([0.1, 0.4, 0.35, 0.8])
    labels = np.array([0, 0, 1, 1])
    tally.add(np.arange(4), labels, np.stack([1 - p1, p1], 1), None)
    section = classes(scores_of(labels, (p1 > 0.5).astype(int), ["no", "yes"]), tally)
    notes = {card.title: card.note.replace("\u202f", " ") for card in section.cards}
    assert notes["ROC"] == (
        "In 75.0 % of pairs, a row of yes is ranked above one of no (AUC 0.750; 0.5 is chance)."
    )
    assert notes["Precision and recall"].startswith("Average precision for yes is 0.833; ")
    assert (
        "On average it gives yes a probability of 41.2 %, and 50.0 % of the" in notes["Calibration"]
    )


def test_half_of_the_predictions_are_as_near_as_it_says():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(1001, 1))
    predicted = y + rng.normal(size=y.shape)
    text = typical(y, predicted, ("price",))
    half, most = (float(part.split(" ")[0].rstrip(".")) for part in text.split("within ")[1:])
    far = np.abs(predicted - y)
    assert (far <= half).mean() == pytest.approx(0.5, abs=0.01)  # to three digits
    assert (far <= most).mean() == pytest.approx(0.9, abs=0.01)


def test_residuals_say_their_mean_and_where_they_are_larger():
    y = np.linspace(0, 10, 400)
    predicted = 0.5 * y + 3 + np.where(y > 5, np.where(np.arange(400) % 2, 1.0, -1.0), 0.0)
    tally = ValueTally(("price",), np.ones(()))
    tally.add(np.arange(400), y[:, None], predicted[:, None], None)
    section = regression({"rows": 400, "mse": 1.0, "mae": 1.0, "r2": 0.5}, tally)
    notes = {card.title: card.note for card in section.cards}
    mean = (predicted - y).mean()
    assert notes["Residuals"].startswith(f"Predictions are {mean:.3g} too high in the mean; ")
    assert "the extremes are predicted too near the middle" in notes["Predicted against true"]


def importance(mean, std, total=None):
    count = len(mean)
    names = tuple(range(count))
    return Importance(
        names, np.array(mean), np.array(std), 0.9, "accuracy", 100, 5, total or count, False
    )


def test_columns_that_cannot_be_told_from_chance_are_counted():
    features = [Feature(name, "number", "a number") for name in ("age", "height", "shoe")]
    lead = columns(features, [], importance([0.2, 0.01, 0.0], [0.02, 0.02, 0.0]), "").lead
    assert lead.replace("\u202f", " ") == (
        "Shuffling age costs most: 20.0 percentage points of the accuracy of 90.0 %. "
        "2 of 3 columns cost less than two standard deviations: nothing that can be told from "
        "chance."
    )
    nothing = columns(features, [], importance([0.0, -0.1], [0.1, 0.1]), "").lead
    assert nothing == "Shuffling any one column costs nothing that can be measured."
    assert columns([], [], None, "") is None
    assert columns(features, [("id", "an index")], None, "no rows").lead == "no rows"


def test_the_headline_is_never_rounded_to_all():
    scores = {"rows": 10_000, "accuracy": 0.99999}
    told = headline(Report("r", "classification", scores=scores)).replace("\u202f", " ")
    assert told == "Right on over 99.9 % of the 10,000 test rows"


def test_a_run_of_nothing_is_a_page_that_says_what_is_missing():
    text = page(Report("empty <b>", "regression", ("y",), missing=["Curves: there are none."]))
    assert "empty &lt;b&gt; has no test score" in text
    assert "Curves: there are none." in text
    assert "<section" in text  # the settings
