"""Other programs that watch a training: TensorBoard, MLflow, and a notebook.

Each is a callback of :meth:`xpnet.Trainer.fit`; ``[tracking]`` in a config turns them on for a run.
What they cannot write or reach is said once, and the training goes on: its history has all of it.
"""
