"""The answer reader: what a model's text gives as its final answer, by which rule, and whether that is the target.

Evaluation (§3.3) and the preference pairs (Eq. 4) both use it. The paper says "string matching" and "t_i ∈ ŷ_i";
read literally, that accepts Table 6's demonstration for every option and 15 for 5, so it stands beside as `contains`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfrefine.tasks import latex, letters, naming, numbers
from selfrefine.tasks import text as free_text

# A rule is a name and a function from the text (and the options) to what it reads: None passes on to the next rule,
# an empty string means that an answer is there but is not one answer ("A or B"), and no later rule may guess.
CHOICE_RULES: tuple[tuple[str, Callable[[str, Sequence[str]], str | None]], ...] = (
    ("whole", letters.whole),
    ("boxed", letters.boxed),
    ("stated", letters.stated),
    ("leading", letters.leading),
    ("concluding", letters.concluding),
    ("lone", letters.lone),
)
NUMBER_RULES: tuple[tuple[str, Callable[[str], str | None]], ...] = (
    ("####", numbers.hashes),
    ("boxed", numbers.boxed),
    ("stated", numbers.stated),
    ("concluding", numbers.concluding),
    ("opening", numbers.opening),
    ("last number", numbers.last),
)
MATH_RULES: tuple[tuple[str, Callable[[str], str | None]], ...] = (
    ("boxed", latex.last_boxed),
    ("stated", latex.stated),
    ("last line", latex.last_line),
    ("last formula", latex.last_formula),
    ("last number", latex.last_number),
)
# where a model stops answering and goes on to invent the next exercise, or its end-of-turn marks
_NEXT = re.compile(
    r"\n\s*(?:\*\*|#+\s*)?(?:Question|Q|Instruction|Human|User)\s*:"
    r"|\n\s*(?:Choose the answer to the question only from|Answer the following (?:mathematical )?question)"
    r"|</?s>|<EOS|<\|[\w ]+\|>|<end_of_turn>|\[/?INST\]"
)


@dataclass(frozen=True)
class Grade:
    """One graded answer.

    `read`: the final answer (a letter, a number in canonical form, normalised text or LaTeX), None where none is given;
    `rule`: the rule that read it, or "none"; `correct`: `read` equals the target;
    `contains`: the paper's literal rule, the target's string (for options: its letter) occurs in the text.
    """

    read: str | None
    rule: str
    correct: bool
    contains: bool


def own_part(text: str) -> str:
    """The answer itself: after a reasoning block, up to the next question that the model goes on to invent; nothing
    where the reasoning never ended."""
    text = text.rsplit("</think>", 1)[-1]
    if "<think>" in text:
        return ""
    for match in _NEXT.finditer(text):
        if re.search(r"\w", text[: match.start()]):
            return text[: match.start()]
    return text


def _first(rules: Sequence[tuple[str, Callable[..., str | None]]], *arguments: object) -> tuple[str | None, str]:
    """What the first rule with a finding reads, and its name."""
    for name, rule in rules:
        found = rule(*arguments)
        if found is not None:
            return (found, name) if found else (None, "none")
    return None, "none"


def grade(text: str, target: str, options: Sequence[str] = (), task: str = "") -> Grade:
    """Reads the final answer of `text` and compares it with `target`, which is a letter where there are options.

    Without options, a number or words are compared as such, unless the task is MATH; any other target as LaTeX.
    """
    own = own_part(text)
    if options:
        read, rule = _first(CHOICE_RULES, naming.name_pairs(naming.plain(own), options), options)
        correct = read == target
    elif task != "math" and (value := numbers.value(target)) is not None:
        read, rule = _first(NUMBER_RULES, numbers.plain(own))
        correct = read is not None and numbers.value(read) == value
    elif task != "math" and free_text.is_text(target):
        read, rule = free_text.read(own, target)
        correct = read == free_text.normalise(target)
    else:
        found, rule = _first(MATH_RULES, own)
        read, correct = latex.normalise(found or "") or None, latex.equal(found or "", target)
    return Grade(read, rule, correct, contains=bool(target) and target in text)
