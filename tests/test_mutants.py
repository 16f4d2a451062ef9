"""A sample of small faults put into the code: each makes a test fail, or stands in tests/mutants.md with its reason."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.long
def test_a_sample_of_faults_is_noticed(tmp_path):
    """Twelve, which take some ten minutes; `python -m tests.mutants --output FILE` goes on to all."""
    command = [sys.executable, "-m", "tests.mutants", "--output", tmp_path / "mutants.jsonl", "--sample", "12"]
    subprocess.run(command, cwd=ROOT, check=True)
    tried = [json.loads(line) for line in (tmp_path / "mutants.jsonl").read_text(encoding="utf-8").splitlines()]
    explained = (ROOT / "tests/mutants.md").read_text(encoding="utf-8")
    assert len(tried) == 12
    assert not [row["mutant"] for row in tried if row["survives"] and row["mutant"] not in explained]
