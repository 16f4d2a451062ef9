"""The recipe `small` on a real student and real teachers' answers, killed half-way and gone on: minutes on one core.

`SELFREFINE_TEST_STUDENT` names the folder of SmolLM2-135M-Instruct, `SELFREFINE_TEST_DATA` that of the real data.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from selfrefine.experiments import recipes, run
from selfrefine.experiments.plans import commands, plan
from selfrefine.experiments.settings import settings
from tests.conftest import ROOT, _folder

pytestmark = pytest.mark.long


def test_small_runs_whole_and_after_being_killed(benchmarks, tmp_path):
    student = os.environ.get("SELFREFINE_TEST_STUDENT")
    if not student:
        pytest.skip("set SELFREFINE_TEST_STUDENT to a folder with SmolLM2-135M-Instruct")
    given = {"student": student, "data": benchmarks, "demonstrations": _folder("demonstrations")}
    given |= {"output": tmp_path / "small", "limit": 16}
    flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    words = [sys.executable, "-m", "selfrefine.experiments", "table1", "--recipe", "small", *flags, "--seeds", "0"]
    rows = plan("table1", settings(recipes.read("small"), seeds=(0,), **given))
    steps = commands(rows)
    begun = next(step for step in steps if step.kind == "train_dpo").output / "answers.jsonl"
    log = tmp_path / "log"
    with open(log, "w") as file:
        first = subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=file)
        while first.poll() is None and not begun.exists():
            time.sleep(0.2)
        first.send_signal(signal.SIGTERM)
        assert first.wait() == 143, log.read_text()
    made = {step.output: run.marker(step).stat().st_mtime_ns for step in steps if run.marker(step).exists()}
    assert 0 < len(made) < len(steps)
    second = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr[-2000:]
    assert second.stdout.count("\n$ ") == len(steps) - len(made)
    assert made.items() <= {step.output: run.marker(step).stat().st_mtime_ns for step in steps}.items()
    report = json.loads((tmp_path / "small" / "reports" / "table1" / "report.json").read_text(encoding="utf-8"))
    assert report["commands"] == {"all": len(steps), "done": len(steps)}
    assert all(cell["ours"] for row in report["rows"] for cell in row["cells"].values())
    assert {one["task"] for one in report["differences"]} == set(report["teaching"]) == {"csqa", "obqa"}
    assert report["teaching"]["obqa"] > 70
