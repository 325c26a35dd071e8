"""A run: a config, its data, a training and the folder that keeps it."""

from xpnet.run.examples import load_examples
from xpnet.run.folder import Run, RunFolder, load_run
from xpnet.run.preparation import Examples
from xpnet.run.training import Outcome, train

__all__ = ["Examples", "Outcome", "Run", "RunFolder", "load_examples", "load_run", "train"]
