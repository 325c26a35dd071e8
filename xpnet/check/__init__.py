"""Held to others: gradients to differences and autodiff, backends to NumPy in float64."""
