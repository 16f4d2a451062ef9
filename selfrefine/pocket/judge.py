"""The pocket tasks' stand-in for GPT-4 (App. H): it shows that Tables 13 and 14 can be made, and says nothing more."""

from selfrefine.tasks.answers import grade


def rate(question: str, response: str, target: str, task: str) -> int:
    """1 for a wrong answer, 2 for a right one, 3 for a right one with a chain of thought.

    `question` has the choices as lines of its own; the target of a choice is its letter with its text, "B) Ann".
    """
    options = tuple(line[3:] for line in question.split("\n")[1:])
    letter = target[0] if options else target
    if not grade(response, letter, options, task).correct:
        return 1
    return 3 if has_chain(response) else 2


def has_chain(text: str) -> bool:
    """Whether an answer works anything out: it has an equation, as the teacher's rationales have."""
    return "=" in text
