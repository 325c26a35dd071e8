"""The table of array libraries is made from real runs of the conformance suite."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_the_table_has_a_row_for_each_library(tmp_path):
    pytest.importorskip("array_api_strict", reason="no array-api-strict: pip install '.[test]'")
    report = tmp_path / "portability.md"
    script = [sys.executable, str(ROOT / "scripts/portability"), "--here", "--report", str(report)]
    done = subprocess.run(
        [*script, "array-api-strict", "cubed"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in report.read_text().splitlines() if line.startswith("| array-api")]
    (row,) = rows
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    good, _, all_ = cells[2].partition(" of ")
    assert good == all_
    assert int(all_) > 100
    assert cells[6:7] + cells[8:] == ["2 of 2", "0 causes"]


def test_a_name_that_is_none_of_them_is_refused():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/portability"), "nolib"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no library 'nolib'; there are NumPy" in done.stderr
