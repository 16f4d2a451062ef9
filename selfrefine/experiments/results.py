"""Reading what the commands of an experiment have written: numbers, curves, pairs, answers."""

import json
import statistics
from collections import Counter
from pathlib import Path

import numpy as np

from selfrefine.experiments.costs import spent
from selfrefine.experiments.plans import CONTROL, Cell, Row
from selfrefine.experiments.run import state
from selfrefine.experiments.steps import Step
from selfrefine.files import read_lines
from selfrefine.paper import BASELINE_COT, INSTRUCTED, REFINED
from selfrefine.scores import over_seeds, percent

DRAWS = 10_000  # of random signs
# which rows a row is compared with; where it differs from the first, the table has a star
COMPARED = {INSTRUCTED: (BASELINE_COT,), REFINED: (INSTRUCTED, CONTROL), f"{REFINED} (DPO_CoT)": (INSTRUCTED,)}
COMPARED |= {f"{REFINED} (DPO_answer)": (f"{REFINED} (DPO_CoT)",)}
POINTS = 120  # of a curve, at most: what a chart can show
# of phase 2: curve, name in metrics.jsonl
CURVES = {"margin": "margin", "accuracy": "accuracy", "y_w": "chosen_change", "y_l": "rejected_change"}
LAST = ("chosen_logp", "rejected_logp", "chosen_change", "rejected_change", "margin", "accuracy")


def number(cell: Cell) -> dict | None:
    """Accuracy in percent, or a rating, over the seeds that have run: {mean, std, runs, item_stderr, substring}.

    `item_stderr`: the binomial standard error over the questions of one run; `substring`: under the literal rule
    (§3.3). None where nothing has run.
    """
    found = [read(step, cell, index) for index, step in enumerate(cell.steps) if state(step) == "done"]
    found = [one for one in found if one]
    if not found:
        return None
    runs, questions, literal = zip(*found, strict=True)
    return over_seeds(runs, questions[0]) | {"substring": None if None in literal else statistics.mean(literal)}


def read(step: Step, cell: Cell, index: int) -> tuple[float, int | None, float | None] | None:
    """Of one seed: the number, of how many questions it is, and the same under the substring rule."""
    if step.kind == "annotate":
        right = [row["correct"] for _, row in read_lines(step.output) if cell.task in (row["task"], "own")]
        return (percent(right), len(right), None) if right else None
    results = json.loads(step.output.read_text(encoding="utf-8"))["results"]
    if step.kind == "evaluate":
        found = results.get(cell.task, {}).get(cell.prompt)
        return found and (found["mean"], found["questions"], found["substring_mean"])
    files = dict.fromkeys(str(of.steps[index].predictions) for of in cell.answers) or ["target answers"]
    rated = [results.get(file, {}).get(cell.prompt, {"rated": 0}) for file in files]
    count = sum(one["rated"] for one in rated)
    return (sum(one["mean"] * one["rated"] for one in rated if one["rated"]) / count, None, None) if count else None


def training(steps: list[Step]) -> list[dict]:
    """Of every training run that is done: its curves, its tokens, and of phase 2 its pairs and displacement."""
    done = [step for step in steps if step.kind.startswith("train") and state(step) == "done"]
    pairs = {step.title.split(", ")[1] for step in done}  # named where there are several
    return [run_of(step.output, step.title.split(", ", 1 if len(pairs) > 1 else 2)[-1]) for step in done]


def run_of(folder: Path, title: str) -> dict:
    """What a run folder tells, be it under way; it is of phase 2 where its steps have a margin."""
    rows = [row for _, row in read_lines(folder / "metrics.jsonl", torn_end=True)]
    taken, validated = ([row for row in rows if name in row] for name in ("loss", "validation_loss"))
    trained, forward = spent(folder)
    run = {"run": str(folder), "title": title, "phase": 2 if "margin" in taken[0] else 1, "steps": len(taken)}
    run |= {"tokens": trained, "forward_only": forward}
    run["curves"] = {"loss": curve(taken, "loss"), "validation loss": curve(validated, "validation_loss")}
    if run["phase"] == 2:
        run["curves"] |= {name: curve(taken, key) for name, key in CURVES.items()}
        last, prefix = (validated[-1], "validation_") if validated else (taken[-1], "")
        run |= {"last": {name: last.get(prefix + name) for name in LAST}, "pairs": pairs(folder)}
    return run


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
    sources = Counter(row["chosen_from"] for _, row in read_lines(folder / "preferences.jsonl", torn_end=True))
    asked = sum(row["key"][2] == "cot" for _, row in read_lines(folder / "answers.jsonl", torn_end=True))
    return {"student": sources["student"], "teacher": sources["teacher"], "none": asked - sources.total()}


