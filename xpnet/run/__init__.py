"""A run: a config, its data, a training and the folder that keeps it."""

from xpnet.run.job import Outcome, train
from xpnet.run.preprocessing import Examples
from xpnet.run.run_folder import Run, RunFolder, load_run
from xpnet.run.splits import load_examples

__all__ = ["Examples", "Outcome", "Run", "RunFolder", "load_examples", "load_run", "train"]
