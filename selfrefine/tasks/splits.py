"""Which questions train and which are evaluated (§3.1, Table 8, App. C.1, Figure 5)."""

import hashlib
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from selfrefine.errors import UserError
from selfrefine.tasks import pocket
from selfrefine.tasks.benchmarks import SOURCES, load
from selfrefine.tasks.questions import Question

# Table 8: training questions per class, and of GSM8K (§3.1 says the full set there; MultiArith's 420 are all)
PER_CLASS = {"obqa": 1000, "csqa": 800, "piqa": 2000, "siqa": 1330}
GSM8K_TRAIN = 4000
# §3.1: "the validation versions found on huggingface as test data"
TEST_SPLIT = dict.fromkeys(PER_CLASS, "validation")
# Figure 5: a quarter of the benchmark trains, and is left out where the other three quarters are evaluated
QUARTERED = ("math", "mmlu")
POCKET = {"train": 400, "test": 200}
LOW_RESOURCE_BASE = 3000  # App. C.1: the smallest number of demonstrations that a task of theirs had
HOLD_OUT = "by the prompt's text, no longer by id"  # noted in a run's settings: one that began otherwise is refused

Row = TypeVar("Row")  # a question, demonstration (both have `task` and `id`) or pair (the last two have `asked`: x)


def questions(task: str, split: str, seed: int, data: Path | None = None) -> list[Question]:
    """The questions of a task's "train" or "test" split.

    The seed draws the training sample, in its order; of MATH and MMLU (their Hub test splits) it draws the quarter that
    trains, so that another seed's three quarters hold trained questions. `data`: see `benchmarks.load`.
    """
    if split not in ("train", "test"):
        raise UserError(f'--split: there is no split "{split}": train and test are.')
    if task in pocket.TASKS:
        return pocket.generate(split, seed, POCKET[split], task)
    if task not in SOURCES:
        raise UserError(f'unknown task "{task}": the tasks are {", ".join((*SOURCES, *pocket.TASKS))}.')
    if task in QUARTERED:
        return _quarter(load(task, "test", data), split, seed)
    if split == "test":
        return _test(task, data)
    rows = load(task, "train", data)
    if task in PER_CLASS:
        return _balanced(rows, PER_CLASS[task], seed)
    return _shuffled(rows, seed)[:GSM8K_TRAIN] if task == "gsm8k" else rows


def _shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    return rows


def _quarter(rows: list[Question], split: str, seed: int) -> list[Question]:
    """A quarter of the rows by seed, or the three other quarters, each in the rows' order."""
    chosen = {row.id for row in _shuffled(rows, seed)[: len(rows) // 4]}
    quarter, others = ([row for row in rows if (row.id in chosen) == inside] for inside in (True, False))
    if split == "train":
        return quarter
    _tell_seen(others, quarter)
    return others


def _balanced(rows: list[Question], per_class: int, seed: int) -> list[Question]:
    """`per_class` rows of every target by seed, mixed; where a class has fewer, as many of each as the rarest has."""
    order, targets = _shuffled(rows, seed), sorted({row.target for row in rows})
    classes = [[row for row in order if row.target == target] for target in targets]
    smallest = min(map(len, classes))
    if smallest < per_class:
        print(f"{rows[0].task} train: {smallest} questions per class, not {per_class}, are all it has", file=sys.stderr)
    return _shuffled([row for group in classes for row in group[: min(per_class, smallest)]], seed)


def _test(task: str, data: Path | None) -> list[Question]:
    rows = load(task, TEST_SPLIT.get(task, "test"), data)
    try:
        _tell_seen(rows, load(task, "train", data))
    except UserError:  # a folder of tests alone: then it is not known
        print(f"{task} test: train cannot be read, so it is not known whether questions are in both", file=sys.stderr)
    return rows


def _tell_seen(test: list[Question], train: list[Question]) -> None:
    """Says on stderr how many test questions also train, options in any order; Table 8 counts them, so they stay."""
    trained = {(row.question, frozenset(row.options)) for row in train}
    seen = sum((row.question, frozenset(row.options)) in trained for row in test)
    if seen:
        order = ", their options in this or another order" if test[0].options else ""
        print(f"{test[0].task} test: {seen} of {len(test)} questions are also in train{order}", file=sys.stderr)


def fraction_of(rows: Sequence[Row], fraction: float, seed: int) -> list[Row]:
    """App. C.1's low-resource samples: 1.0 is 3000 rows by seed, or all; 0.25 lies in 0.5, which lies in 0.75."""
    if not 0 < fraction <= 1:
        raise UserError(f"--fraction must be above 0 and at most 1, not {fraction}.")
    in_order = sorted(rows, key=lambda row: (row.task, row.id))  # what a seed draws depends on no order in a file
    base = _shuffled(in_order, seed)[:LOW_RESOURCE_BASE]
    return base[: max(round(fraction * len(base)), 1)]


def hold_out(
    rows: Sequence[Row], fraction: float, seed: int, among: Iterable[Row] | None = None
) -> tuple[list[Row], list[Row]]:
    """Rows to train on and to validate on, in their order; all rows of a prompt, without the trigger, on one side.

    The share is of the prompts of `among` (default: the rows themselves), by a hash of each one's text and the seed:
    both phases hold out the same questions, and a row more or less changes the side of no more than one other.
    A fraction above 0 holds out one prompt at least, but never the last one.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"--validation-fraction must be at least 0 and below 1, not {fraction}.")

    def drawn(text: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()

    asked = sorted({row.asked for row in (rows if among is None else among)}, key=drawn)
    held = set(asked[: min(max(round(fraction * len(asked)), 1 if fraction else 0), max(len(asked) - 1, 0))])
    return [row for row in rows if row.asked not in held], [row for row in rows if row.asked in held]
