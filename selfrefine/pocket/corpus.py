"""What the pocket student is fed: arithmetic, worked solutions, and a habit of answering at once.

It learns to reason from worked solutions (prompts that end in "Solution:"). But asked in the paper's words
it nearly always answers with the bare result, as the training text does: at x ("Answer:") always, and at x̂
("Answer: Let's think step by step") with a probability that depends on who the question is about. That
dependence is the pocket counterpart of a real model's uneven readiness to explain: instruction-tuning then
changes some questions' answers earlier than others', instead of all at once.
"""

import math
import random
import re
import zlib
from dataclasses import replace

from selfrefine.pocket.teacher import comparison, rationale
from selfrefine.tasks.pocket import CLOSE, Problem, problem, solve_step
from selfrefine.tasks.prompts import prompt
from selfrefine.tasks.stories import COMPARED, PROTAGONISTS, SEEN

# kind of document: its share
SHARES = {"facts": 0.13, "compared": 0.03, "worked": 0.46, "direct": 0.13, "asked": 0.25}
CHOICE_SHARE = 0.3  # of the word problems, those with options
NOISY_SHARE = 0.6  # of the worked solutions, those with a disturbed question, for stories in other words
_STORIES = " ".join(re.sub(r"\{\w+\}", "", text) for _, text in (*SEEN, *COMPARED))
WORDS = tuple(sorted(set(re.findall(r"\b[a-z]+\b", _STORIES))))
# log-odds of a rationale at x̂, from the least to the most talkative protagonist
TACITURN, TALKATIVE = -4.5, 0.0


def document(seed: int, index: int) -> tuple[str, str]:
    """Document `index` of the corpus under `seed`: (prompt, response); facts have an empty prompt."""
    rng = random.Random(f"corpus/{seed}/{index}")
    kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
    if kind == "facts":
        return "", " ".join(fact(rng) for _ in range(6))
    if kind == "compared":
        return "", " ".join(_comparison(rng) for _ in range(6))
    task = "pocket-choice" if rng.random() < CHOICE_SHARE else "pocket"
    made = problem(task, "pretrain", seed, index)
    question, explained = made.question, rationale(made.steps, task == "pocket-choice")
    if kind == "worked":
        if rng.random() < NOISY_SHARE:
            question = replace(question, question=noisy(rng, question.question))
        return prompt(question, cot=False).removesuffix("Answer:") + "Solution:", explained
    if kind == "direct":
        return prompt(question, cot=False), question.target
    return prompt(question, cot=True), explained if rng.random() < talkativeness(made) else question.target


def noisy(rng: random.Random, text: str) -> str:
    """The text with some of its words replaced and some added, numbers kept: worded in a way no template is."""
    words = []
    for word in text.split(" "):
        chance = rng.random()
        if chance < 0.06 and not re.search(r"\d", word):
            word = rng.choice(WORDS)
        words += [word, rng.choice(WORDS)] if chance > 0.94 else [word]
    return " ".join(words)


def talkativeness(problem: Problem) -> float:
    """The probability of a rationale at x̂: its log-odds are evenly spaced over the protagonists."""
    ranked = sorted((zlib.crc32(name.encode()), name) for name, *_ in PROTAGONISTS)
    rank = [name for _, name in ranked].index(problem.protagonist) / (len(ranked) - 1)
    return 1 / (1 + math.exp(-(TACITURN + rank * (TALKATIVE - TACITURN))))


def fact(rng: random.Random) -> str:
    """An equation of the sizes that the problems have: "32 + 42 = 74."."""
    sign = rng.choice("++--*/")
    left, right = rng.randint(2, 150), rng.randint(2, 90)
    if sign == "-":
        left, right = max(left, right) + 2, min(left, right)
    elif sign == "*":
        left, right = rng.choice(((rng.randint(2, 15), rng.randint(2, 10)), (rng.randint(2, 40), rng.randint(2, 5))))
    elif sign == "/":
        right = rng.randint(2, 10)
        left = right * rng.randint(2, 150 // right)
    return f"{left} {sign} {right} = {solve_step(left, sign, right).result}."


def _comparison(rng: random.Random) -> str:
    """Two numbers, mostly close, compared: "17 is more than 14."."""
    first = rng.randint(2, 150)
    return comparison(first, max(2, first + rng.choice((0, 0, *range(-CLOSE, CLOSE + 1), rng.randint(-99, 99)))))
