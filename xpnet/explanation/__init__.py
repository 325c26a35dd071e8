"""Where does the gradient come from? One training step explained, on the user's own numbers.

    from xpnet.explanation import explain, tiny
    explanation = explain(tiny())

An :class:`Explanation` is plain data. It is computed once, by the functions that training runs, and
rendered by four modules: ``terminal``, ``markdown``, ``latex`` and ``html``.
"""

import numpy as np

from xpnet.backends import Backend, get_backend
from xpnet.escape import escape
from xpnet.explanation.beside import beside, bridge, playground
from xpnet.explanation.layer_pass import layer_pass
from xpnet.explanation.model import Convention, Explanation
from xpnet.explanation.subject import Subject, of_config, of_run, of_sizes, setting_of, tiny
from xpnet.explanation.ways import five_ways

__all__ = ["Explanation", "Subject", "explain", "of_config", "of_run", "of_sizes", "tiny"]


def explain(
    subject: Subject, backend: Backend | None = None, convention: Convention = "both"
) -> Explanation:
    """Explain one training step of ``subject`` on ``backend`` (NumPy float64 by default).

    Raises ConfigError if there is no dense layer at the end or a Jacobian is too large to form.

    >>> explanation = explain(tiny())
    >>> explanation.ways.spread < 1e-14
    True
    """
    backend = backend or get_backend("numpy", "cpu", "float64")
    with np.errstate(all="ignore"):  # a probability of 0 gives inf or nan, which is shown
        passed = layer_pass(subject, backend)
        play = playground(subject, passed.head, backend)
        return Explanation(
            escape(subject.title),
            tuple((name, escape(value)) for name, value in setting_of(subject, backend)),
            convention,
            passed.steps,
            five_ways(passed.head, subject.loss, backend, subject.seed),
            beside(play, backend),
            bridge(passed.head, backend),
            play,
        )
