"""The mathematics of xpnet: each formula beside its derivative, for arrays of any library.

Start here with the question that started this project: softmax's derivative is a Jacobian, a
matrix per row; the gradient of the loss is a vector per row; how do the shapes fit, and how does
that become code? For a batch of N rows (n), I inputs (i), K classes (k, s; here J = K):

    z_ns = Σ_i x_ni W_is + b_s     a_nk = exp z_nk / Σ_s exp z_ns     C = -1/N Σ_n Σ_k y_nk log a_nk

The chain rule sums over everything between C and a weight, so over n, k and s:

    dC/dW_ij = Σ_n Σ_k Σ_s  dC/da_nk  J_nks  dz_ns/dW_ij

Each factor is one function, and summing over its inner index is one line of it:

    cross_entropy_backward   da_nk = dC/da_nk = -y_nk / (N a_nk)                       (N, K)
    softmax_backward         J_nks = ∂a_nk/∂z_ns = a_nk (δ_ks - a_ns)                  (N, K, K)
                             dz_ns = Σ_k da_nk J_nks = a_ns (da_ns - Σ_k da_nk a_nk)   (N, K)
    dense_backward           ∂z_ns/∂W_ij = x_ni δ_sj,  so  dW_ij = Σ_n x_ni dz_nj      (I, J)

So the vector da_n meets the matrix J_n in a vector-matrix product, and the product form
``a * (da - sum(da * a))`` computes it without ever forming J. The element-wise product of da with
the diagonal of J, a (1 - a), which is right for the sigmoid, drops the terms k ≠ s: it is wrong
for softmax, whose every output depends on every input.

Put together, dz_ns = ((Σ_k y_nk) a_ns - y_ns) / N: that is (a - y) / N where the rows of y sum
to 1. Only :func:`xpnet.ops.cross_entropy.softmax_cross_entropy` uses this fused form, from
logits, because it also stays finite where log(softmax(z)) does not.

Conventions. Forward and backward stand side by side and share their letters; a gradient is named
by what it differentiates (dz is dC/dz). Every function takes its namespace from its arrays, makes
new arrays and writes to none of its arguments. Python floats are the only scalars, so float32
stays float32. N batch, I in, J out, K classes.

    activations.py     ReLU, sigmoid, GELU and the other element-wise activations
    softmax.py         softmax, log-softmax, log-sum-exp
    dense.py           x W + b
    normalization.py   layer, group, batch and root-mean-square normalisation
    embedding.py       rows of tables for codes of categories
    feature_scale.py   a factor for each feature
    dropout.py         the counter-based mask
    cross_entropy.py   (softmax) cross-entropy for index, one-hot and soft targets
    regression.py      the element-wise losses: squared error, Huber, Poisson, hinges, and
                       binary cross-entropy from logits
    special.py         erf, and float32 where 16 bits have no room

Each function can be imported from here: ``from xpnet.ops import softmax, softmax_backward``. Where
a file is named like its function, ``xpnet.ops.softmax`` is the function.
"""

from xpnet.ops.activations import *
from xpnet.ops.cross_entropy import *
from xpnet.ops.dense import *
from xpnet.ops.dropout import *
from xpnet.ops.embedding import *
from xpnet.ops.feature_scale import *
from xpnet.ops.normalization import *
from xpnet.ops.regression import *
from xpnet.ops.softmax import *
from xpnet.ops.special import *

# What the files export, and nothing else: the functions are listed there, once.
__all__ = sorted(name for name, value in globals().items() if callable(value))
