"""The eight benchmarks (§3.1, Table 9) as questions, from the Hub or from a folder of JSONL.

Texts lose the white space around them, which several benchmarks carry into their prompts otherwise (every question of
MultiArith has it, and some of MMLU's and PIQA's options), and have "\\n" as their only line end. A row without an
answer is never guessed at: a label that hides it (-1, "") is an error, MATH's two empty boxes are left out and told.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path

from selfrefine.errors import UserError
from selfrefine.files import read_lines
from selfrefine.tasks import numbers
from selfrefine.tasks.places import boxed
from selfrefine.tasks.questions import LETTERS, Question

Parts = tuple[str, tuple[str, ...], str]  # question, options, target; an empty target: the row has none
_SUBJECTS = "algebra counting_and_probability geometry intermediate_algebra number_theory prealgebra precalculus"


def clean(text: str) -> str:
    """A question or an option as it goes into the prompt: no white space around it, "\\n" as its only line end."""
    return re.sub(r"\r\n?|[\u2028\u2029\x85]", "\n", text).strip()


def _choice(question: str, options: Iterable[str], label: int, first: int = 0) -> Parts:
    options = tuple(map(clean, options))
    if label == -1:
        raise UserError("has no label, as in a test split whose answers are kept back: take the validation split")
    if not first <= label < first + len(options):
        raise UserError(f"has the label {label}, out of range {first} to {first + len(options) - 1}")
    return clean(question), options, LETTERS[label - first]


def _labelled(question: str, choices: dict, answerKey: str) -> Parts:
    labels, key = choices["label"], answerKey.strip()
    if key and key not in labels:
        raise UserError(f'has the label "{key}", out of range {", ".join(labels)}')
    return _choice(question, choices["text"], labels.index(key) if key else -1)


def _siqa(context: str, question: str, answerA: str, answerB: str, answerC: str, label: str) -> Parts:
    return _choice(f"{clean(context)} {clean(question)}", (answerA, answerB, answerC), int(label), first=1)


def _mmlu(question: str, choices: list[str], answer: int | str) -> Parts:
    return _choice(question, choices, LETTERS.index(answer) if answer in [*LETTERS] else int(answer))


def _math(problem: str, solution: str) -> Parts:
    return clean(problem), (), (boxed(solution) or [("", "")])[-1][1]


def _calculated(question: str, answer: str) -> Parts:
    value = numbers.value(answer)
    if value is None:
        raise UserError(f'has the answer "{answer.strip()[:50]}", which is not a number')
    return clean(question), (), numbers.canonical(value)


@dataclass(frozen=True)
class Source:
    """Where a benchmark is on the Hub, and how a row becomes a question."""

    hub: str
    revision: str | None  # pinned where the commit is known
    parts: Callable[..., Parts]  # takes the columns that a row must have, by their names
    configs: tuple[str, ...] = ("default",)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return tuple(signature(self.parts).parameters)


# ybisk/piqa and allenai/social_i_qa are loading scripts, which datasets no longer runs; SIQA's labels count from 1
SOURCES = {
    "obqa": Source(
        "allenai/openbookqa",
        "388097ea7776314e93a529163e0fea805b8a6454",
        lambda question_stem, choices, answerKey: _labelled(question_stem, choices, answerKey),
        ("main",),
    ),
    "csqa": Source("tau/commonsense_qa", "94630fe30dad47192a8546eb75f094926d47e155", _labelled),
    "piqa": Source(
        "baber/piqa",
        "142f6d7367fd9877f0fb3b5734ea6a545f54cdd1",
        lambda goal, sol1, sol2, label: _choice(goal, (sol1, sol2), int(label)),
    ),
    "siqa": Source("lighteval/siqa", None, _siqa),
    "gsm8k": Source(
        "openai/gsm8k",
        "740312add88f781978c0658806c59bc2815b9866",
        lambda question, answer: _calculated(question, answer.rpartition("####")[2]),
        ("main",),
    ),
    "multiarith": Source("ChilleD/MultiArith", None, lambda question, final_ans: _calculated(question, final_ans)),
    "math": Source("EleutherAI/hendrycks_math", None, _math, tuple(_SUBJECTS.split())),
    "mmlu": Source("cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe", _mmlu, ("all",)),
}


def load(task: str, split: str, data: Path | None = None) -> list[Question]:
    """The labelled rows of a Hub split ("train", "validation", "test"), in its order, from `data` or from the Hub.

    `data` (or SELFREFINE_DATA) is a folder with <task>/<split>.jsonl in the Hub's schema. A question's id is the row's
    own, else "<split>-<row>", counted from 0. UserError names what is wrong, with file and line.
    """
    if task not in SOURCES:
        raise UserError(f'unknown task "{task}": the benchmarks are {", ".join(SOURCES)}.')
    folder = data or os.environ.get("SELFREFINE_DATA")
    rows = _file_rows(Path(folder), task, split) if folder else _hub_rows(task, split)
    found = []
    for index, (place, row) in enumerate(rows):
        found.append(question_of(row, task, task, str(row.get("id") or f"{split}-{index}"), place))
    if not found:
        raise UserError(f"{task} has an empty {split} split: {folder or SOURCES[task].hub} holds no rows of it.")
    kept = [question for question in found if question.target]
    _tell_oddities(f"{task} {split}", len(found) - len(kept), kept)
    return kept


def question_of(row: dict, source: str, task: str, identity: str, place: str) -> Question:
    """A row of the benchmark `source` as a question; its target is "" where MATH gives none. Errors name `place`."""
    columns = SOURCES[source].columns
    missing = [column for column in columns if column not in row]
    if missing:
        raise UserError(f'{place} has no "{missing[0]}": rows of {source} have {", ".join(columns)}.')
    try:
        question, options, target = SOURCES[source].parts(**{column: row[column] for column in columns})
    except UserError as error:
        raise UserError(f"{place} {error}.") from None
    except (TypeError, ValueError, KeyError, AttributeError):
        raise UserError(f"{place} is not a row of {source} as on the Hub ({SOURCES[source].hub}): mend it.") from None
    return Question(task, identity, question, target, options)


def _file_rows(folder: Path, task: str, split: str) -> Iterator[tuple[str, dict]]:
    path = folder / task / f"{split}.jsonl"
    if not folder.is_dir():
        raise UserError(f"--data: there is no folder {folder}.")
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.jsonl"))) or "none"
        raise UserError(f"--data: there is no {path}; splits of {task} in {folder}: {there}.")
    return read_lines(path)


def _hub_rows(task: str, split: str) -> Iterator[tuple[str, dict]]:
    from datasets import load_dataset  # slow to import, and not needed with --data

    source = SOURCES[task]
    for config in source.configs:
        try:
            rows = load_dataset(source.hub, config, split=split, revision=source.revision)
        except Exception as error:  # of many libraries; each is the user's network, token or disk
            reason = str(error).strip().split("\n")[0][:200]
            raise UserError(
                f"{source.hub} ({config}, {split}) did not come from the Hub ({type(error).__name__}: {reason}): "
                "mend the connection or log in, or give a folder of JSONL files with --data."
            ) from None
        for index, row in enumerate(rows):
            yield f"{source.hub} ({config}, {split}) row {index}", row


def _tell_oddities(where: str, unlabelled: int, questions: list[Question]) -> None:
    """Says on stderr what a reader of the numbers should know of a split."""
    doubled = sum(len(set(question.options)) < len(question.options) for question in questions)
    repeated = len(questions) - len({(question.question, question.options) for question in questions})
    oddities = {
        "rows without an answer, left out": unlabelled,
        "questions with two equal options (the letter decides)": doubled,
        "questions that occur before": repeated,
    }
    said = "; ".join(f"{count} {what}" for what, count in oddities.items() if count)
    if said:
        print(f"{where}: {said}", file=sys.stderr)
