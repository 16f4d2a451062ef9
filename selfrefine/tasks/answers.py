"""The answer reader: what a model's text gives as its final answer, by which rule, and whether that is the target.

Evaluation (§3.3) and the preference pairs (Eq. 4) both use it. The paper says "string matching" and "t_i ∈ ŷ_i";
read literally, that accepts Table 6's demonstration for every option and 15 for 5, so it stands beside as `contains`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from selfrefine.tasks import numbers, places
from selfrefine.tasks import text as free_text
from selfrefine.tasks.latex import Latex
from selfrefine.tasks.letters import Letters


@dataclass(frozen=True)
class Grade:
    """One graded answer.

    `read`: the final answer (a letter, a number in canonical form, normalised text or LaTeX), None where none is given;
    `rule`: the rule that found it, or "none"; `correct`: `read` says the same as the target;
    `contains`: the paper's literal rule, the target's string (for options: its letter) occurs in the text.
    """

    read: str | None
    rule: str
    correct: bool
    contains: bool


def grade(text: str, target: str, options: Sequence[str] = (), task: str = "", ended: bool = True) -> Grade:
    """Reads the final answer of `text` and compares it with `target`, which is a letter where there are options.

    Without options, a number or words are compared as such, unless the task is MATH; any other target as LaTeX.
    A text that was cut off at the token limit (`ended` is False) has an answer only where it states or concludes one.
    """
    a_number = task != "math" and numbers.value(target) is not None
    reader = Letters(options) if options else numbers.Numbers() if a_number else Latex()
    if not options and not a_number and task != "math" and free_text.is_text(target):
        read, rule = free_text.read(places.own_part(text), target)
        return Grade(read, rule, read == free_text.normalise(target), contains=target in text)
    read, rule = places.find(text, reader, ended)
    correct = read is not None and reader.same(read, target)
    return Grade(read, rule, correct, contains=bool(target) and target in text)