def answers(step: Step, task: str, prompt: str) -> list[dict]:
    """The predictions of an evaluation that is done, of one task and prompt."""
    if step.kind != "evaluate" or state(step) != "done":
        return []
    return [row for _, row in read_lines(step.predictions) if (row["task"], row["prompt"]) == (task, prompt)]


def style(rows: list[dict]) -> dict[str, float] | None:
    """Of predictions: words an answer, and the percent of answers without EOS (cut) and not read."""
    if not rows:
        return None
    return {
        "words": statistics.mean(len(row["text"].split()) for row in rows),
        "cut": percent(not row.get("ended", True) for row in rows),
        "unread": percent(row["rule"] == "none" for row in rows),
    }


def side_by_side(rows: list[Row], task: str, count: int) -> list[dict]:
    """The first `count` test questions of a task with every row's answer, of the first seed and the first panel.

    Rows trained on another task are left out. A question: {question, options, target, answers: {row: prediction}}.
    """
    questions: dict[str, dict] = {}
    for row in rows:
        # a share of the demonstrations or a prompt may be what a row stands under, in place of a task
        under = f", {row.trained_on}" if row.trained_on not in ("", *columns(rows)) else ""
        if task in row.cells and row.panel == rows[0].panel and (under or row.trained_on in ("", task)):
            cell = row.cells[task]
            for found in answers(cell.steps[0], cell.task, cell.prompt)[:count]:
                lay(questions, row.method + under, found)
    return list(questions.values())


def lay(questions: dict[str, dict], name: str, found: dict) -> None:
    """Put a prediction beside what others answered to its question."""
    asked = {field: found[field] for field in ("question", "options", "target")} | {"answers": {}}
    answer = {field: found[field] for field in ("text", "read", "rule", "correct")}
    answer["ended"] = found.get("ended", True)  # as before it was noted
    questions.setdefault(found["id"], asked)["answers"][name] = answer


def columns(rows: list[Row]) -> list[str]:
    """The columns of the table: tasks, in Tables 5, 13 and 14 models."""
    return list(dict.fromkeys(column for row in rows for column in row.cells))


def differences(rows: list[Row]) -> list[dict]:
    """From row to row on the task trained on: whether the accuracies differ by more than noise, paired by question."""
    by_method, found = {(row.panel, row.trained_on, row.method): row for row in rows}, []
    for (panel, trained_on, method), row in by_method.items():
        tasks = [trained_on] if trained_on in columns(rows) else row.cells
        for before in COMPARED.get(method, ()):
            first = by_method.get((panel, trained_on, before)) or by_method.get((panel, "", before))
            for task in tasks if first else ():
                what = {"panel": panel, "trained_on": trained_on, "task": task, "from": before, "to": method}
                tested = paired(_correct(first.cells[task]), _correct(row.cells[task]))
                found += [what | tested] if tested else []
    return sorted(found, key=lambda one: (one["panel"], columns(rows).index(one["task"])))


def _correct(cell: Cell) -> list[dict[str, bool]]:
    """Of every seed: the questions, and whether they were answered rightly."""
    return [{one["id"]: one["correct"] for one in answers(step, cell.task, cell.prompt)} for step in cell.steps]


def paired(before: list[dict[str, bool]], after: list[dict[str, bool]]) -> dict | None:
    """The difference in points with its standard error over questions, and p: how often chance alone makes as much.

    A question's difference is its mean over seeds. If nothing but chance were between the rows, each might as well have
    the other sign: p is the share of random signs whose sum is as far from 0 as the one found.
    """
    changes: dict[str, list[int]] = {}
    for first, second in zip(before, after, strict=True):
        for question in (one for one in first if one in second):
            changes.setdefault(question, []).append(second[question] - first[question])
    if not changes:
        return None
    kinds = Counter(change for of in changes.values() for change in of)
    each = np.array([statistics.mean(of) for of in changes.values()])
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (DRAWS, np.count_nonzero(each)))
    as_far = np.abs(signs @ each[each != 0]) > abs(each.sum()) - 1e-9
    return {
        "became right": kinds[1],
        "became wrong": kinds[-1],
        "answers": kinds.total(),
        "difference": 100 * float(each.mean()),
        "stderr": 100 * float(each.std(ddof=1)) / len(each) ** 0.5 if len(each) > 1 else 0.0,
        "p": (1 + int(as_far.sum())) / (1 + DRAWS),
    }
