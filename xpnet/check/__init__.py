"""Checks: gradients against differences and autodiff, backends against NumPy in float64."""
