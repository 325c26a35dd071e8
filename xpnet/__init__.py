"""Dense neural networks whose mathematics is written once against the Array API standard.

    from xpnet import Dense, ReLU, Sequential, Trainer

    model = Sequential([Dense(256), ReLU(), Dense(10)])
    trainer = Trainer(model, backend="cupy")
    trainer.fit((x, y), epochs=10)
    print(trainer.summary())

:func:`train` does what ``xpnet train`` does, from the file to the score on the test part, and
:func:`load` reads its run back. :func:`gradcheck`, :func:`parity` and :func:`explain` look at the
mathematics from outside; :class:`Layer`, :class:`Loss`, :class:`Optimizer`, :class:`Schedule` and
:class:`Callback` are there to be subclassed.

The formulas, each beside its derivative, are in :mod:`xpnet.ops`; start there. Above it:

    nn, optim, step     layers and losses, update rules, and one step of training made of them
    kernels, backends   the formulas compiled; NumPy, CuPy, PyTorch, JAX and array-api-strict
    data, storage       files to read, checkpoints to keep
    training, run       the trainer; a training from its config to its folder
    check, explanation  held to others; taken apart
    bench, cli          timed; the command line
    examples            softmax by hand, in one file; a training in Python

The names below are imported at their first use, so that ``import xpnet`` costs nothing. Their one
list is ``__init__.pyi``.
"""

import lazy_loader

__version__ = "0.1.0"

_load, _, _names = lazy_loader.attach_stub(__name__, __file__)

__all__ = sorted([*_names, "__version__"])


def __getattr__(name: str) -> object:
    if name in _names:
        return _load(name)
    import difflib

    near = difflib.get_close_matches(name, _names, n=1)
    msg = f"module 'xpnet' has no attribute {name!r}"
    msg += f"; did you mean {near[0]!r}?" if near else ""
    raise AttributeError(msg, name=name)


def __dir__() -> list[str]:
    return __all__
