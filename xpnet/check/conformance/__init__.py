"""What training needs of an array library, as a test suite for that library's own CI.

    pip install pytest
    pytest --pyargs xpnet.check.conformance --xp mylib --xfails-file xfails.txt

The library is any namespace of the Array API, ``package.module`` or ``package.module:attribute``.
NumPy in float64 says what is right, and the summary tells each distinct cause once, with the tests
that it stops. ``options.py`` has the options, ``subjects.py`` what is tried, ``summary.py`` the
summary; the operations are those that ``xpnet parity`` calls.
"""
