"""``Norms``: those of PyTorch and NumPy, on every backend and step; and nothing else changes."""

import json

import numpy as np
import pytest

from xpnet.errors import CheckpointError
from xpnet.nn import BatchNorm, Dense, Dropout, LayerNorm, ReLU, Tanh
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import SGD, Adam
from xpnet.step.mixed_precision import Mixed
from xpnet.training.callbacks import Callback, HistoryFile
from xpnet.training.norms import Norms
from xpnet.training.trainer import Trainer

CLOCKS = ("seconds", "rows_per_second")
LAYERS = (Dense(6), BatchNorm(), Tanh(), Dropout(0.3), LayerNorm(), Dense(5), ReLU(), Dense(3))
NAMES = ["0.dense", "1.batch_norm", "4.layer_norm", "5.dense", "7.dense"]


def rows(n=90):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 4)), rng.integers(0, 3, n), rng.uniform(0.5, 2.0, n)


def timeless(history):
    return [{k: v for k, v in record.items() if k not in CLOCKS} for record in history]


def bits(trainer):
    return {k: v.tobytes() for k, v in trainer.snapshot()[0].items()}


class Watch(Callback):
    """What the norms are of, from outside: the parameters around each step, and its batch."""

    def __init__(self):
        self.seen = []

    def on_train_begin(self, trainer):
        self.before = trainer.params

    def on_step_end(self, trainer):
        host = trainer.engine.backend.to_host
        batch = [None if part is None else np.array(host(part)) for part in trainer._batch]
        self.seen.append((self.before, trainer.params, batch))
        self.before = trainer.params


def by_layer(tensors):
    layers = {}
    for name, tensor in tensors.items():
        layers.setdefault(name.rpartition(".")[0], []).append(np.ravel(tensor))
    return {name: np.linalg.norm(np.concatenate(parts)) for name, parts in layers.items()}


def trained(backend="numpy", layers=LAYERS, epochs=1, watch=None, norms=True, data=None, **more):
    more = {"batch_size": 20, "seed": 3, **more}
    trainer = Trainer(layers, backend=backend, **more)
    watching = [*([Norms()] if norms else []), *([] if watch is None else [watch])]
    trainer.fit(rows() if data is None else data, epochs=epochs, callbacks=watching)
    return trainer


@pytest.mark.long_where(backend=["jax"])
def test_they_are_of_the_step_on_the_last_whole_batch(backend):
    watch = Watch()
    trainer = trained(backend, watch=watch)
    (record,) = trainer.history
    assert list(record["norms"]) == NAMES
    before, after, batch = watch.seen[3]  # of 90 rows the fifth batch has 10
    again = Trainer(LAYERS, backend=backend, batch_size=20, seed=3)
    again.fit(rows(), epochs=1, callbacks=[At(3)])
    gradients = {k: backend.to_host(g) for k, g in again.gradients(*batch).items()}
    names = list(gradients)
    expected = {
        "weights": by_layer({k: after[k] for k in names}),
        "gradient": by_layer(gradients),
        "update": by_layer({k: after[k] - before[k] for k in names}),
    }
    for kind, norms in expected.items():
        found = {name: layer[kind] for name, layer in record["norms"].items()}
        assert found == pytest.approx(norms, rel=1e-5), kind  # six digits are kept


