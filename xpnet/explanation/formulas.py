"""The formulas of the element-wise activations and losses, in index letters.

They are for display only; the numbers come from the functions that the keys name. A test compares
the tables with the library's, so that no activation or loss is forgotten.
"""

from typing import NamedTuple

__all__ = ["ACTIVATION_FORMULAS", "LOSS_FORMULAS", "Elementwise"]


class Elementwise(NamedTuple):
    """a_nj or e_nj, and its derivative with respect to z_nj."""

    value: str
    derivative: str


ACTIVATION_FORMULAS = {
    "identity": Elementwise("z_nj", "1"),
    "relu": Elementwise("max(z_nj, 0)", "1 where a_nj > 0, else 0"),
    "leaky_relu": Elementwise(
        "z_nj where z_nj > 0, else slope · z_nj", "1 where z_nj > 0, else slope"
    ),
    "sigmoid": Elementwise("⟨1|1 + exp(-z_nj)⟩", "a_nj (1 - a_nj)"),
    "tanh": Elementwise("tanh z_nj", "1 - a_nj²"),
    "gelu": Elementwise("z_nj Φ(z_nj)", "Φ(z_nj) + z_nj φ(z_nj)"),
    "gelu_tanh": Elementwise(
        "½ z_nj (1 + tanh u_nj), u_nj = √(2/π) (z_nj + 0.044715 z_nj³)",
        "½ (1 + t_nj) + ½ z_nj (1 - t_nj²) u′_nj, t_nj = tanh u_nj",
    ),
    "silu": Elementwise("z_nj σ(z_nj)", "s_nj (1 + z_nj (1 - s_nj)), s_nj = σ(z_nj)"),
    "softplus": Elementwise("log(1 + exp z_nj)", "σ(z_nj)"),
    "elu": Elementwise(
        "z_nj where z_nj > 0, else α (exp z_nj - 1)", "1 where z_nj > 0, else α exp z_nj"
    ),
    "selu": Elementwise(
        "λ z_nj where z_nj > 0, else λ α (exp z_nj - 1)", "λ where z_nj > 0, else λ α exp z_nj"
    ),
}

LOSS_FORMULAS = {
    "mean_squared_error": Elementwise("(z_nj - y_nj)²", "2 (z_nj - y_nj)"),
    "huber": Elementwise(
        "½ r_nj² where |r_nj| ≤ δ, else δ (|r_nj| - ½ δ), r_nj = z_nj - y_nj",
        "clip(z_nj - y_nj, -δ, δ)",
    ),
    "binary_cross_entropy": Elementwise(
        "p y_nj softplus(-z_nj) + (1 - y_nj) softplus(z_nj)",
        "(1 - y_nj) σ(z_nj) - p y_nj σ(-z_nj)",
    ),
}
