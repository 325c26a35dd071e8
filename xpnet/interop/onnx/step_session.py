"""An exported training step taken in onnxruntime, and its state taken back into a trainer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from xpnet.errors import BackendError, DataError, how_to_install
from xpnet.interop.onnx.step import NEW, about
from xpnet.step import dropout_keys
from xpnet.training.trainer import Trainer

if TYPE_CHECKING:
    import onnx

__all__ = ["StepSession", "take_back"]


class StepSession:
    """The state of a training, which onnxruntime moves on.

        session = StepSession(step_model(trainer), trainer.snapshot()[0])
        loss = session.train(x, y)
        take_back(trainer, session.state, session.step)

    ``tensors`` are those of a checkpoint, ``step`` how many steps were taken before, by default
    what they were when the model was exported.
    """

    def __init__(
        self, model: "onnx.ModelProto", tensors: Mapping[str, np.ndarray], step: int | None = None
    ) -> None:
        self.about = about(model)
        try:
            import onnxruntime
        except ImportError as error:
            msg = f"taking the step needs onnxruntime, which cannot be imported: {error}"
            raise BackendError(msg, command=how_to_install("onnx")) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        self._outputs = [o.name for o in self._session.get_outputs()]
        self.state = {name: np.asarray(tensors[name]) for name in self.about["state"]}
        self.step = self.about["step"] if step is None else step

    def train(self, x: Any, y: Any, weight: Any = None, *, lr: float | None = None) -> float:
        """Take one step on a batch; return its loss.

        x and y are what the model takes: preprocessed rows, and class indices or targets.
        Raises DataError where an input is missing or is not one.
        """
        feed = {**self.state, "step": np.array(self.step, np.int64)}
        given = {"x": x, "y": y, "weight": weight, "lr": lr}
        for name, value in given.items():
            if (value is None) == (name in self._inputs):
                verb = "needs" if value is None else "has no input"
                msg = f"the exported step {verb} {name}"
                raise DataError(msg)
            if value is not None:
                feed[name] = np.asarray(value, DTYPES[self._inputs[name].type])
        if n := self.about["random_layers"]:
            feed["keys"] = np.array(dropout_keys(self.about["seed"], self.step, n), np.int32)
        feed = {name: value for name, value in feed.items() if name in self._inputs}
        made = dict(zip(self._outputs, self._session.run(None, feed), strict=True))
        self.step += 1
        loss = float(made.pop("loss"))
        self.state = {name.removeprefix(NEW): np.asarray(v) for name, v in made.items()}
        return loss


DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


def take_back(
    trainer: Trainer, tensors: Mapping[str, np.ndarray], step: int, *, rows: int | None = None
) -> None:
    """Go on from the state of an exported step, after ``step`` steps in all.

    ``rows`` is how many an epoch has, by default as in the trainer's ``fit``. Raises DataError
    where it is not known, CheckpointError where the state is not one of this model.
    """
    _, meta = trainer.snapshot()
    rows = rows or trainer.rows
    if not rows:
        msg = "how many rows an epoch has is not known: a position is an epoch and a batch"
        raise DataError(msg, python="pass rows, the length of x")
    epoch, batch = divmod(step, -(-rows // trainer.batch_size))
    history = [record for record in meta["history"] if record["epoch"] <= epoch]
    position = {"epoch": epoch, "batch": batch, "step": step}
    trainer.restore(tensors, {**meta, "position": position, "history": history})
