"""From answers to accuracies: what was read and by which rule, mean ± std over seeds, the paper's table."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from selfrefine.errors import UserError
from selfrefine.files import read_lines
from selfrefine.tasks.answers import grade
from selfrefine.tasks.questions import Question

Key = tuple[str, str, str, int]  # task, question id, prompt form, seed


def prediction(question: Question, prompt: str, seed: int, text: str, ended: bool) -> dict:
    """A line of the predictions: the question, the raw answer, what was read from it and by which rule."""
    graded = grade(text, question.target, question.options, question.task, ended)
    return {
        "task": question.task,
        "id": question.id,
        "prompt": prompt,
        "seed": seed,
        "question": question.question,
        "options": list(question.options),
        "target": question.target,
        "text": text,
        "ended": ended,
        "read": graded.read,
        "rule": graded.rule,
        "correct": graded.correct,
        "substring": graded.contains,
    }


def read_predictions(path: Path, asked: dict[Key, Question]) -> dict[Key, dict]:
    """The answers that a predictions file has so far; half a line at its end is cut off.

    Raises UserError for a line that is no prediction, and for an answer to another question than is asked now.
    """
    answered: dict[Key, dict] = {}
    for place, row in read_lines(path, mend=True):
        try:
            key = row["task"], row["id"], row["prompt"], row["seed"]
            _scored = row["rule"], row["correct"], row["substring"]
            question = asked.get(key)
            answers = question and (row["question"], tuple(row["options"]), row["target"])
        except (KeyError, TypeError):
            raise UserError(f"{place} was not written by evaluate.py: choose another --output.") from None
        if question and answers != (question.question, question.options, question.target):
            raise UserError(f"{place} answers another question than {key[1]} is now: choose another --output.")
        answered[key] = row
    return answered


def without_results(output: Path) -> bool:
    """Whether there is no such file, an empty one, or one that an evaluation began and got no answer for."""
    try:
        content = output.read_text(encoding="utf-8")
        return not content or json.loads(content)["results"] == {}
    except FileNotFoundError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False


def score(predictions: Iterable[dict]) -> dict[str, dict[str, dict]]:
    """{task: {prompt: {...}}}, in percent: `mean` and `std` over seeds (std null for one), `runs` the seeds' accuracies
    in order, `parsed` the share of answers that could be read, `cut` of those cut at the token limit, `substring_mean`
    the accuracy under the paper's literal rule, `item_stderr` the standard error over the questions of one run."""
    groups: dict[tuple[str, str], dict[int, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in predictions:
        groups[row["task"], row["prompt"]][row["seed"]].append(row)
    results: dict[str, dict[str, dict]] = {}
    for (task, prompt), by_seed in groups.items():
        every = [row for rows in by_seed.values() for row in rows]
        questions = len(next(iter(by_seed.values())))
        runs = [percent(row["correct"] for row in rows) for rows in by_seed.values()]
        results.setdefault(task, {})[prompt] = over_seeds(runs, questions) | {
            "parsed": percent(row["rule"] != "none" for row in every),
            "cut": percent(not row.get("ended", True) for row in every),
            "substring_mean": percent(row["substring"] for row in every),
            "questions": questions,
        }
    return results


def percent(flags: Iterable[bool]) -> float:
    """The share of true ones, in percent."""
    flags = list(flags)
    return 100 * sum(flags) / len(flags)


def over_seeds(runs: Sequence[float], questions: int | None = None) -> dict:
    """Of each seed's run: {mean, std, runs, item_stderr}. `std`: the sample's, of one run there is none. `item_stderr`:
    the standard error, in points, of an accuracy over so many questions, a binomial's; None where it is a rating."""
    mean, std = statistics.mean(runs), statistics.stdev(runs) if len(runs) > 1 else None
    error = math.sqrt(mean * (100 - mean) / questions) if questions else None
    return {"mean": mean, "std": std, "runs": list(runs), "item_stderr": error}


def cell(mean: float, std: float | None, digits: int = 1) -> str:
    """An accuracy as the paper prints it; a single run has no ±."""
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


def grid(heads: Sequence, lines: Iterable[Sequence]) -> str:
    """A Markdown table."""
    rows = ["| " + " | ".join(map(str, row)) + " |" for row in (heads, *lines)]
    return "\n".join([rows[0], "|---" * len(heads) + "|", *rows[1:]])


def table(results: dict[str, dict[str, dict]], adapter: str | None) -> str:
    """Markdown in the layout of Table 1: a row per prompt, a column per task; then the shares that were cut, if any."""
    names = {"standard": "Baseline", "cot": "Baseline CoT"}
    if adapter:
        names = {"standard": f"{adapter}, x", "cot": f"{adapter}, x̂"}
    lines, cut = [], []
    for prompt, name in names.items():
        cells = [results[task].get(prompt) for task in results]
        if any(cells):
            lines.append([name, *(cell(of["mean"], of["std"]) if of else "" for of in cells)])
        if any(of and of["cut"] for of in cells):
            shares = (cell(of["cut"], None) if of else "" for of in cells)
            cut.append([f"{name}: cut at --max-new-tokens (%)", *shares])
    return grid(["accuracy (%)", *results], lines + cut)
