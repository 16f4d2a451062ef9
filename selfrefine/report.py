"""Any runs' curves and any evaluations' answers side by side, in one HTML file that loads nothing and runs no script.

The report on an experiment of the paper is `selfrefine.experiments`' own.
"""

import argparse
import json
from pathlib import Path

from selfrefine import command
from selfrefine.errors import UserError
from selfrefine.experiments import report, results, sections
from selfrefine.files import beside, read_lines, write_whole
from selfrefine.scores import score

FORMS = {"standard": "x", "cot": "x̂"}


def main() -> None:
    """The command."""
    args = _parse()
    runs = {path: _steps(path) for path in args.made if (path / "metrics.jsonl").exists()}
    evaluations = {path: _predictions(path) for path in args.made if path not in runs}
    for path in [path for path, rows in (runs | evaluations).items() if not rows]:
        print(f"{path} has nothing to show yet: left out")
        (runs if path in runs else evaluations).pop(path)
    if not runs and not evaluations:
        raise UserError("there is nothing to report on: wait for a first step or answer.")
    content = gather(list(runs), evaluations, args.questions)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.output, report.page(content, []).encode())
    print(*sections.tables(content), sep="\n\n")
    print(f"{len(runs)} runs, {len(evaluations)} evaluations: {args.output}")


def gather(runs: list[Path], evaluations: dict[Path, list[dict]], count: int) -> dict:
    """All that the page says, in the form of an experiment's: a row for each evaluation and prompt, by what is answered
    so far."""
    rows, questions = [], {}
    for path, predictions in evaluations.items():
        scored = score(predictions)
        for form, sign in FORMS.items():
            name, cells = f"{beside(path, '')}, {sign}", {}
            for task, of in ((task, by_form[form]) for task, by_form in scored.items() if form in by_form):
                answered = [row for row in predictions if (row["task"], row["prompt"]) == (task, form)]
                answered = [row for row in answered if row["seed"] == answered[0]["seed"]]  # of several seeds the first
                ours = of | {"substring": of["substring_mean"]}
                cells[task] = {"ours": ours, "paper": None, "style": results.style(answered)}
                for row in answered[:count]:
                    results.lay(questions.setdefault(task, {}), name, row)
            rows += [{"panel": "", "trained_on": "", "method": name, "cells": cells}] if cells else []
    seeds = sorted({row["seed"] for predictions in evaluations.values() for row in predictions})
    return {
        "experiment": "",
        "title": "Runs and evaluations",
        "rating": False,
        "settings": {"seeds": seeds or [0], "recipe": {"about": ""}},
        "commands": {"all": 0, "done": 0},
        "rows": rows,
        "printed": [],
        "training": [results.run_of(path, str(path)) for path in runs],
        "differences": [],
        "questions": {task: list(asked.values()) for task, asked in questions.items()},
    }


def _steps(run: Path) -> list[dict]:
    """The steps that a run has taken."""
    return [row for _, row in read_lines(run / "metrics.jsonl", torn_end=True) if "loss" in row]


def _predictions(path: Path) -> list[dict]:
    """The predictions of an evaluation, finished or not."""
    try:
        begun = json.loads(beside(path, ".json").read_text(encoding="utf-8"))
        rows = [row for _, row in read_lines(beside(path, ".predictions.jsonl"), torn_end=True)]
        score(rows)
        if not begun["results"]:
            print(f"{path} is not finished: {len(rows)} answers so far")
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is neither a run folder with metrics.jsonl nor an evaluation's NAME.json.") from None
    return rows


def _parse() -> argparse.Namespace:
    parser = command.Parser(__doc__)
    made = "run folders of train_it.py and train_dpo.py, NAME.json of evaluate.py"
    parser.add_argument("made", type=Path, nargs="+", metavar="RUN_OR_EVALUATION", help=made)
    page = Path("report.html")
    parser.add_argument("--output", type=command.file, default=page, metavar="FILE.html", help="the page")
    parser.add_argument("--questions", type=command.natural, default=12, metavar="N", help="shown of each task")
    return parser.parse_args()


if __name__ == "__main__":
    command.run(main)
