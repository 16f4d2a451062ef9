"""The scripted teacher of the pocket tasks: it knows the solution and errs in a stated share of its answers.

It stands in for the paper's teacher LLMs, whose answers are 77 to 91 % right with Llama-2-70 (Table 5). A
wrong answer has a slip in one step of its calculation and carries it to the end, as a model's does.
"""

import random

from selfrefine.tasks.pocket import Step, conclusion, problem_of, solve_step
from selfrefine.tasks.questions import Question

ERROR_RATE = 0.15
_SLIPS = (-10, -2, -1, 1, 2, 10)


def answer(question: Question, seed: int, cot: bool) -> str:
    """The teacher's answer: with `cot` a rationale ending in "The answer is N.", else the bare answer.

    Deterministic in the seed and the question's id, and wrong for the same questions with and without `cot`.
    """
    steps, compared = problem_of(question).steps, bool(question.options)
    rng = random.Random(f"{seed}/{question.id}")
    if rng.random() < ERROR_RATE:
        steps = slipped(rng, steps, compared)
    return rationale(steps, compared) if cot else conclusion(steps, compared)


def rationale(steps: tuple[Step, ...], compared: bool) -> str:
    """First, 12 + 5 = 17. Then, 17 - 3 = 14. The answer is 14.  (compared: "17 is more than 14. The answer is A.")"""
    words = ("First", *["Then"] * (len(steps) - 1))
    parts = [f"{word}, {s.left} {s.sign} {s.right} = {s.result}." for word, s in zip(words, steps, strict=True)]
    if compared:
        parts.append(comparison(steps[0].result, steps[1].result))
    return " ".join([*parts, f"The answer is {conclusion(steps, compared)}."])


def comparison(first: int, second: int) -> str:
    """ "17 is more than 14." """
    return f"{first} is {'more than' if first > second else 'less than' if first < second else 'the same as'} {second}."


def slipped(rng: random.Random, steps: tuple[Step, ...], compared: bool) -> tuple[Step, ...]:
    """The steps with a slip in one of them, carried on to a wrong conclusion."""
    while True:
        wrong_at, slip, renamed, done = rng.randrange(len(steps)), rng.choice(_SLIPS), {}, []
        for index, step in enumerate(steps):
            # a result that a later step uses is found by its value: the slip follows it there
            new = solve_step(renamed.get(step.left, step.left), step.sign, renamed.get(step.right, step.right))
            result = new.result + slip if index == wrong_at else new.result
            done.append(Step(new.left, new.sign, new.right, result))
            if not compared:
                renamed[step.result] = result
        if conclusion(done, compared) != conclusion(steps, compared) and min(s.result for s in done) > 0:
            return tuple(done)
