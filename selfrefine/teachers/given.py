"""Answers that are there already: own ones, or a teacher's that somebody has published (`annotate --from FILE`)."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from selfrefine.errors import UserError
from selfrefine.files import check_text, read_lines
from selfrefine.tasks.benchmarks import clean
from selfrefine.tasks.prompts import standard_form, task_input
from selfrefine.tasks.questions import Question
from selfrefine.teachers import Answer, Key

TEXTS = ("output", "answer", "response", "text")  # where a row may have its answer


def answers(path: Path, asked: Mapping[Key, Question]) -> Iterator[tuple[Key, Answer]]:
    """Yield (key, answer) for the rows of the file that answer a question that is asked; how many do not is said.

    A row names its question by `question` (with `options`, where the same words stand with others), by an own
    demonstration's `input`, or by `id`. Of rows and questions that are the same, each takes the next.

    Raises UserError for a row without an answer or a name, one that may mean several, and where no row fits at all.
    """
    named: dict[str, list[Key]] = defaultdict(list)
    for key, question in asked.items():
        for name in {question.question, task_input(question, cot=False), f"id {question.id}"}:
            named[name].append(key)
    used: set[Key] = set()
    unasked = 0
    for place, row in read_lines(path):
        text = next((row[name] for name in TEXTS if isinstance(row.get(name), str)), None)
        if text is None:
            raise UserError(f"{place} has no answer: give it as {', '.join(TEXTS[:-1])} or {TEXTS[-1]}.")
        check_text(text, place)
        key = _meant(row, place, named, asked, used)
        if key:
            used.add(key)
            yield key, Answer(text, row.get("ended") is not False)
        unasked += not key
    if not used:
        raise UserError(f"{path} answers none of the questions: its rows must name theirs by `question` or `id`.")
    if unasked:
        print(f"{path}: {unasked} rows answer no question that is asked; {len(asked) - len(used)} have no answer there")


def _meant(row: dict, place: str, named: Mapping[str, list[Key]], asked: Mapping[Key, Question], used: set[Key]):
    """The question that a row answers; None where it is not asked, or answered by an earlier row."""
    own = f"id {row.get('id')}"
    if isinstance(row.get("question"), str):
        found = named.get(clean(row["question"]), [])
    elif isinstance(row.get("input"), str):
        found = named.get(standard_form(row["input"]).strip(), [])
    elif "id" in row:
        found = named.get(own, [])
    else:
        raise UserError(f"{place} does not say what it answers: give its `question` or `id`.")
    if row.get("task") is not None:
        found = [key for key in found if key[0] == row["task"]]
    if row.get("options"):
        found = [key for key in found if list(asked[key].options) == [clean(str(one)) for one in row["options"]]]
    found = [key for key in found if key in named.get(own, [])] or found
    if len({(asked[key].options, asked[key].target) for key in found}) > 1:
        raise UserError(f"{place} answers a question that is asked with several options: give its `options` or `id`.")
    return next((key for key in found if key not in used), None)
