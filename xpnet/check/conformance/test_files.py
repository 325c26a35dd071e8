"""The files of skips and expected failures name tests that are there."""

import pytest


def test_every_line_names_a_test(unused_lines: list[str]) -> None:
    """A line that names nothing is a mistake, or about a test that is gone."""
    if unused_lines:
        pytest.fail("these name no test: " + "; ".join(unused_lines), pytrace=False)
