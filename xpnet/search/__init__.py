"""A sweep: a search over the settings of a run, with Optuna as its engine."""

from xpnet.search.result import Sweep
from xpnet.search.sweep import sweep
from xpnet.search.trials import Trial

__all__ = ["Sweep", "Trial", "sweep"]