class At(Callback):
    """Stop after so many steps."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, trainer):
        if trainer.position.step == self.step:
            trainer.stop("enough")


def test_the_gradient_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    watch, layers = Watch(), (Dense(6), Tanh(), Dense(3))
    (record,) = trained(layers=layers, watch=watch, optimizer=Adam()).history
    before, _, (x, y, weight) = watch.seen[3]
    p = {
        k: torch.tensor(np.array(v), requires_grad=True)
        for k, v in before.items()
        if "W" in k or "b" in k
    }
    x, y, weight = torch.tensor(x), torch.tensor(y).long(), torch.tensor(weight)
    logits = torch.tanh(x @ p["0.dense.W"] + p["0.dense.b"]) @ p["2.dense.W"] + p["2.dense.b"]
    losses = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    ((losses * weight).sum() / weight.sum()).backward()
    expected = by_layer({name: tensor.grad.numpy() for name, tensor in p.items()})
    found = {name: layer["gradient"] for name, layer in record["norms"].items()}
    assert found == pytest.approx(expected, rel=1e-5)


CASES = {
    "adam": {},
    "plain descent": {"optimizer": SGD(0.1)},
    "clipped": {"optimizer": SGD(0.1, momentum=0.9), "clip": Clip(norm=0.01)},
    "class weights": {"class_weights": "balanced", "optimizer": Adam(freeze=["0.dense"])},
    "micro-batches": {"accumulate": 3, "step": "portable"},
    "mixed": {"mixed": Mixed("float16"), "step": "portable"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("step", ["portable", "auto"])
def test_no_bit_of_the_training_changes(case, step):
    more = {"step": step, **CASES[case]}
    plain, measured = (trained(norms=norms, epochs=3, **more) for norms in (False, True))
    assert bits(measured) == bits(plain)
    norms = [record.pop("norms", None) for record in measured.history]
    assert timeless(measured.history) == timeless(plain.history)
    assert norms[0] is not None


@pytest.mark.parametrize("case", CASES)
def test_the_step_makes_no_difference(case):
    fused, portable = (
        trained(dtype="float64", **{**CASES[case], "step": step}).history[0]["norms"]
        for step in (CASES[case].get("step", "auto"), "portable")
    )
    for name, layer in portable.items():
        assert fused[name] == pytest.approx(layer, rel=1e-5)


@pytest.mark.long_where(backend=["jax"])
def test_a_step_of_plain_descent_is_the_learning_rate_times_the_gradient(backend):
    norms = trained(backend, optimizer=SGD(0.25)).history[0]["norms"]
    for layer in norms.values():
        assert layer["update"] == pytest.approx(0.25 * layer["gradient"], rel=1e-4)


@pytest.mark.long_where(backend=["jax"])
def test_micro_batches_draw_the_dropout_of_the_step(backend):
    layers = (Dense(5), Dropout(0.5), Dense(3))
    norms = trained(backend, layers, optimizer=SGD(0.25), accumulate=3).history[0]["norms"]
    for layer in norms.values():
        assert layer["update"] == pytest.approx(0.25 * layer["gradient"], rel=1e-4)


def test_without_memory_the_training_goes_on(monkeypatch):
    lines, norms = [], []

    def no_memory(self, before):
        norms.append(before)
        raise MemoryError

    monkeypatch.setattr(Trainer, "gradient_of_step", no_memory)
    trainer = Trainer(LAYERS, backend="numpy", batch_size=2)
    trainer.fit(rows(), epochs=3, callbacks=[Norms(lines.append)])
    assert not any("norms" in record for record in trainer.history)
    assert lines == ["no memory for the norms of layers: training continues without them"]
    assert len(norms) == 1


def test_a_frozen_layer_does_not_move():
    norms = trained(optimizer=Adam(freeze=["0.dense"])).history[0]["norms"]
    assert norms["0.dense"]["gradient"] == norms["0.dense"]["update"] == 0.0
    assert all(layer["update"] > 0 for name, layer in norms.items() if name != "0.dense")


def test_a_gradient_that_vanishes_in_the_squares_is_seen():
    x = rows()[0]
    layers, weight = (Dense(4), Tanh(), Dense(3)), np.full(90, 1.0)
    trainer = Trainer(layers, "mean_squared_error", SGD(0.1), backend="numpy", batch_size=90)
    target = np.zeros((90, 3), "float32")
    trainer.fit((x * 0.0, target, weight), epochs=1)
    trainer.params = {"2.dense.b": [1e-24, 0.0, 0.0]}
    again = Trainer(layers, "mean_squared_error", SGD(0.1), backend="numpy", batch_size=90)
    again.restore(*trainer.snapshot())
    again.fit((x * 0.0, target, weight), epochs=41, callbacks=[Norms()])
    norms = again.history[40]["norms"]
    assert 0.0 < norms["2.dense"]["gradient"] < 1e-23


def test_short_epochs_are_measured_every_forty_steps():
    history = trained(epochs=17).history  # of 5 steps
    assert [r["epoch"] for r in history if "norms" in r] == [1, 9, 17]
    assert [r["epoch"] for r in trained(epochs=3, batch_size=2).history if "norms" in r] == [
        1,
        2,
        3,
    ]


def test_one_batch_smaller_than_a_whole_one_is_measured():
    (record,) = trained(batch_size=200).history
    assert record["norms"]["0.dense"]["update"] > 0


@pytest.mark.parametrize("stop", [1, 3, 4, 43, 44])
def test_a_resumed_training_has_the_same_history(stop):
    """The fourth step of five is measured, in the first and the ninth epoch."""
    data, options = rows(9), {"batch_size": 2, "seed": 3, "backend": "numpy"}
    straight, part, resumed = (Trainer(LAYERS[5:], **options) for _ in range(3))
    straight.fit(data, epochs=9, callbacks=[Norms()])
    assert [r["epoch"] for r in straight.history if "norms" in r] == [1, 9]
    part.fit(data, epochs=9, callbacks=[At(stop), Norms()])
    tensors, meta = part.snapshot()
    resumed.restore(tensors, json.loads(json.dumps(meta)))
    for each in (part, resumed):  # in the same process, and in another
        each.fit(data, epochs=9, callbacks=[Norms()])
        assert timeless(each.history) == timeless(straight.history)


class Interrupt(Callback):
    """Ctrl-C during a step: it is delivered after it, before other callbacks hear of the step."""

    def on_step_end(self, trainer):
        if trainer.position.step == self.step:
            self.step = None
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", range(1, 8))
def test_ctrl_c_in_any_step_loses_no_norms(step):
    whole = trained(batch_size=40, epochs=21).history  # three steps; the second is measured
    norms, interrupt = Norms(), Interrupt()
    interrupt.step = 42 + step  # of the fifteenth epoch, which is measured
    trainer = Trainer(LAYERS, backend="numpy", batch_size=40, seed=3)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(rows(), epochs=21, callbacks=[interrupt, norms])
    trainer.fit(rows(), epochs=21, callbacks=[norms])
    assert timeless(trainer.history) == timeless(whole)
    assert "norms" in whole[14]


def test_the_history_file_has_them_whatever_the_order(tmp_path):
    trainer = Trainer(LAYERS, backend="numpy", batch_size=20)
    path = tmp_path / "history.jsonl"
    trainer.fit(rows(), epochs=2, callbacks=[HistoryFile(path), Norms()])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == trainer.history
    assert len(json.dumps(lines[0]["norms"])) < 90 * len(NAMES)


@pytest.mark.parametrize("norms", [3, {"0.dense": 1.0}, {"0.dense": {"weights": "large"}}])
def test_a_checkpoint_with_other_norms_is_refused(norms):
    trainer = trained()
    tensors, meta = trainer.snapshot()
    meta["history"][0]["norms"] = norms
    with pytest.raises(CheckpointError, match="invalid history"):
        trainer.restore(tensors, meta)
