"""The quickstart's table: Table 1 for the pocket tasks, read from the evaluations in each seed's folder."""

import json
import statistics
from pathlib import Path

from selfrefine import scores
from selfrefine.files import read_lines
from selfrefine.tasks.pocket import TASKS

TRAINED_ON, OTHER = "pocket", "pocket-choice"
BASELINE, BASELINE_COT = "Baseline", "Baseline CoT"
CROSS = "Cross self-refine"
# row label: the evaluation it is read from
ROWS = {
    BASELINE: "baseline",
    BASELINE_COT: "baseline",
    "Instruction-tuning": f"{TRAINED_ON}-it",
    "+ Self-refine": f"{TRAINED_ON}-sr",
    "Instruction-tuning, equal compute": f"{TRAINED_ON}-control",
    CROSS: f"{TRAINED_ON}-cross",
    f"Instruction-tuning (trained on {OTHER})": f"{OTHER}-it",
    f"+ Self-refine (trained on {OTHER})": f"{OTHER}-sr",
    f"{CROSS} (trained on {OTHER})": f"{OTHER}-cross",
}

Cell = dict[str, float | None]  # {"mean", "std"}, in percent
Table = dict[str, dict[str, Cell]]  # row label -> task -> cell


def present(folders: list[Path]) -> list[str]:
    """The rows that every seed's folder has an evaluation for."""
    return [label for label, name in ROWS.items() if all((folder / f"{name}.json").exists() for folder in folders)]


def prompt_of(label: str) -> str:
    """Baseline is asked at x, every other row at x̂ (Table 3)."""
    return "standard" if label == BASELINE else "cot"


def shown(label: str, task: str) -> bool:
    """A cross row has only phase 2's task: cell (A, B) is phase 1 on A, phase 2 on B, evaluated on B."""
    return not label.startswith(CROSS) or task == (OTHER if label == CROSS else TRAINED_ON)


def read_accuracies(folder: Path, label: str) -> dict[str, float]:
    """Accuracy in percent per task, of one row and seed."""
    results = json.loads((folder / f"{ROWS[label]}.json").read_text(encoding="utf-8"))["results"]
    return {task: results[task][prompt_of(label)]["mean"] for task in results if shown(label, task)}


def read_chains(folder: Path, label: str) -> dict[str, float]:
    """Percent of the answers with a chain of thought per task, of one row and seed."""
    found: dict[str, list[bool]] = {}
    for row in _answers(folder, label):
        found.setdefault(row["task"], []).append(has_chain(row["text"]))
    return {task: 100 * statistics.fmean(chains) for task, chains in found.items()}


def has_chain(text: str) -> bool:
    """Whether an answer works anything out: it has an equation, as the teacher's rationales have."""
    return "=" in text


def examples(folder: Path, labels: list[str]) -> dict[str, dict[str, str]]:
    """The first test question of each pocket task (as a title), and each row's answer to it."""
    found: dict[str, dict[str, str]] = {}
    for task in TASKS:
        for label in labels:
            row = next((row for row in _answers(folder, label) if row["task"] == task), None)
            if row:
                found.setdefault(f"{row['id']}, target {row['target']}", {})[label] = row["text"]
    return found


def _answers(folder: Path, label: str) -> list[dict]:
    """The predictions of a row: those at its prompt, on its tasks."""
    rows = (row for _, row in read_lines(folder / f"{ROWS[label]}.predictions.jsonl"))
    return [row for row in rows if row["prompt"] == prompt_of(label) and shown(label, row["task"])]


def summarise(runs: list[dict[str, dict[str, float]]]) -> Table:
    """From one {row: {task: percent}} per seed to the mean and the sample standard deviation over seeds."""
    return {
        label: {task: mean_std([run[label][task] for run in runs]) for task in cells}
        for label, cells in runs[0].items()
    }


def mean_std(values: list[float]) -> Cell:
    """Mean and sample standard deviation; a single run has none."""
    return {"mean": statistics.fmean(values), "std": scores.spread(values)}


def cell(value: Cell | None) -> str:
    """ "47.0 ± 2.1", "47.0" for a single run, "–" where Table 1 has no such cell."""
    return "–" if value is None else scores.cell(value["mean"], value["std"])


def grid(table: Table, corner: str) -> str:
    """A Markdown table: one line per row label, one column per task."""
    tasks = list(table[BASELINE])
    lines = [f"| {corner} | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    lines += [f"| {label} | {' | '.join(cell(cells.get(task)) for task in tasks)} |" for label, cells in table.items()]
    return "\n".join(lines)
