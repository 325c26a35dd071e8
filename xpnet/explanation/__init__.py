"""Where does the gradient come from? One training step explained, on the user's own numbers.

    explanation = explain()                        # numbers small enough to follow
    explanation = explain([784, 128, 10], batch=32)
    explanation = explain("runs/first", sample=17)
    print(explanation.render("markdown"))

An :class:`Explanation` is plain data. It is computed once, by the functions that training runs, and
rendered by four modules: ``terminal``, ``markdown``, ``latex`` and ``html``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.backends import Backend, get_backend
from xpnet.escape import escape
from xpnet.explanation.beside import beside, bridge
from xpnet.explanation.chosen import Sample
from xpnet.explanation.data_subject import of_config, of_run
from xpnet.explanation.derivation import derivation
from xpnet.explanation.layer_pass import layer_pass
from xpnet.explanation.legend import legend
from xpnet.explanation.model import Convention, Explanation
from xpnet.explanation.playground import nudges, playground
from xpnet.explanation.script import script
from xpnet.explanation.sources import subject_of
from xpnet.explanation.subject import Subject, of_sizes, setting_of, tiny
from xpnet.explanation.two_ways import two_ways
from xpnet.explanation.ways import five_ways
from xpnet.run import Run
from xpnet.training.trainer import Trainer

__all__ = ["Explanation", "Subject", "explain", "of_config", "of_run", "of_sizes", "tiny"]


def explain(
    source: Subject | Run | Trainer | Sequence[int] | str | Path | None = None,
    backend: Backend | None = None,
    convention: Convention = "both",
    *,
    batch: int | None = None,
    sample: Sample | None = None,
    label: int | None = None,
    loss: str | None = None,
    activation: str | None = None,
    seed: int | None = None,
    x: Any = None,
    y: Any = None,
) -> Explanation:
    """Explain one training step on ``backend`` (NumPy float64 by default).

    ``source`` is the widths of a network, a recipe, a TOML file, a run or its folder, a Trainer
    with its weights, a Subject, or None for an example that fits on a page.

    ``batch`` rows are explained, 1 by default. Of data, ``sample`` names the first: by its number,
    or "worst", the largest loss, or "unsure", the smallest margin between the two likeliest
    classes; of a run it is by default the worst, or, if the run gets all rows right, the one that
    it is least sure of. The first 10,000 rows are looked at. ``x`` and ``y`` are rows of your own
    for a run or a Trainer, all of which are explained unless ``batch`` or ``sample`` choose among
    them: arrays, or for a run a file or a table with its label. ``label`` is the class of the first
    row. ``loss``, ``activation`` of the hidden layers and ``seed`` are names and a number as in a
    config; a trained run and a Trainer have their own.

    Raises ConfigError if there is no dense layer at the end, a Jacobian is too large to form or an
    option does not go with the source; CheckpointError or DataError for what cannot be read.

    >>> explanation = explain()
    >>> explanation.ways.spread < 1e-14
    True
    >>> explain([4, 3], batch=2, label=1).title
    'A network 4-3 and a batch of 2'
    """
    subject = subject_of(source, batch, sample, label, loss, activation, seed, x, y)
    backend = backend or get_backend("numpy", "cpu", "float64")
    with np.errstate(all="ignore"):  # a probability of 0 gives inf or nan, which is shown
        passed = layer_pass(subject, backend)
        host, head, out = backend.to_host, passed.head, passed.out
        play = playground(subject, head, backend)
        ways, reason = two_ways(out, passed.loss, host)
        z, bias = host(head.z), head.params.get("b")
        return Explanation(
            escape(subject.title),
            tuple((name, escape(value)) for name, value in setting_of(subject, backend)),
            convention,
            passed.steps,
            five_ways(out, head, subject.loss, backend, subject.seed),
            beside(play, backend),
            bridge(head, backend),
            play,
            ways,
            reason,
            legend(passed.steps, out),
            derivation(out, passed.loss, z, host(out.a), host(out.da)),
            nudges(play, backend),
            subject.example,
            script(
                out, passed.loss, host(head.x), host(head.params["W"]),
                None if bias is None else host(bias), z,
            ),
        )  # fmt: skip
