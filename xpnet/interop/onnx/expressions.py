"""An activation or a normalisation that a graph spells out in several nodes, found again.

The nodes after a value x are written as products Π kᵉ and sums of x in one normal form, in which
x·½·(1 + erf(x/√2)) and ½·(x + x·erf(x·0.70710678)) differ only where the distributive law would be
needed, and are compared with those of the formulas below. Constants count to six digits, which is
what float32 keeps of them.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from xpnet import nn

__all__ = ["Algebra", "Term", "layers_of", "where"]


class Term(NamedTuple):
    """coef · Π keyᵉ."""

    coef: float
    factors: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        return "*".join([f"{self.coef:.6g}", *(f"{key}^{e:g}" for key, e in self.factors)])


X = Term(1.0, (("x", 1.0),))


class Algebra:
    """Sums, products, powers and functions of terms in normal form."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Term]] = {}

    def mul(self, *terms: Term) -> Term:
        coef, powers = 1.0, dict[str, float]()
        for term in terms:
            coef *= term.coef
            for key, e in term.factors:
                powers[key] = powers.get(key, 0.0) + e
        return Term(coef, tuple(sorted((k, e) for k, e in powers.items() if e)))

    def power(self, term: Term, p: float) -> Term:
        if not term.factors:
            return Term(term.coef**p)
        safe = p == int(p) or (term.coef > 0 and all(e == 1 for _, e in term.factors))
        if not safe:  # √(x²) is |x|
            return self.function(f"power {p:g}", term)
        return Term(term.coef**p, tuple((k, e * p) for k, e in term.factors))

    def add(self, *terms: Term) -> Term:
        sums: dict[tuple[tuple[str, float], ...], float] = {}
        for term in terms:
            for part in self._parts(term):
                sums[part.factors] = sums.get(part.factors, 0.0) + part.coef
        kept = [Term(c, f) for f, c in sorted(sums.items()) if c]
        if len(kept) < 2:
            return kept[0] if kept else Term(0.0)
        lead = kept[0].coef
        kept = [Term(t.coef / lead, t.factors) for t in kept]
        key = f"({' + '.join(map(str, kept))})"
        self._sums[key] = kept
        return Term(lead, ((key, 1.0),))

    def _parts(self, term: Term) -> list[Term]:
        if len(term.factors) == 1 and term.factors[0][1] == 1.0:
            inner = self._sums.get(term.factors[0][0])
            if inner is not None:
                return [Term(t.coef * term.coef, t.factors) for t in inner]
        return [term]

    def function(self, name: str, *arguments: Term) -> Term:
        inside = ", ".join(sorted(map(str, arguments)))
        return Term(1.0, ((f"{name}[{inside}]", 1.0),))


def where(algebra: Algebra, condition: str, yes: Term, no: Term) -> Term:
    """The first term where a condition holds, else the second."""
    return algebra.function(f"Where {condition}, {yes}", no)


def layers_of(algebra: Algebra, constants: Iterable[float]) -> dict[str, Callable[[], nn.Layer]]:
    """Return the layers by the normal forms of their formulas; ``constants`` are tried in them."""
    a, f = algebra, algebra.function
    one, half = Term(1.0), Term(0.5)

    def c(value: float) -> Term:
        return Term(value)

    def clip6(x: Term) -> Term:
        return f("Clip 0 6", a.add(x, c(3.0)))

    softplus = f("Log", a.add(one, f("Exp", X)))
    cube = a.mul(c(0.044715), a.power(X, 3))
    u = a.mul(c(0.7978845608), a.add(X, cube))
    u2 = a.mul(c(0.7978845608), X, a.add(one, a.mul(c(0.044715), a.power(X, 2))))
    forms: list[tuple[Term, Callable[[], nn.Layer]]] = [
        (a.mul(half, X, a.add(one, f("Erf", a.mul(c(0.5**0.5), X)))), nn.GELU),
        *((a.mul(half, X, a.add(one, f("Tanh", v))), nn.GELUTanh) for v in (u, u2)),
        (a.mul(X, f("Sigmoid", X)), nn.SiLU),
        (a.mul(X, a.power(a.add(one, f("Exp", a.mul(c(-1.0), X))), -1)), nn.SiLU),
        (a.mul(X, f("Tanh", f("Softplus", X))), nn.Mish),
        (a.mul(X, f("Tanh", softplus)), nn.Mish),
        (softplus, nn.Softplus),
        (a.mul(X, f("HardSigmoid 0.166667 0.5", X)), nn.HardSwish),
        (a.mul(X, clip6(X), c(1 / 6)), nn.HardSwish),
        (a.mul(clip6(X), c(1 / 6)), nn.HardSigmoid),
        (a.mul(X, a.power(a.add(one, f("Abs", X)), -1)), nn.Softsign),
        (a.power(a.add(one, f("Exp", a.mul(c(-1.0), X))), -1), nn.Sigmoid),
        (f("Max", X, c(0.0)), nn.ReLU),
        (where(a, f"{X} > 20", X, f("Softplus", X)), nn.Softplus),
    ]
    centred = a.add(X, a.mul(c(-1.0), f("mean", X)))
    for k in constants:
        if k <= 0.0:
            continue
        var = a.add(f("mean", a.power(centred, 2)), c(k))
        square = a.add(f("mean", a.power(X, 2)), c(k))
        forms += [
            (a.mul(centred, a.power(var, -0.5)), partial(nn.LayerNorm, eps=k)),
            (a.mul(X, a.power(square, -0.5)), partial(nn.RMSNorm, eps=k)),
            (a.mul(c(k), f("Elu 1", a.mul(c(1 / k), X))), partial(nn.CELU, k)),
        ]
        if k < 1.0:
            forms.append((f("Max", X, a.mul(c(k), X)), partial(nn.LeakyReLU, k)))
    return {str(form): layer for form, layer in forms}
