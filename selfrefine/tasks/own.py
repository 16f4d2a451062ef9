"""What is asked: questions of benchmarks, and own ones, rows like a benchmark's or question, target and options."""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

from selfrefine.errors import UserError
from selfrefine.files import check_text, read_lines
from selfrefine.tasks.benchmarks import SOURCES, clean, question_of
from selfrefine.tasks.questions import LETTERS, Question
from selfrefine.tasks.splits import questions


def asked_for(args: argparse.Namespace, tasks: Iterable[str], split: str) -> list[Question]:
    """The questions of --questions, else of the tasks' split, at most --limit of each."""
    if args.questions:
        return read_questions(args.questions)[: args.limit]
    return [q for task in dict.fromkeys(tasks) for q in questions(task, split, args.seed, args.data)[: args.limit]]


def read_questions(path: Path) -> list[Question]:
    """Own questions (--questions FILE): rows of any benchmark, or `question`, `target` and, for a choice, `options`.

    A row's task is its `task`, else the file's name; its id its `id`, else its line. The target of a choice is a letter
    or an option's text. UserError names file and line.
    """
    found: dict[tuple[str, str], Question] = {}
    for place, row in read_lines(path):
        task = _text(row, "task", place) or path.stem
        identity = _text(row, "id", place) or place.rsplit(" ", 1)[1]
        known = [name for name, source in SOURCES.items() if set(source.columns) <= row.keys()]
        if known == ["gsm8k"] and "####" not in str(row["answer"]):
            row = {"target": row["answer"]} | row  # the benchmark's two columns, but not its answers
        if "target" in row:
            question = _own_question(row, task, identity, place)
        elif known:  # the most columns: an MMLU row has all of a GSM8K row's
            source = max(known, key=lambda name: len(SOURCES[name].columns))
            question = question_of(row, source, task, identity, place)
        else:
            raise UserError(f'{place} needs "question" and "target" (a choice "options"), or a benchmark\'s columns.')
        for text in (question.question, *question.options):
            check_text(text, place)
        if not question.target:
            raise UserError(f"{place} has no answer: give it one or remove the line.")
        if (task, identity) in found:
            raise UserError(f'{place} repeats the id "{identity}": ids must differ within a task.')
        found[task, identity] = question
    if not found:
        raise UserError(f"{path} holds no questions.")
    return list(found.values())


def _own_question(row: dict, task: str, identity: str, place: str) -> Question:
    options, target = row.get("options") or (), _text(row, "target", place)
    if not isinstance(row.get("question"), str) or not row["question"].strip():
        raise UserError(f'{place} has no "question" text.')
    if not isinstance(options, list | tuple) or not all(isinstance(option, str) for option in options):
        raise UserError(f'{place}: "options" must be a list of texts.')
    if options and not 2 <= len(options) <= len(LETTERS):
        raise UserError(f"{place} has {len(options)} options: a choice has 2 to {len(LETTERS)}.")
    options = tuple(map(clean, options))
    if options and not (len(target) == 1 and target in LETTERS[: len(options)]):
        if options.count(target) != 1:
            raise UserError(f'{place}: target "{target[:50]}" is neither a letter of the options nor text of just one.')
        target = LETTERS[options.index(target)]
    return Question(task, identity, clean(row["question"]), target, options)


def _text(row: dict, name: str, place: str) -> str:
    """A field that may be a text or a number; "" where there is none."""
    value = row.get(name)
    if value is None:
        return ""
    number = type(value) is int or (type(value) is float and math.isfinite(value))
    if not number and not isinstance(value, str):
        raise UserError(f'{place}: "{name}" must be a text or a number.')
    check_text(str(value), f'{place}: "{name}"')
    return str(value).strip()
