"""The pocket tasks: multi-step word problems made by rule, with splits that cannot overlap.

`pocket`          open question, integer answer; stories the student was pre-trained on
`pocket-unseen`   open question, stories that neither pre-training nor the train split contain; only a test
`pocket-choice`   who has more? two people, each with a calculation; options: the one, the other, both the same

The options of `pocket-choice` stand in a fixed order. Options with numbers ("A) 12") were tried first: a student of
this size worked out the number (97 %) but named the letter at chance, also after 90 seconds of training on that alone.

The splits differ in their numbers, by construction: a checksum of the problem's numbers says to which split
they belong, whatever the story. So no test question's numbers, in that order, occur in pre-training or in a
demonstration. A question depends on nothing but its id (task, split, seed, index): `generate` is
deterministic, and a longer list begins with the shorter one.
"""

import operator
import random
import re
import zlib
from dataclasses import dataclass
from functools import lru_cache

from selfrefine.errors import UserError
from selfrefine.tasks.questions import Question
from selfrefine.tasks.stories import BOXES, COMPARED, OTHERS, PROTAGONISTS, SEEN, THINGS, UNSEEN, singular

TASKS = ("pocket", "pocket-unseen", "pocket-choice")
SPLITS = ("pretrain", "train", "test")
LARGEST = 150  # no number in a problem or its solution is larger
CLOSE = 10  # two people to compare differ by no more than this
STORIES = {"pocket": SEEN, "pocket-unseen": UNSEEN, "pocket-choice": COMPARED}
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


@dataclass(frozen=True)
class Step:
    """One line of a solution: left, sign, right and their result."""

    left: int
    sign: str
    right: int
    result: int


@dataclass(frozen=True)
class Problem:
    """A question with the steps that solve it: the last result is the answer, or the two results are compared."""

    question: Question
    steps: tuple[Step, ...]
    numbers: tuple[int, ...]
    protagonist: str


def generate(split: str, seed: int, count: int, task: str = "pocket") -> list[Question]:
    """`count` questions of a task's split; see the module's docstring for tasks and splits."""
    return [problem(task, split, seed, index).question for index in range(count)]


def problem_of(question: Question) -> Problem:
    """The problem behind a generated question, found from its id; UserError for any other question."""
    match = re.fullmatch(rf"({'|'.join(TASKS)})/({'|'.join(SPLITS)})/(\d+)/(\d+)", question.id)
    if not match:
        raise UserError(f'question "{question.id}" is not of a pocket task: its solution is not known')
    return problem(match[1], match[2], int(match[3]), int(match[4]))


@lru_cache(maxsize=1 << 14)  # the teacher asks again for what was generated
def problem(task: str, split: str, seed: int, index: int) -> Problem:
    """Problem `index` of a task's split under `seed`."""
    if task not in TASKS or split not in SPLITS:
        raise UserError(f"pocket has the tasks {', '.join(TASKS)} and splits {', '.join(SPLITS)}: not {task}/{split}")
    if task == "pocket-unseen" and split != "test":
        raise UserError("pocket-unseen has a test split only: its stories are never trained on")
    name = f"{task}/{split}/{seed}/{index}"
    rng = random.Random(name)
    steps_text, text = rng.choice(STORIES[task])
    wanted = rng.choice("ABC") if task == "pocket-choice" else ""  # each letter as often as the others
    numbers, steps = _numbers(rng, steps_text, split, wanted)
    protagonist, other = rng.choice(PROTAGONISTS), rng.choice(OTHERS)
    story = _story(rng, text, numbers, protagonist, other)
    options = (protagonist[0], other, "both the same") if wanted else ()
    question = Question(task, name, story, conclusion(steps, bool(options)), options)
    return Problem(question, steps, tuple(numbers.values()), protagonist[0])


def conclusion(steps: tuple[Step, ...], compared: bool) -> str:
    """The answer: the last result; where two people are compared, A for the first, B for the second, C for neither."""
    if not compared:
        return str(steps[-1].result)
    first, second = steps[0].result, steps[1].result
    return "A" if first > second else "B" if first < second else "C"


def split_of(numbers: tuple[int, ...]) -> str:
    """The only split that may use these numbers in this order: 7/10 pre-training, 2/10 train, 1/10 test."""
    return ("test", "train", "train", *["pretrain"] * 7)[zlib.crc32(repr(numbers).encode()) % 10]


def _numbers(rng: random.Random, steps_text: str, split: str, wanted: str) -> tuple[dict[str, int], tuple[Step, ...]]:
    """Numbers of the split that make every step a whole number from 2 to LARGEST, and those steps.

    With a `wanted` letter, two close results that compare so.
    """
    names = sorted(set(re.findall(r"[a-d]", steps_text)))
    factors = {name for pair in re.findall(r"(\w) \* (\w)", steps_text) for name in pair}
    factors |= set(re.findall(r"/ (\w)", steps_text))
    while True:
        numbers = {name: rng.randint(2, 10) if name in factors else rng.randint(2, 90) for name in names}
        if split_of(tuple(numbers.values())) != split or not (steps := _solve(steps_text, numbers)):
            continue
        if not wanted or (abs(steps[0].result - steps[1].result) <= CLOSE and conclusion(steps, True) == wanted):
            return numbers, steps


def _solve(steps_text: str, numbers: dict[str, int]) -> tuple[Step, ...]:
    """The solved steps, or nothing where a result is not a whole number from 2 to LARGEST."""
    values, steps = dict(numbers), []
    for name, expression in zip("pqr", steps_text.split("; "), strict=False):
        left, sign, right = expression.split()
        step = solve_step(values[left], sign, values[right])
        if not 2 <= step.result <= LARGEST or (sign == "/" and step.left % step.right):
            return ()
        values[name] = step.result
        steps.append(step)
    return tuple(steps)


def solve_step(left: int, sign: str, right: int) -> Step:
    """left sign right = result, with whole-number division."""
    return Step(left, sign, right, _OPERATIONS[sign](left, right))


def _story(rng: random.Random, text: str, numbers: dict[str, int], protagonist: tuple[str, ...], other: str) -> str:
    """The template's text with its wordings chosen and its slots filled."""
    name, he, his = protagonist
    things, boxes = rng.choice(THINGS), rng.choice(BOXES)
    him = {"he": "him", "she": "her"}[he]
    slots = {"name": name, "Name": name[0].upper() + name[1:], "he": he, "He": he.capitalize(), "his": his, "him": him}
    slots |= {"himself": him + "self", "other": other, "Other": other, "things": things, "thing": singular(things)}
    slots |= {"boxes": boxes, "box": singular(boxes)} | numbers
    wording = re.sub(r"\[([^]]*)\]", lambda choice: rng.choice(choice[1].split("|")), text)
    return wording.format(**slots)
