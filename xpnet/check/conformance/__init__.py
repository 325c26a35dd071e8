"""What training asks of an array library, as a test suite for its authors' own CI.

    pip install xpnet pytest
    pytest --pyargs xpnet.check.conformance --xp mylib

``--xp MODULE`` or ``MODULE:ATTRIBUTE`` names the namespace. Each function of the Array API that
training uses is a test, and so are each layer, forward and backward, each loss, each update rule,
and ten steps of training, all held to NumPy's in float64.

``--skips-file`` and ``--xfails-file`` name files with a test on each line, or the beginning of its
name, # before a comment, as those of array-api-tests. A test that is expected to fail and passes
is a failure, and so is a line that no test has.
"""
