"""Training: from examples and a model to the loop that takes the steps."""
