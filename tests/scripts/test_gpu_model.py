"""scripts/gpu_model.py: the report in the repository is the one that it writes."""

import importlib
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.long
def test_the_report_is_that_of_the_step_as_it_is(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module = importlib.import_module("gpu_model")
    written = module.REPORT.read_text("utf-8")
    assert written == module.report(), "run python scripts/gpu_model.py"
