"""Softmax's derivative is a matrix, the gradient of the loss a vector: how do the shapes fit?

    python -m xpnet.examples.softmax_by_hand           # on NumPy
    python -m xpnet.examples.softmax_by_hand torch     # on another Array API library

N rows (n), I inputs (i), K classes (k, s, j). da is short for dC/da; likewise dz, dW and db.
"""

import argparse
import importlib
import random
from itertools import islice, product

from array_api_compat import array_namespace, device


def dense(x, W, b):
    return x @ W + b  # z_ns = Σ_i x_ni W_is + b_s, (N, K)


def softmax(z):
    xp = array_namespace(z)
    e = xp.exp(z - xp.max(z, axis=-1, keepdims=True))  # the shift cancels; nothing overflows
    return e / xp.sum(e, axis=-1, keepdims=True)  # a_nk = exp z_nk / Σ_s exp z_ns, (N, K)


def cross_entropy(a, y):
    xp, N = array_namespace(a), a.shape[0]
    C = -xp.sum(y * xp.log(a)) / N  # C = -1/N Σ_n Σ_k y_nk log a_nk, a number
    return C, -y / a / N  # da_nk = ∂C/∂a_nk = -y_nk / (N a_nk), (N, K)


def triple_sum(x, a, da):  # dW_ij = Σ_n Σ_k Σ_s da_nk J_nks ∂z_ns/∂W_ij, (I, K): the chain rule
    (N, I), K = x.shape, a.shape[1]
    dW = [[0.0] * K for _ in range(I)]
    for i, j, n, k, s in product(range(I), range(K), range(N), range(K), range(K)):
        J_nks = float(a[n, k]) * ((k == s) - float(a[n, s]))  # ∂a_nk/∂z_ns = a_nk (δ_ks - a_ns)
        dz_by_dW = float(x[n, i]) * (s == j)  # ∂z_ns/∂W_ij = x_ni δ_sj
        dW[i][j] += float(da[n, k]) * J_nks * dz_by_dW
    return array_namespace(x).asarray(dW, dtype=x.dtype, device=device(x))


def jacobian(a):
    identity = array_namespace(a).eye(a.shape[1], dtype=a.dtype, device=device(a))  # δ_ks
    return a[:, :, None] * (identity - a[:, None, :])  # J_nks = a_nk (δ_ks - a_ns), (N, K, K)


def vector_times_jacobian(a, da):
    return (da[:, None, :] @ jacobian(a))[:, 0, :]  # dz_ns = Σ_k da_nk J_nks, (N, K)


def product_form(a, da):  # dz_ns = a_ns (da_ns - Σ_k da_nk a_nk), (N, K): the same without J
    return a * (da - array_namespace(a).sum(da * a, axis=-1, keepdims=True))


def fused(a, y):
    return (a - y) / a.shape[0]  # dz_ns = (a_ns - y_ns) / N, (N, K): da put in, as Σ_k y_nk = 1


def element_by_element(a, da):  # WRONG: J's diagonal alone, though every z_ns moves every a_nk
    return da * a * (1 - a)


def dense_backward(x, dz):
    db = array_namespace(dz).sum(dz, axis=0)  # db_j = Σ_n dz_nj, (K,)
    return x.T @ dz, db  # dW_ij = Σ_n x_ni dz_nj, (I, K)


def train(x, y, W, b, backward, lr=0.5):
    while True:
        a = softmax(dense(x, W, b))
        C, da = cross_entropy(a, y)
        yield float(C)
        dW, db = dense_backward(x, backward(a, da, y))
        W, b = W - lr * dW, b - lr * db


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("library", nargs="?", default="numpy", help="numpy, torch, jax, cupy, ...")
    name = parser.parse_args().library
    try:
        module = importlib.import_module("jax.numpy" if name == "jax" else name.replace("-", "_"))
        xp = array_namespace(module.asarray([0.0]))
    except Exception as error:  # whatever a library raises
        why = " ".join(str(error).split())
        parser.exit(2, f"error: {name!r} is not an Array API library, or not installed: {why}\n")
    draw, labels = random.Random(0), [n % 3 for n in range(30)]
    x = xp.asarray([[draw.gauss(float(i == label), 1.0) for i in range(4)] for label in labels])
    y = xp.asarray([[float(k == label) for k in range(3)] for label in labels])  # one-hot
    W, b = xp.asarray([[draw.gauss(0.0, 1.0) for _ in range(3)] for _ in range(4)]), xp.zeros(3)
    a = softmax(dense(x, W, b))
    _, da = cross_entropy(a, y)
    dW = triple_sum(x, a, da)
    ways = {
        "vector times Jacobian": lambda a, da, y: vector_times_jacobian(a, da),
        "product form": lambda a, da, y: product_form(a, da),
        "fused": lambda a, da, y: fused(a, y),
        "element by element (wrong)": lambda a, da, y: element_by_element(a, da),
    }
    arrays = {"x": x, "W": W, "a": a, "da": da, "J": jacobian(a), "dW": dW}
    print(f"{name}, {x.dtype}:", ", ".join(f"{k} {tuple(v.shape)}" for k, v in arrays.items()))
    print("Row by row, the vector da_n times the matrix J_n is a vector again, dz_n.\n")
    print(f"{'dz by':28}{'dW - triple sum':17}loss after 0, 10, 100 and 400 steps")
    for way, backward in ways.items():
        far = float(xp.max(xp.abs(dense_backward(x, backward(a, da, y))[0] - dW)))
        C = list(islice(train(x, y, W, b, backward), 401))
        print(f"{way:28}{far:<17.0e}", *(f"{C[step]:.3f} " for step in (0, 10, 100, 400)))


if __name__ == "__main__":
    main()
