"""The quickstart: its table, its bookkeeping and its stages; and, marked `long`, the whole of it."""

import json
import os
import statistics
import subprocess
import sys

import pytest

from selfrefine import quickstart
from selfrefine.errors import RunError
from selfrefine.pocket import table
from tests.conftest import ROOT


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_evaluation(folder, name, accuracy, answers):
    """An evaluation as evaluate.py writes it: one accuracy per (task, prompt), and its predictions."""
    results = {task: {} for task, _ in accuracy}
    for (task, prompt), mean in accuracy.items():
        results[task][prompt] = {"mean": mean}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"results": results}), encoding="utf-8")
    rows = [
        {"task": task, "id": f"{task}/test/0/{index}", "prompt": prompt, "target": "5", "text": text}
        for task, prompt, texts in answers
        for index, text in enumerate(texts)
    ]
    write_lines(folder / f"{name}.predictions.jsonl", rows)


def test_a_single_run_has_no_std_and_several_the_sample_std():
    assert table.mean_std([40.0]) == {"mean": 40.0, "std": None}
    assert table.mean_std([40.0, 50.0, 60.0]) == {"mean": 50.0, "std": statistics.stdev([40, 50, 60])}
    assert table.cell(table.mean_std([40.0])) == "40.0"
    assert table.cell(table.mean_std([40.0, 60.0])) == "50.0 ± 14.1"
    assert table.cell(None) == "–"


def test_rows_are_read_at_their_own_prompt(tmp_path):
    """Baseline at x, Baseline CoT at x̂, out of the same evaluation."""
    write_evaluation(
        tmp_path,
        "baseline",
        {("pocket", "standard"): 4.0, ("pocket", "cot"): 9.0},
        [("pocket", "standard", ["5", "6"]), ("pocket", "cot", ["2 + 3 = 5. The answer is 5.", "5", "6", "7"])],
    )
    assert table.present([tmp_path]) == ["Baseline", "Baseline CoT"]
    assert table.read_accuracies(tmp_path, "Baseline") == {"pocket": 4.0}
    assert table.read_accuracies(tmp_path, "Baseline CoT") == {"pocket": 9.0}
    assert table.read_chains(tmp_path, "Baseline") == {"pocket": 0.0}
    assert table.read_chains(tmp_path, "Baseline CoT") == {"pocket": 25.0}
    assert table.examples(tmp_path, ["Baseline", "Baseline CoT"]) == {
        "pocket/test/0/0, target 5": {"Baseline": "5", "Baseline CoT": "2 + 3 = 5. The answer is 5."}
    }


def test_a_cross_row_has_the_task_of_phase_2_only(tmp_path):
    """Table 1: cell (A, B) of Cross self-refine is phase 1 on A, phase 2 on B, evaluated on B."""
    accuracy = {("pocket", "cot"): 1.0, ("pocket-choice", "cot"): 2.0}
    for name in ("pocket-cross", "pocket-choice-cross"):
        write_evaluation(tmp_path, name, accuracy, [])
    assert table.read_accuracies(tmp_path, "Cross self-refine") == {"pocket-choice": 2.0}
    assert table.read_accuracies(tmp_path, "Cross self-refine (trained on pocket-choice)") == {"pocket": 1.0}


def test_the_table_is_laid_out_by_row_and_task():
    runs = [
        {"Baseline": {"pocket": 5.0, "pocket-choice": 25.0}, "Cross self-refine": {"pocket-choice": 90.0}},
        {"Baseline": {"pocket": 7.0, "pocket-choice": 25.0}, "Cross self-refine": {"pocket-choice": 92.0}},
    ]
    assert table.grid(table.summarise(runs), "accuracy").split("\n") == [
        "| accuracy | pocket | pocket-choice |",
        "|---|---|---|",
        "| Baseline | 6.0 ± 1.4 | 25.0 ± 0.0 |",
        "| Cross self-refine | – | 91.0 ± 1.4 |",
    ]


def test_the_control_pays_for_self_refine_in_epochs_of_phase_1(tmp_path):
    """Phase 1: 3 epochs of 1000 tokens. Phase 2: 40 steps of 32 pairs at 2 tokens are 2560 trained tokens; 90 pairs
    forward twice are 360 tokens at a third, 120. So 2680 / 1000, rounded up: 3 epochs more."""
    epochs, pairs = (
        quickstart.PHASE_1["--epochs"],
        quickstart.PHASE_2["--max-steps"] * quickstart.PHASE_2["--batch-size"],
    )
    write_lines(tmp_path / "pocket-it" / "metrics.jsonl", [{"step": s, "tokens": 1000} for s in range(epochs)])
    write_lines(
        tmp_path / "pocket-sr" / "metrics.jsonl",
        [{"step": 0, "reference_seconds": 1}, {"step": 1, "tokens": 2 * pairs}, {"step": 1, "validation_loss": 0.5}],
    )
    write_lines(tmp_path / "pocket-sr" / "preferences.jsonl", [{"id": row} for row in range(90)])
    spent = quickstart.control(tmp_path)
    assert spent["phase_1"] == 1000 * epochs
    assert spent["phase_2"] == 2 * pairs
    assert spent["forward_only"] == 2 * 90 * 2
    assert spent["epochs"] == epochs + -(-(2 * pairs + 120) // 1000)


def test_a_complete_stage_is_skipped_and_a_changed_or_failed_one_runs(tmp_path, capfd):
    result = tmp_path / "result.json"
    program = ["-c", "import sys; open(sys.argv[2], 'a').write(sys.argv[4])"]

    def start(word):
        quickstart.stage("a stage", program, {"--output": result, "--word": word}, result)

    start("a")
    assert f"$ OMP_NUM_THREADS=1 {sys.executable} -c" in capfd.readouterr().out
    start("a")
    assert "complete, skipped" in capfd.readouterr().out
    assert result.read_text() == "a"
    start("b")
    assert result.read_text() == "ab"
    with pytest.raises(RunError, match="exit code 3"):
        quickstart.stage("another", ["-c", "raise SystemExit(3)"], {}, tmp_path / "other.json")
    assert not (tmp_path / "other.json.done").exists()


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
    rows = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))["rows"]
    means = {label: cells["pocket"]["mean"] for label, cells in rows.items() if "pocket" in cells}
    assert means["Baseline CoT"] < means["Instruction-tuning"] < means["+ Self-refine"]
    assert all(cell["std"] is None for cells in rows.values() for cell in cells.values())
    made = {file: os.stat(file).st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == 0
    assert second.stdout.count("complete, skipped") == first.stdout.count("\n$ ")
    assert made == {file: os.stat(file).st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
