"""Reading what the commands of an experiment have written: numbers, curves, pairs, answers."""

import json
import statistics
from collections import Counter
from pathlib import Path

from selfrefine.experiments.costs import spent
from selfrefine.experiments.plans import Cell, Row
from selfrefine.experiments.run import state
from selfrefine.experiments.steps import Step
from selfrefine.files import read_lines
from selfrefine.scores import percent, spread

POINTS = 120  # of a curve, at most: what a chart can show
# of phase 2: curve, name in metrics.jsonl
CURVES = {"margin": "margin", "accuracy": "accuracy", "y_w": "chosen_change", "y_l": "rejected_change"}
LAST = ("chosen_logp", "rejected_logp", "chosen_change", "rejected_change", "margin", "accuracy")


def number(cell: Cell) -> dict | None:
    """Accuracy in percent, or a rating, over the seeds that have run: {mean, std, runs, substring}.

    `substring`: under the literal rule (§3.3). None where nothing has run.
    """
    found = [read(step, cell, index) for index, step in enumerate(cell.steps) if state(step) == "done"]
    found = [pair for pair in found if pair]
    if not found:
        return None
    runs = [mean for mean, _ in found]
    literal = [substring for _, substring in found if substring is not None]
    number = {"mean": statistics.mean(runs), "std": spread(runs), "runs": runs}
    return number | {"substring": statistics.mean(literal) if literal else None}


def read(step: Step, cell: Cell, index: int) -> tuple[float, float | None] | None:
    """The number of one seed, and the same under the substring rule where there is one."""
    if step.kind == "annotate":
        return percent(row["correct"] for _, row in read_lines(step.output) if row["task"] == cell.task), None
    results = json.loads(step.output.read_text(encoding="utf-8"))["results"]
    if step.kind == "evaluate":
        found = results.get(cell.task, {}).get(cell.prompt)
        return found and (found["mean"], found["substring_mean"])
    rated = [results.get(str(file), {}).get(cell.prompt) for file in cell.answers[index]]
    rated = [one for one in rated if one and one["rated"]]
    count = sum(one["rated"] for one in rated)
    return (sum(one["mean"] * one["rated"] for one in rated) / count, None) if count else None


def training(steps: list[Step]) -> list[dict]:
    """Of every training run that is done: its curves, its tokens, and of phase 2 its pairs and displacement."""
    done = [step for step in steps if step.kind.startswith("train") and state(step) == "done"]
    return [run_of(step.output, step.title.partition(", ")[2]) for step in done]


def run_of(folder: Path, title: str) -> dict:
    """What a run folder tells; it is of phase 2 where its steps have a margin."""
    rows = [row for _, row in read_lines(folder / "metrics.jsonl")]
    taken = [row for row in rows if "loss" in row]
    validated = [row for row in rows if "validation_loss" in row]
    trained, forward = spent(folder)
    phase = 2 if "margin" in taken[0] else 1
    run = {
        "run": str(folder),
        "title": title,
        "phase": phase,
        "steps": len(taken),
        "tokens": trained,
        "forward_only": forward,
        "curves": {"loss": curve(taken, "loss"), "validation loss": curve(validated, "validation_loss")},
    }
    if phase == 1:
        return run
    for name, key in CURVES.items():
        run["curves"][name] = curve(taken, key)
    last, prefix = (validated[-1], "validation_") if validated else (taken[-1], "")
    run["last"] = {name: last[prefix + name] for name in LAST}
    return run | {"pairs": pairs(folder)}


def curve(rows: list[dict], key: str) -> list[tuple[float, float]]:
    """(step, value), neighbours averaged where there are more than a chart can show."""
    points = [(row["step"], row[key]) for row in rows if key in row]
    size = -(-len(points) // POINTS) or 1
    groups = [points[begin : begin + size] for begin in range(0, len(points), size)]
    return [(group[-1][0], statistics.mean(y for _, y in group)) for group in groups]


def pairs(folder: Path) -> dict[str, int] | None:
    """How many pairs prefer the student's ŷ, how many the teacher's â (Eq. 4), and the questions without a pair; None
    where the pairs were given."""
    if not (folder / "preferences.jsonl").exists():
        return None
    sources = Counter(row["chosen_from"] for _, row in read_lines(folder / "preferences.jsonl"))
    asked = sum(row["key"][2] == "cot" for _, row in read_lines(folder / "answers.jsonl"))
    return {"student": sources["student"], "teacher": sources["teacher"], "none": asked - sources.total()}


def answers(step: Step, task: str, prompt: str) -> list[dict]:
    """The predictions of an evaluation that is done, of one task and prompt."""
    if step.kind != "evaluate" or state(step) != "done":
        return []
    rows = (row for _, row in read_lines(step.predictions))
    return [row for row in rows if row["task"] == task and row["prompt"] == prompt]


def style(rows: list[dict]) -> dict[str, float] | None:
    """Of predictions: words an answer, and the percent of answers without EOS (cut) and not read."""
    if not rows:
        return None
    return {
        "words": statistics.mean(len(row["text"].split()) for row in rows),
        "cut": percent(not row["ended"] for row in rows),
        "unread": percent(row["rule"] == "none" for row in rows),
    }


def side_by_side(rows: list[Row], task: str, count: int) -> list[dict]:
    """The first `count` test questions of a task with every row's answer, of the first seed and the first panel.

    Rows trained on another task are left out. A question: {question, options, target, answers: {row: prediction}}.
    """
    questions: dict[str, dict] = {}
    for row in rows:
        cell = row.cells.get(task)
        elsewhere = row.trained_on in columns(rows) and row.trained_on != task
        if cell is None or elsewhere or row.panel != rows[0].panel:
            continue
        for found in answers(cell.steps[0], task, cell.prompt)[:count]:
            lay(questions, label(row, rows), found)
    return list(questions.values())


def lay(questions: dict[str, dict], name: str, found: dict) -> None:
    """Put a prediction beside what others answered to its question."""
    asked = {field: found[field] for field in ("question", "options", "target")} | {"answers": {}}
    answer = {field: found[field] for field in ("text", "read", "rule", "correct", "ended")}
    questions.setdefault(found["id"], asked)["answers"][name] = answer


def label(row: Row, rows: list[Row]) -> str:
    """A row's method, with its share of the demonstrations or its prompt where that is what it stands under."""
    return f"{row.method}, {row.trained_on}" if row.trained_on not in ("", *columns(rows)) else row.method


def columns(rows: list[Row]) -> list[str]:
    """The columns of the table: tasks, in Tables 5, 13 and 14 models."""
    return list(dict.fromkeys(column for row in rows for column in row.cells))


def changed(rows: list[Row], task: str, before: str, after: str) -> dict[str, int] | None:
    """How many answers of a task became right and how many wrong from one row to the next, of the first seed."""
    found = {}
    for row in rows:
        cell = row.cells.get(task)
        if cell and row.trained_on in ("", task) and row.panel == rows[0].panel and row.method in (before, after):
            found[row.method] = {one["id"]: one["correct"] for one in answers(cell.steps[0], task, cell.prompt)}
    if not all(found.get(method) for method in (before, after)):
        return None
    kinds = Counter((found[before][one], right) for one, right in found[after].items() if one in found[before])
    return {"became right": kinds[False, True], "became wrong": kinds[True, False], "questions": kinds.total()}
