"""Small faults put into the code: each makes a test fail, or stands in tests/mutants.md with its reason."""

import json
import subprocess
import sys

import pytest

from tests import mutants
from tests.conftest import ROOT

LISTED = [line[2:] for line in (ROOT / "tests/mutants.md").read_text(encoding="utf-8").splitlines() if line[:2] == "- "]


def test_what_is_listed_can_still_be_put_into_the_code():
    """A listed fault of code that is gone, or whose name changed, is no longer explained."""
    files = [ROOT / name for name in mutants.FILES]
    files += [path for folder in mutants.FOLDERS for path in (ROOT / folder).glob("*.py")]
    known = {name for path in files for name, _, _ in mutants.mutants(path)}
    assert len(LISTED) == len(set(LISTED)) and not [name for name in LISTED if name not in known]


@pytest.mark.long
def test_a_sample_of_faults_is_noticed(tmp_path):
    """Twelve, which take some ten minutes; `python -m tests.mutants --output FILE` goes on to all."""
    command = [sys.executable, "-m", "tests.mutants", "--output", tmp_path / "mutants.jsonl", "--sample", "12"]
    subprocess.run(command, cwd=ROOT, check=True)
    tried = [json.loads(line) for line in (tmp_path / "mutants.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(tried) == 12
    assert not [row["mutant"] for row in tried if row["survives"] and row["mutant"] not in LISTED]
