"""The paper's prompts (Tables 2 and 3): instruction i, input q, x = i + q and x̂ = x + the trigger."""

import re

from selfrefine.tasks.questions import LETTERS, Question
from selfrefine.tasks.text import is_text

TRIGGER = "Let's think step by step"
# Table 6 prints "step-by-step" and a curly apostrophe: own demonstrations may carry either form
_TRAILING_TRIGGER = re.compile(r"\s*Let['’]s think step[ -]by[ -]step\.?\s*$", re.IGNORECASE)


def instruction(question: Question) -> str:
    """The first line of the prompt (Table 2), naming the letters of this question's own options; the paper has none for
    an own question whose answer is words."""
    if question.options:
        letters = ", ".join(LETTERS[: len(question.options)])
        return f"Choose the answer to the question only from options {letters}."
    if question.task != "math" and is_text(question.target):
        return "Answer the following question."
    return "Answer the following mathematical question with numerical solution."


def task_input(question: Question, *, cot: bool) -> str:
    """The rest of the prompt: question, choices, "Answer:", and with `cot` the trigger (Table 3)."""
    lines = [f"Question: {question.question}"]
    if question.options:
        lines.append("Choices:")
        lines += [f"{letter}) {option}" for letter, option in zip(LETTERS, question.options, strict=False)]
    lines.append("Answer:")
    standard = "\n".join(lines)
    return cot_form(standard) if cot else standard


def standard_form(text: str) -> str:
    """x from x̂: the same text without the trigger at its end."""
    return _TRAILING_TRIGGER.sub("", text)


def cot_form(text: str) -> str:
    """x̂ = x + the trigger (§2.2), in the exact words of Table 3 whether or not `text` had it."""
    return f"{standard_form(text)} {TRIGGER}"


def join(instruction: str, task_input: str) -> str:
    """The whole prompt: instruction, newline, input; the input alone where there is no instruction."""
    return f"{instruction}\n{task_input}" if instruction else task_input


def prompt(question: Question, *, cot: bool) -> str:
    """x (Table 2), or x̂ (Table 3) with `cot`."""
    return join(instruction(question), task_input(question, cot=cot))


def options_in(task_input: str) -> tuple[str, ...]:
    """The options that an input lists under "Choices:", () where there are none; one may run over several lines."""
    _, found, choices = task_input.rpartition("\nChoices:\n")
    choices, options = choices.rpartition("\nAnswer:")[0] or choices, []
    if not found or not choices.startswith("A) "):
        return ()
    for letter, following in zip(LETTERS, [*LETTERS[1:], None], strict=True):
        text, more, rest = choices.partition(f"\n{following}) ")
        options.append(text.removeprefix(f"{letter}) "))
        if not more:
            break
        choices = f"{following}) {rest}"
    return tuple(options)
