"""An explanation as plain data: a reader of the JSON document can compute its numbers again."""

import json
import unicodedata

import numpy as np
import pytest

from xpnet.explanation import explain
from xpnet.explanation.document import MOST, document
from xpnet.storage.plain_json import decoded, json_text

NAMESPACE = {"einsum": np.einsum, "exp": np.exp, "log": np.log}


def read(explanation):
    return decoded(json.loads(json_text(document(explanation))))


@pytest.mark.parametrize("sizes", [None, [4, 5, 3]])
def test_each_step_can_be_computed_from_its_operands(sizes):
    found = read(explain(sizes, batch=1 if sizes is None else 2))
    computed = 0
    for step in found["steps"]:
        if step["einsum"]:
            # As Python reads the names: ℓ is l.
            names = {
                unicodedata.normalize("NFKC", t["name"]): np.array(t["values"])
                for t in step["operands"]
            }
            value = eval(step["einsum"], NAMESPACE | names)
            np.testing.assert_allclose(value, step["result"]["values"], rtol=1e-12, atol=1e-15)
            computed += 1
    assert computed >= 6
    opening = found["steps"][found["opening"]]
    assert (opening["way"], opening["result"]["name"]) == ("jacobian", "dz")


def test_both_ways_and_the_wrong_one_are_there():
    found = read(explain())
    np.testing.assert_allclose(*(found["two_ways"][w] for w in ("jacobian", "fused")), rtol=1e-12)
    *right, wrong = found["ways"]
    assert max(way["difference"]["dz"] for way in right if way["function"]) < 1e-12
    assert wrong["difference"]["dz"] > 0.1


def test_a_large_array_has_its_norm_alone():
    found = read(explain([200, 60, 3]))
    arrays = [t for step in found["steps"] for t in (*step["operands"], step["result"])]
    large = [t for t in arrays if np.prod(t["shape"]) > MOST]
    assert large
    assert all(t["values"] is None and t["norm"] > 0 for t in large)
    assert len(json_text(found)) < 2_000_000
