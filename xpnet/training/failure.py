"""A training that is not finite: where it is first so, and what to do."""

from collections.abc import Callable, Iterator

from xpnet.errors import DataError, TrainingError
from xpnet.step import AnyBatch, StepInputs
from xpnet.step.trace import INPUT
from xpnet.training.cursor import TRIAL, WHOLE, Cursor
from xpnet.training.engine import Engine

__all__ = ["not_finite"]


def not_finite(
    engine: Engine,
    cursor: Cursor,
    batches: Iterator[AnyBatch],
    inputs: Callable[[Engine], StepInputs],
    bad_step: int,
    check_rows: Callable[[], None],
) -> TrainingError:
    """Return the error of a training whose step ``bad_step`` is not finite, or the one before it.

    The epoch is repeated up to it, which the positions make possible: ``engine`` and ``cursor`` are
    at an earlier step, from which the ``batches`` go on, and ``inputs`` are those of a step there.
    ``check_rows`` raises DataError, with the row, where one is not finite. All ranks do the same.
    """
    where = None
    for batch in batches:
        now = inputs(engine)
        # A gradient that is not finite spoils the weights, and so the loss of the step after.
        if cursor.position.step >= bad_step - 1:
            where = engine.first_nonfinite(batch, now)
        if where or cursor.position.step == bad_step:
            break
        engine.train(batch, now)
        cursor.advance(TRIAL)
    else:  # the last update of the epoch
        where = engine.first_nonfinite(batch, inputs(engine)._replace(rows=now.rows))
    cursor.phase = WHOLE
    epoch, _, step = cursor.position
    msg = f"training is not finite from epoch {epoch + 1}, step {step + 1} on; "
    if where is None:
        msg += "repeated by the portable formulas, that step is finite"
    else:
        msg += f"first in {where}"
    if where == INPUT:
        try:
            check_rows()
        except DataError as error:
            return TrainingError(f"{msg}: {error}", python="fill such values, or leave the row out")
    return TrainingError(
        msg,
        python="lower the lr of the optimizer, pass clip=Clip(norm=1.0), or check the data",
        command="lower optimizer.lr, set clip.norm, or check the data",
    )
