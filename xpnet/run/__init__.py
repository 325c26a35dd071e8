"""A run: a config, its data, a training and the folder that keeps it."""

from xpnet.run.examples import Examples, load_examples
from xpnet.run.folder import Run, RunFolder, load_run
from xpnet.run.training import Outcome, train

__all__ = ["Examples", "Outcome", "Run", "RunFolder", "load_examples", "load_run", "train"]
