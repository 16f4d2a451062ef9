"""The quickstart: its plan, its tables and its flags; and, marked `long`, the whole of it."""

import json
import os
import statistics
import subprocess
import sys

import pytest

from selfrefine import quickstart
from selfrefine.experiments import recipes, run
from selfrefine.experiments.plans import commands, plan
from selfrefine.experiments.settings import settings
from tests.conftest import ROOT
from tests.test_report import call as stand_in

TWO_SEEDS = settings(recipes.read("pocket"), seeds=(0, 3), tasks=("pocket", "pocket-unseen"))


def test_one_task_is_trained_on_and_all_are_evaluated_at_once_on_the_same_questions_for_every_seed():
    steps = commands(plan("quickstart", TWO_SEEDS))
    assert [step.kind for step in steps].count("annotate") == 2
    assert [step.output.name for step in steps if step.kind.startswith("train")] == [
        name for phase in ("pocket-it", "pocket-sr", "pocket-it-control") for name in (phase, phase)
    ]
    for step in (step for step in steps if step.kind == "evaluate"):
        words = list(step.words)
        assert words[words.index("--tasks") + 1 : words.index("--prompts")] == ["pocket", "pocket-unseen"]
        assert words[words.index("--seed") + 1] == "0"
        assert words[words.index("--seeds") + 1] in ("0", "3")


@pytest.fixture
def tables(command, tmp_path, monkeypatch):
    """Runs the quickstart with commands that only write what `stand_in` does; gives table.json and table.md."""

    def start(*seeds: int) -> tuple[dict, str]:
        monkeypatch.setattr(quickstart, "execute", lambda steps: run.execute(steps, stand_in))
        assert command(quickstart, "--output", tmp_path, "--seeds", *seeds) == 0
        content = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
        return content, (tmp_path / "table.md").read_text(encoding="utf-8")

    return start


def test_the_tables_have_every_row_and_task_with_mean_and_deviation_over_seeds(tables):
    """Of four questions two are right with seed 0 and three with seed 1, one more after self-refine; these explain."""
    content, text = tables(0, 1)
    assert content["seeds"] == [0, 1]
    deviation = statistics.stdev([50, 75])
    assert content["rows"]["Baseline"]["pocket"] == {"mean": 62.5, "std": deviation}
    assert content["rows"]["+ Self-refine"]["pocket-choice"] == {"mean": 87.5, "std": deviation}
    assert content["chain_of_thought"]["Instruction-tuning"]["pocket-unseen"] == {"mean": 62.5, "std": deviation}
    rows = ["Baseline", "Baseline CoT", "Instruction-tuning", "+ Self-refine", "Instruction-tuning, equal compute"]
    assert list(content["rows"]) == list(content["chain_of_thought"]) == rows
    assert "|  | pocket | pocket-unseen | pocket-choice |" in text
    assert "| + Self-refine | 87.5 ± 17.7 [16.5] | 87.5 ± 17.7 [16.5] | 87.5 ± 17.7 [16.5] |" in text
    assert "| + Self-refine | 87.5 ± 17.7 | 87.5 ± 17.7 | 87.5 ± 17.7 |" in text  # chains of thought
    assert text.count("- Instruction-tuning: 2 + 3 = 5. The answer is 5.") == 3  # an example of each task


def test_a_single_run_has_no_deviation(tables):
    content, text = tables(0)
    assert content["rows"]["Baseline"]["pocket"] == {"mean": 50.0, "std": None}
    assert "| Baseline | 50.0 [25.0] | 50.0 [25.0] | 50.0 [25.0] |" in text


@pytest.mark.parametrize(("there", "said"), [((), "multiarith/test.jsonl"), (("test",), "multiarith/train.jsonl")])
def test_data_without_multiarith_is_one_sentence(tmp_path, there, said):
    (tmp_path / "multiarith").mkdir()
    for split in there:
        (tmp_path / "multiarith" / f"{split}.jsonl").touch()
    command = [sys.executable, "-m", "selfrefine.quickstart", "--output", tmp_path / "out", "--data", tmp_path]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.long
def test_the_whole_quickstart(tmp_path):
    """The paper's ordering on the default, and a second start that runs nothing again."""
    command = [sys.executable, "-m", "selfrefine.quickstart", "--output", tmp_path]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr[-2000:]
    assert first.stdout.count("\n$ ") == 8
    rows = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))["rows"]
    means = {label: cells["pocket"]["mean"] for label, cells in rows.items() if "pocket" in cells}
    assert means["Baseline CoT"] < means["Instruction-tuning"] < means["+ Self-refine"]
    assert all(cell["std"] is None for cells in rows.values() for cell in cells.values())
    made = {file: os.stat(file).st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == 0
    assert "8 commands, 8 done before, 0 to run" in second.stdout
    assert made == {file: os.stat(file).st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
